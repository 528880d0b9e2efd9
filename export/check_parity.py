"""Prove that a model computes the same at every stage: trainable network = Paddle = Paddle-Lite = phone.

    python export/check_parity.py CHECKPOINT INFERENCE [NB…] [--images DIR | --data DIR] [--bisect] [--html FILE]
    python export/check_parity.py --det CHECKPOINT INFERENCE [NB…] --cls … --rec … [--bundle DIR] [--phone DIR]

All stages see the same images, each prepared by the stage's own manifest. With det and rec, whole photos are read end
to end on each rung. --phone names a recorded run pulled back from a device; a bundle's self test is one, too. An int8
model is judged by Paddle with oneDNN off, because Paddle-Lite's int8 kernels for x86 are wrong; an ARM file cannot run
here and is judged by its structure. --bisect names the first op that differs. Exit 1 with the table when a stage
differs.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import artifact
import command
from command import UsageError
from export.tolerances import FUSED

if TYPE_CHECKING:
    from export.ladder import Model
    from export.ladder_phone import Phone
    from export.ladder_photos import Photo
    from export.ladder_report import Report
    from lite_runtime.bundle import Models

COMMAND = "export/check_parity.py"
TASKS = ("det", "cls", "rec")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description="Check that checkpoint, inference model, .nb files and phone compute the same."
    )
    parser.add_argument(
        "checkpoint", type=Path, nargs="?", help="checkpoint artifact (float, pruned or PACT-quantized)"
    )
    parser.add_argument("inference", type=Path, nargs="?", help="inference artifact made from it")
    parser.add_argument(
        "nb", type=Path, nargs="*", help="nb artifacts made from that, x86 or arm; none for int8 is fine"
    )
    for task in TASKS:
        parser.add_argument(
            f"--{task}", type=Path, nargs="+", metavar="DIR", help=f"CHECKPOINT INFERENCE [NB…] of the {task} model"
        )
    parser.add_argument(
        "--bundle", type=Path, action="append", default=[], metavar="DIR", help="also the .nb files of this bundle"
    )
    parser.add_argument(
        "--phone", type=Path, action="append", default=[], metavar="DIR", help="recorded run, pulled back from a device"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--images", type=Path, metavar="DIR", help="photos (det, whole system) or crops (cls, rec); default: drawn"
    )
    where.add_argument("--data", type=Path, metavar="DIR", help="data set folder: the images under DIR/<task>")
    parser.add_argument("--limit", type=int, default=6, help="images to use of a folder (default 6)")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=FUSED.value,
        help=f"largest difference of a probability where kernels differ (default {FUSED.value:g})",
    )
    parser.add_argument("--bisect", action="store_true", help="find the first op that differs at the first such rung")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the result as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write it as one page with the images")
    command.add_common(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    os.environ.setdefault("GLOG_minloglevel", "2")
    if args.limit < 1 or not args.tolerance >= 0:
        raise UsageError(f"expected --limit from 1 and --tolerance from 0, found {args.limit} and {args.tolerance}")
    for path in (args.out, args.html):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            # Said before the minutes that the ladder takes, not after them.
            raise UsageError(f"{path}: expected a file to write in a folder that exists, found none; give another")
    report = climb(args)
    if args.out is not None:
        command.write_text(args.out, json.dumps(report.to_json(), indent=2, ensure_ascii=False) + "\n")
    if args.html is not None:
        from export import parity_html

        command.write_text(args.html, parity_html.page(report))
    command.emit(args, report.to_json(), report.to_text())
    return command.EXIT_DONE if report.passed else command.EXIT_CHECK_FAILED


@dataclass(frozen=True)
class Folders:
    """One model's artifacts."""

    checkpoint: Path
    inference: Path
    nbs: tuple[Path, ...]


