"""Runs Paddle-Lite's optimizer (opt) in a child process.

opt never raises: damaged files, unsupported ops and bad options end in abort() or a segmentation fault. Here its death,
its delay and its hunger become one ModelError that names the cause. The same input gives the same bytes.
"""

from __future__ import annotations

import contextlib
import functools
import re
import resource
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from command import ModelError, native_cause, one_line
from export import nb_file

TARGETS = ("arm", "x86")
TIMEOUT_S = 120
# Address space, not resident memory: importing paddlelite alone reserves several hundred MB.
MEMORY_BYTES = 6 << 30
_LOG_BYTES = 1 << 20

# What opt says → what the model's author can do. Searched in order in the whole log.
_REMEDIES = (
    ("No attributes called beta", "the op swish has no beta: use F.silu in the network and export it again"),
    ("ops are not supported", "replace these ops in the network, or convert for the other target"),
    ("bad_alloc", "it hit its memory limit: the model's shapes are damaged or far too large"),
    # opt says "Failed to read" of a failed write, too.
    ("(fwrite(", "the folder for temporary files is full: free some space or set TMPDIR to another one"),
    ("Failed to read", "the weights file is shorter than the program needs: copy both files again"),
    ("", "export the model again with export/to_inference.py"),
)


@dataclass(frozen=True)
class OpList:
    """opt's own list for one target. runnable: ops with a kernel on it or on any host; known: ops without one."""

    runnable: frozenset[str]
    known: frozenset[str]


def convert(
    model: Path,
    params: Path,
    out: Path,
    *,
    target: str,
    fp16: bool = False,
    weight_bits: int = 0,
    timeout_s: float = TIMEOUT_S,
    memory_bytes: int = MEMORY_BYTES,
) -> None:
    """Convert a program and its weights into the `.nb` file `out`.

    fp16: let opt pick half-precision kernels (arm only). weight_bits: 8 or 16 stores the weights of convolutions and
    matrix products as whole numbers, which the library turns back into floats when it loads them. Raises ModelError
    with one line when opt dies, takes longer than `timeout_s` or wants more than `memory_bytes` of address space;
    `out` is then not written.
    """
    with tempfile.TemporaryDirectory(prefix="opt.") as folder:
        result = Path(folder) / "model"
        options = [str(model.resolve()), str(params.resolve()), str(result), target, str(int(fp16)), str(weight_bits)]
        try:
            code, text = _call("_child", options, folder, timeout_s, memory_bytes)
        except subprocess.TimeoutExpired:
            raise ModelError(
                f"{model}: expected opt to convert it for {target} within {timeout_s:g} s, found it still busy; "
                "the file is damaged or the machine overloaded, export the model again"
            ) from None
        nb = result.with_suffix(".nb")
        if code != 0 or not nb.is_file():
            raise ModelError(
                f"{model}: expected a model that opt converts for {target}, found that {_cause(code, text)}; "
                f"{_remedy(text)}"
            )
        out.write_bytes(_settle_header(nb.read_bytes()))


@functools.cache
def supported(target: str) -> OpList:
    """Ask opt which ops it has kernels for. Raises ModelError when it does not answer with a list."""
    with tempfile.TemporaryDirectory(prefix="opt.") as folder:
        try:
            code, text = _call("_child_list", [target], folder, TIMEOUT_S, MEMORY_BYTES)
        except subprocess.TimeoutExpired:
            code, text = -signal.SIGKILL, ""
    found = parse_list(text) if code == 0 else None
    if found is None or "conv2d" not in found.runnable:
        raise ModelError(
            f"opt: expected its list of ops for {target}, found {one_line(text)[:120] or f'exit code {code}'!r}; "
            "install paddlelite again in the pinned version"
        )
    return found


def parse_list(text: str) -> OpList | None:
    """Read what `print_supported_ops` prints: a line of column names, then op names with Y under some of them.

    None where the text has no such table. The column kUnk holds ops that opt knows but that no kernel runs.
    """
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.split()[:1] == ["OP_name"]), None)
    if start is None:
        return None
    ends = {match.group(): match.end() for match in re.finditer(r"\S+", lines[start])}
    runnable: set[str] = set()
    known: set[str] = set()
    for line in lines[start + 1 :]:
        words = line.split()
        if not words or set(words[1:]) - {"Y"}:
            continue
        columns = {
            name for name, end in ends.items() if name != "OP_name" and "Y" in line[end - len(name) : end].ljust(1)
        }
        (runnable if columns - {"kUnk"} else known).add(words[0])
    return OpList(frozenset(runnable), frozenset(known))


def _call(entry: str, options: list[str], folder: str, timeout_s: float, memory_bytes: int) -> tuple[int, str]:
    """Run a function of this file in a child with limits; its exit code and what it printed."""
    with tempfile.TemporaryFile() as log:
        code = subprocess.run(
            [sys.executable, "-c", f"from export.opt import {entry}; {entry}()", str(memory_bytes), *options],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        ).returncode
        log.seek(0)
        return code, log.read(_LOG_BYTES).decode("utf-8", "replace")


def _settle_header(data: bytes) -> bytes:
    """Zero what follows the version's NUL in the header: stack rubbish, the only bytes that differ between two runs."""
    field = data[nb_file.VERSION_FIELD]
    version = field.split(b"\0")[0].ljust(len(field), b"\0")
    return data[: nb_file.VERSION_FIELD.start] + version + data[nb_file.VERSION_FIELD.stop :]


def _cause(code: int, log: str) -> str:
    said = native_cause(re.sub(r"\]\s*\n\s*(?=\S)", "] ", log))
    how = f"opt ended with exit code {code}"
    if code < 0:
        with contextlib.suppress(ValueError):
            how = f"opt ended with {signal.Signals(-code).name}"
    if not said:
        lines = [line for line in log.splitlines() if line.strip()]
        said = one_line(lines[-1])[:240] if lines else ""
    return f"{how}: {said.rstrip('. ')}" if said else how


def _remedy(log: str) -> str:
    return next(remedy for sign, remedy in _REMEDIES if sign in log)


def _limit() -> list[str]:
    """In the child: take the limits and return the other options."""
    memory_bytes, *options = sys.argv[1:]
    limit_process(int(memory_bytes))
    return options


def limit_process(memory_bytes: int = MEMORY_BYTES) -> None:
    """Let this process, a child that runs native code, take no more address space than that and leave no core file."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _child() -> None:
    """The child: everything here may die."""
    model, params, out, target, fp16, weight_bits = _limit()
    from paddlelite.lite import Opt

    opt = Opt()
    opt.set_model_file(model)
    opt.set_param_file(params)
    opt.set_model_type("naive_buffer")
    opt.set_optimize_out(out)
    if int(fp16):
        opt.enable_fp16()  # after set_valid_places it would do nothing, silently
    if int(weight_bits):
        opt.set_quant_model(True)
        opt.set_quant_type(f"QUANT_INT{weight_bits}")
    opt.set_valid_places(target)
    opt.run()


def _child_list() -> None:
    (target,) = _limit()
    from paddlelite.lite import Opt

    opt = Opt()
    opt.set_valid_places(target)
    opt.print_supported_ops()
