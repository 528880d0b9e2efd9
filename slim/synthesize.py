"""Draw labelled scenes, lines and direction crops from a recipe: same recipe, same bytes.

    python slim/synthesize.py --recipe configs/synth_train.yaml --out data/train

Writes DIR/{det,rec,cls}/{images/,label.txt,dataset.json} and DIR/dataset.json. Sample i depends on the recipe's seed
and i alone, not on the number of workers. A part that was interrupted goes on where it stopped; finished parts stay.
When the recipe holds hashes, the result must match them (exit 1 otherwise).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import command
from slim.yaml_file import read_yaml

TASKS = ("det", "rec", "cls")
STREAMS = {"det": 0, "rec": 1, "cls": 2}  # each task's own random numbers
CHUNK = {"det": 10, "rec": 500, "cls": 250}  # samples that are lost at most when a worker is killed
FOLDER = 5000  # images a folder
QUALITY = {"det": (70, 96), "rec": (95, 96), "cls": (95, 96)}  # JPEG; scenes vary, crops were already compressed
SCHEMA = 1


@dataclass(frozen=True)
class Recipe:
    """What determines a dataset's bytes, beside this code. hash: task → sha256, empty when not pinned."""

    split: str
    seed: int
    fonts: str
    count: dict[str, int]
    hash: dict[str, str] = field(default_factory=dict)


def read_recipe(path: Path | str) -> Recipe:
    """Parse a recipe strictly; UsageError says what is wrong with it."""
    path = Path(path)
    record = read_yaml(path, "a recipe", "see configs/synth_*.yaml")
    needed, known = {"split", "seed", "fonts", "count"}, {"split", "seed", "fonts", "count", "hash"}
    if not isinstance(record, dict) or not needed <= set(record) <= known:
        found = ", ".join(map(str, record)) if isinstance(record, dict) else type(record).__name__
        raise command.UsageError(
            f"{path}: expected {', '.join(sorted(known))}, found {found}; see configs/synth_*.yaml"
        )
    recipe = Recipe(**record)
    if recipe.split not in ("train", "test"):
        raise command.UsageError(f"{path}: split: expected train or test, found {recipe.split!r}")
    if type(recipe.seed) is not int or recipe.seed < 0:
        raise command.UsageError(f"{path}: seed: expected a whole number from 0, found {recipe.seed!r}")
    counts = recipe.count
    if (
        not isinstance(counts, dict)
        or set(counts) - set(TASKS)
        or any(type(n) is not int or n < 1 for n in counts.values())
    ):
        raise command.UsageError(f"{path}: count: expected det, rec, cls with a number each, found {counts!r}")
    if not isinstance(recipe.hash, dict) or set(recipe.hash) - set(TASKS):
        raise command.UsageError(f"{path}: hash: expected det, rec, cls with a sha256 each, found {recipe.hash!r}")
    return recipe


def fingerprint(recipe: Recipe, task: str, fonts_digest: str) -> str:
    """What an unfinished part was started with; another recipe must not go on with it."""
    parts = [SCHEMA, recipe.split, recipe.seed, task, recipe.count[task], fonts_digest]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


_shop: Any = None  # each worker's own; built once a process


def _start_worker(split: str, seed: int, fonts: str) -> None:
    """Prepare this process for drawing. Pool workers die with their parent, which ends them on Ctrl-C as well."""
    import multiprocessing
    import signal
    import threading

    if parent := multiprocessing.parent_process():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    prepare(split, seed, fonts)


def _follow(parent: Any) -> None:
    parent.join()
    os._exit(1)


def prepare(split: str, seed: int, fonts: str) -> None:
    """Make `draw` ready in this process. Changes cv2's settings for good."""
    global _shop
    import cv2

    from slim.backgrounds import Backgrounds
    from slim.compose import Workshop
    from slim.fonts import read_list
    from slim.text_source import TextSource

    # Processors differ in what cv2 would otherwise choose for them, and then in the last bit.
    cv2.setUseOptimized(False)
    cv2.setNumThreads(1)
    _shop = Workshop([face.path for face in read_list(fonts)], TextSource(split), Backgrounds(seed))


