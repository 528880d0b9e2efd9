"""The paper's tables on pruning and quantization beside ours, from training to verdict.

    python benchmarks/reproduce_paper.py --out out/paper                     trains every variant of the float models
    python benchmarks/reproduce_paper.py --out out/paper --shipped           only measures the models that ship
    python benchmarks/reproduce_paper.py --out out/paper --keep-shipped --published DIR --data data

Prunes, quantizes (PACT, QAT, PTQ), exports, measures and times; --published does the same to PaddleOCR's own models and
compares them with what they were. Writes results.json, tables.md, paper_sizes.png and paper_differences.png in OUT.
Every step is a child process; a killed run goes on, and a finished step is kept while its inputs and options are the
same. Code may change meanwhile: --measure-again repeats all but the training.
"""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import json
import platform
import shutil
import zlib  # noqa: F401  (matplotlib's PNG needs it before Paddle brings its own)
from pathlib import Path
from typing import IO, Any

import yaml

import command
from benchmarks import paper_bars, paper_models, paper_pictures, paper_render, paper_rows
from benchmarks.layout import PRETRAINED
from benchmarks.paper_models import TASKS, VARIANTS, Key, Places
from benchmarks.paper_published import Published
from benchmarks.paper_steps import Options, Steps
from benchmarks.steps import ROOT, Runner, StepError

PAPER = Path(__file__).with_name("paper_tables.yaml")
RESULTS, TABLES = "results.json", "tables.md"
# Where the shipped models' results are committed.
PUBLISH = {RESULTS: PRETRAINED / "paper.json", TABLES: ROOT / "docs" / "paper_tables.md"}
QUICK = Options(scale=0.01, limit=24, quick=True, rounds=3)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="reproduce_paper.py",
        description=(__doc__ or "").splitlines()[0],
        epilog="Exit 0 done, 1 a bar is unmet (of a whole run), 2 bad input.",
    )
    parser.add_argument("--out", type=Path, default=Path("out/paper"), help="folder for everything (default out/paper)")
    parser.add_argument("--models", type=Path, default=PRETRAINED, metavar="DIR", help="finished checkpoints")
    parser.add_argument("--data", type=Path, metavar="DIR", help="train/, val/ and test/; what it lacks is drawn")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--shipped", action="store_true", help="train nothing: only the rows that --models has")
    mode.add_argument("--keep-shipped", action="store_true", help="train only the rows that --models lacks")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--steps-scale", type=float, default=1.0, metavar="X", help="of every training's steps")
    size.add_argument("--quick", action="store_true", help="a trial: few steps, little data, no sensitivity")
    parser.add_argument("--limit", type=int, metavar="N", help="test samples a task; a trial, too")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"latency rounds (default {Options.rounds})")
    parser.add_argument("--published", type=Path, metavar="DIR", help="PaddleOCR's models, charsets and photos")
    parser.add_argument("--measure-again", action="store_true", help="keep the trained models and nothing else")
    parser.add_argument("--publish", action="store_true", help="put the shipped models' results into the repository")
    command.add_common(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    options, mode = _options(args), "shipped" if args.shipped else "missing" if args.keep_shipped else "all"
    finished = paper_models.finished(args.models.resolve())
    complete = options.limit is None and options.scale == 1
    if args.publish and not (complete and mode != "all" and args.models.resolve() == PRETRAINED):
        raise command.UsageError(
            "expected --publish with --shipped or --keep-shipped, the whole test split and all steps, found another run"
        )
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with _lock(out):
        if args.measure_again:
            for name in ("inference", "nb", "metrics", "latency.json", "photo_latency.json"):
                for folder in (out, out / "published"):
                    _remove(folder / name)
        kept = finished if mode != "all" else {key: path for key, path in finished.items() if key[1] == "float"}
        steps = Steps(Places(out), Runner(out, follow_code=False), options, dict(kept))
        results = _own(steps, kept, mode, complete)
        if args.published:
            try:
                steps.make_data(training=True)
                results["published"] = Published(args.published.resolve(), steps).run()
            except StepError as error:
                raise command.UsageError(str(error)) from None
            results["bars"] = paper_bars.judge([*results["rows"], *results["published"]["chinese"]])
            _write(out, results)
        if args.publish:
            _publish(out)
    text = f"{paper_render.text(results)}\n\n{out / TABLES}   {out / RESULTS}"
    command.emit(args, results, text)
    unmet = [bar for bar in results["bars"] if bar["met"] is False and not bar["stretch"]]
    return command.EXIT_CHECK_FAILED if unmet and complete else command.EXIT_DONE


def _options(args: argparse.Namespace) -> Options:
    for name in ("limit", "rounds"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise command.UsageError(f"expected --{name} of at least 1, found {getattr(args, name)}")
    if not 0 < args.steps_scale <= 100:
        raise command.UsageError(f"expected --steps-scale above 0, at most 100, found {args.steps_scale}")
    if args.data is not None and not args.data.is_dir():
        raise command.UsageError(f"{args.data}: expected a folder with train/, val/ and test/, found none")
    options = QUICK if args.quick else Options(scale=args.steps_scale)
    given = {name: getattr(args, name) for name in ("limit", "rounds", "data") if getattr(args, name) is not None}
    return dataclasses.replace(options, **given)


def _own(steps: Steps, kept: dict[Key, Path], mode: str, complete: bool) -> dict[str, Any]:
    """The results of our models, written down."""
    try:
        steps.make_data(training=mode != "shipped")
        if mode != "shipped":
            steps.train((task, variant) for task in TASKS for variant in VARIANTS)
        steps.export()
        slim = {} if mode == "all" else kept
        systems = steps.evaluate(slim)
        steps.measure(systems)
    except StepError as error:
        raise command.UsageError(str(error)) from None
    origins = {key: "shipped" if key in kept else "trained" for key in steps.models}
    rows = paper_rows.gather(steps.places, steps.models, origins, systems)
    rows += [{"task": task, "variant": variant, "failed": why} for (task, variant), why in steps.failed.items()]
    results = {
        "schema": 1,
        "mode": mode,
        "complete": complete,
        "host": _host(),
        "paper": yaml.safe_load(PAPER.read_text(encoding="utf-8")),
        "rows": rows,
        "bars": paper_bars.judge(rows),
        "published": None,
    }
    _write(steps.places.out, results)
    return results


def _write(out: Path, results: dict[str, Any]) -> None:
    command.write_text(out / RESULTS, json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    command.write_text(out / TABLES, paper_render.markdown(results))
    paper_pictures.draw(results, out)


def _publish(out: Path) -> None:
    for name, target in PUBLISH.items():
        command.write_text(target, (out / name).read_text(encoding="utf-8"))
    for name in (paper_pictures.SIZES, paper_pictures.DIFFERENCES):
        shutil.copyfile(out / name, PUBLISH[TABLES].with_name(name))


def _host() -> str:
    """The processor's name, for a latency means nothing without it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _lock(out: Path) -> IO[str]:
    """Held until it is closed. Raises UsageError when another run works in the same folder."""
    file = (out / ".lock").open("w", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise command.UsageError(
            f"{out}: expected no other run in this folder, found one; wait for it or give another --out"
        ) from None
    return file


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    command.main(build_parser(), run)