def folders(args: argparse.Namespace, bundles: Sequence[Models]) -> dict[str, Folders]:
    """Task → its artifacts, from the positional arguments or the options. Raises UsageError."""
    given = {task: getattr(args, task) for task in TASKS if getattr(args, task)}
    single = [path for path in (args.checkpoint, args.inference, *args.nb) if path is not None]
    if bool(given) == bool(single):
        raise UsageError(
            "expected CHECKPOINT INFERENCE [NB…] of one model, or --det, --cls and --rec with those, found "
            f"{'both' if given else 'neither'}; give one of the two"
        )
    if single:
        given = {artifact.load(single[0], kind="checkpoint", verify=False).task: single}
    for task, paths in given.items():
        if len(paths) < 2:
            raise UsageError(
                f"expected CHECKPOINT INFERENCE [NB…] for {task}, found {paths[0]} alone; "
                "export it with export/to_inference.py and give both"
            )
        artifact.load(paths[0], kind="checkpoint", task=task, verify=False)
    return {
        task: Folders(paths[0], paths[1], (*paths[2:], *(b.folders[task] for b in bundles if task in b.folders)))
        for task, paths in given.items()
    }


def climb(args: argparse.Namespace) -> Report:
    """Walk the whole ladder. Raises ArtifactError, ModelError or UsageError for unusable folders."""
    from export import ladder, ladder_phone, ladder_photos, parity_cases
    from export.ladder_report import Report
    from lite_runtime import bundle

    bundles = [bundle.read(folder) for folder in args.bundle]
    chosen = folders(args, bundles)
    recorded = _recordings(args, bundles)
    models = {
        task: ladder.open_model(f.checkpoint, f.inference, f.nbs, tolerance=args.tolerance)
        for task, f in chosen.items()
    }
    report = Report(list(models.values()))
    expected = _photos(args, bundles) if "det" in models else []
    found = None
    if {"det", "rec"} <= set(models):
        theirs = [photo for run in recorded for photo in ladder_phone.photos(run)]
        photos = list({photo.key: photo for photo in [*expected, *theirs]}.values())
        found = ladder_photos.climb(models, photos)
        for run in recorded:
            ladder_phone.climb_photos(found, run)
        report.photos, report.pictures, report.unmeasured = found.rungs, found.pictures, found.unmeasured
    for task, model in models.items():
        if task == "det" and not args.data:
            images = [photo.image for photo in (photos if found else expected)]
        elif args.data or not found:
            folder = args.data / task if args.data else args.images
            images = parity_cases.read_images(folder, args.limit) if folder else parity_cases.draw_images(task)
        else:
            images = ladder_photos.crops(found, photos) or parity_cases.draw_images(task)
        ladder.climb(model, images)
        for run in recorded:
            ladder_phone.climb_model(model, run, _precision(model), found)
    if args.images or (not args.data and any(models.self_test for models in bundles)):
        for run in recorded[len(recorded) - len(args.phone) :]:
            report.photos += ladder_phone.missing(run, expected)
    if not args.phone:
        report.unmeasured.append("phone: not measured; record a run on the device and give its folder with --phone")
    if args.bisect:
        from export import culprit

        report.culprit = culprit.search(report.models)
    for model in report.models:
        model.close()
    return report


def _recordings(args: argparse.Namespace, bundles: Sequence[Models]) -> list[Phone]:
    """What the bundles say that their models must answer, then what the phones answered."""
    from export import ladder_phone

    places = [models.self_test for models in bundles if models.self_test]
    own = [ladder_phone.open_phone(folder, [], f"self test of {folder.parent.name}") for folder in places]
    near = [*places, *([args.images] if args.images else [])]
    return own + [ladder_phone.open_phone(folder, near, f"phone {folder.name}") for folder in args.phone]


def _photos(args: argparse.Namespace, bundles: Sequence[Models]) -> list[Photo]:
    """What the whole system reads: the user's photos, else the bundles' own, else drawn pages."""
    from export import ladder_photos, parity_cases

    if args.images or args.data:
        places = [args.images or args.data / "det"]
    else:
        places = [models.self_test for models in bundles if models.self_test]
    paths = [path for place in places for path in parity_cases.image_paths(place)[: args.limit]]
    return ladder_photos.read_photos(paths) if paths else ladder_photos.drawn(parity_cases.draw_images("det"))


def _precision(model: Model) -> str:
    """What the phone runs, as its .nb files say."""
    records = [artifact.load(nb, verify=False).extra for nb in model.nbs]
    return next((r.get("precision", "") for r in records if r.get("target") == "arm"), "")


if __name__ == "__main__":
    command.main(build_parser(), run, native=True)
