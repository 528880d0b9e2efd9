"""Image → text quads, through any engine."""

from __future__ import annotations

import cv2
import numpy as np

from command import ModelError, UsageError
from lite_runtime import db_postprocess, preprocess
from lite_runtime.stage import Stage

# The network keeps about 40 times its input in memory: beyond this a photograph takes gigabytes.
MAX_INPUT_PX = 4096 * 4096


class TextDetector(Stage):
    """The DB detector."""

    TASK = "det"
    NAME = "detector"

    def input_size(self, image: np.ndarray) -> tuple[int, int]:
        """(height, width) at which the network will see an image. UsageError when that is beyond reason."""
        side, kind, multiple = self._limits
        height, width = preprocess.detection_size(*_canvas(image), side, kind, multiple)
        if height * width > MAX_INPUT_PX:
            raise UsageError(
                f"expected a detector input of at most {MAX_INPUT_PX} px, found {width}x{height} for an image of "
                f"{image.shape[1]}x{image.shape[0]}; lower limit_side_len or use limit_type max"
            )
        return height, width

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 BGR → the network's input (1, 3, H', W') float32."""
        self.input_size(image)
        resized = preprocess.resize_for_detection(image, *self._limits)
        ordered = resized if self.input.color == "BGR" else cv2.cvtColor(resized, cv2.COLOR_BGR2RGB)
        return preprocess.normalize(ordered, self.input.mean, self.input.std)[None]

    def detect(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Text boxes of an image (H, W, 3) uint8 BGR, in reading order.

        Returns quads (N, 4, 2) float32 in whole image pixels, clockwise from top-left, and scores (N,) float32.
        Raises ModelError when the network's output is no probability map.
        """
        x = self.prepare(image)
        prob_map = self.engine.run(x)  # (1, 1, H', W')
        if prob_map.shape != (1, 1, *x.shape[2:]) or not np.isfinite(prob_map).all():
            raise ModelError(
                f"{self.manifest.name}: expected a probability map {(1, 1, *x.shape[2:])}, found {prob_map.shape}"
                f"{'' if np.isfinite(prob_map).all() else ' with NaN'}; this is no working DB detector"
            )
        return self.boxes(prob_map[0, 0], (image.shape[0], image.shape[1]))

    def boxes(self, prob_map: np.ndarray, image_shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """What `detect` returns, from the network's map (H', W') of an image of (height, width)."""
        options = self.options
        quads, scores = db_postprocess.boxes_from_prob_map(
            prob_map,
            thresh=options.thresh,
            box_thresh=options.box_thresh,
            unclip_ratio=options.unclip_ratio,
            max_candidates=options.max_candidates,
            score_mode=options.score_mode,
            use_dilation=options.use_dilation,
            image_shape=preprocess.padded_size(*image_shape),
        )
        quads, scores = db_postprocess.keep_sizeable(quads, scores, image_shape)
        order = db_postprocess.reading_order(quads)
        return quads[order], scores[order]

    @property
    def _limits(self) -> tuple[int, str, int]:
        return self.options.limit_side_len, self.options.limit_type, self.input.multiple_of


def _canvas(image: np.ndarray) -> tuple[int, int]:
    """(height, width) of what is resized: the image, or the larger canvas on which a tiny one lies."""
    return preprocess.padded_size(image.shape[0], image.shape[1])
