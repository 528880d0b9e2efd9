"""Runs a network: the Engine protocol and its implementation on Paddle-Lite.

The native library never raises. Given a foreign file, a shape it was not made for or another type than float32 it
aborts, corrupts memory or returns garbage, so everything is checked here before it sees anything.
"""

from __future__ import annotations

import platform
import re
import struct
import sys
import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import artifact
from command import ModelError
from lite_runtime import versions

MODEL_FILE = "model.nb"
META_VERSION = 2
KERNEL_ATTRIBUTE = b"__@kernel_type_attr@__"
# op/alias/target/precision/layout, as opt writes each op's kernel
KERNEL = re.compile(rb"([a-z0-9_]+)/[^/\0]*/(\d+)/(\d+)/\d+\0")
# `opt --quant_model` keeps fp32 kernels over int8 weights; x86's kernels of these ops read such weights wrongly.
WEIGHT_SCALE = b"_quant_scale"
LINEAR_OPS = {"fc", "mul", "matmul", "matmul_v2"}
TARGETS = {1: "host", 2: "x86", 3: "cuda", 4: "arm", 5: "opencl", 6: "any", 7: "fpga", 8: "npu", 9: "xpu"}
PRECISIONS = {1: "fp32", 2: "int8", 3: "int32", 4: "any", 5: "fp16"}
ARM_NOTE = "an ARM board needs Paddle-Lite's Python package built from source"


class Engine(Protocol):
    """A network that can be run; who made it and on what does not matter to the pipeline."""

    def run(self, x: np.ndarray) -> np.ndarray:
        """x: (N, C, H, W) float32 → the network's first output, float32, the caller's own copy."""
        ...

    def close(self) -> None:
        """Free the native memory; the engine cannot run afterwards."""
        ...


@dataclass(frozen=True)
class NbTargets:
    """What a `.nb` file was made for: kernels by target, precision and op, counted as often as they stand in it.

    opt writes each op's kernel out; a file with shared texts names each kernel once.
    """

    opt_version: str
    targets: dict[str, int]
    precisions: dict[str, int]
    ops: dict[str, int]
    int8_weights: bool

    @property
    def precision(self) -> str:
        """The precision that sets it apart: fp16 or int8 where a kernel has it, else fp32."""
        return next((name for name in ("fp16", "int8") if name in self.precisions), "fp32")


