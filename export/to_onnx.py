"""Convert a float model into an ONNX file, for users who stay outside Paddle-Lite, and prove that it computes the same.

    python export/to_onnx.py out/inference/rec --out rec.onnx
    python export/to_onnx.py out/det --out out/onnx                  # a checkpoint; writes out/onnx/NAME.onnx

onnxruntime and Paddle compute the model's output on the same random input at several shapes; when they differ by more
than TOLERANCE anywhere, nothing is written and the exit code is 1. The file carries what its user has to know as ONNX
metadata: `ppocr_edge`, the manifest's input, post-processing and charset record as JSON, and `character`, a
recognizer's charset, one entry a line.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import artifact
import command

if TYPE_CHECKING:
    import numpy as np

    from export.source import Source

# Of a sigmoid or softmax output. The same float32 sums in another order come to 4e-6 on these networks; a wrong op or
# weight to 1e-2 and more.
TOLERANCE = 1e-4
OPSET = 14  # the first with HardSwish
_NEEDED = ("paddle2onnx", "onnx", "onnxruntime")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="to_onnx.py",
        description=(__doc__ or "").splitlines()[0],
        epilog="Exit 0 done, 1 onnxruntime and Paddle differ, 2 bad input.",
    )
    parser.add_argument("artifact", type=Path, help="artifact of kind inference or checkpoint, or a published folder")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE|DIR", help="FILE.onnx, or a folder for NAME.onnx"
    )
    parser.add_argument("--opset", type=int, default=OPSET, help=f"version of ONNX's operators (default: {OPSET})")
    parser.add_argument("--task", choices=("det", "cls", "rec"), help="for a folder without a manifest")
    parser.add_argument("--charset", type=Path, metavar="FILE", help="for a recognizer without a manifest")
    command.add_common(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    os.environ.setdefault("GLOG_minloglevel", "2")
    result = to_onnx(args.artifact, args.out, opset=args.opset, task=args.task, charset=args.charset)
    rows = [(" x ".join(map(str, row.shape)), f"{row.largest:.1e}", f"{row.mean:.1e}") for row in result.agreement]
    text = command.table((f"{result.name} ({result.task})", "largest", "mean difference"), rows)
    if result.agrees:
        text += f"\n{result.out}: {result.size_bytes:,} bytes, opset {args.opset}; the same within {TOLERANCE:g}"
    else:
        text += (
            f"\n{args.artifact}: expected onnxruntime to compute the same as Paddle within {TOLERANCE:g}, found "
            f"{max(row.largest for row in result.agreement):.1e}; nothing was written"
        )
    data = {**dataclasses.asdict(result), "out": str(result.out), "tolerance": TOLERANCE}
    for row in data["agreement"]:
        row.update({key: None for key in ("largest", "mean") if row[key] == float("inf")})  # JSON has no infinity
    command.emit(args, data, text)
    return command.EXIT_DONE if result.agrees else command.EXIT_CHECK_FAILED


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Difference of the two outputs for one input shape, absolute."""

    shape: tuple[int, ...]
    largest: float
    mean: float


@dataclasses.dataclass(frozen=True)
class Converted:
    out: Path
    name: str
    task: str
    opset: int
    size_bytes: int
    agrees: bool
    agreement: tuple[Agreement, ...]


def to_onnx(
    folder: Path, out: Path, *, opset: int = OPSET, task: str | None = None, charset: Path | None = None
) -> Converted:
    """Convert, compare, and write the file where both engines agree.

    Raises ArtifactError, ModelError or UsageError with one line; nothing is then written.
    """
    from export import onnx_convert

    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise command.UsageError(
            f"expected {', '.join(_NEEDED)}, found no {' and no '.join(missing)}; install: pip install '.[train,onnx]'"
        )
    low, high = onnx_convert.OPSETS
    if not low <= opset <= high:
        raise command.UsageError(f"expected --opset {low} to {high}, found {opset}; give another")
    if out.suffix == ".onnx":
        _refuse(out)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            return _convert(folder, out, opset, task, charset, Path(scratch))
        except (artifact.ArtifactError, command.ModelError, command.UsageError) as error:
            # A checkpoint is exported first; the user knows it by its own path only.
            raise type(error)(str(error).replace(f"{scratch}/inference", str(folder))) from None


