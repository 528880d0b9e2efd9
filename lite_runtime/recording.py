"""Recorded runs: what a pipeline computed on some images, as files that any machine can write and compare.

    DIR/recorded.json  {"schema": 1, "engine": "...", "device": {...}, "images": [...]}
    DIR/NAME.TASK.INDEX.in.f32.gz, .out.f32.gz

A bundle's self_test/ folder is one, with its images; what a phone or a board computed on them is another. Each line of
text is run alone, so a tensor's first side is 1 and its index is the line's number in reading order (0 for det).
Tensor files are gzip (without a time stamp) of little-endian float32. Lines are those found, weak ones included, so
that line and tensor of one index belong together. Another machine wrote the files: nothing in them is believed.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import zlib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from artifact import ArtifactError, inside

FILE = "recorded.json"
SCHEMA = 1
TASKS = ("det", "cls", "rec")
# (1, 3, H, W) → (1, 1, H, W) | (1, classes) | (1, steps, classes)
INPUT_RANK = 4
OUTPUT_RANK = {"det": 4, "cls": 2, "rec": 3}
ANGLES = (0, 180)
# A page of 4096x4096 px in three channels: what the detector accepts at most.
MAX_VALUES = 3 * 4096 * 4096
MAX_JSON_BYTES = 16 << 20


@dataclass(frozen=True)
class Tensor:
    """One run of one network. input, output: float32, (1, …)."""

    task: str
    index: int
    input: np.ndarray
    output: np.ndarray


@dataclass(frozen=True)
class Line:
    """One line of text. quad: four corners (x, y) px; angle: 0 or 180, as the classifier called it."""

    quad: tuple[tuple[float, float], ...]
    text: str
    score: float
    angle: int


@dataclass(frozen=True)
class RecordedImage:
    """What was computed on one image. image: its path below the folder, a name with which runs are compared."""

    image: str
    sha256: str
    tensors: tuple[Tensor, ...]
    lines: tuple[Line, ...]

    def tensor(self, task: str, index: int) -> Tensor | None:
        return next((t for t in self.tensors if (t.task, t.index) == (task, index)), None)


@dataclass(frozen=True)
class Recording:
    """engine: what computed it; device: free strings about the machine."""

    engine: str
    images: tuple[RecordedImage, ...]
    device: dict[str, str] = field(default_factory=dict)

    def image(self, name: str) -> RecordedImage | None:
        return next((image for image in self.images if image.image == name), None)


def write(folder: str | Path, recording: Recording) -> None:
    """Write recorded.json and the tensor files into an existing folder; the images are the caller's matter."""
    folder = Path(folder)
    records = []
    taken: set[str] = set()
    for image in recording.images:
        stem = _free(PurePosixPath(image.image).stem, taken)
        tensors = []
        for tensor in image.tensors:
            sides = {}
            for side, suffix, array in (("input", "in", tensor.input), ("output", "out", tensor.output)):
                name = f"{stem}.{tensor.task}.{tensor.index}.{suffix}.f32.gz"
                data = np.ascontiguousarray(array, "<f4").tobytes()
                (folder / name).write_bytes(gzip.compress(data, compresslevel=9, mtime=0))
                sides[side] = {"file": name, "shape": list(array.shape)}
            tensors.append({"task": tensor.task, "index": tensor.index, **sides})
        lines = [{"quad": _plain(e.quad), "text": e.text, "score": e.score, "angle": e.angle} for e in image.lines]
        records.append({"image": image.image, "sha256": image.sha256, "tensors": tensors, "lines": lines})
    record = {"schema": SCHEMA, "engine": recording.engine, "device": recording.device, "images": records}
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def read(folder: str | Path, *, images: bool = False) -> Recording:
    """Read a recorded run, every tensor checked. images: its image files must be there too, with their hashes.

    Raises ArtifactError with one line: what was expected, what was found, what to do.
    """
    folder = Path(folder)
    path = inside(folder, FILE)
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ArtifactError(f"{path}: expected at most {MAX_JSON_BYTES} bytes, found {path.stat().st_size}")
        record = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ArtifactError(f"{path}: expected JSON, found {str(error)[:80]}; record the run again") from None
    except OSError as error:
        raise ArtifactError(f"{path}: expected a recorded run, found {error.strerror}; record the run again") from None
    try:
        return _recording(folder, record, images)
    except _Bad as error:
        raise ArtifactError(f"{path}: {error}; record the run again") from None


class _Bad(Exception):
    """expected …, found …"""


def _recording(folder: Path, record: Any, images: bool) -> Recording:
    record = _object(record, {"schema", "engine", "device", "images"}, "the record")
    if record["schema"] != SCHEMA:
        raise _Bad(f"expected schema {SCHEMA}, found {record['schema']!r}")
    device = record["device"]
    if not isinstance(device, dict) or not all(isinstance(value, str) for value in device.values()):
        raise _Bad(f"expected device to be an object of strings, found {_short(device)}")
    files: set[str] = set()
    found = tuple(_image(folder, entry, images, files) for entry in _array(record["images"], "images"))
    names = [image.image for image in found]
    if len(set(names)) != len(names):
        raise _Bad("expected each image once, found one twice")
    return Recording(_string(record["engine"], "engine"), found, device)


