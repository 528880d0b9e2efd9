"""A network's output → what the user would see, read with a stage's own manifest; and how two of those agree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import artifact
from artifact import Manifest
from export import tolerances
from export.agreement import BoxAgreement, edit_distance, match_boxes
from lite_runtime import ctc_decode, db_postprocess
from lite_runtime.options import Options

NO_QUADS = np.zeros((0, 4, 2), np.float32)


@dataclass(frozen=True)
class Answer:
    """quads: (N, 4, 2) px, of a detector; texts: lines of a recognizer, angles of a classifier. error: "NaN" or so."""

    quads: np.ndarray
    texts: tuple[str, ...]
    error: str = ""


@dataclass(frozen=True)
class Verdict:
    """result: for people; boxes, edits: None where the task has none."""

    result: str
    same: bool
    boxes: BoxAgreement | None = None
    edits: int | None = None


class Reader:
    """Reads a model's outputs with the thresholds, labels and charset that lie beside it."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.manifest = manifest
        self.options = Options.from_manifests(manifest)
        self.labels: list[str] = list(manifest.post.get("labels", ("0", "180")))
        if manifest.charset:
            self.labels = artifact.charset_labels(artifact.read_charset(folder, manifest), manifest.charset.space)

    def read(self, output: np.ndarray) -> Answer:
        """output: (1, 1, H, W), (N, angles) or (N, T, classes); quads are in the pixels of the map."""
        task = self.manifest.task
        ranks = {"det": 4, "cls": 2, "rec": 3}
        # A charset of another length is its own finding; here it must not break the reading.
        if output.ndim != ranks[task] or (task != "det" and output.shape[-1] != len(self.labels)):
            return Answer(NO_QUADS, (), f"output {list(output.shape)}")
        if not np.isfinite(output).all():
            return Answer(NO_QUADS, (), "NaN")
        if task == "det":
            return Answer(self._boxes(output), ())
        if task == "cls":
            return Answer(NO_QUADS, tuple(self.labels[index] for index in output.argmax(-1)))
        assert self.manifest.charset is not None
        lines = ctc_decode.greedy(output, self.labels, self.manifest.charset.blank)
        return Answer(NO_QUADS, tuple(text for text, _ in lines))

    def _boxes(self, output: np.ndarray) -> np.ndarray:
        options = self.options
        return db_postprocess.boxes_from_prob_map(
            output[0, 0],
            thresh=options.thresh,
            box_thresh=options.box_thresh,
            unclip_ratio=options.unclip_ratio,
            max_candidates=options.max_candidates,
            score_mode=options.score_mode,
            use_dilation=options.use_dilation,
            image_shape=(output.shape[2], output.shape[3]),
        )[0]


def compare(task: str, reference: Answer, other: Answer) -> Verdict:
    """What `other` says, and whether the reference says that, too."""
    if other.error or reference.error:
        return Verdict(other.error or "no answer to compare with", False)
    if task == "det":
        boxes = match_boxes(reference.quads, other.quads, tolerances.BOXES.value)
        return Verdict(count(len(other.quads), "box", "boxes"), boxes.same, boxes)
    same = reference.texts == other.texts
    if task == "cls":
        return Verdict(count(len(other.texts), "label"), same)
    return Verdict(count(len(other.texts), "text"), same, edits=edit_distance(reference.texts, other.texts))


def count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
