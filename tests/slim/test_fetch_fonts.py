"""Fetching faces: what is there stays, what is wrong is named, npm's absence is one line."""

import hashlib
import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from command import UsageError
from slim import fetch_fonts
from slim.fonts import Face


def face(path: Path, data: bytes, package: str = "@fontsource/demo") -> Face:
    return Face(path, hashlib.sha256(data).hexdigest(), package, "1.0.0", "OFL-1.1")


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """An npm on PATH that hands out an archive made here, as `npm pack` does."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def serve(files: dict[str, bytes], script: str | None = None) -> None:
        with tarfile.open(tmp_path / "demo.tar", "w:gz") as archive:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        (folder / "npm").write_text(f"#!/bin/sh\n{script or f'cp {tmp_path}/demo.tar demo-1.0.0.tgz'}\n")
        (folder / "npm").chmod(stat.S_IRWXU)

    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return serve


def test_faces_and_licence_are_put_in_place(tmp_path, npm):
    npm({"package/files/a.woff": b"AAA", "package/files/b.woff": b"BBB", "package/LICENSE": b"OFL"})
    faces = [face(tmp_path / "fonts" / "a.woff", b"AAA"), face(tmp_path / "fonts" / "b.woff", b"BBB")]
    assert fetch_fonts.missing_faces(faces) == faces
    fetch_fonts.fetch_package("@fontsource/demo", "1.0.0", faces)
    assert fetch_fonts.missing_faces(faces) == []
    assert (tmp_path / "fonts" / "LICENSE-demo").read_bytes() == b"OFL"
    faces[0].path.write_bytes(b"torn")
    assert fetch_fonts.missing_faces(faces) == faces[:1]


@pytest.mark.parametrize(
    ("files", "script", "message"),
    [
        ({"package/files/a.woff": b"other"}, None, "expected a.woff with sha256"),
        ({}, None, "no such file"),
        ({}, "echo 'E404 not found' >&2; exit 1", "E404 not found"),
        ({}, "printf junk > demo-1.0.0.tgz", "expected a package archive"),
        ({}, "true", "expected npm to fetch it"),
    ],
)
def test_failures_name_the_package_and_leave_nothing(tmp_path, npm, files, script, message):
    npm(files, script)
    with pytest.raises(UsageError, match=message) as error:
        fetch_fonts.fetch_package("@fontsource/demo", "1.0.0", [face(tmp_path / "fonts" / "a.woff", b"AAA")])
    assert "@fontsource/demo" in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.glob("fonts/*"))


def test_no_npm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="expected npm on PATH"):
        fetch_fonts.npm_pack("@fontsource/demo@1.0.0", tmp_path)


def test_matplotlib_faces_come_from_the_installed_package(tmp_path):
    import matplotlib

    data = (Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf").read_bytes()
    wanted = face(tmp_path / "DejaVuSans.ttf", data, "matplotlib")
    fetch_fonts.fetch_package("matplotlib", "any", [wanted])
    assert wanted.path.read_bytes() == data and (tmp_path / "LICENSE-dejavu").is_file()