def _image(folder: Path, record: Any, images: bool, files: set[str]) -> RecordedImage:
    record = _object(record, {"image", "sha256", "tensors", "lines"}, "an image")
    name, sha256 = _string(record["image"], "image"), _string(record["sha256"], "sha256")
    path = inside(folder, name)
    if images and not path.is_file():
        raise _Bad(f"expected the image {name}, found none")
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise _Bad(f"expected {name} with sha256 {sha256[:12]}…, found another image")
    tensors = tuple(_tensor(folder, entry, name, files) for entry in _array(record["tensors"], f"{name}: tensors"))
    keys = [(tensor.task, tensor.index) for tensor in tensors]
    if len(set(keys)) != len(keys):
        raise _Bad(f"{name}: expected each task and index once, found one twice")
    lines = tuple(_line(entry, name) for entry in _array(record["lines"], f"{name}: lines"))
    for task, index in keys:
        if index >= (1 if task == "det" else len(lines)):
            raise _Bad(f"{name}: expected {len(lines)} lines of tensors, found {task} {index}")
    return RecordedImage(name, sha256, tensors, lines)


def _tensor(folder: Path, record: Any, name: str, files: set[str]) -> Tensor:
    record = _object(record, {"task", "index", "input", "output"}, f"{name}: a tensor")
    task, index = record["task"], record["index"]
    if task not in TASKS:
        raise _Bad(f"{name}: expected a task {' | '.join(TASKS)}, found {_short(task)}")
    if type(index) is not int or index < 0:
        raise _Bad(f"{name}: expected an index from 0, found {_short(index)}")
    where = f"{name} {task} {index}"
    eats = _values(folder, record["input"], INPUT_RANK, f"{where} input", files)
    gives = _values(folder, record["output"], OUTPUT_RANK[task], f"{where} output", files)
    return Tensor(task, index, eats, gives)


def _values(folder: Path, record: Any, rank: int, where: str, files: set[str]) -> np.ndarray:
    record = _object(record, {"file", "shape"}, where)
    name, shape = _string(record["file"], f"{where} file"), record["shape"]
    if not isinstance(shape, list) or not all(type(side) is int and side >= 1 for side in shape):
        raise _Bad(f"{where}: expected a shape of whole numbers from 1, found {_short(shape)}")
    if len(shape) != rank or shape[0] != 1 or math.prod(shape) > MAX_VALUES:
        raise _Bad(f"{where}: expected a shape (1, …) of {rank} sides and {MAX_VALUES} values at most, found {shape}")
    if name in files:
        raise _Bad(f"{where}: expected a file of its own, found {name} a second time")
    files.add(name)
    path = inside(folder, name)
    size = 4 * math.prod(shape)
    try:
        with gzip.open(path) as file:
            data = file.read(size + 1)  # one byte more tells a longer file without unpacking all of it
    except (OSError, EOFError, zlib.error) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise _Bad(f"{where}: expected gzip in {name}, found {said[:80]}") from None
    if len(data) != size:
        found = "more" if len(data) > size else len(data)
        raise _Bad(f"{where}: expected {size} bytes in {name} for shape {shape}, found {found}")
    return np.frombuffer(data, "<f4").reshape(shape)


def _line(record: Any, name: str) -> Line:
    record = _object(record, {"quad", "text", "score", "angle"}, f"{name}: a line")
    quad = record["quad"]
    corners = isinstance(quad, list) and len(quad) == 4 and all(isinstance(c, list) and len(c) == 2 for c in quad)
    if not corners or not all(_finite(value) for corner in quad for value in corner):
        raise _Bad(f"{name}: expected a quad of four corners [x, y], found {_short(quad)}")
    if not _finite(record["score"]):
        raise _Bad(f"{name}: expected a score, found {_short(record['score'])}")
    if type(record["angle"]) is not int or record["angle"] not in ANGLES:
        raise _Bad(f"{name}: expected an angle of 0 or 180, found {_short(record['angle'])}")
    text = _string(record["text"], f"{name}: text")
    return Line(tuple((float(x), float(y)) for x, y in quad), text, float(record["score"]), record["angle"])


def _object(record: Any, keys: set[str], where: str) -> dict[str, Any]:
    if not isinstance(record, dict) or set(record) != keys:
        found = ", ".join(sorted(record)) if isinstance(record, dict) else type(record).__name__
        raise _Bad(f"{where}: expected the keys {', '.join(sorted(keys))}, found {found[:120] or 'none'}")
    return record


def _array(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise _Bad(f"{where}: expected a list, found {type(value).__name__}")
    return value


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _Bad(f"{where}: expected a string, found {_short(value)}")
    return value


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _short(value: Any) -> str:
    return repr(value)[:60]


def _plain(quad: Any) -> list[list[float]]:
    return [[float(x), float(y)] for x, y in quad]


def _free(stem: str, taken: set[str]) -> str:
    """A name that no other image's files have."""
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name)
    return name
