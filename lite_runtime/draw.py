"""Picture of a result, with OpenCV alone: no font file is needed, and none can be missing."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from lite_runtime.result import TextLine

PALETTE = ((60, 20, 220), (180, 105, 0), (0, 140, 60), (160, 0, 160), (0, 110, 230), (120, 80, 20))  # BGR
FONT = cv2.FONT_HERSHEY_SIMPLEX
INK = (40, 40, 40)


def draw_lines(image: np.ndarray, lines: Sequence[TextLine]) -> np.ndarray:
    """(H, W, 3) uint8 BGR → (H, 2W, 3), or (2H, W, 3) for a wide image: boxes here, texts there at the same place.

    OpenCV's strokes know ASCII; every other character is drawn as a question mark.
    """
    height, width = image.shape[:2]
    picture, panel = image.copy(), np.full_like(image, 255)
    stroke = max(1, round(min(height, width) / 400))
    for number, line in enumerate(lines):
        colour = PALETTE[number % len(PALETTE)]
        corners = np.array(line.quad, np.int32)[:, None]  # (4, 1, 2)
        for canvas in (picture, panel):
            cv2.polylines(canvas, [corners], True, colour, stroke, cv2.LINE_AA)
        _write(panel, line)
    return np.concatenate((picture, panel), axis=0 if width > 2 * height else 1)


def _write(panel: np.ndarray, line: TextLine) -> None:
    """The text, upright and as large as fits a box of the quad's side lengths, centred on the quad."""
    text = "".join(character if " " <= character <= "~" else "?" for character in line.text)
    if not text:
        return
    quad = np.array(line.quad, np.float32)
    sides = np.linalg.norm(quad - np.roll(quad, -1, axis=0), axis=1)
    if sides[1] >= 1.5 * sides[0]:  # a vertical line: its text would not fit across
        room = (max(sides[1], 1.0), max(sides[0], 1.0))
    else:
        room = (max(sides[0], 1.0), max(sides[1], 1.0))
    (text_width, text_height), _ = cv2.getTextSize(text, FONT, 1.0, 1)
    scale = max(0.2, 0.9 * min(room[0] / text_width, 0.7 * room[1] / text_height))
    (text_width, text_height), _ = cv2.getTextSize(text, FONT, scale, 1)
    centre = quad.mean(axis=0)
    at = (int(centre[0] - text_width / 2), int(centre[1] + text_height / 2))
    cv2.putText(panel, text, at, FONT, scale, INK, max(1, round(scale)), cv2.LINE_AA)
