"""Pixels → network input: reading, resizing, normalising, padding.

The rules are PaddleOCR 2.x's (DetResizeForTest, resize_norm_img); the numbers come from the manifest.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from artifact import Input
from command import UsageError

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MIN_DETECTION_SIDE_PX = 32
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_image(path: Path | str) -> np.ndarray:
    """Decode an image file to (H, W, 3) uint8 BGR; see `read_encoded` and `decode` for what is refused."""
    return decode(read_encoded(path), path)


def read_encoded(path: Path | str) -> bytes:
    """An image file's bytes. Raises UsageError when it is missing, empty or cut off.

    A half-decoded picture would be read as if its lower half were blank.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: expected an image file, found {error.strerror}; give another path") from None
    if not data:
        raise UsageError(f"{path}: expected an image, found an empty file; fetch it again")
    if missing := _cut_off(data):
        raise UsageError(f"{path}: expected a whole image, found {missing}; fetch it again")
    return data


def decode(data: bytes | np.ndarray, path: Path | str) -> np.ndarray:
    """A whole image file's bytes, or (N,) uint8 → (H, W, 3) uint8 BGR, EXIF rotation applied, alpha blended on white.

    Grey, palette, 16-bit and CMYK files become 8-bit BGR. Raises UsageError, which names `path`, for what is no image.
    """
    buffer = np.frombuffer(data, np.uint8)
    try:
        image = cv2.imdecode(buffer, cv2.IMREAD_COLOR)
        # Decoded again only to look for alpha.
        raw = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED) if _may_have_alpha(buffer) else image
    except (cv2.error, MemoryError):
        raise UsageError(f"{path}: expected an image that fits in memory, found a larger one; scale it down") from None
    if image is None:
        raise UsageError(
            f"{path}: expected a PNG, JPEG, BMP, TIFF or WebP, found a damaged or foreign file; convert it"
        )
    if raw is not None and raw.ndim == 3 and raw.shape[2] == 4:
        return blend_on_white(raw)
    return image


def _may_have_alpha(buffer: np.ndarray) -> bool:
    """False for a JPEG and for a PNG whose header names a colour type without alpha and that lists no transparency."""
    head = buffer[:26].tobytes()
    if head[:2] == b"\xff\xd8":
        return False
    if head[:8] == PNG_SIGNATURE and len(head) == 26:
        return head[25] in (4, 6) or b"tRNS" in buffer.tobytes()
    return True


