"""PaddleOCR's three label files: read strictly, written the same way.

detection       path TAB [{"transcription": "text", "points": [[x, y] x 4]}, ...]      `###` marks what does not count
recognition     path TAB text
classification  path TAB 0|180

Paths are absolute or relative to the label file's folder; a JSON list of paths gives several images the same label.
Other keys of a box ("difficult") are not read. Errors are one line: file:line, expected, found.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from command import UsageError

IGNORED = ("###", "*")

DetLabel = tuple[Path, list[tuple[str, np.ndarray]]]


def read_det_labels(path: Path | str) -> list[DetLabel]:
    """[(image path, [(text, quad (4, 2) float32 px, clockwise from top-left)])].

    A polygon of more than four points is replaced by the smallest rectangle around it.
    """
    labels = []
    for where, image, content in _lines(path):
        try:
            entries = json.loads(content)
        except (ValueError, RecursionError) as error:
            cause = error.msg if isinstance(error, json.JSONDecodeError) else "too deep or too large a number"
            raise UsageError(f"{where}: expected a JSON list of boxes, found {_short(content)} ({cause})") from None
        if not isinstance(entries, list):
            raise UsageError(f"{where}: expected a JSON list of boxes, found {_short(content)}")
        labels.append((image, [_box(where, entry) for entry in entries]))
    return labels


def read_rec_labels(path: Path | str) -> list[tuple[Path, str]]:
    """[(image path, text)]; a text may hold tabs and spaces, not be empty."""
    labels = []
    for where, image, text in _lines(path):
        if not text:
            raise UsageError(f"{where}: expected path, tab, text, found no text; label the line or drop it")
        labels.append((image, text))
    return labels


def read_cls_labels(path: Path | str) -> list[tuple[Path, int]]:
    """[(image path, 0 or 180 degrees)]."""
    labels = []
    for where, image, direction in _lines(path):
        if direction not in ("0", "180"):
            raise UsageError(f"{where}: expected 0 or 180, found {_short(direction)}")
        labels.append((image, int(direction)))
    return labels


def det_line(image: str, boxes: Iterable[tuple[str, np.ndarray]]) -> str:
    entries = [
        {"transcription": text, "points": [[round(float(x), 1), round(float(y), 1)] for x, y in quad]}
        for text, quad in boxes
    ]
    return f"{image}\t{json.dumps(entries, ensure_ascii=False)}\n"


def rec_line(image: str, text: str) -> str:
    return f"{image}\t{text}\n"


def cls_line(image: str, direction: int) -> str:
    return f"{image}\t{direction}\n"


def _lines(path: Path | str) -> Iterator[tuple[str, Path, str]]:
    """(file:line, image path, what follows the first tab) of every image of every line that is not blank."""
    path = Path(path)
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "other bytes"
        raise UsageError(f"{path}: expected a label file in UTF-8, found {reason}; see slim/labels.py") from None
    found = False
    for number, line in enumerate(content.split("\n"), 1):
        line = line.removesuffix("\r")
        if not line.strip(" "):
            continue
        names, tab, rest = line.partition("\t")
        if not tab or not names:
            raise UsageError(f"{path}:{number}: expected path, tab, label, found {_short(line)}")
        for name in _names(names):
            image = path.parent / name
            if "\0" in name or not image.is_file():
                raise UsageError(
                    f"{path}:{number}: expected an image file, found none at {_short(str(image))}; "
                    "paths begin at the label file's folder"
                )
            found = True
            yield f"{path}:{number}", image, rest
    if not found:
        raise UsageError(f"{path}: expected labels, found an empty file; make it again")


def _names(field: str) -> list[str]:
    """The paths of a line's first field: one, or a JSON list of them (the same sample, augmented beforehand)."""
    if field.startswith("["):
        try:
            names = json.loads(field)
        except (ValueError, RecursionError):
            return [field]
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            return names
    return [field]


def _box(where: str, entry: Any) -> tuple[str, np.ndarray]:
    if not isinstance(entry, dict) or not isinstance(entry.get("transcription"), str) or "points" not in entry:
        raise UsageError(f"{where}: expected transcription and points, found {_short(json.dumps(entry))}")
    try:
        points = np.array(entry["points"], np.float32)
    except (TypeError, ValueError, OverflowError):
        points = np.empty(0, np.float32)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 4 or not np.isfinite(points).all():
        raise UsageError(f"{where}: expected at least 4 points [x, y], found {_short(json.dumps(entry['points']))}")
    return entry["transcription"], points if len(points) == 4 else _around(points)


def _around(points: np.ndarray) -> np.ndarray:
    import cv2

    corners = cv2.boxPoints(cv2.minAreaRect(points))
    return np.roll(corners, -int(corners.sum(axis=1).argmin()), axis=0).astype(np.float32)


def _short(text: str) -> str:
    return repr(text if len(text) <= 120 else f"{text[:58]}...{text[-58:]}")
