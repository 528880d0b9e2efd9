"""Scenes, lines and classifier crops: lettering on backgrounds, warped, degraded, with exact labels.

Quads are clockwise from the top-left corner of the text as it reads, whichever way it is turned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from lite_runtime.crop import crop_quad
from slim import backgrounds
from slim.inking import blend, ground, ink_on, inked, photographed
from slim.lettering import Lettering, letter
from slim.text_source import TextSource, tells_direction

LINE_HEIGHT_PX = 48  # higher crops are scaled down to it: the networks see 32 and 48
SCENE_SIZES = ((480, 640), (640, 480), (600, 800), (640, 640), (640, 800), (560, 720))
MAX_SPREAD = 42  # standard deviation of grey levels that text without a panel may stand on
IGNORED = "###"


@dataclass(frozen=True)
class Workshop:
    """What a split's samples are made from."""

    fonts: Sequence[Path]
    texts: TextSource
    backgrounds: backgrounds.Backgrounds


def make_line(rng: np.random.Generator, shop: Workshop) -> tuple[np.ndarray, str]:
    """A recognizer's crop (h <= 48, w, 3) and its text, cut out of a drawn photo as the pipeline cuts."""
    return _line(rng, shop, shop.texts.text(rng))


def make_direction_crop(rng: np.random.Generator, shop: Workshop) -> tuple[np.ndarray, int]:
    """A crop and its direction, 0 or 180 degrees; the text always shows which."""
    text = shop.texts.text(rng)
    while not tells_direction(text):
        text = shop.texts.text(rng)
    image, _ = _line(rng, shop, text)
    if rng.random() < 0.5:
        return image, 0
    return np.ascontiguousarray(image[::-1, ::-1]), 180