def blend_on_white(image: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8 or uint16 BGRA, straight alpha → (H, W, 3) uint8 BGR."""
    full = float(np.iinfo(image.dtype).max)
    colour = image[..., :3].astype(np.float32) / full
    alpha = image[..., 3:].astype(np.float32) / full
    return np.rint((colour * alpha + (1.0 - alpha)) * 255.0).astype(np.uint8)


def to_bgr(image: np.ndarray) -> np.ndarray:
    """Any array a caller may hold as an image → (H, W, 3) uint8 BGR.

    Takes (H, W), (H, W, 1), (H, W, 3) and (H, W, 4) of uint8 or uint16; UsageError for anything else.
    """
    if image.ndim == 2:
        image = image[..., None]
    if (
        image.ndim != 3
        or image.shape[2] not in (1, 3, 4)
        or 0 in image.shape
        or image.dtype not in (np.uint8, np.uint16)
    ):
        raise UsageError(
            f"expected an image (H, W, 1|3|4) of uint8, found {image.shape} of {image.dtype}; decode it with cv2 first"
        )
    if image.shape[2] == 4:
        return blend_on_white(image)
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def detection_size(height: int, width: int, limit_side_len: int, limit_type: str, multiple_of: int) -> tuple[int, int]:
    """(height, width) that the detector sees for an image of height x width px.

    limit_type "max" shrinks until the longer side is at most limit_side_len; "min" grows until the shorter
    side is at least that. Then each side goes to the nearest multiple (ties to even, as Python rounds).
    """
    if limit_type == "max":
        ratio = min(1.0, limit_side_len / max(height, width))
    elif limit_type == "min":
        ratio = max(1.0, limit_side_len / min(height, width))
    else:
        raise ValueError(f"limit_type: expected max or min, found {limit_type!r}")
    return (
        max(round(int(height * ratio) / multiple_of) * multiple_of, multiple_of),
        max(round(int(width * ratio) / multiple_of) * multiple_of, multiple_of),
    )


def resize_for_detection(image: np.ndarray, limit_side_len: int, limit_type: str, multiple_of: int) -> np.ndarray:
    """(H, W, 3) → (H', W', 3) of the same type, both sides multiples of multiple_of.

    The aspect changes by the rounding; boxes are mapped back with one factor a side. An image with
    H + W < 64 is first padded with black to 32 x 32: stretching 3 px to 32 makes stripes that look like text.
    """
    height, width = image.shape[:2]
    if padded_size(height, width) != (height, width):
        below, right = np.subtract(padded_size(height, width), (height, width)).tolist()
        image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT, value=(0, 0, 0))
        height, width = image.shape[:2]
    to_height, to_width = detection_size(height, width, limit_side_len, limit_type, multiple_of)
    if (to_height, to_width) == (height, width):
        return image
    return cv2.resize(image, (to_width, to_height))


def padded_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of the canvas on which an image lies before it is resized: larger than a tiny image only."""
    if height + width >= 2 * MIN_DETECTION_SIDE_PX:
        return height, width
    return max(height, MIN_DETECTION_SIDE_PX), max(width, MIN_DETECTION_SIDE_PX)


def normalize(image: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """(H, W, 3) in 0..255 → (3, H, W) float32, (v / 255 - mean) / std; mean and std in the image's channel order."""
    out = np.empty((3, *image.shape[:2]), np.float32)
    if image.dtype == np.uint8:
        levels = np.arange(256, dtype=np.float32) / np.float32(255)
        for channel in range(3):  # a table of 256 values is faster than three passes over a page, and equal
            table = (levels - np.float32(mean[channel])) / np.float32(std[channel])
            np.take(table, image[..., channel], out=out[channel])
        return out
    pixels = image.astype(np.float32) / np.float32(255)
    for channel in range(3):
        out[channel] = (pixels[..., channel] - np.float32(mean[channel])) / np.float32(std[channel])
    return out


def rec_width(width: int, height: int, to_height: int) -> int:
    """Width of a width x height crop scaled to to_height: ceil(to_height * width / height), in exact integers."""
    return -(-to_height * width // height)


def bucket_width(width: int, buckets: Sequence[int]) -> int:
    """Smallest bucket that holds `width`; the last one when none does (the line is squeezed into it)."""
    return next((bucket for bucket in buckets if bucket >= width), buckets[-1])


def pad_right(
    image: np.ndarray,
    height: int,
    width: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    pad_value: float = 0.0,
) -> np.ndarray:
    """A crop (H, W, 3) scaled to `height`, aspect kept, normalised, padded on the right → (3, height, width) float32.

    A crop that is wider than `width` at that height is squeezed. pad_value is in normalised units (0 = mid grey
    for mean .5).
    """
    inner = min(width, rec_width(image.shape[1], image.shape[0], height))
    resized = image if image.shape[:2] == (height, inner) else cv2.resize(image, (inner, height))
    out = np.full((3, height, width), pad_value, np.float32)
    out[:, :, :inner] = normalize(resized, mean, std)
    return out


def batch(crops: Sequence[np.ndarray], height: int, width: int, input: Input) -> np.ndarray:
    """N crops (h, w, 3) uint8 BGR → (N, 3, height, width) float32, normalised and padded as the manifest says."""
    ordered = crops if input.color == "BGR" else [cv2.cvtColor(crop, cv2.COLOR_BGR2RGB) for crop in crops]
    out = np.empty((len(crops), 3, height, width), np.float32)
    for into, crop in zip(out, ordered, strict=True):
        into[:] = pad_right(crop, height, width, mean=input.mean, std=input.std, pad_value=input.pad_value)
    return out


def _cut_off(data: bytes) -> str:
    """What a JPEG, PNG or WebP lacks when its end is missing; "" when it is whole or of another format.

    The decoders fill the missing part with grey and only warn.
    """
    if data[:2] == b"\xff\xd8":
        return "" if _jpeg_ends(data) else "a JPEG without its end marker"
    if data[:8] == PNG_SIGNATURE:
        return "" if b"IEND" in data[-4096:] or b"IEND" in data else "a PNG without its IEND chunk"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        size = struct.unpack("<I", data[4:8])[0] + 8
        return "" if len(data) >= size else f"a WebP of {size} bytes, found {len(data)}"
    return ""


def _jpeg_ends(data: bytes) -> bool:
    """Whether an end-of-image marker follows the first scan (an EXIF thumbnail before it has one of its own)."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xDA:
            return data.find(b"\xff\xd9", at) >= 0
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data.find(b"\xff\xd9", 2) >= 0
