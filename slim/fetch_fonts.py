"""Fetch the faces of a font list with npm, check each by its hash, and keep their licences beside them.

    python slim/fetch_fonts.py

Faces that are already there are left alone, so an interrupted run goes on. Faces of the package `matplotlib` come
from the installed one. npm asks whatever registry it is configured for.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import command
from slim.fonts import Face, read_list

TIMEOUT_S = 300


def missing_faces(faces: Sequence[Face]) -> list[Face]:
    """Those whose file is absent or is another one than the list says."""
    return [face for face in faces if not face.path.is_file() or _sha256(face.path.read_bytes()) != face.sha256]


def fetch_package(package: str, version: str, faces: Sequence[Face]) -> None:
    """Put the faces of one package in place, each whole or not at all; UsageError when one cannot be had."""
    if package == "matplotlib":
        import matplotlib

        fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
        for face in faces:
            _place(face, (fonts / face.path.name).read_bytes() if (fonts / face.path.name).is_file() else b"")
        _keep(faces[0].path.parent / "LICENSE-dejavu", (fonts / "LICENSE_DEJAVU").read_bytes())
        return
    with tempfile.TemporaryDirectory() as folder:
        archive = npm_pack(f"{package}@{version}", Path(folder))
        try:
            with tarfile.open(archive) as content:
                for face in faces:
                    _place(face, _member(content, f"package/files/{face.path.name}"))
                licence = _member(content, "package/LICENSE")
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile):
            raise command.UsageError(f"{package}: expected a package archive, found another file; run again") from None
        if licence:
            _keep(faces[0].path.parent / f"LICENSE-{package.rpartition('/')[2]}", licence)


def npm_pack(spec: str, folder: Path) -> Path:
    """Download one package's archive into `folder`."""
    npm = shutil.which("npm")
    if npm is None:
        raise command.UsageError("expected npm on PATH, found none; install it (Debian: apt-get install npm)")
    try:
        done = subprocess.run(
            [npm, "pack", "--silent", spec],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise command.UsageError(f"{spec}: expected npm to answer within {TIMEOUT_S} s; run again") from None
    archives = list(folder.glob("*.tgz"))
    if done.returncode or len(archives) != 1:
        reason = " ".join((done.stderr or done.stdout).split())[:200] or f"exit code {done.returncode}"
        raise command.UsageError(f"{spec}: expected npm to fetch it, found: {reason}; check the network and run again")
    return archives[0]


def _member(content: tarfile.TarFile, name: str) -> bytes:
    try:
        handle = content.extractfile(name)
    except KeyError:
        return b""
    return handle.read() if handle else b""


def _place(face: Face, data: bytes) -> None:
    if _sha256(data) != face.sha256:
        found = f"sha256 {_sha256(data)[:12]}…" if data else "no such file"
        raise command.UsageError(
            f"{face.package}@{face.version}: expected {face.path.name} with sha256 {face.sha256[:12]}…, found {found}; "
            "correct the font list"
        )
    _keep(face.path, data)


def _keep(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    default = Path(__file__).parents[1] / "configs" / "fonts_train.yaml"
    parser.add_argument("--fonts", default=str(default), help="font list (default: configs/fonts_train.yaml)")
    command.add_common(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    faces = read_list(args.fonts)
    missing = missing_faces(faces)
    packages: dict[tuple[str, str], list[Face]] = defaultdict(list)
    for face in missing:
        packages[face.package, face.version].append(face)
    for (package, version), wanted in command.progress(list(packages.items()), "packages"):
        fetch_package(package, version, wanted)
    licences = sorted({face.licence for face in faces})
    data = {"faces": len(faces), "fetched": len(missing), "licences": licences}
    command.emit(args, data, f"{len(faces)} faces ({len(missing)} fetched), licences: {', '.join(licences)}")
    return command.EXIT_DONE


if __name__ == "__main__":
    command.main(build_parser(), run)
