"""Collect finished checkpoints into the package: the default models, their slim versions, and bundles that run at once.

    python benchmarks/ship.py --models out --out ocr_models/pretrained

Takes MODELS/{det,cls,rec}, {det,cls,rec}-slim and det-pruned, each evaluated on the test split, and the state of the
three training runs, so that training goes on from there. Writes OUT/{det,cls,rec}, OUT/slim, OUT/state, and the bundles
OUT/x86 (float) and OUT/arm-slim (int8). Nothing of OUT changes before everything has been made and checked.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import artifact
import command
from benchmarks.layout import TASKS, export_options
from benchmarks.steps import ROOT

# Where a checkpoint of MODELS goes in OUT, and the checkpoint that it has to be made from.
PLACES = {
    "det": ("det", None),
    "cls": ("cls", None),
    "rec": ("rec", None),
    "det-pruned": ("slim/det-pruned", "det"),
    "det-slim": ("slim/det", "det-pruned"),
    "cls-slim": ("slim/cls", "cls"),
    "rec-slim": ("slim/rec", "rec"),
}
BUNDLES = {"x86": ("x86", ""), "arm-slim": ("arm", "-slim")}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ship.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", type=Path, required=True, metavar="DIR", help="folder of finished checkpoints")
    parser.add_argument("--out", type=Path, default=Path("ocr_models/pretrained"), metavar="DIR", help="folder to fill")
    command.add_common(parser)
    return parser


def check(models: Path) -> None:
    """Every checkpoint is there, evaluated, and made from the one that is shipped with it; else ArtifactError."""
    for task in TASKS:
        if not (models / f"{task}.run").is_dir():
            raise artifact.ArtifactError(
                f"{models / task}.run: expected the state of its training, found none; train it with slim/finetune.py"
            )
    for name, (_, parent) in PLACES.items():
        manifest = artifact.load(models / name, kind="checkpoint")
        if not manifest.metrics:
            raise artifact.ArtifactError(
                f"{models / name}: expected metrics, found none; run slim/evaluate.py with --record"
            )
        if parent and manifest.parent != artifact.digest(models / parent):
            raise artifact.ArtifactError(
                f"{models / name}: expected it to be made from {models / parent}, found another parent; make it again"
            )


def bundle(models: Path, work: Path, name: str) -> Path:
    """Export three checkpoints and put their `.nb` files into one bundle."""
    target, suffix = BUNDLES[name]
    parts: list[object] = []
    sources = []
    for task in TASKS:
        inference, nb = work / "inference" / f"{task}{suffix}", work / "nb" / name / task
        options = export_options(task, int8=bool(suffix))
        _run("export/to_inference.py", models / f"{task}{suffix}", *options, "--out", inference)
        _run("export/to_nb.py", inference, "--target", target, "--out", nb)
        parts += [f"--{task}", nb]
        sources.append(inference)
    _run("export/bundle.py", *parts, "--inference", *sources, "--out", work / name)
    return work / name


def run(args: argparse.Namespace) -> int:
    models, out = args.models.resolve(), args.out.resolve()
    check(models)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".ship.", dir=out) as folder:
        work = Path(folder)
        made = {name: bundle(models, work, name) for name in BUNDLES}
        for name, (place, _) in PLACES.items():
            made[place] = shutil.copytree(models / name, work / "checkpoints" / name)
        for task in TASKS:
            made[f"state/{task}.run"] = shutil.copytree(models / f"{task}.run", work / "state" / task)
        for place, source in made.items():
            target = out / place
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            os.replace(source, target)
    sizes = {place: sum(f.stat().st_size for f in (out / place).rglob("*") if f.is_file()) for place in made}
    text = command.table(["folder", "bytes"], [[place, f"{size:,}"] for place, size in sizes.items()])
    command.emit(args, {"out": str(out), "bytes": sizes}, text)
    return command.EXIT_DONE


def _run(*argv: object) -> None:
    done = subprocess.run(
        [sys.executable, *map(str, argv)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        raise command.ModelError(f"{argv[0]} ended with exit code {done.returncode}: {done.stderr.strip()[-300:]}")


if __name__ == "__main__":
    command.main(build_parser(), run)