def _draw_chunk(job: tuple[str, int, int, int, str]) -> None:
    """Draw samples start..stop of a task; the chunk counts as done when its record is in place."""
    task, seed, start, stop, folder = job
    part = Path(folder)
    lines, digests = [], []
    for index in range(start, stop):
        name = f"images/{index // FOLDER:03d}/{index:06d}.jpg"
        data, line = draw(task, seed, index, name)
        target = part / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        lines.append(line)
        digests.append(hashlib.sha256(data).hexdigest())
    _write_json(part / "chunks" / f"{start:06d}.json", {"lines": lines, "sha256": digests})


def draw(task: str, seed: int, index: int, name: str) -> tuple[bytes, str]:
    """(JPEG bytes, label line) of one sample; needs prepare() in this process."""
    import numpy as np

    from slim import compose, labels
    from slim.degrade import encode_jpeg

    rng = np.random.default_rng([seed, STREAMS[task], index])
    if task == "det":
        image, boxes = compose.make_scene(rng, _shop)
        line = labels.det_line(name, boxes)
    elif task == "rec":
        image, text = compose.make_line(rng, _shop)
        line = labels.rec_line(name, text)
    else:
        image, direction = compose.make_direction_crop(rng, _shop)
        line = labels.cls_line(name, direction)
    return encode_jpeg(image, int(rng.integers(*QUALITY[task]))), line


def synthesize(recipe: Recipe, task: str, out: Path, workers: int) -> dict[str, Any]:
    """Make OUT/task, or go on with it; returns its dataset.json. A finished part of this recipe is left alone."""
    from slim.fonts import load

    digest = hashlib.sha256("".join(face.sha256 for face in load(recipe.fonts)).encode()).hexdigest()
    wanted = fingerprint(recipe, task, digest)
    done, part = out / task, out / f"{task}.partial"
    if done.exists():
        record = _read_json(done / "dataset.json")
        if record.get("recipe") != wanted:
            raise command.UsageError(
                f"{done}: expected no data or data of this recipe, found others; remove the folder"
            )
        # What a hash vouches for is read again; large unpinned data are taken at their record's word.
        return {**record, "sha256": measure(done)} if task in recipe.hash else record
    if part.exists():
        if _read_json(part / "recipe.json").get("recipe") != wanted:
            raise command.UsageError(
                f"{part}: expected unfinished data of this recipe, found others; remove the folder"
            )
    else:
        (part / "chunks").mkdir(parents=True)
        _write_json(part / "recipe.json", {"recipe": wanted})
    chunks = len(range(0, recipe.count[task], CHUNK[task]))
    for _ in command.progress(_run_chunks(recipe, task, part, workers), f"{task}, chunks of {CHUNK[task]}", chunks):
        pass
    return _finish(recipe, task, part, done, wanted)


def _run_chunks(recipe: Recipe, task: str, part: Path, workers: int) -> Iterator[None]:
    """Yield once a finished chunk."""
    import multiprocessing

    size, count = CHUNK[task], recipe.count[task]
    starts = range(0, count, size)
    missing = [start for start in starts if not (part / "chunks" / f"{start:06d}.json").is_file()]
    jobs = [(task, recipe.seed, start, min(start + size, count), str(part)) for start in missing]
    yield from [None] * (len(starts) - len(jobs))
    if not jobs:
        return
    # spawn: cv2's settings and the pool of backgrounds belong to the workers, not to this process
    context = multiprocessing.get_context("spawn")
    setup = (recipe.split, recipe.seed, recipe.fonts)
    with context.Pool(min(workers, len(jobs)), initializer=_start_worker, initargs=setup) as pool:
        yield from pool.imap_unordered(_draw_chunk, jobs)


