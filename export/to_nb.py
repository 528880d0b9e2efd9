"""Convert an inference model into the `.nb` file that Paddle-Lite runs, and prove it by reading the file back.

    python export/to_nb.py ARTIFACT --target arm|x86 --out DIR [--fp16]
    python export/to_nb.py PUBLISHED_FOLDER --task det|cls|rec --target arm|x86 --out DIR [--charset FILE]

opt runs in a child process. The same model gives the same bytes.
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
from command import ModelError, UsageError
from export import nb_file, opt
from export.nb_file import NbFile

FILE = "model.nb"
COMMAND = "export/to_nb.py"
CONVOLUTIONS = ("conv2d", "depthwise_conv2d", "conv2d_transpose")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description="Convert an inference model into a Paddle-Lite .nb file."
    )
    parser.add_argument("model", type=Path, help="inference artifact, or a published inference folder with --task")
    parser.add_argument("--target", choices=opt.TARGETS, required=True, help="machine that runs it: phone or this host")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist yet")
    parser.add_argument("--fp16", action="store_true", help="half-precision kernels (arm): faster, of the same size")
    parser.add_argument("--task", choices=("det", "cls", "rec"), help="what a folder without manifest.json does")
    parser.add_argument("--charset", type=Path, help="charset of a recognizer without manifest.json")
    command.add_common(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    os.environ.setdefault("GLOG_minloglevel", "2")
    manifest, nb = convert(
        args.model, args.out, target=args.target, fp16=args.fp16, task=args.task, charset=args.charset
    )
    data = {"out": str(args.out), "task": manifest.task, "name": manifest.name, **manifest.extra}
    command.emit(args, data, _report(manifest, nb, args.out))
    return 0


def convert(
    model: str | Path,
    out: str | Path,
    *,
    target: str,
    fp16: bool = False,
    task: str | None = None,
    charset: Path | None = None,
) -> tuple[Manifest, NbFile]:
    """Write the nb artifact of an inference model to `out`; return its manifest and the parsed file.

    Raises ArtifactError, ModelError or UsageError with one line; `out` is then not created.
    """
    from export.source import open_source

    if target not in opt.TARGETS:
        raise UsageError(f"expected target {' or '.join(opt.TARGETS)}, found {target!r}")
    if fp16 and target != "arm":
        raise UsageError(f"expected --fp16 with --target arm, found {target}: only ARM has half-precision kernels")
    source = open_source(model, task=task, charset=charset)
    quantized = source.program.quantized
    if quantized and target == "x86":
        raise ModelError(
            f"{model}: expected a float model for x86, found an int8 one, whose results are wrong on Paddle-Lite x86; "
            "convert for --target arm, and judge its accuracy on the inference model with slim/evaluate.py"
        )
    if quantized and fp16:
        raise UsageError(f"{model}: expected a float model with --fp16, found an int8 one; leave --fp16 out")
    if source.manifest.quantized != quantized:
        raise ModelError(
            f"{model}: expected a program that is {'int8' if source.manifest.quantized else 'float'} as its manifest "
            f"says, found one that is {'int8' if quantized else 'float'}; export it again with export/to_inference.py"
        )
    with artifact.create(out) as folder:
        opt.convert(source.program.model, source.program.params, folder / FILE, target=target, fp16=fp16)
        nb = nb_file.read(folder / FILE)
        precision = "int8" if quantized else "fp16" if fp16 else "fp32"
        check(nb, target, precision, f"{model}")
        if source.charset_path and source.manifest.charset:
            shutil.copyfile(source.charset_path, folder / source.manifest.charset.file)
        extra: dict[str, Any] = {
            "target": target,
            "opt_version": nb.opt_version,
            "precision": precision,
            "kernels": nb.kernels(),
            "bytes": nb.parts(),
        }
        child = source.manifest.replace(kind="nb", parent=source.parent, extra=extra)
        return artifact.write(folder, child, COMMAND), nb


def check(nb: NbFile, target: str, precision: str, name: str) -> None:
    """Prove that a file is what was asked for. Raises ModelError."""
    if nb.targets != {target}:
        raise ModelError(f"{name}: expected kernels for {target}, found {', '.join(sorted(nb.targets)) or 'none'}")
    if len(nb.inputs) != 1 or len(nb.outputs) != 1:
        raise ModelError(f"{name}: expected one input and one output, found {len(nb.inputs)} and {len(nb.outputs)}")
    if precision != "fp32" and not convolutions(nb).get(precision):
        raise ModelError(
            f"{name}: expected {precision} convolutions, found {convolutions(nb) or 'none'}; "
            "opt did not recognise them, export the model again"
        )


def convolutions(nb: NbFile) -> dict[str, int]:
    """Precision → how many convolutions run in it."""
    counts: dict[str, int] = {}
    for kind, precisions in nb.kernels().items():
        if kind in CONVOLUTIONS:
            for precision, count in precisions.items():
                counts[precision] = counts.get(precision, 0) + count
    return counts


def _report(manifest: Manifest, nb: NbFile, out: Path) -> str:
    precision = manifest.extra["precision"]
    counts = convolutions(nb)
    share = f"{counts.get(precision, 0)} of {sum(counts.values())} convolutions {precision}"
    kernels = [
        (kind, ", ".join(f"{count} {precision}" for precision, count in sorted(precisions.items())))
        for kind, precisions in nb.kernels().items()
    ]
    size = nb.size_bytes
    parts = [(part, f"{count:,}", f"{count / size:.1%}") for part, count in nb.parts().items()]
    return "\n".join(
        [
            command.table(("op", "kernels"), kernels),
            "",
            command.table(("part", "bytes", "share"), [*parts, ("total", f"{size:,}", "")]),
            "",
            f"{manifest.name} ({manifest.task}) for {manifest.extra['target']}, opt {nb.opt_version}: {share}",
            f"written to {out}",
        ]
    )


if __name__ == "__main__":
    command.main(build_parser(), run)