def _line(rng: np.random.Generator, shop: Workshop, text: str) -> tuple[np.ndarray, str]:
    size = round(math.exp(rng.uniform(math.log(14), math.log(54))))
    font = shop.fonts[int(rng.integers(0, len(shop.fonts)))]
    line = letter(font, size, text, _tracking(rng, text))
    alpha = _with_neighbours(rng, shop, font, size, line)
    height, width = alpha.shape
    picture, ink = ground(rng, shop.backgrounds, height, width)
    picture = inked(rng, picture, alpha, ink, size)
    x0, y0, x1, y1 = line.box
    if (x1 - x0) < 0.8 * (y1 - y0):  # the pipeline turns tall crops, so no reader ever meets them upright
        grow = (0.8 * (y1 - y0) - (x1 - x0)) / 2
        x0, x1 = x0 - grow, x1 + grow
    spread = rng.uniform(-0.03, 0.16, 4) * (y1 - y0)
    quad = _corners(x0 - spread[0], y0 - spread[1], x1 + spread[2], y1 + spread[3])
    if rng.random() < 0.75:
        warp, size_to = _warp(rng, height, width, *_tilt(rng))
        picture = cv2.warpPerspective(picture, warp, size_to, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        quad = mapped(warp, quad)
    picture = photographed(rng, picture, size)
    quad = quad + rng.uniform(-0.025, 0.025, (4, 2)) * (y1 - y0)
    crop = crop_quad(picture, quad.astype(np.float32))
    if crop.shape[0] > LINE_HEIGHT_PX:
        to = (max(1, round(crop.shape[1] * LINE_HEIGHT_PX / crop.shape[0])), LINE_HEIGHT_PX)
        crop = cv2.resize(crop, to, interpolation=cv2.INTER_AREA)
    return crop, text


def make_scene(rng: np.random.Generator, shop: Workshop) -> tuple[np.ndarray, list[tuple[str, np.ndarray]]]:
    """A photo (H, W, 3) and its lines: (text, quad (4, 2) float64 px); `###` for what nobody can read."""
    height, width = SCENE_SIZES[int(rng.integers(0, len(SCENE_SIZES)))]
    scene = shop.backgrounds.piece(rng, height, width)
    taken = np.zeros((height, width), np.uint8)
    wanted = int(rng.integers(8, 15))
    lines: list[tuple[str, np.ndarray]] = []
    for _ in range(40):
        if len(lines) >= wanted:
            break
        block = _block(rng, shop, wanted - len(lines), height, width)
        lines += _placed(rng, scene, taken, block)
    if rng.random() < 0.1:
        block = _block(rng, shop, 1, height, width, size=int(rng.integers(5, 8)))
        lines += [(IGNORED, quad) for _, quad in _placed(rng, scene, taken, block)]
    return photographed(rng, scene, 22), lines


@dataclass(frozen=True)
class _Block:
    """Lines that share a surface. paint (h, w, 3), alpha (h, w), boxes of the lines in it."""

    paint: np.ndarray
    alpha: np.ndarray
    lines: list[tuple[str, tuple[float, float, float, float]]]


def _block(
    rng: np.random.Generator, shop: Workshop, at_most: int, height: int, width: int, size: int | None = None
) -> _Block:
    """Up to nine lines set in one or two faces, on a panel or straight on the scene."""
    count = min(at_most, int(rng.choice([1, 2, 3, 5, 9], p=[0.36, 0.2, 0.18, 0.12, 0.14])))
    base = size or round(math.exp(rng.uniform(math.log(12), math.log(58 if count < 3 else 36 if count < 6 else 26))))
    fonts = [shop.fonts[int(rng.integers(0, len(shop.fonts)))] for _ in range(2)]
    centred, leading = rng.random() < 0.35, float(rng.uniform(0.22, 0.7))
    paragraph = count > 2 and rng.random() < 0.4
    columns = count > 1 and not paragraph and rng.random() < 0.2
    pad = round(base * rng.uniform(0.5, 1.1)) + 3
    rows: list[list[tuple[str, Lettering]]] = []
    for row in range(count):
        title = row == 0 and count > 2 and rng.random() < 0.5 and size is None
        row_size = round(base * rng.uniform(1.2, 1.8)) if title else base
        max_chars = max(2, int((0.86 * width - 2 * pad) / (0.62 * row_size)))
        cells = []
        for _ in range(2 if columns and not title else 1):
            limit = max(2, max_chars // (2 if columns else 1))
            text = shop.texts.sentence(rng, limit) if paragraph and limit > 12 else shop.texts.text(rng, limit)
            cells.append((text, letter(fonts[0 if title else 1], row_size, text, _tracking(rng, text))))
        rows.append(cells)
    gap = round(base * rng.uniform(1.0, 2.5))
    inner = max(sum(_wide(c) for _, c in cells) + gap * (len(cells) - 1) for cells in rows)
    second = max((_wide(cells[0][1]) for cells in rows if len(cells) == 2), default=0) + gap
    inner = max(inner, second + max((_wide(cells[1][1]) for cells in rows if len(cells) == 2), default=0))
    tops, y = [], pad
    for cells in rows:
        tops.append(y)
        y += max(_high(c) for _, c in cells) + max(3, round(base * leading))
    alpha = np.zeros((y + pad, inner + 2 * pad), np.uint8)
    lines = []
    for cells, top in zip(rows, tops, strict=True):
        for column, (text, cell) in enumerate(cells):
            left = pad + (second if column else (inner - _wide(cell)) // 2 if centred and len(cells) == 1 else 0)
            lines.append((text, _paste(alpha, cell, left, top)))
    if rng.random() < 0.55:
        surface, ink = ground(rng, shop.backgrounds, *alpha.shape)
        if rng.random() < 0.25:
            edge = tuple(int(v) for v in backgrounds.colour(rng))
            cv2.rectangle(surface, (1, 1), (alpha.shape[1] - 2, alpha.shape[0] - 2), edge, max(1, pad // 6))
        return _Block(inked(rng, surface, alpha, ink, base), np.full_like(alpha, 255), lines)
    return _Block(np.zeros((*alpha.shape, 3), np.uint8), alpha, lines)


def _placed(
    rng: np.random.Generator, scene: np.ndarray, taken: np.ndarray, block: _Block
) -> list[tuple[str, np.ndarray]]:
    """Warp the block into a free part of the scene, in place; [] when it finds none."""
    height, width = scene.shape[:2]
    rows, columns = block.alpha.shape
    for _ in range(8):
        warp, (w, h) = _warp(rng, rows, columns, *_tilt(rng))
        if w >= width - 4 or h >= height - 4:
            continue
        x, y = int(rng.integers(2, width - w - 1)), int(rng.integers(2, height - h - 1))
        place = np.array([x, y], np.int32)
        outline = np.rint(mapped(warp, _corners(0, 0, columns, rows)) + place).astype(np.int32)
        claim = np.zeros_like(taken[y : y + h, x : x + w])
        cv2.fillConvexPoly(claim, outline - place, 255)
        if cv2.countNonZero(claim & taken[y : y + h, x : x + w]):
            continue
        part = scene[y : y + h, x : x + w]
        alpha = cv2.warpPerspective(block.alpha, warp, (w, h), flags=cv2.INTER_LINEAR)
        if block.alpha.min() == 255:
            paint = cv2.warpPerspective(block.paint, warp, (w, h), borderMode=cv2.BORDER_REPLICATE)
            part[...] = blend(part, paint, alpha)
        else:
            inside, spread = cv2.meanStdDev(part, mask=claim)
            if float(spread.max()) > MAX_SPREAD:
                continue
            part[...] = inked(rng, part, alpha, ink_on(rng, inside[:, 0]), rows)
        taken[y : y + h, x : x + w] |= claim
        return [(text, mapped(warp, _corners(*box)) + place) for text, box in block.lines]
    return []


def _with_neighbours(rng: np.random.Generator, shop: Workshop, font: Path, size: int, line: Lettering) -> np.ndarray:
    """The line's mask, now and then with the edge of another line above or below it."""
    mask = line.mask
    if rng.random() > 0.14:
        return mask
    mask = mask.copy()
    other = letter(font, size, shop.texts.text(rng, 30)).mask
    step = round((line.box[3] - line.box[1]) * rng.uniform(1.12, 1.45)) * (1 if rng.random() < 0.5 else -1)
    w, rows = min(mask.shape[1], other.shape[1]), min(mask.shape[0], other.shape[0])
    for y in range(max(0, -step), min(rows, mask.shape[0] - step)):
        np.maximum(mask[y + step, :w], other[y, :w], out=mask[y + step, :w])
    return mask


def _tracking(rng: np.random.Generator, text: str) -> float:
    if rng.random() > 0.16 or len(text) < 2:
        return 0.0
    return float(rng.uniform(-0.015, 0.14))


def _wide(cell: Lettering) -> int:
    return math.ceil(cell.box[2] - cell.box[0])


def _high(cell: Lettering) -> int:
    return math.ceil(cell.box[3] - cell.box[1])


def _paste(alpha: np.ndarray, cell: Lettering, left: int, top: int) -> tuple[float, float, float, float]:
    """Put the ink inside the cell's box at (left, top); returns the box there."""
    x0, y0, x1, y1 = cell.box
    ix, iy = math.floor(x0), math.floor(y0)
    ink = cell.mask[max(iy, 0) : math.ceil(y1), max(ix, 0) : math.ceil(x1)]
    y, x = top + max(0, -iy), left + max(0, -ix)
    target = alpha[y : y + ink.shape[0], x : x + ink.shape[1]]
    np.maximum(target, ink[: target.shape[0], : target.shape[1]], out=target)
    return left + x0 - ix, top + y0 - iy, left + x1 - ix, top + y1 - iy


def _tilt(rng: np.random.Generator) -> tuple[float, float]:
    """(angle in radians, perspective strength): mostly straight, now and then well turned."""
    drawn = rng.random()
    limit = 1.0 if drawn < 0.3 else 4.0 if drawn < 0.75 else 12.0 if drawn < 0.95 else 28.0
    return math.radians(float(rng.uniform(-limit, limit))), float(rng.uniform(0, 0.22))


def _warp(
    rng: np.random.Generator, height: int, width: int, angle: float, strength: float
) -> tuple[np.ndarray, tuple[int, int]]:
    """A homography (3, 3) that turns a height x width picture and moves its corners; (its output's width, height)."""
    corners = _corners(0, 0, width, height)
    moved = corners + rng.uniform(-1, 1, (4, 2)) * strength * np.array([min(0.25 * width, 1.2 * height), 0.5 * height])
    c, s = math.cos(angle), math.sin(angle)
    turned = np.stack([c * moved[:, 0] - s * moved[:, 1], s * moved[:, 0] + c * moved[:, 1]], axis=1)
    turned -= turned.min(axis=0)
    size = (math.ceil(float(turned[:, 0].max())) + 1, math.ceil(float(turned[:, 1].max())) + 1)
    return cv2.getPerspectiveTransform(corners.astype(np.float32), turned.astype(np.float32)), size


def _corners(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64)


def mapped(warp: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (n, 2) through a homography (3, 3). Written out: a BLAS product may differ between processors."""
    x, y = points[:, 0], points[:, 1]
    scale = warp[2, 0] * x + warp[2, 1] * y + warp[2, 2]
    u = (warp[0, 0] * x + warp[0, 1] * y + warp[0, 2]) / scale
    v = (warp[1, 0] * x + warp[1, 1] * y + warp[1, 2]) / scale
    return np.stack([u, v], axis=1)
