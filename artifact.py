"""The artifact folder: files plus `manifest.json`, the one contract between the rooms.

Every stage reads artifact folders and writes a new one. What the next stage has to know (colour order, mean and
standard deviation, thresholds, charset, kept channels) travels in the manifest and is typed nowhere twice. Standard
library only, because the runtime, the trainer and the exporter all import it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

SCHEMA = 1
KINDS = ("checkpoint", "inference", "nb", "bundle")
TASKS = ("det", "cls", "rec", "system")
MANIFEST = "manifest.json"

# Their versions decide whether two artifacts can be compared, so each manifest records them.
_RECORDED_PACKAGES = ("paddlepaddle", "paddleslim", "paddlelite", "numpy", "opencv-python", "Pillow")


class ArtifactError(Exception):
    """An artifact folder is missing, damaged or of the wrong sort; the message is one line for the user."""


@dataclass(frozen=True)
class Input:
    """What a network eats: the only source for training-time evaluation, Python and Java.

    shape: (N, C, H, W) with -1 for a free dimension. mean and std apply after division by 255, in the order of
    `color`. A recognizer's batch is as wide as the smallest of `width_buckets` (px) that holds its widest line;
    lines wider than the last bucket are squeezed into it. `pad_value` is in normalised units.
    """

    shape: tuple[int, int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    color: str = "BGR"
    layout: str = "NCHW"
    multiple_of: int = 1
    limit_side_len: int = 0
    limit_type: str = ""
    width_buckets: tuple[int, ...] = ()
    pad_value: float = 0.0
    aspect: str = "stretch"

    def __post_init__(self) -> None:
        for name in ("shape", "mean", "std", "width_buckets"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.shape) != 4 or len(self.mean) != self.shape[1] or len(self.std) != self.shape[1]:
            raise ArtifactError(
                f"expected input shape (N, C, H, W) with one mean and one std per channel, found shape "
                f"{list(self.shape)}, mean {list(self.mean)}, std {list(self.std)}; write the manifest again"
            )
        if list(self.width_buckets) != sorted(set(self.width_buckets)):
            raise ArtifactError(f"expected ascending width_buckets, found {list(self.width_buckets)}")
        if self.aspect not in ("stretch", "pad_right"):
            raise ArtifactError(f"expected input.aspect stretch or pad_right, found {self.aspect!r}")


@dataclass(frozen=True)
class Charset:
    """Classes of a recognizer: blank + the file's entries + (one space when `space`)."""

    file: str
    sha256: str
    classes: int
    blank: int = 0
    space: bool = True


@dataclass(frozen=True)
class Manifest:
    """The record beside an artifact's files; see the fields' notes in the README's chapter on artifacts."""

    kind: str
    task: str
    name: str
    network: dict[str, Any] = field(default_factory=dict)
    input: Input | None = None
    post: dict[str, Any] = field(default_factory=dict)
    charset: Charset | None = None
    compression: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    measured_on: dict[str, Any] | None = None  # what `metrics` were measured on; see slim/scoring.py
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    parent: str | None = None
    made_by: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ArtifactError(f"expected kind {' | '.join(KINDS)}, found {self.kind!r}")
        if self.task not in TASKS:
            raise ArtifactError(f"expected task {' | '.join(TASKS)}, found {self.task!r}")

    @property
    def quantized(self) -> bool:
        return "quantization" in self.compression

    def replace(self, **changes: Any) -> Manifest:
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        record = {"schema": SCHEMA, **dataclasses.asdict(self)}
        return {key: value for key, value in record.items() if value is not None}


