"""Export a trained checkpoint as an inference model that Paddle, opt and PaddleOCR read.

    python export/to_inference.py CHECKPOINT --out DIR [--lstm uint8]

Writes inference.pdmodel, inference.pdiparams, inference.yml, the charset and the manifest. The same checkpoint gives
the same bytes, wherever and whenever it is exported.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

import artifact
import command
from artifact import Manifest
from export import variants

PREFIX = "inference"
COMMAND = "export/to_inference.py"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description="Export a checkpoint (float, pruned or PACT-quantized) as an inference model."
    )
    parser.add_argument("checkpoint", type=Path, help="artifact folder of kind checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist yet")
    parser.add_argument(
        "--lstm",
        choices=variants.LSTM_FORMS,
        default=variants.LSTM_FORMS[0],
        help="how a recognizer's LSTM matrices are stored; uint8: a byte a weight, size, not speed (default: fp32)",
    )
    command.add_common(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    # Paddle's native part announces every executor on stderr unless told so before it is first imported.
    os.environ.setdefault("GLOG_minloglevel", "2")
    manifest = export(args.checkpoint, args.out, lstm=args.lstm)
    sizes = {name: manifest.files[name]["bytes"] for name in (f"{PREFIX}.pdmodel", f"{PREFIX}.pdiparams")}
    data = {"out": str(args.out), "task": manifest.task, "name": manifest.name, "bytes": sizes}
    rows = [(name, f"{size:,}") for name, size in sizes.items()]
    form = manifest.compression.get("quantization", "float")
    form += f", LSTM {args.lstm}" if variants.LSTM in manifest.compression else ""
    text = command.table((f"{manifest.name} ({manifest.task}, {form})", "bytes"), rows)
    command.emit(args, data, f"{text}\nwritten to {args.out}")
    return 0


def export(checkpoint: str | Path, out: str | Path, *, lstm: str = variants.LSTM_FORMS[0]) -> Manifest:
    """Write the inference artifact of a checkpoint artifact to `out` and return its manifest.

    lstm: one of variants.LSTM_FORMS. Raises ArtifactError or ModelError for a checkpoint that cannot be used; `out`
    is then not created.
    """
    checkpoint = Path(checkpoint)
    manifest = artifact.load(checkpoint, kind="checkpoint")
    if manifest.task not in ("det", "cls", "rec"):
        raise command.ModelError(f"{checkpoint}: expected task det, cls or rec, found {manifest.task}")
    if lstm == variants.LSTM_BYTES and manifest.task != "rec":
        raise command.UsageError(
            f"{checkpoint}: expected a recognizer with --lstm {lstm}, found task {manifest.task}; leave --lstm out"
        )
    if manifest.input is None:
        raise artifact.ArtifactError(f"{checkpoint}: expected an input record in the manifest, found none; train again")
    entries = artifact.read_charset(checkpoint, manifest) if manifest.charset else None
    with artifact.create(out) as folder:
        _save(checkpoint, manifest, folder)
        if lstm == variants.LSTM_BYTES:
            from export import lstm_storage, program

            lstm_storage.store(program.read(folder), folder)
            manifest = manifest.replace(compression={**manifest.compression, variants.LSTM: lstm})
        for name in (manifest.charset.file if manifest.charset else "", manifest.compression.get("prune_plan", "")):
            if name:
                shutil.copyfile(checkpoint / name, folder / name)
        from export import inference_yml

        inference_yml.write(folder, manifest, entries)
        child = manifest.replace(kind="inference", parent=artifact.digest(checkpoint), extra={})
        return artifact.write(folder, child, COMMAND)


def _save(checkpoint: Path, manifest: Manifest, folder: Path) -> None:
    """Write the program and its weights into `folder`."""
    import paddle
    from paddle.static import InputSpec

    assert manifest.input is not None
    channels, *sides = manifest.input.shape[1:]
    shape = [None, channels, *(side if side > 0 else None for side in sides)]
    prefix = str(folder / PREFIX)
    # Variables are numbered by counters of the process; the guard starts them at 0, so that the bytes do not depend
    # on what was built before.
    with paddle.utils.unique_name.guard():
        spec = [InputSpec(shape, "float32", "x")]
        if manifest.quantized:
            from slim import pact

            quantized, _ = pact.load_quantized(checkpoint)
            quantized.save_inference(prefix, spec)
        else:
            from ocr_models.checkpoints import load_network

            layer, _ = load_network(checkpoint)
            paddle.jit.save(paddle.jit.to_static(layer, input_spec=spec, full_graph=True), prefix)
    Path(f"{prefix}.pdiparams.info").unlink(missing_ok=True)
    _forget_origin(Path(f"{prefix}.pdmodel"))


def _forget_origin(model: Path) -> None:
    """Drop the Python call stacks from a program: they hold this machine's paths, and nothing reads them."""
    from paddle.base.proto import framework_pb2

    desc: Any = framework_pb2.ProgramDesc()
    desc.ParseFromString(model.read_bytes())
    for block in desc.blocks:
        for op in block.ops:
            kept = [attribute for attribute in op.attrs if attribute.name != "op_callstack"]
            if len(kept) < len(op.attrs):
                del op.attrs[:]
                op.attrs.extend(kept)
    model.write_bytes(desc.SerializeToString(deterministic=True))


if __name__ == "__main__":
    command.main(build_parser(), run)
