"""Read text from images: text, score and box of each line, annotated pictures.

python lite_runtime/recognize.py IMAGE|FOLDER... [--models DIR] [--out DIR] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import artifact
import command

if TYPE_CHECKING:
    import numpy as np

    from lite_runtime.result import OcrResult

JPEG_LIMIT_PX = 65_000
SHRINK_WARNING = 6  # a 40 px line is then about 7 px high, the least that the detector finds


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="recognize.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE|FOLDER", help="image files, or folders of them")
    parser.add_argument(
        "--models", type=Path, metavar="DIR", help="bundle with det/ cls/ rec/ (default: the fp32 x86 one)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="new folder for annotated images and results.json")
    command.add_common(parser)
    tuning = parser.add_argument_group("options (default: what the models' manifests say)")
    tuning.add_argument("--limit-side-len", type=int, metavar="PX", help="size of the detector's input")
    tuning.add_argument(
        "--limit-type", choices=("max", "min"), help="whether that limits the longer or the shorter side"
    )
    tuning.add_argument("--thresh", type=float, help="probability from which a pixel is text")
    tuning.add_argument("--box-thresh", type=float, help="mean probability from which a box is text")
    tuning.add_argument("--unclip-ratio", type=float, help="how far boxes grow")
    tuning.add_argument("--max-candidates", type=int, metavar="N", help="contours looked at")
    tuning.add_argument("--use-dilation", action="store_true", default=None, help="thicken the text mask first")
    tuning.add_argument("--score-mode", choices=("fast", "slow"), help="mean over the rectangle or over the contour")
    tuning.add_argument("--no-angle-cls", dest="use_angle_cls", action="store_false", default=None, help="turn no line")
    tuning.add_argument("--cls-thresh", type=float, help="score above which an upside-down line is turned")
    tuning.add_argument("--cls-batch-num", type=int, metavar="N", help="lines the classifier takes at once")
    tuning.add_argument("--rec-batch-num", type=int, metavar="N", help="lines the recognizer takes at once")
    tuning.add_argument("--drop-score", type=float, help="lines below this score are left out")
    return parser


def run(args: argparse.Namespace) -> int:
    images = list_images(args.images)
    with (
        contextlib.suppress(_NothingRead),
        artifact.create(args.out) if args.out else contextlib.nullcontext() as folder,
    ):
        records = list(_read_all(args, images, folder))
        if folder is not None:
            if all("error" in record for record in records):
                raise _NothingRead  # and no folder stays behind
            text = json.dumps({"images": records}, indent=2, ensure_ascii=False)
            (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    if args.json:
        print(json.dumps({"images": records}, indent=2, ensure_ascii=False))
    elif args.out and args.out.exists():
        print(f"{args.out}: annotated images and results.json")
    return command.EXIT_BAD_INPUT if any("error" in record for record in records) else command.EXIT_DONE


class _NothingRead(Exception):
    pass


def list_images(paths: list[Path]) -> list[Path]:
    """Files as given; of a folder its images, by name, not those of subfolders. Raises UsageError."""
    from lite_runtime.preprocess import IMAGE_SUFFIXES

    found = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
        if not inside:
            raise command.UsageError(
                f"{path}: expected images ({', '.join(IMAGE_SUFFIXES)}) in the folder, found none; give another"
            )
        found += inside
    return found


def _read_all(args: argparse.Namespace, images: list[Path], folder: Path | None) -> Iterator[dict[str, Any]]:
    """Read one image after the other; a bad one becomes its line on stderr and a record with `error`."""
    import dataclasses

    from lite_runtime.pipeline import DEFAULT_MODELS, OcrPipeline, Options
    from lite_runtime.preprocess import read_image

    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(Options)}
    ocr = OcrPipeline.from_folder(args.models or DEFAULT_MODELS, **given)
    taken: set[str] = set()
    for path in images:
        try:
            image = read_image(path)
            _warn_if_shrunk(path, image.shape[:2], ocr.det.input_size(image))
            result = ocr(image)
        except command.UsageError as error:
            message = str(error) if str(error).startswith(str(path)) else f"{path}: {error}"
            print(f"recognize.py: {command.one_line(message)}", file=sys.stderr, flush=True)
            yield {"image": str(path), "error": message}
            continue
        record: dict[str, Any] = {"image": str(path), **result.to_json()}
        if folder is not None:
            record["annotated"] = _save(result.draw(image), folder, path.stem, taken)
        if not args.json:
            print(_as_text(path, result), flush=True)
        yield record


def _warn_if_shrunk(path: Path, size: tuple[int, ...], seen: tuple[int, int]) -> None:
    """Say when an image is scaled down so far that finding no text in it proves nothing."""
    factor = max(size) / max(seen)
    if factor >= SHRINK_WARNING:
        print(
            f"recognize.py: {path}: {size[1]}x{size[0]} px are searched at {seen[1]}x{seen[0]}, {factor:.0f} times "
            "smaller, where small text is lost; raise --limit-side-len or cut the image",
            file=sys.stderr,
            flush=True,
        )


def _as_text(path: Path, result: OcrResult) -> str:
    """A heading, then a line for each line of text."""
    count = len(result.lines)
    heading = f"{path}: {count} line{'' if count == 1 else 's'} in {result.timings_ms['total']:.0f} ms"
    rows = [
        [line.text, f"{line.score:.3f}", " ".join(f"{x:.0f},{y:.0f}" for x, y in line.quad)] for line in result.lines
    ]
    return f"{heading}\n{command.table(('text', 'score', 'box'), rows)}\n" if rows else f"{heading}\n"


def _save(picture: np.ndarray, folder: Path, stem: str, taken: set[str]) -> str:
    """Write an annotated picture under a name that no other has; returns the name."""
    import cv2

    suffix = ".jpg" if max(picture.shape[:2]) <= JPEG_LIMIT_PX else ".png"
    name, number = f"{stem}{suffix}", 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}{suffix}"
    taken.add(name)
    # Encoded in memory, because cv2.imwrite only answers False when the disk is full.
    (folder / name).write_bytes(cv2.imencode(suffix, picture)[1].tobytes())
    return name


if __name__ == "__main__":
    command.main(build_parser(), run, native=True)