def load(
    folder: str | Path,
    *,
    kind: str | Sequence[str] | None = None,
    task: str | None = None,
    verify: bool = True,
) -> Manifest:
    """Read an artifact's manifest and prove that the folder is what it says.

    kind, task: what the caller can use; anything else is refused. verify: compare every file's size and sha256.
    Raises ArtifactError with one line: what was expected, what was found, what to do.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise ArtifactError(f"{folder}: expected an artifact folder, found {found}; give a folder with {MANIFEST}")
    if not path.is_file():
        raise ArtifactError(
            f"{folder}: expected an artifact folder with {MANIFEST}, found none; "
            "make one with slim/finetune.py, export/to_inference.py or export/to_nb.py"
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ArtifactError(f"{path}: expected JSON, found {_one_line(error)}; make the artifact again") from None
    manifest = _parse(record, path)
    kinds = (kind,) if isinstance(kind, str) else tuple(kind or KINDS)
    if manifest.kind not in kinds:
        raise ArtifactError(
            f"{folder}: expected a {' or '.join(kinds)} artifact, found kind {manifest.kind}; {_made_with(kinds[0])}"
        )
    if task is not None and manifest.task != task:
        raise ArtifactError(f"{folder}: expected a model for task {task}, found task {manifest.task}; give another")
    if verify:
        _verify(folder, manifest)
    return manifest


@contextlib.contextmanager
def create(out: str | Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `out` that becomes `out` when the block ends without an error.

    A killed process leaves `out` as it was. With `replace`, an older artifact at `out` gives way at the very end.
    """
    out = Path(out)
    if out.exists() and not replace:
        raise ArtifactError(f"{out}: expected a folder that does not exist yet, found one; give another --out")
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (out / MANIFEST).is_file())):
        raise ArtifactError(f"{out}: expected an artifact folder to replace, found something else; give another --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # mkdtemp makes the folder private, and the artifact would stay so after the rename.
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        temporary.chmod(0o755)
    except OSError as error:
        raise ArtifactError(f"{out}: expected a writable place, found {_one_line(error)}; give another --out") from None
    try:
        yield temporary
        if out.exists():
            older = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
            os.replace(out, older / "artifact")
            os.replace(temporary, out)
            shutil.rmtree(older, ignore_errors=True)
        else:
            os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write(folder: str | Path, manifest: Manifest, command: str) -> Manifest:
    """Hash every file in `folder`, complete `files` and `made_by`, and write manifest.json as the last file."""
    folder = Path(folder)
    manifest = manifest.replace(
        files={name: _fingerprint(folder / name) for name in _files(folder)},
        made_by={"command": command, "versions": _versions(), "commit": _commit()},
    )
    text = json.dumps(manifest.to_json(), indent=2, ensure_ascii=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    return manifest


def digest(folder: str | Path) -> str:
    """sha256 of an artifact's manifest, which hashes everything else: what a child's `parent` says."""
    return hashlib.sha256((Path(folder) / MANIFEST).read_bytes()).hexdigest()


def read_charset(folder: str | Path, manifest: Manifest) -> list[str]:
    """The charset's entries as written, one a line, never stripped: an entry may be a space."""
    folder = Path(folder)
    if manifest.charset is None:
        raise ArtifactError(f"{folder}: expected a recognizer with a charset, found none; import the model again")
    entries = read_charset_file(folder / manifest.charset.file)
    labels = charset_labels(entries, manifest.charset.space)
    if len(labels) != manifest.charset.classes:
        raise ArtifactError(
            f"{folder / manifest.charset.file}: expected {manifest.charset.classes} classes "
            f"(blank + entries{' + space' if manifest.charset.space else ''}), found {len(labels)}; "
            "use the charset that the model was trained with"
        )
    return entries


def read_charset_file(path: str | Path) -> list[str]:
    """Entries of a charset file, one a line; only the line end is taken off."""
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: expected a UTF-8 charset, one entry a line, found {_one_line(error)}") from None
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def charset_labels(entries: Sequence[str], space: bool) -> list[str]:
    """Text of each CTC class: index 0 is the blank (""), then the entries, then the extra space."""
    return ["", *entries, *([" "] if space else [])]


def charset_record(path: str | Path, *, space: bool = True) -> Charset:
    """Describe the charset file at `path`, named as it will lie in the artifact."""
    path = Path(path)
    classes = len(charset_labels(read_charset_file(path), space))
    return Charset(file=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest(), classes=classes, space=space)


def _parse(record: Any, path: Path) -> Manifest:
    if not isinstance(record, dict):
        raise ArtifactError(f"{path}: expected a JSON object, found {type(record).__name__}; make the artifact again")
    record = dict(record)
    schema = record.pop("schema", None)
    if schema != SCHEMA:
        raise ArtifactError(f"{path}: expected schema {SCHEMA}, found {schema!r}; make the artifact with this version")
    try:
        nested = {"input": Input, "charset": Charset}
        for key, cls in nested.items():
            if record.get(key) is not None:
                record[key] = _construct(cls, record[key], f"{path}: {key}")
        manifest = _construct(Manifest, record, str(path))
    except ArtifactError as error:
        message = str(error)
        raise ArtifactError(message if message.startswith(str(path)) else f"{path}: {message}") from None
    expected = {
        "network": dict, "post": dict, "compression": dict, "metrics": dict, "files": dict,
        "made_by": dict, "extra": dict, "name": str,
    }  # fmt: skip
    if manifest.measured_on is not None:
        expected["measured_on"] = dict
    for key, cls in expected.items():
        if not isinstance(getattr(manifest, key), cls):
            found = type(getattr(manifest, key)).__name__
            raise ArtifactError(f"{path}: expected {key} to be a {cls.__name__}, found {found}")
    return manifest


def _construct(cls: type, record: Any, where: str) -> Any:
    """Build a dataclass from a mapping; unknown and missing keys are errors that name them."""
    if not isinstance(record, Mapping):
        raise ArtifactError(f"{where}: expected an object, found {type(record).__name__}; make the artifact again")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(record) - set(fields))
    if unknown:
        raise ArtifactError(f"{where}: expected only known keys, found {', '.join(unknown)}; use a newer version")
    missing = sorted(
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and name not in record
    )
    if missing:
        raise ArtifactError(f"{where}: expected the keys {', '.join(missing)}, found none; make the artifact again")
    try:
        return cls(**record)
    except TypeError as error:
        raise ArtifactError(f"{where}: {_one_line(error)}; make the artifact again") from None


def _verify(folder: Path, manifest: Manifest) -> None:
    for name, expected in manifest.files.items():
        path = inside(folder, name)
        if not path.is_file():
            raise ArtifactError(f"{folder}: expected the file {name}, found none; make or copy the artifact again")
        if not isinstance(expected, dict) or set(expected) != {"sha256", "bytes"}:
            raise ArtifactError(f"{folder}: expected sha256 and bytes for {name} in {MANIFEST}; make it again")
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise ArtifactError(
                f"{path}: expected {expected['bytes']} bytes, found {size}; the file is truncated or "
                "foreign, make or copy the artifact again"
            )
        if _fingerprint(path)["sha256"] != expected["sha256"]:
            raise ArtifactError(
                f"{path}: expected sha256 {str(expected['sha256'])[:12]}…, found another; the file was "
                "changed, make or copy the artifact again"
            )
    # Later stages copy these by name, so they have to be among the hashed files, which lie inside the folder.
    named = [manifest.charset.file] if manifest.charset else []
    named += [manifest.compression["prune_plan"]] if "prune_plan" in manifest.compression and manifest.files else []
    for name in named:
        if manifest.kind in ("checkpoint", "inference") and name not in manifest.files:
            raise ArtifactError(f"{folder}: expected {name!r} among its files, found it missing there; make it again")


def inside(folder: Path, name: str) -> Path:
    """The path of a file of `folder`. Raises ArtifactError for a name that leads outside or over a symbolic link."""
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts or set(name) & set("\\:\0"):
        raise ArtifactError(f"{folder}: expected file names inside the folder, found {name!r}; do not use it")
    for count in range(1, len(parts) + 1):
        if folder.joinpath(*parts[:count]).is_symlink():
            raise ArtifactError(f"{folder}: expected plain files, found the symbolic link {name}; copy the file itself")
    return folder / name


def _files(folder: Path) -> list[str]:
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in names if name != MANIFEST)


def _fingerprint(path: Path) -> dict[str, Any]:
    content = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                content.update(block)
    except OSError as error:
        raise ArtifactError(f"{path}: expected a readable file, found {_one_line(error)}") from None
    return {"sha256": content.hexdigest(), "bytes": path.stat().st_size}


@cache
def _versions() -> dict[str, str]:
    from importlib import metadata  # reading never needs it, and its import takes longer than all others here

    found = {}
    for package in _RECORDED_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


@cache
def _commit() -> str:
    """The project's commit, or "" where it is installed without its history."""
    root = Path(__file__).resolve().parent
    if not (root / ".git").exists():
        return ""
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def _made_with(kind: str) -> str:
    maker = {
        "checkpoint": "slim/finetune.py makes checkpoints",
        "inference": "export/to_inference.py makes it from a checkpoint",
        "nb": "export/to_nb.py makes it from an inference model",
        "bundle": "export/bundle.py makes it from three .nb artifacts",
    }
    return maker[kind]


def _one_line(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return re.sub(r"\s+", " ", text).strip() or type(error).__name__
