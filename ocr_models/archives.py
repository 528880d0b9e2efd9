"""Unpacks an archive of a model (.tar, .tar.gz, .tgz, .zip) without trusting it.

Plain files and folders only, below the target folder only, each once, and no more of them than a model has. The target
folder appears when everything is in it; an archive that is refused or cut short leaves nothing behind.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from command import ModelError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
MAX_MEMBERS = 1_000
MAX_BYTES = 4 << 30
# Trained weights hardly shrink; an archive that grows more than this is no model's. Small ones may be all text.
MAX_RATIO = 50
FREE_BYTES = 16 << 20
_CHUNK = 1 << 16
# The largest read that tarfile may ask for at once: it takes long names and PAX headers whole.
_HEADER = 1 << 20
_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, struct.error, EOFError, ValueError,
    ArithmeticError, LookupError, RuntimeError,
)  # fmt: skip


class _Refused(Exception):
    """What was found in the archive, for the end of "expected …, found …"."""


@dataclass(frozen=True)
class _Member:
    name: str
    folder: bool
    content: Any = None  # callable that opens a regular file's content


def is_archive(path: Path) -> bool:
    """Whether a file's name says that it is an archive that `unpack` takes."""
    return path.name.lower().endswith(SUFFIXES)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack `archive` into `folder`, which must not exist yet.

    Raises ModelError for an archive that is damaged, of another sort, larger than a model, or holds absolute paths,
    `..`, links, devices, encrypted or duplicate members; `folder` is then not created.
    """
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        allowance = min(MAX_BYTES, max(FREE_BYTES, MAX_RATIO * archive.stat().st_size))
        with archive.open("rb") as file:
            _extract(_members(file, allowance), temporary, allowance)
        temporary.chmod(0o755)
        temporary.rename(folder)
    except _Refused as error:
        raise ModelError(
            f"{archive}: expected an archive of plain files inside one folder, found {error}; do not use it"
        ) from None
    except _DAMAGE as error:
        raise ModelError(
            f"{archive}: expected a complete {' or '.join(SUFFIXES)} file, found a damaged or foreign one "
            f"({str(error)[:100] or type(error).__name__}); download it again"
        ) from None
    except OSError as error:
        raise ModelError(
            f"{archive}: expected to unpack it, found {error.strerror or type(error).__name__}; "
            "check the path and the free space"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _members(file: BinaryIO, allowance: int) -> Iterator[_Member]:
    start = file.read(4)
    file.seek(0)
    if start == b"PK\3\4":
        return _zip_members(file)
    if start[:2] == b"\x1f\x8b":
        return _tar_members(_Bounded(gzip.GzipFile(fileobj=file), allowance))
    return _tar_members(_Bounded(file, allowance))


def _tar_members(file: _Bounded) -> Iterator[_Member]:
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for info in archive:
            if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE) or info.sparse is not None:
                raise _Refused(f"{_shown(info.name)}, {_TAR_KINDS.get(info.type, 'a special file')}")
            yield _Member(info.name, info.isdir(), lambda info=info: archive.extractfile(info))
    # tarfile takes a broken or missing header for the end.
    if file.last != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("no mark at its end")
    while file.read(_CHUNK):  # gzip compares its checksum at the very end only
        pass


_TAR_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}


def _zip_members(file: BinaryIO) -> Iterator[_Member]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                what = "a symbolic link" if kind == stat.S_IFLNK else "a special file"
                raise _Refused(f"{_shown(info.filename)}, {what}")
            if info.flag_bits & 1:
                raise _Refused(f"{_shown(info.filename)}, encrypted")
            # The other methods hand out a whole block at once, however large.
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise _Refused(f"{_shown(info.filename)}, packed by another method than deflate")
            yield _Member(info.filename, info.is_dir(), lambda info=info: archive.open(info))


def _extract(members: Iterator[_Member], folder: Path, allowance: int) -> None:
    seen: dict[PurePosixPath, bool] = {}
    left = allowance
    for count, member in enumerate(members, 1):
        if count > MAX_MEMBERS:
            raise _Refused(f"more than {MAX_MEMBERS:,} members")
        path = _inside(member.name)
        if path == PurePosixPath("."):
            continue
        known = seen.get(path)
        if known is not None and not (known and member.folder):
            raise _Refused(f"{_shown(member.name)} twice")
        if any(seen.get(parent) is False for parent in path.parents):
            raise _Refused(f"{_shown(member.name)} below a file")
        seen[path] = member.folder
        for parent in path.parents:
            seen.setdefault(parent, True)
        target = folder / path
        if member.folder:
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with member.content() as content, target.open("xb") as out:
            while chunk := content.read(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise _Refused(_bomb(allowance))
                out.write(chunk)


def _inside(name: str) -> PurePosixPath:
    """The member's path below the target folder. Raises _Refused where it would leave it."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or "\\" in name or "\0" in name or ".." in path.parts or name[1:2] == ":":
        raise _Refused(f"the path {_shown(name)}")
    if len(os.fsencode(name)) > 1_000 or any(len(os.fsencode(part)) > 255 for part in path.parts):
        raise _Refused(f"the overlong name {_shown(name)}")
    return path


def _bomb(allowance: int) -> str:
    return f"more than {allowance:,} bytes in it, {MAX_RATIO} times its size: a decompression bomb"


def _shown(name: str) -> str:
    return repr(name if len(name) <= 60 else name[:60] + "…")


class _Bounded(io.RawIOBase):
    """A file that ends in _Refused beyond `allowance` bytes, be they content or header."""

    def __init__(self, file: Any, allowance: int) -> None:
        self.file, self.allowance = file, allowance + FREE_BYTES // 4
        self.last = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence or offset > self.allowance:
            raise _Refused(_bomb(self.allowance))
        return self.file.seek(offset)

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _HEADER:
            raise _Refused(f"a header of {size:,} bytes")
        if self.file.tell() + size > self.allowance:
            raise _Refused(_bomb(self.allowance))
        self.last = self.file.read(size)
        return self.last