def read_targets(path: Path | str) -> NbTargets:
    """Targets and precisions of a `.nb` file, without the native library.

    Walks the whole frame (header, topology, every parameter up to the end of the file), so a truncated or foreign
    file is found here. Raises ModelError.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path}: expected a .nb file, found {error.strerror}; give one made by export/to_nb.py"
        ) from None
    try:
        version, opt, topology_size = struct.unpack_from("<H16sQ", data)
        if version != META_VERSION:
            raise ModelError(
                f"{path}: expected a .nb file of format {META_VERSION}, found other data; make it with export/to_nb.py"
            )
        topology = data[26 : 26 + topology_size]
        _, _, _, count, _ = struct.unpack_from("<HHHHI", data, 26 + topology_size)
        at = 26 + topology_size + 12
        for _ in range(count):
            at += 4 + struct.unpack_from("<I", data, at)[0]
    except (struct.error, OverflowError):
        raise ModelError(f"{path}: expected a whole .nb file, found it cut off; copy or make it again") from None
    if at != len(data):
        raise ModelError(f"{path}: expected a .nb file of {at} bytes, found {len(data)}; copy or make it again")
    kernels = [
        (match[1].decode(), int(match[2]), int(match[3]))
        for match in KERNEL.finditer(topology)
        # a flatbuffer string starts with its length: this tells kernels from names that look alike
        if match.start() >= 4
        and struct.unpack_from("<I", topology, match.start() - 4)[0] == match.end() - match.start() - 1
    ]
    if len(kernels) < topology.count(KERNEL_ATTRIBUTE) or not kernels:
        raise ModelError(
            f"{path}: expected a .nb file that names its kernels, found none; make it with export/to_nb.py"
        )
    return NbTargets(
        opt.split(b"\0")[0].decode("ascii", "replace"),
        dict(Counter(TARGETS.get(target, str(target)) for _, target, _ in kernels)),
        dict(Counter(PRECISIONS.get(precision, str(precision)) for _, _, precision in kernels)),
        dict(Counter(op for op, _, _ in kernels)),
        WEIGHT_SCALE in topology,
    )


def this_machine(machine: str | None = None) -> str:
    """The target, arm or x86, of this machine or of one that calls itself so."""
    return "arm" if (machine or platform.machine()).lower().startswith(("arm", "aarch64")) else "x86"


def check_runs_here(path: Path | str, machine: str | None = None) -> NbTargets:
    """Refuse a `.nb` file that would load on this machine and return garbage. Raises ModelError with the reason."""
    found = read_targets(path)
    here = this_machine(machine)
    foreign = sorted(set(found.targets) - {"host", "any", here})
    if foreign:
        raise ModelError(
            f"{path}: expected a model for {here}, found one for {', '.join(foreign)}, whose results here would be "
            f"garbage; convert it with export/to_nb.py --target {here}"
        )
    if here == "x86" and "int8" in found.precisions:
        raise ModelError(
            f"{path}: expected a fp32 model on x86, found one with int8 kernels, which Paddle-Lite "
            "computes wrongly on x86; run the inference model that it was made from, or the fp32 one"
        )
    if here == "x86" and found.int8_weights and (linear := LINEAR_OPS & set(found.ops)):
        raise ModelError(
            f"{path}: expected fp32 weights on x86, found int8 weights under {', '.join(sorted(linear))}, which "
            "Paddle-Lite computes wrongly on x86; run the fp32 model"
        )
    return found


def check_version(path: Path | str, found: NbTargets, library: str) -> None:
    """Follow the version rule: ModelError for a file that the library must not load, else at most a warning, once."""
    verdict = versions.judge(found.opt_version, library, found.precision)
    if not verdict.allowed:
        raise ModelError(f"{path}: {verdict.warning}")
    if verdict.warning and verdict.warning not in _warned:
        _warned.add(verdict.warning)
        print(f"{path}: {verdict.warning}", file=sys.stderr, flush=True)


_warned: set[str] = set()


def library_version() -> str:
    """Version of the installed Paddle-Lite, as pip knows it. ModelError when it is not installed."""
    from importlib import metadata  # a fifth of a second on a slow disk: not for --help

    try:
        return metadata.version("paddlelite")
    except metadata.PackageNotFoundError:
        _import_lite()
        raise ModelError(
            "expected paddlelite installed by pip, so that its version is known, found it without; install its wheel"
        ) from None


class LiteEngine:
    """A `.nb` file on Paddle-Lite; may be shared by threads, which then take turns.

    One predictor per input height and width: on x86 a second size in one predictor gives wrong results or corrupts
    the heap. A predictor costs 3-10 ms and its own copy of the weights, so the least recently used go first.
    """

    def __init__(self, nb_path: Path | str, max_predictors: int = 8, input: artifact.Input | None = None) -> None:
        """input: what the manifest says the network eats; every array is compared with it."""
        if max_predictors < 1:
            raise ValueError(f"max_predictors: expected at least 1, found {max_predictors}")
        self.path = Path(nb_path)
        self.targets = check_runs_here(self.path)
        check_version(self.path, self.targets, library_version())
        self.max_predictors = max_predictors
        self.shape = input.shape if input else (-1, 3, -1, -1)
        self.multiple_of = input.multiple_of if input else 1
        self._lite = _import_lite()
        self._predictors: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = False

    def run(self, x: np.ndarray) -> np.ndarray:
        """x: (N, C, H, W) float32 → first output, float32, a copy. ValueError for an array of another kind."""
        self._check(x)
        with self._lock:
            predictor = self._predictor(x.shape[2], x.shape[3])
            predictor.get_input(0).from_numpy(np.ascontiguousarray(x))
            predictor.run()
            return np.array(predictor.get_output(0).numpy())  # numpy() is a view of the predictor's memory

    def close(self) -> None:
        with self._lock:
            self._predictors.clear()
            self._closed = True

    def _predictor(self, height: int, width: int) -> Any:
        if self._closed:
            raise ValueError(f"{self.path}: the engine is closed; open it again")
        key = (height, width)
        if key not in self._predictors:
            while len(self._predictors) >= self.max_predictors:
                self._predictors.popitem(last=False)
            config = self._lite.MobileConfig()
            config.set_model_from_file(str(self.path))
            self._predictors[key] = self._lite.create_paddle_predictor(config)
        self._predictors.move_to_end(key)
        return self._predictors[key]

    def _check(self, x: np.ndarray) -> None:
        if x.dtype != np.float32 or x.ndim != 4 or 0 in x.shape:
            raise ValueError(f"{self.path}: expected float32 (N, C, H, W), found {x.dtype} {x.shape}")
        fits = all(want in (-1, have) for want, have in zip(self.shape, x.shape, strict=True))
        if not fits or x.shape[2] % self.multiple_of or x.shape[3] % self.multiple_of:
            rule = f", sides multiples of {self.multiple_of}" if self.multiple_of > 1 else ""
            raise ValueError(f"{self.path}: expected an input of shape {self.shape}{rule}, found {x.shape}")


def open_nb(
    folder: Path | str, *, task: str | None = None, max_predictors: int = 8
) -> tuple[LiteEngine, artifact.Manifest]:
    """Open a `.nb` artifact folder, hashes checked. Raises ArtifactError or ModelError."""
    folder = Path(folder)
    manifest = artifact.load(folder, kind="nb", task=task)
    if manifest.input is None:
        raise ModelError(f"{folder}: expected a manifest with `input`, found none; make it with export/to_nb.py")
    if MODEL_FILE not in manifest.files:
        raise ModelError(f"{folder}: expected {MODEL_FILE} in the manifest, found none; make it with export/to_nb.py")
    return LiteEngine(folder / MODEL_FILE, max_predictors, manifest.input), manifest


def _import_lite() -> Any:
    try:
        from paddlelite import lite
    except ImportError as error:
        raise ModelError(
            f"expected the package paddlelite, found {error}; pip install paddlelite==2.13rc0 (x86-64 Linux, "
            f"Python 3.8-3.10; {ARM_NOTE})"
        ) from None
    return lite