def _convert(folder: Path, out: Path, opset: int, task: str | None, charset: Path | None, scratch: Path) -> Converted:
    from export import onnx_convert, source

    if _is_checkpoint(folder):
        from export import to_inference

        to_inference.export(folder, scratch / "inference")
        model = source.open_source(scratch / "inference", task=task, charset=charset)
    else:
        model = source.open_source(folder, task=task, charset=charset)
    if model.program.quantized:
        raise command.ModelError(
            f"{folder}: expected a float model, found one that simulates int8, whose fake_quantize ops paddle2onnx "
            "does not know; give the float model that it was made from, and quantize the ONNX file by its engine's "
            "own tools"
        )
    path = out if out.suffix == ".onnx" else out / f"{Path(model.manifest.name).name}.onnx"
    _refuse(path)
    temporary = scratch / "model.onnx"
    onnx_convert.convert(model.program.model, model.program.params, temporary, opset=opset)
    _describe(temporary, model)
    agreement = tuple(_compare(model, temporary))
    agrees = all(row.largest <= TOLERANCE for row in agreement)
    if agrees:
        _place(temporary, path)
    size = temporary.stat().st_size
    return Converted(path, model.manifest.name, model.manifest.task, opset, size, agrees, agreement)


def _is_checkpoint(folder: Path) -> bool:
    if not (folder / artifact.MANIFEST).is_file():
        return False
    return artifact.load(folder, kind=("checkpoint", "inference"), verify=False).kind == "checkpoint"


def _refuse(path: Path) -> None:
    if path.exists():
        raise command.UsageError(f"{path}: expected a file that does not exist yet, found one; give another --out")


def _describe(path: Path, model: Source) -> None:
    """Check the file by ONNX's own rules and add what its user has to know as metadata."""
    import onnx

    converted = onnx.load(str(path))
    onnx.checker.check_model(converted)
    manifest = model.manifest
    about: dict[str, Any] = {"name": manifest.name, "task": manifest.task, "post": manifest.post}
    if manifest.input:
        about["input"] = dataclasses.asdict(manifest.input)
    if manifest.charset and model.charset is not None:
        about["charset"] = dataclasses.asdict(manifest.charset)
        onnx.helper.set_model_props(converted, {"character": model.charset.decode("utf-8-sig").rstrip("\n")})
    entry = converted.metadata_props.add()
    entry.key, entry.value = "ppocr_edge", json.dumps(about, ensure_ascii=False, sort_keys=True)
    path.write_bytes(converted.SerializeToString(deterministic=True))


def _compare(model: Source, path: Path) -> list[Agreement]:
    """Run both engines on the same noise. Paddle runs the ops as they stand in the file, so that nothing is fused."""
    import numpy as np
    import onnxruntime

    from ocr_models.paddle_engine import InferenceEngine

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    paddle_engine = InferenceEngine(model.program.model.parent, optimize=False)
    rows = []
    for shape in shapes(model):
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        ours, theirs = paddle_engine.run(x), session.run(None, {session.get_inputs()[0].name: x})[0]
        rows.append(Agreement(shape, *_difference(ours, theirs)))
    paddle_engine.close()
    return rows


def _difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Largest and mean absolute difference; infinite where shapes differ or a number is none."""
    import numpy as np

    if ours.shape != theirs.shape or not np.isfinite(theirs).all() or not np.isfinite(ours).all():
        return float("inf"), float("inf")
    apart = np.abs(ours.astype(np.float64) - theirs)
    return float(apart.max()), float(apart.mean())


def shapes(model: Source) -> list[tuple[int, ...]]:
    """Input shapes that a model of this task meets: small, large, a batch; only those that its manifest allows."""
    eats = model.manifest.input
    assert eats is not None  # open_source has checked it
    _, channels, height, width = eats.shape
    if height < 0 and width < 0:
        return [(1, channels, 64, 96), (1, channels, 320, 256), (2, channels, 32, 160)]
    if width < 0:
        widths = eats.width_buckets or (320,)
        middle = widths[len(widths) // 2]
        return [(1, channels, height, widths[0]), (2, channels, height, middle), (1, channels, height, widths[-1])]
    return [(1, channels, height, width), (3, channels, height, width)]


def _place(temporary: Path, path: Path) -> None:
    """Copy beside the target, then rename: a killed process leaves no half file under its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(temporary.read_bytes())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


if __name__ == "__main__":
    command.main(build_parser(), run, native=True)
