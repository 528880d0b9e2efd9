"""The font list of a recipe: which faces, checked by hash and by what they can draw."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from command import UsageError
from slim.yaml_file import read_yaml

ASCII = "".join(map(chr, range(32, 127)))
# These map ASCII to glyphs of their own (calligraphic signs, brackets, Greek), so their cmap cannot be believed.
DENYLIST = (
    "cmsy10",
    "cmex10",
    "cmmi10",
    "cmr10",
    "cmss10",
    "cmtt10",
    "cmb10",
    "stixsiz",
    "symbol",
    "wingding",
    "dingbat",
)
FIELDS = ("path", "sha256", "package", "version", "licence")


@dataclass(frozen=True)
class Face:
    """One font file of a list: where it lies and where it came from."""

    path: Path
    sha256: str
    package: str
    version: str
    licence: str


def read_list(path: Path | str) -> list[Face]:
    """Parse a font list (configs/fonts_*.yaml) without touching the font files.

    Paths are relative to the list's `root`, which is relative to the project. Raises UsageError.
    """
    path = Path(path)
    record = read_yaml(path, "a font list", "take it from configs/")
    if not isinstance(record, dict) or set(record) != {"root", "faces"} or not isinstance(record["faces"], list):
        raise UsageError(f"{path}: expected a mapping with root and faces, found {_shape(record)}; see configs/")
    root = Path(__file__).parents[1] / str(record["root"])
    faces = []
    for number, entry in enumerate(record["faces"]):
        if not isinstance(entry, dict) or set(entry) != set(FIELDS):
            raise UsageError(f"{path}: face {number}: expected {', '.join(FIELDS)}, found {_shape(entry)}")
        faces.append(Face(root / str(entry["path"]), *(str(entry[name]) for name in FIELDS[1:])))
    if not faces:
        raise UsageError(f"{path}: expected at least one face, found none")
    return faces


def load(path: Path | str) -> list[Face]:
    """The faces of a list, each present, unchanged and able to draw printable ASCII; UsageError otherwise."""
    faces = read_list(path)
    for face in faces:
        check(face, ASCII)
    return faces


def check(face: Face, needed: Sequence[str]) -> None:
    """Raise UsageError when the file is missing, is not the listed one, or lacks a character of `needed`."""
    name = face.path.name.lower()
    if any(denied in name for denied in DENYLIST):
        raise UsageError(f"{face.path}: draws other glyphs than its cmap says; take it off the font list")
    try:
        data = face.path.read_bytes()
    except OSError:
        raise UsageError(f"{face.path}: expected a font, found none; run python slim/fetch_fonts.py") from None
    found = hashlib.sha256(data).hexdigest()
    if found != face.sha256:
        raise UsageError(
            f"{face.path}: expected sha256 {face.sha256[:12]}…, found {found[:12]}…; "
            "delete it and run python slim/fetch_fonts.py"
        )
    missing = [c for c in needed if ord(c) not in characters(face.path)]
    if missing:
        raise UsageError(f"{face.path}: expected every character to be drawn, found none for {''.join(missing)!r}")


@lru_cache(maxsize=256)
def characters(path: Path) -> frozenset[int]:
    """Code points that the font's cmap names."""
    from fontTools.ttLib import TTFont, TTLibError

    try:
        with TTFont(path, lazy=True) as font:
            return frozenset(font.getBestCmap() or ())
    except (TTLibError, OSError, KeyError) as error:
        raise UsageError(f"{path}: expected a font (TTF, OTF, WOFF), found {error}") from None


def _shape(record: Any) -> str:
    return ", ".join(map(str, record)) if isinstance(record, dict) else type(record).__name__
