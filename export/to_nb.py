"""Convert an inference model into the `.nb` file that Paddle-Lite runs, and prove it by reading the file back.

    python export/to_nb.py MODEL --target arm|x86 --out DIR [--precision P] [--fix] [--charset FILE] [--task T]
    python export/to_nb.py MODEL --target arm|x86 --check

MODEL is an inference artifact or a published inference folder. What opt or the runtime would fail at is found first.
opt runs in a child process. The same model gives the same bytes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import artifact
import command
from artifact import Manifest
from command import ModelError, UsageError
from export import nb_file, opt, variants
from export.nb_file import NbFile

FILE = "model.nb"
COMMAND = "export/to_nb.py"
CONVOLUTIONS = ("conv2d", "depthwise_conv2d", "conv2d_transpose")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description="Convert an inference model into a Paddle-Lite .nb file."
    )
    parser.add_argument("model", type=Path, help="inference artifact, or a published inference folder")
    parser.add_argument("--target", choices=opt.TARGETS, required=True, help="machine that runs it: phone or this host")
    parser.add_argument("--out", type=Path, help="folder to write; must not exist yet")
    parser.add_argument("--check", action="store_true", help="only look for what would fail; writes nothing")
    parser.add_argument(
        "--precision",
        choices=tuple(variants.PRECISIONS),
        help="; ".join(f"{name}: {what}" for name, what in variants.PRECISIONS.items())
        + " (default: int8 for a quantized model, else fp32)",
    )
    parser.add_argument(
        "--fix", action="store_true", help="change the program where that is safe; says what it changed"
    )
    parser.add_argument("--keep-attributes", action="store_true", help="keep what no kernel reads in the file")
    parser.add_argument("--task", choices=("det", "cls", "rec"), help="what a folder does whose program does not tell")
    parser.add_argument("--charset", type=Path, help="charset of a recognizer without manifest.json")
    command.add_common(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    os.environ.setdefault("GLOG_minloglevel", "2")
    if args.check:
        return _check_only(args)
    if args.out is None:
        raise UsageError("expected --out DIR to write to, found none; give it, or --check to only look at the model")
    manifest, nb = convert(
        args.model,
        args.out,
        target=args.target,
        precision=args.precision,
        task=args.task,
        charset=args.charset,
        fix=args.fix,
        keep_attributes=args.keep_attributes,
    )
    data = {"out": str(args.out), "task": manifest.task, "name": manifest.name, **manifest.extra}
    from export import nb_summary

    command.emit(args, data, nb_summary.text(manifest, nb, args.out))
    return 0


def _check_only(args: argparse.Namespace) -> int:
    """Of the program alone: whatever network it is, whatever lies beside it."""
    from export import preflight, program

    findings = preflight.check(program.read(args.model), args.target)
    last = f"{args.model} for {args.target}: "
    last += f"{len(findings)} found that would fail" if findings else "nothing found that would fail"
    data = {"model": str(args.model), "target": args.target, "findings": preflight.record(findings)}
    command.emit(args, data, "\n\n".join(filter(None, [preflight.table(findings), last])))
    return command.EXIT_CHECK_FAILED if findings else command.EXIT_DONE


def convert(
    model: str | Path,
    out: str | Path,
    *,
    target: str,
    precision: str | None = None,
    task: str | None = None,
    charset: Path | None = None,
    fix: bool = False,
    keep_attributes: bool = False,
) -> tuple[Manifest, NbFile]:
    """Write the nb artifact of an inference model to `out`; return its manifest and the parsed file.

    Raises ArtifactError, ModelError or UsageError with one line; `out` is then not created.
    """
    from export import conversion, lstm_check, lstm_storage, preflight, verdict
    from export.source import open_source

    if target not in opt.TARGETS:
        raise UsageError(f"expected target {' or '.join(opt.TARGETS)}, found {target!r}")
    source = open_source(model, task=task, charset=charset)
    quantized = source.program.quantized
    matrices = lstm_storage.stored(source.program)
    precision = variants.choose(str(model), precision, quantized=quantized, target=target, lstm_bytes=bool(matrices))
    if source.manifest.quantized != quantized:
        raise ModelError(
            f"{model}: expected a program that is {'int8' if source.manifest.quantized else 'float'} as its manifest "
            f"says, found one that is {'int8' if quantized else 'float'}; export it again with export/to_inference.py"
        )
    findings = preflight.check(source.program, target)
    mends = [finding.trap for finding in findings if finding.mendable and fix]
    preflight.refuse([finding for finding in findings if finding.trap not in mends], source.program.model, target)
    slim = not keep_attributes
    with artifact.create(out) as folder:
        conversion.make_nb(source.program, folder / FILE, target=target, precision=precision, slim=slim, mends=mends)
        nb = nb_file.read(folder / FILE)
        check(nb, target, precision, f"{model}")
        lstm_check.check(nb, len(matrices), f"{model}")
        extra: dict[str, Any] = {
            "target": target,
            "opt_version": nb.opt_version,
            "precision": precision,
            "buys": variants.PRECISIONS[precision],
            "kernels": nb.kernels(),
            "bytes": nb.parts(),
            "diet": slim,
            "fixed": preflight.record([finding for finding in findings if finding.trap in mends]),
        }
        if slim:
            extra["bytes_before_diet"] = _undieted(model, nb, source.program, target, precision, mends)
        judged = verdict.judge(nb, source.program, precision, target=target, slim=slim, mends=mends)
        if judged:
            extra["verdict"] = judged.record()
        if source.charset is not None and source.manifest.charset:
            (folder / source.manifest.charset.file).write_bytes(source.charset)
        child = source.manifest.replace(kind="nb", parent=source.parent, extra=extra)
        return artifact.write(folder, child, COMMAND), nb


def _undieted(
    model: str | Path, nb: NbFile, program: Any, target: str, precision: str, mends: list[str]
) -> dict[str, int]:
    """Parts of the file that opt makes of the same model without the diet, which must do the same."""
    from export import conversion, diet

    with tempfile.TemporaryDirectory(prefix="nb.") as scratch:
        path = Path(scratch) / FILE
        conversion.make_nb(program, path, target=target, precision=precision, slim=False, mends=mends)
        whole = nb_file.read(path)
    wrong = [finding for finding in diet.same_program(whole, nb) if not finding.passed]
    if wrong:
        raise ModelError(
            f"{model}: expected the slim file to do what opt's does, found {wrong[0].what}: {wrong[0].found}; "
            "convert with --keep-attributes and report the model"
        )
    return whole.parts()


def check(nb: NbFile, target: str, precision: str, name: str) -> None:
    """Prove that a file is what was asked for. Raises ModelError."""
    if nb.targets != {target}:
        raise ModelError(f"{name}: expected kernels for {target}, found {', '.join(sorted(nb.targets)) or 'none'}")
    if len(nb.inputs) != 1 or len(nb.outputs) != 1:
        raise ModelError(f"{name}: expected one input and one output, found {len(nb.inputs)} and {len(nb.outputs)}")
    bits = variants.WEIGHT_BITS.get(precision)
    if bits and f"int{bits}" not in nb.weights_by_type():
        raise ModelError(f"{name}: expected weights of {bits} bits, found {', '.join(nb.weights_by_type()) or 'none'}")
    if precision in ("fp16", "int8") and not convolutions(nb).get(precision):
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


if __name__ == "__main__":
    command.main(build_parser(), run)
