"""Labelled images → what the networks train on, through the runtime's own resizing and normalising.

A dataset holds no random state: `sample` takes the generator, so that a training step can be repeated exactly.
Objects survive a fork, and share the encoded images with their children.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from artifact import Input
from command import UsageError
from lite_runtime import preprocess
from slim import augment, db_targets
from slim.labels import IGNORED, read_cls_labels, read_det_labels, read_rec_labels

CTC_STRIDE = 4  # px of width for each step of the recognizer's output
EXIF_ORIENTATION = 0x0112  # from 5 on the camera was turned by a right angle


class ImageStore:
    """Encoded images, in one block of memory as far as they fit (a list of bytes would be copied by every fork)."""

    def __init__(self, paths: Sequence[Path], cache_mb: float) -> None:
        self.paths = list(paths)
        self._offsets = np.zeros(len(paths) + 1, np.int64)
        block, room = bytearray(), int(cache_mb * 2**20)
        for index, path in enumerate(self.paths):
            data = preprocess.read_encoded(path) if len(block) < room else b""
            block += data
            self._offsets[index + 1] = len(block)
        self._block = np.frombuffer(bytes(block), np.uint8)

    def encoded(self, index: int) -> np.ndarray:
        start, stop = self._offsets[index : index + 2]
        if stop > start:
            return self._block[start:stop]
        return np.frombuffer(preprocess.read_encoded(self.paths[index]), np.uint8)

    def image(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 BGR, decoded as at run time."""
        return preprocess.decode(self.encoded(index), self.paths[index])

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) from the file's header, as it is decoded: EXIF rotation applied."""
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(io.BytesIO(self.encoded(index).tobytes())) as image:
                lying = image.getexif().get(EXIF_ORIENTATION, 1) >= 5
                return (image.width, image.height) if lying else (image.height, image.width)
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
            raise UsageError(
                f"{self.paths[index]}: expected an image, found something else; make it again or drop it"
            ) from None


class RecDataset:
    """Lines for the recognizer. Lines with characters outside the charset, or more of them than CTC has steps for,
    are left out; `skipped` says how many for each reason.

    labels: text of each class (artifact.charset_labels); where two classes have the same text, the later one is used.
    widths: (N,) int32 px at the input's height; lengths: (N,) characters; texts: list of N.
    """

    def __init__(
        self, label_file: Path | str, *, input: Input, labels: Sequence[str], augment: bool, cache_mb: float = 1500
    ) -> None:
        self.input, self.augment = input, augment
        self.height = input.shape[2]
        self._ids = {text: index for index, text in enumerate(labels) if text}
        self.skipped = {"charset": 0, "too long": 0}
        known = []
        for path, text in read_rec_labels(label_file):
            if all(char in self._ids for char in text):
                known.append((path, text))
            else:
                self.skipped["charset"] += 1
        store = ImageStore([path for path, _ in known], cache_mb)
        kept, widths = [], []
        for index, (_, text) in enumerate(known):
            height, width = store.size(index)
            at_height = preprocess.rec_width(width, height, self.height)
            if steps_needed(text) > preprocess.bucket_width(at_height, self._buckets(at_height)) // CTC_STRIDE:
                self.skipped["too long"] += 1
            else:
                kept.append(index)
                widths.append(at_height)
        if not kept:
            raise UsageError(f"{label_file}: expected lines that the charset can write, found none; check the charset")
        self._store, self._kept = store, np.array(kept, np.int64)
        self.widths = np.array(widths, np.int32)
        self.texts = [known[index][1] for index in kept]
        self.lengths = np.array([len(text) for text in self.texts], np.int32)

    def _buckets(self, width: int) -> Sequence[int]:
        return self.input.width_buckets or (width,)

    def __len__(self) -> int:
        return len(self._kept)

    def encode(self, text: str) -> np.ndarray:
        """(L,) int64 class ids."""
        return np.array([self._ids[char] for char in text], np.int64)

    def sample(self, index: int, rng: np.random.Generator, width: int) -> tuple[np.ndarray, np.ndarray]:
        """((3, H, width) float32, normalised and padded; (L,) int64 class ids)."""
        image = self._store.image(int(self._kept[index]))
        if self.augment:
            image = augment.augment_line(image, rng)
        return _padded(image, self.input, width), self.encode(self.texts[index])


def steps_needed(text: str) -> int:
    """CTC steps that a text takes at least: one a character, and a blank between two equal ones."""
    return len(text) + sum(a == b for a, b in pairwise(text))


