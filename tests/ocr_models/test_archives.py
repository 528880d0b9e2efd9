"""Archives that are models unpack; those that are attacks or damage leave nothing behind."""

import gzip
import io
import random
import stat
import tarfile
import zipfile

import pytest

from command import ModelError
from ocr_models import archives

FILES = {"model/inference.pdmodel": b"program", "model/sub/keys.txt": "é\n".encode(), "model/empty": b""}


def entry(name, kind=tarfile.REGTYPE, content=b"", link=""):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(content), link
    return info, content


def make_tar(path, *entries, mode="w"):
    with tarfile.open(path, mode) as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content))
    return path


def make_zip(path, *entries):
    """entries: (name or ZipInfo, content)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def good(path):
    if path.suffix == ".zip":
        return make_zip(path, ("model/", b""), *FILES.items())
    mode = "w" if path.suffix == ".tar" else "w:gz"
    folder = entry("./model", tarfile.DIRTYPE)
    return make_tar(path, folder, *(entry(name, content=content) for name, content in FILES.items()), mode=mode)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz", "a.zip", "A.ZIP"])
def test_an_archive_of_plain_files_is_unpacked(tmp_path, name):
    archive = good(tmp_path / name.lower()).rename(tmp_path / name)
    assert archives.is_archive(archive)
    archives.unpack(archive, tmp_path / "out")
    found = {path.relative_to(tmp_path / "out").as_posix(): path for path in (tmp_path / "out").rglob("*")}
    assert {name: path.read_bytes() for name, path in found.items() if path.is_file()} == FILES
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o755
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "out"])


def test_rights_of_the_archive_are_not_taken_over(tmp_path):
    info, content = entry("tool", content=b"x")
    info.mode = 0o6777
    archives.unpack(make_tar(tmp_path / "a.tar", (info, content)), tmp_path / "out")
    assert not (tmp_path / "out" / "tool").stat().st_mode & 0o6111


def zip_info(name, mode):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


BAD_TARS = {
    "absolute": ([entry("/etc/evil", content=b"x")], "the path '/etc/evil'"),
    "upwards": ([entry("a/../../evil", content=b"x")], r"the path 'a/\.\./\.\./evil'"),
    "backslash": ([entry("..\\evil", content=b"x")], "the path"),
    "drive": ([entry("C:evil", content=b"x")], "the path 'C:evil'"),
    "symbolic link": ([entry("a", tarfile.SYMTYPE, link="/etc/passwd")], "'a', a symbolic link"),
    "through a link": ([entry("a", tarfile.SYMTYPE, link="/tmp"), entry("a/b", content=b"x")], "a symbolic link"),
    "hard link": ([entry("b", content=b"x"), entry("a", tarfile.LNKTYPE, link="b")], "'a', a hard link"),
    "device": ([entry("a", tarfile.CHRTYPE)], "'a', a device"),
    "block device": ([entry("a", tarfile.BLKTYPE)], "'a', a device"),
    "pipe": ([entry("a", tarfile.FIFOTYPE)], "'a', a pipe"),
    "unknown kind": ([entry("a", b"Z")], "'a', a special file"),
    "sparse": ([entry("a", tarfile.GNUTYPE_SPARSE)], "'a', a special file|damaged"),
    "twice": ([entry("a", content=b"x"), entry("./a", content=b"y")], r"'(\./)?a' twice"),
    "file then folder": ([entry("a", content=b"x"), entry("a", tarfile.DIRTYPE)], "'a' twice"),
    "folder then file": ([entry("a/b", content=b"x"), entry("a", content=b"x")], "'a' twice"),
    "below a file": ([entry("a", content=b"x"), entry("a/b", content=b"y")], "'a/b' below a file"),
    "overlong": ([entry("x" * 300, content=b"x")], "the overlong name"),
    "too many": ([entry(f"f{n}", content=b"") for n in range(1_001)], "more than 1,000 members"),
}


@pytest.mark.parametrize("case", list(BAD_TARS))
def test_a_tar_that_is_no_folder_of_files_is_refused(tmp_path, case):
    entries, said = BAD_TARS[case]
    refused(make_tar(tmp_path / "a.tar", *entries), said)


BAD_ZIPS = {
    "absolute": ([("/evil", "x")], "the path '/evil'"),
    "upwards": ([("../evil", "x")], r"the path '\.\./evil'"),
    "symbolic link": ([(zip_info("a", stat.S_IFLNK | 0o777), "/etc/passwd")], "'a', a symbolic link"),
    "device": ([(zip_info("a", stat.S_IFCHR), "")], "'a', a special file"),
    "twice": ([("a", "x"), ("a", "y")], "'a' twice"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", list(BAD_ZIPS))
def test_a_zip_that_is_no_folder_of_files_is_refused(tmp_path, case):
    entries, said = BAD_ZIPS[case]
    refused(make_zip(tmp_path / "a.zip", *entries), said)


def refused(archive, said):
    """Nothing but the archive lies in its folder afterwards, nor above it."""
    above = sorted(archive.parent.parent.iterdir())
    with pytest.raises(ModelError, match=said) as error:
        archives.unpack(archive, archive.parent / "out")
    assert "\n" not in str(error.value) and str(error.value).startswith(f"{archive}: expected")
    assert list(archive.parent.iterdir()) == [archive]
    assert sorted(archive.parent.parent.iterdir()) == above


def test_an_encrypted_zip_is_refused(tmp_path):
    path = make_zip(tmp_path / "a.zip", ("a", "x"))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    refused(path, "'a', encrypted")


def test_a_zip_packed_otherwise_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a", "x")
    refused(tmp_path / "a.zip", "another method than deflate")


@pytest.mark.parametrize("name", ["a.tgz", "a.zip"])
def test_a_bomb_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(archives, "FREE_BYTES", 1 << 20)
    content = bytes(8 << 20)
    make = {"a.tgz": lambda path: make_tar(path, entry("a", content=content), mode="w:gz")}
    path = make.get(name, lambda path: make_zip(path, ("a", content)))(tmp_path / name)
    assert path.stat().st_size < 20_000
    refused(path, "a decompression bomb")


def test_a_bomb_of_many_files_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "FREE_BYTES", 1 << 20)
    entries = [entry(f"f{n}", content=bytes(1 << 18)) for n in range(8)]
    refused(make_tar(tmp_path / "a.tgz", *entries, mode="w:gz"), "a decompression bomb")


@pytest.mark.parametrize(
    "kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE], ids=["pax", "gnu", "global"]
)
def test_a_header_of_any_size_is_refused(tmp_path, kind):
    """tarfile reads these whole before it hands out a member."""
    info = tarfile.TarInfo("a")
    info.type, info.size = kind, 1 << 30
    with gzip.open(tmp_path / "a.tgz", "wb") as out:
        out.write(info.tobuf() + bytes(2 << 20))
    refused(tmp_path / "a.tgz", r"a header of 1,073,741,824 bytes")


def test_a_tail_of_any_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "FREE_BYTES", 1 << 20)
    path = make_tar(tmp_path / "a.tar", entry("a", content=b"x"))
    with gzip.open(tmp_path / "a.tgz", "wb") as out:
        out.write(path.read_bytes() + bytes(8 << 20))
    path.unlink()
    refused(tmp_path / "a.tgz", "a decompression bomb")


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.zip"])
def test_a_piece_of_an_archive_is_refused(tmp_path, name):
    data = random.Random(0).randbytes(5_000)
    path = tmp_path / name
    if name == "a.zip":
        make_zip(path, ("a", data), ("b", data))
    else:
        make_tar(path, entry("a", content=data), entry("b", content=data), mode="w:gz" if name == "a.tgz" else "w")
    whole = path.read_bytes()
    end = 11_000 if name == "a.tar" else len(whole)
    for size in range(0, end, 97):
        path.write_bytes(whole[:size])
        refused(path, "damaged or foreign")


@pytest.mark.parametrize("name", ["a.tgz", "a.zip"])
def test_a_flipped_bit_is_found(tmp_path, name):
    path = good(tmp_path / name)
    content = bytearray(path.read_bytes())
    where = content.index(b"inference.pdmodel") + 20 if name == "a.zip" else len(content) // 2
    content[where] ^= 4
    path.write_bytes(content)
    with pytest.raises(ModelError):
        archives.unpack(path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [path]


def test_garbage_ends_in_its_own_error(tmp_path):
    """Bytes changed at random: unpacked or refused, never another exception."""
    chance = random.Random(1)
    for name in ("a.tar", "a.tgz", "a.zip"):
        whole = good(tmp_path / name).read_bytes()
        for _ in range(150):
            content = bytearray(whole)
            for _ in range(chance.randint(1, 8)):
                content[chance.randrange(len(content))] = chance.randrange(256)
            (tmp_path / name).write_bytes(content)
            try:
                archives.unpack(tmp_path / name, tmp_path / "out")
            except ModelError:
                assert not (tmp_path / "out").exists()
            else:
                archives.shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\5\6" + bytes(18), b"\x1f\x8b"])
def test_what_is_no_archive_is_one_line(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    refused(tmp_path / "a.tar", "found a damaged or foreign one")


def test_no_archive_at_all(tmp_path):
    with pytest.raises(ModelError, match="No such file"):
        archives.unpack(tmp_path / "none.tar", tmp_path / "out")
