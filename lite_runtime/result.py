"""What the pipeline found: records, JSON, picture."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Corner = tuple[float, float]


@dataclass(frozen=True)
class TextLine:
    """One line of text.

    quad: four corners (x, y) in image px, clockwise from the text's top-left as it lies in the image; score: mean
    probability of its characters; direction: 0 or 180 as the classifier called it, None without a classifier.
    """

    quad: tuple[Corner, Corner, Corner, Corner]
    text: str
    score: float
    direction: int | None = None
    direction_score: float | None = None


@dataclass(frozen=True)
class OcrResult:
    """Lines in reading order, and milliseconds by stage (det, crop, cls, rec, total)."""

    lines: tuple[TextLine, ...]
    timings_ms: dict[str, float]

    @property
    def quads(self) -> np.ndarray:
        """(N, 4, 2) float32; (0, 4, 2) when nothing was found."""
        return np.array([line.quad for line in self.lines], np.float32).reshape(-1, 4, 2)

    @property
    def texts(self) -> list[str]:
        return [line.text for line in self.lines]

    def to_json(self) -> dict[str, Any]:
        """Plain lists, strings and numbers."""
        return {"lines": [asdict(line) for line in self.lines], "timings_ms": dict(self.timings_ms)}

    def draw(self, image: np.ndarray) -> np.ndarray:
        """The image (H, W, 3) uint8 BGR with the boxes, and beside or below it a panel with the texts in place."""
        from lite_runtime.draw import draw_lines

        return draw_lines(image, self.lines)
