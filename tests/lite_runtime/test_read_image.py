"""Image files of every kind: read right, or refused with one line."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from command import UsageError
from lite_runtime.preprocess import read_image

PICTURE = cv2.GaussianBlur(np.random.default_rng(3).integers(0, 256, (40, 60, 3), np.uint8), (9, 9), 3)
GREY = cv2.cvtColor(PICTURE, cv2.COLOR_BGR2GRAY)


def encode(suffix: str, image: np.ndarray = PICTURE) -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


def read(tmp_path: Path, data: bytes, name: str = "file.img") -> np.ndarray:
    (tmp_path / name).write_bytes(data)
    image = read_image(tmp_path / name)
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    return image


def refused(tmp_path: Path, data: bytes) -> str:
    (tmp_path / "file.img").write_bytes(data)
    with pytest.raises(UsageError) as caught:
        read_image(tmp_path / "file.img")
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_lossless_formats(tmp_path, suffix):
    assert np.array_equal(read(tmp_path, encode(suffix)), PICTURE)


def test_jpeg_and_webp(tmp_path):
    for suffix in (".jpg", ".webp"):
        assert np.abs(read(tmp_path, encode(suffix)).astype(int) - PICTURE).mean() < 6


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (GREY, np.repeat(GREY[..., None], 3, axis=2)),
        (np.dstack([PICTURE, np.full_like(GREY, 255)]), PICTURE),  # opaque
        (np.dstack([PICTURE, np.zeros_like(GREY)]), np.full_like(PICTURE, 255)),  # nothing but transparency
        (PICTURE.astype(np.uint16) * 257, PICTURE),
        (GREY.astype(np.uint16) * 257, np.repeat(GREY[..., None], 3, axis=2)),
        (np.dstack([PICTURE, np.full_like(GREY, 255)]).astype(np.uint16) * 257, PICTURE),
        (PICTURE[:1, :1], PICTURE[:1, :1]),
        (np.repeat(PICTURE[:1], 400, axis=1).reshape(1, -1, 3)[:, :20_000], None),
    ],
)
def test_kinds_of_png(tmp_path, image, expected):
    found = read(tmp_path, encode(".png", image))
    assert np.array_equal(found, image if expected is None else expected)


def test_grey_with_alpha(tmp_path):
    """OpenCV does not write this kind: assemble it. One black pixel, opaque, half and not."""
    rows = b"\0" + bytes([0, 255, 0, 128, 0, 0])
    found = read(tmp_path, png(struct.pack(">IIBBBBB", 3, 1, 8, 4, 0, 0, 0), zlib.compress(rows)))
    assert found[0, :, 0].tolist() == [0, 127, 255]


def png(header: bytes, pixels: bytes, end: bool = True) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    tail = chunk(b"IEND", b"") if end else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + tail


@pytest.mark.parametrize("mode", ["P", "RGB"])
def test_a_transparent_colour(tmp_path, mode):
    """PNG without an alpha channel: a tRNS chunk names the palette entry, or the colour, that is not there."""
    image = pytest.importorskip("PIL.Image")
    black = image.new(mode, (2, 1), 0)
    black.putpixel((1, 0), 1 if mode == "P" else (10, 20, 30))
    black.save(tmp_path / "a.png", transparency=0 if mode == "P" else (0, 0, 0))
    assert read_image(tmp_path / "a.png")[0, 0].tolist() == [255, 255, 255]


def test_cmyk_jpeg(tmp_path):
    image = pytest.importorskip("PIL.Image")
    image.fromarray(PICTURE[..., ::-1]).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "cmyk.jpg").astype(int) - PICTURE).mean() < 6


def test_exif_rotation(tmp_path):
    """Orientation 6: the camera was held upright, the sensor's rows are the picture's columns."""
    jpeg = encode(".jpg", np.ascontiguousarray(np.rot90(PICTURE)))
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    body = b"Exif\0\0" + tiff
    tagged = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]
    found = read(tmp_path, tagged)
    assert found.shape == PICTURE.shape and np.abs(found.astype(int) - PICTURE).mean() < 6


def test_missing_and_folder(tmp_path):
    for path, words in ((tmp_path / "none.jpg", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(UsageError, match=words):
            read_image(path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty file"),
        (b"hello", "foreign"),
        (b"\xff\xd8\xff", "JPEG without its end marker"),
        (encode(".png")[:20], "PNG without its IEND chunk"),
        (encode(".png")[: len(encode(".png")) // 2], "PNG without its IEND chunk"),
        (encode(".jpg")[: len(encode(".jpg")) // 2], "JPEG without its end marker"),
        (encode(".jpg")[:-2], "JPEG without its end marker"),
        (encode(".webp")[:-9], "WebP of"),
        (encode(".bmp")[:-500], "damaged"),
        (encode(".tif")[:-500], "damaged"),
        (png(struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0), zlib.compress(bytes(99))), "fits in memory"),
        (png(struct.pack(">IIBBBBB", 0, 0, 8, 2, 0, 0, 0), zlib.compress(b"")), "damaged"),
    ],
)
def test_bad_files(tmp_path, data, words):
    assert words in refused(tmp_path, data)


def test_a_thumbnail_s_end_marker_is_not_the_jpeg_s(tmp_path):
    jpeg = encode(".jpg")
    thumbnail = b"Exif\0\0" + encode(".jpg", PICTURE[:8, :8])
    whole = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + jpeg[2:]
    assert read(tmp_path, whole).shape == PICTURE.shape
    assert "end marker" in refused(tmp_path, whole[:-300])
    assert read(tmp_path, whole + b"trailing bytes of some camera").shape == PICTURE.shape