class ClsDataset:
    """Crops for the direction classifier; class 0 is upright, class 1 upside down.

    lines: a recognition label file whose lines join in as upright crops.
    """

    def __init__(
        self,
        label_file: Path | str,
        *,
        input: Input,
        augment: bool,
        lines: Path | None = None,
        cache_mb: float = 1500,
    ) -> None:
        self.input, self.augment = input, augment
        labels = read_cls_labels(label_file)
        if lines is not None:
            labels = [*labels, *((path, 0) for path, _ in read_rec_labels(lines))]
        self.labels = np.array([int(direction == 180) for _, direction in labels], np.int64)
        self._store = ImageStore([path for path, _ in labels], cache_mb)

    def __len__(self) -> int:
        return len(self.labels)

    def sample(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """((3, H, W) float32, class). With augmentation half of the crops are turned, and their class with them."""
        image, label = self._store.image(index), int(self.labels[index])
        if self.augment:
            image = augment.augment_line(image, rng)
            if rng.random() < 0.5:
                image, label = np.ascontiguousarray(image[::-1, ::-1]), 1 - label
        return _padded(image, self.input, self.input.shape[3]), label


def _padded(image: np.ndarray, input: Input, width: int) -> np.ndarray:
    return preprocess.pad_right(image, input.shape[2], width, mean=input.mean, std=input.std, pad_value=input.pad_value)


class DetDataset:
    """Square pieces of scenes for the DB detector, with its targets."""

    ATTEMPTS = 16  # at a window that cuts no line
    SCALES = (0.5, 2.0)

    def __init__(
        self, label_file: Path | str, *, input: Input, size_px: int, augment: bool, cache_mb: float = 1500
    ) -> None:
        if size_px % input.multiple_of:
            raise UsageError(f"expected a crop size that is a multiple of {input.multiple_of}, found {size_px}")
        self.input, self.size_px, self.augment = input, size_px, augment
        self.labels = read_det_labels(label_file)
        self._store = ImageStore([path for path, _ in self.labels], cache_mb)

    def __len__(self) -> int:
        return len(self.labels)

    def sample(
        self, index: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(x (3, S, S) float32, then S x S float32 each: prob 0/1, prob mask, thresh .3 to .7, thresh mask).

        A random scale and window, whose border crosses no line if one can be found; crossed lines do not count.
        """
        image = self._store.image(index)
        texts = [text for text, _ in self.labels[index][1]]
        quads = np.array([quad for _, quad in self.labels[index][1]], np.float64).reshape(-1, 4, 2)
        side, strength = self.size_px, augment.SCENE if self.augment else augment.NONE
        low, high = map(math.log, self.SCALES)
        scale = math.exp(rng.uniform(low, high)) if self.augment else 1.0
        if scale < 0.8:  # a warp that shrinks skips pixels: average them first
            to = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
            quads = quads * (to[0] / image.shape[1], to[1] / image.shape[0])
            image, scale = cv2.resize(image, to, interpolation=cv2.INTER_AREA), 1.0
        matrix = np.diag([scale, scale, 1.0])
        turn = augment.geometry(image.shape[0], image.shape[1], rng, strength)
        matrix = matrix if turn is None else matrix @ turn
        quads = augment.warp_points(quads, matrix)
        shift = self._window(quads, (image.shape[1] * scale, image.shape[0] * scale), rng)
        quads = quads - shift
        matrix = np.array([[1, 0, -shift[0]], [0, 1, -shift[1]], [0, 0, 1]]) @ matrix
        image = cv2.warpPerspective(image, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE)
        # Replicated borders smear the text that touches them; nothing is labelled there.
        image = augment.pixels(image, rng, strength)
        inside, cut = _inside(quads, side), _crossed(quads, side)
        shown = inside | cut
        ignored = [bool(c) or t in IGNORED for t, c, s in zip(texts, cut, shown, strict=True) if s]
        targets = db_targets.draw(side, side, list(quads[shown]), ignored)
        return preprocess.normalize(image, self.input.mean, self.input.std), *targets

    def _window(self, quads: np.ndarray, size: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
        """(x, y) px of a window's corner: near a line mostly, of several the one that crosses fewest lines."""
        side, best, fewest = self.size_px, np.zeros(2), None
        room = np.array([max(0.0, size[0] - side), max(0.0, size[1] - side)])
        for _ in range(self.ATTEMPTS):
            corner = rng.random(2) * room
            if len(quads) and rng.random() < 0.8:
                middle = quads[int(rng.integers(0, len(quads)))].mean(axis=0)
                corner = np.clip(middle - rng.uniform(0.15, 0.85, 2) * side, 0, room)
            crossed = int(_crossed(quads - corner, side).sum())
            if fewest is None or crossed < fewest:
                best, fewest = corner, crossed
            if not fewest:
                break
        return best


def _inside(quads: np.ndarray, side: int) -> np.ndarray:
    """(N,) bool: quads wholly in the window 0..side, but for a rounding px."""
    return ((quads >= -1) & (quads <= side)).all(axis=(1, 2))


def _crossed(quads: np.ndarray, side: int) -> np.ndarray:
    """(N,) bool: quads whose bounding box lies partly in the window."""
    low, high = quads.min(axis=1), quads.max(axis=1)
    touches = (high > 0).all(axis=1) & (low < side).all(axis=1)
    return touches & ~_inside(quads, side)
