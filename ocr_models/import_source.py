"""Opens what `import_weights` imports: a `.pdparams` file, an inference folder, an archive with one of them, a URL."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import command
from command import ModelError, UsageError
from ocr_models import archives, downloads

if TYPE_CHECKING:
    import numpy as np

# What tells a task by its parameters, most telling first.
_SIGNS = (("det", "head.binarize."), ("rec", "neck.encoder.lstm."), ("cls", "head.fc."))
_RANKS = {4: "det", 3: "rec", 2: "cls"}


@dataclass(frozen=True)
class Source:
    """Weights before a network is chosen.

    path: the .pdparams file or the inference folder. arrays: of a .pdparams file, None for a folder. files: name →
    sha256 of what was read. origin: for the manifest. notes: what was chosen, a line each, for the user.
    """

    path: Path
    name: str
    task: str
    classes: int
    arrays: dict[str, np.ndarray] | None
    files: dict[str, str]
    origin: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@contextlib.contextmanager
def open_source(
    place: str, *, sha256: str | None = None, branch: str | None = None, ignore: Sequence[str] = ()
) -> Iterator[Source]:
    """The weights at a path or https URL; an unpacked archive is gone after the block.

    Raises ModelError or UsageError with one line; inside the block, too, messages name the archive and not the folder
    that it was unpacked to.
    """
    origin: dict[str, Any] = {}
    path = Path(place)
    if downloads.is_url(place):
        path = downloads.fetch(place, sha256)
        origin = {"url": place}
    elif sha256 is not None:
        _compare(path, sha256)
    name = _stem(Path(place.partition("?")[0]) if origin else path.resolve())
    origin = {"source": Path(place.partition("?")[0]).name if origin else path.resolve().name, **origin}
    if not archives.is_archive(path) or not path.is_file():
        source = _open(path, branch, ignore)
        yield replace(source, name=name, origin=origin)
        return
    origin["source_archive"] = _hashes(path)[path.name]
    with tempfile.TemporaryDirectory() as scratch:
        content = Path(scratch) / "content"
        archives.unpack(path, content)
        try:
            source = _open(_model_in(content, path), branch, ignore)
            yield replace(source, name=name, origin=origin)
        except command.USER_ERRORS as error:
            raise type(error)(str(error).replace(f"{content}", str(path))) from None


def _stem(path: Path) -> str:
    name = path.name
    for suffix in (".pdparams", *sorted(archives.SUFFIXES, key=len, reverse=True)):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _compare(path: Path, sha256: str) -> None:
    if not path.is_file():
        raise UsageError(f"{path}: expected --sha256 for one file or a URL, found no file; leave it out")
    found = _hashes(path)[path.name]
    if found != sha256.lower():
        raise ModelError(f"{path}: expected sha256 {sha256.lower()}, found {found}; download it again")


def _model_in(folder: Path, archive: Path) -> Path:
    """The one inference folder or .pdparams file of an unpacked archive."""
    from ocr_models import inference_files

    programs = {name for name, _ in inference_files.FILE_NAMES} | {inference_files.PIR}
    # macOS packs its own notes beside each file.
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.startswith("._")]
    found = dict.fromkeys(p.parent for p in files if p.suffix == ".pdmodel" or p.name in programs)
    found |= dict.fromkeys(p for p in files if p.suffix == ".pdparams")
    if len(found) != 1:
        listed = ", ".join(p.relative_to(folder).as_posix() for p in list(found)[:6]) or "none"
        raise (UsageError if found else ModelError)(
            f"{archive}: expected one .pdparams file or inference model in it, found {listed}; "
            + ("unpack it and give one of them" if found else "give another archive")
        )
    return next(iter(found))


def _open(path: Path, branch: str | None, ignore: Sequence[str]) -> Source:
    from ocr_models import inference_files

    if path.is_dir():
        if branch is not None or ignore:
            raise UsageError(
                f"{path}: expected --branch or --ignore with a .pdparams file, found an inference folder; leave it out"
            )
        files = sorted(path.glob("*.pdparams"))
        if files and not any((path / name).exists() for name, _ in inference_files.FILE_NAMES):
            raise ModelError(
                f"{path}: expected an inference folder, found one with {files[0].name}; give that file itself"
            )
        return _folder(path)
    expected = f"expected a .pdparams file, an inference folder, or one of them as {' | '.join(archives.SUFFIXES)}"
    if not path.exists():
        raise ModelError(f"{path}: {expected}, found nothing; check the path")
    if path.suffix != ".pdparams":
        raise ModelError(f"{path}: {expected}, found a {path.suffix or 'nameless'} file; give the folder of a .pdmodel")
    return _training_file(path, branch, ignore)


def _training_file(path: Path, branch: str | None, ignore: Sequence[str]) -> Source:
    from ocr_models import branches
    from ocr_models.pdparams import read_pdparams

    stored = read_pdparams(path)
    arrays, chosen = branches.choose(stored, branch, path)
    notes = []
    if chosen:
        others = [name for name in branches.names(stored) if name != chosen]
        by = "as --branch says" if branch else "by default" if others else "the only branch"
        notes.append(f"took {chosen} ({by})" + (f", not {', '.join(others)}" if others else ""))
    arrays, left_out = branches.leave_out(arrays, ignore, path)
    if left_out:
        notes.append(f"left out {len(left_out)} tensors under {', '.join(ignore)}")
    task = next((task for task, sign in _SIGNS if any(name.startswith(sign) for name in arrays)), None)
    if task is None:
        found = ", ".join(list(arrays)[:3]) or "no array"
        raise ModelError(
            f"{path}: expected weights of a DB detector, a direction classifier or a CRNN recognizer, found {found}; "
            "give PP-OCR mobile v2.0 weights"
        )
    head = arrays.get("head.fc.weight")
    classes = int(head.shape[-1]) if head is not None and head.ndim == 2 else 0
    return Source(path, "", task, classes, arrays, _hashes(path), notes=tuple(notes))


def _folder(path: Path) -> Source:
    from ocr_models import inference_files
    from ocr_models.paddle_engine import is_quantized

    program = inference_files.read_program(path)
    if is_quantized(program):
        raise ModelError(
            f"{path}: expected float weights, found a program that simulates int8; give the model it was made from"
        )
    block = program.blocks[0]
    shapes = {var.name: tuple(var.type.lod_tensor.tensor.dims) for var in block.vars}
    fetched = [name for op in block.ops if op.type == "fetch" for slot in op.inputs for name in slot.arguments]
    shape = shapes.get(fetched[0], ()) if len(fetched) == 1 else ()
    if len(shape) not in _RANKS:
        raise ModelError(
            f"{path}: expected a map (N, 1, H, W), lines (N, T, classes) or directions (N, classes) as the only "
            f"output, found {len(fetched)} outputs{f', the first {list(shape)}' if shape else ''}; give a det, cls or "
            "rec model"
        )
    # The output's last side may be left open in a program; the weights of the layer before it never are.
    products = [op for op in block.ops if op.type in ("mul", "matmul", "matmul_v2", "fc")]
    sides = [shapes[n] for op in products[-1:] for slot in op.inputs for n in slot.arguments if len(shapes[n]) == 2]
    files = _hashes(*inference_files.find(path))
    return Source(path, "", _RANKS[len(shape)], int(sides[-1][1]) if sides else int(shape[-1]), None, files)


def _hashes(*paths: Path) -> dict[str, str]:
    try:
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    except OSError as error:
        raise ModelError(
            f"{error.filename}: expected a readable file, found {error.strerror}; check the path"
        ) from None
