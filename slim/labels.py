"""PaddleOCR's three label files: read strictly, written the same way.

detection       path TAB [{"transcription": "text", "points": [[x, y] x 4]}, ...]      `###` marks what does not count
recognition     path TAB text
classification  path TAB 0|180

Paths are relative to the label file's folder. Errors are one line: file:line, expected, found.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from command import UsageError

IGNORED = ("###", "*")
DIRECTIONS = (0, 180)

DetLabel = tuple[Path, list[tuple[str, np.ndarray]]]


def read_det_labels(path: Path | str) -> list[DetLabel]:
    """[(image path, [(text, quad (4, 2) float32 px, clockwise from top-left)])].

    A polygon of more than four points is replaced by the smallest rectangle around it.
    """
    labels = []
    for where, image, content in _lines(path):
        try:
            entries = json.loads(content)
        except json.JSONDecodeError as error:
            raise UsageError(f"{where}: expected a JSON list of boxes, found {_short(content)} ({error.msg})") from None
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


def write_det_labels(path: Path | str, labels: Iterable[tuple[str, Sequence[tuple[str, np.ndarray]]]]) -> None:
    Path(path).write_text("".join(det_line(image, boxes) for image, boxes in labels), encoding="utf-8")


def write_rec_labels(path: Path | str, labels: Iterable[tuple[str, str]]) -> None:
    Path(path).write_text("".join(rec_line(image, text) for image, text in labels), encoding="utf-8")


def write_cls_labels(path: Path | str, labels: Iterable[tuple[str, int]]) -> None:
    Path(path).write_text("".join(cls_line(image, direction) for image, direction in labels), encoding="utf-8")


def _lines(path: Path | str) -> Iterator[tuple[str, Path, str]]:
    """(file:line, image path, what follows the tab) of every line that is not empty."""
    path = Path(path)
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "other bytes"
        raise UsageError(f"{path}: expected a label file in UTF-8, found {reason}; see slim/labels.py") from None
    found = False
    for number, line in enumerate(content.split("\n"), 1):
        line = line.removesuffix("\r")
        if not line:
            continue
        image, tab, rest = line.partition("\t")
        if not tab or not image:
            raise UsageError(f"{path}:{number}: expected path, tab, label, found {_short(line)}")
        found = True
        yield f"{path}:{number}", path.parent / image, rest
    if not found:
        raise UsageError(f"{path}: expected labels, found an empty file; make it again")


def _box(where: str, entry: Any) -> tuple[str, np.ndarray]:
    if not isinstance(entry, dict) or not isinstance(entry.get("transcription"), str) or "points" not in entry:
        raise UsageError(f"{where}: expected transcription and points, found {_short(json.dumps(entry))}")
    try:
        points = np.array(entry["points"], np.float32)
    except (TypeError, ValueError):
        points = np.empty(0, np.float32)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 4 or not np.isfinite(points).all():
        raise UsageError(f"{where}: expected at least 4 points [x, y], found {_short(json.dumps(entry['points']))}")
    return entry["transcription"], points if len(points) == 4 else _around(points)


def _around(points: np.ndarray) -> np.ndarray:
    import cv2

    corners = cv2.boxPoints(cv2.minAreaRect(points))
    return np.roll(corners, -int(corners.sum(axis=1).argmin()), axis=0).astype(np.float32)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