def _finish(recipe: Recipe, task: str, part: Path, done: Path, wanted: str) -> dict[str, Any]:
    """Join the chunks' labels, hash labels and images, move the folder to its name."""
    import shutil

    lines: list[str] = []
    digests: list[str] = []
    for start in range(0, recipe.count[task], CHUNK[task]):
        chunk = _read_json(part / "chunks" / f"{start:06d}.json")
        lines += chunk["lines"]
        digests += chunk["sha256"]
    labels = "".join(lines)
    (part / "label.txt").write_text(labels, encoding="utf-8")
    record = {
        "schema": SCHEMA,
        "task": task,
        "split": recipe.split,
        "seed": recipe.seed,
        "count": recipe.count[task],
        "recipe": wanted,
        "sha256": _total(labels, digests),
    }
    if task == "det":
        record["boxes"] = labels.count('"transcription"') - labels.count('"transcription": "###"')
    _write_json(part / "dataset.json", record)
    shutil.rmtree(part / "chunks")
    (part / "recipe.json").unlink()
    part.rename(done)
    return record


def measure(folder: Path) -> str:
    """The dataset's sha256 from the files as they lie there."""
    labels = (folder / "label.txt").read_text(encoding="utf-8")
    images = [folder / line.partition("\t")[0] for line in labels.splitlines()]
    return _total(labels, [hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "" for p in images])


def _total(labels: str, digests: list[str]) -> str:
    return hashlib.sha256((hashlib.sha256(labels.encode()).hexdigest() + "".join(digests)).encode()).hexdigest()


def _write_json(path: Path, record: Any) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
    temporary.replace(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise command.UsageError(f"{path}: expected a JSON record, found none; remove {path.parent}") from None
    return record if isinstance(record, dict) else {}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", required=True, help="configs/synth_train.yaml or configs/synth_test.yaml")
    parser.add_argument("--out", required=True, help="folder of the dataset")
    parser.add_argument("--only", choices=TASKS, action="append", help="make this part only; may be repeated")
    parser.add_argument(
        "--count", type=int, help="samples a part, instead of the recipe's (hashes are then not checked)"
    )
    parser.add_argument("--seed", type=int, help="instead of the recipe's (hashes are then not checked)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    command.add_common(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    recipe = read_recipe(args.recipe)
    tasks = [task for task in TASKS if task in (args.only or recipe.count)]
    for name, value, least in (("--count", args.count, 1), ("--workers", args.workers, 1), ("--seed", args.seed, 0)):
        if value is not None and value < least:
            raise command.UsageError(f"{name}: expected a number from {least}, found {value}")
    if lacking := [task for task in tasks if task not in recipe.count and args.count is None]:
        raise command.UsageError(f"{args.recipe}: expected a count for {lacking[0]}, found none; give --count")
    if args.count is not None or args.seed is not None:
        counts = {task: args.count or recipe.count[task] for task in tasks}
        seed = recipe.seed if args.seed is None else args.seed
        recipe = Recipe(recipe.split, seed, recipe.fonts, counts)
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise command.UsageError(f"{out}: expected a folder, found a file; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    records = {task: synthesize(recipe, task, out, args.workers) for task in tasks}
    parts = {task: _read_json(out / task / "dataset.json") for task in TASKS if (out / task).is_dir()}
    _write_json(out / "dataset.json", {"schema": SCHEMA, "parts": parts})
    rows = [(task, r["count"], r.get("boxes", ""), r["sha256"][:16]) for task, r in records.items()]
    command.emit(args, records, command.table(("part", "samples", "boxes", "sha256"), rows))
    for task, record in records.items():
        if task in recipe.hash and recipe.hash[task] != record["sha256"]:
            print(
                f"{out / task}: expected sha256 {recipe.hash[task][:16]}…, found {record['sha256'][:16]}…; "
                "install the locked dependencies, remove the folder and make it again",
                file=sys.stderr,
            )
            return command.EXIT_CHECK_FAILED
    return command.EXIT_DONE


if __name__ == "__main__":
    command.main(build_parser(), run)
