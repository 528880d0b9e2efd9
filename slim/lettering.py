"""One line of text → its coverage mask and its box, before any warp."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MARGIN = 0.07  # of the font size, between the ink and the label's box


@dataclass(frozen=True)
class Lettering:
    """mask: (h, w) uint8 coverage; box: (x0, y0, x1, y1) px in it; baseline: y px in it."""

    mask: np.ndarray
    box: tuple[float, float, float, float]
    baseline: float


@lru_cache(maxsize=1024)
def open_font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    # The basic layout needs no text-shaping library, whose version would change the bytes.
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=4096)
def _x_height(path: Path, size: int) -> float:
    return -float(open_font(path, size).getbbox("x", anchor="ls")[1])


def letter(path: Path, size: int, text: str, tracking: float = 0.0) -> Lettering:
    """Draw `text` (no spaces at its ends) at `size` px; tracking adds that share of the size between characters.

    The box holds the ink with a margin, and never less than the band between baseline and x-height, so that a
    line of dots has a box that a reader would draw.
    """
    font = open_font(path, size)
    pad = size // 2 + 2
    if tracking:
        step = tracking * size
        starts, x = [], 0.0
        for char in text:
            starts.append(x)
            x += font.getlength(char) + step
        width, top, bottom = x, -size * 1.3, size * 0.6
    else:
        starts = []
        _, top, width, bottom = font.getbbox(text, anchor="ls")
    baseline = round(pad + max(-top, size))
    canvas = Image.new("L", (int(width) + 2 * pad, int(baseline + max(bottom, size * 0.4)) + pad), 0)
    draw = ImageDraw.Draw(canvas)
    if tracking:
        for char, start in zip(text, starts, strict=True):
            draw.text((pad + start, baseline), char, font=font, fill=255, anchor="ls")
    else:
        draw.text((pad, baseline), text, font=font, fill=255, anchor="ls")
    mask = np.asarray(canvas)
    x0, y0, x1, y1 = canvas.getbbox() or (pad, baseline - size, pad + size, baseline)
    margin = MARGIN * size
    box = (
        x0 - margin,
        min(float(y0), baseline - _x_height(path, size)) - margin,
        x1 + margin,
        max(float(y1), float(baseline)) + margin,
    )
    return Lettering(mask, box, float(baseline))
