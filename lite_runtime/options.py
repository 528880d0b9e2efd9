"""Settings of the pipeline: PaddleOCR's names and defaults, a manifest's values where it has them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from artifact import Manifest
from command import UsageError


@dataclass(frozen=True)
class Options:
    """What may be tuned without another model.

    limit_side_len, limit_type: size of the detector's input (px; "max": longer side at most, "min": shorter side at
    least). thresh: probability from which a pixel is text; box_thresh: mean probability from which a box is;
    unclip_ratio: growth of boxes; max_candidates: contours looked at; score_mode: fast (rectangle) or slow (contour).
    cls_thresh: score above which a line called "180" is turned. drop_score: lines below it are left out.
    """

    limit_side_len: int = 960
    limit_type: str = "max"
    thresh: float = 0.3
    box_thresh: float = 0.6
    unclip_ratio: float = 1.5
    max_candidates: int = 1000
    use_dilation: bool = False
    score_mode: str = "fast"
    use_angle_cls: bool = True
    cls_thresh: float = 0.9
    cls_batch_num: int = 6
    rec_batch_num: int = 6
    drop_score: float = 0.5

    def __post_init__(self) -> None:
        for name, allowed in (("limit_type", ("max", "min")), ("score_mode", ("fast", "slow"))):
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name}: expected {' or '.join(allowed)}, found {getattr(self, name)!r}")
        for name in ("thresh", "box_thresh", "cls_thresh", "drop_score"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name}: expected a number from 0 to 1, found {getattr(self, name)}")
        for name in ("limit_side_len", "max_candidates", "cls_batch_num", "rec_batch_num"):
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 1):
                raise UsageError(f"{name}: expected a whole number from 1, found {getattr(self, name)}")
        if not 0 < self.unclip_ratio <= 10:
            raise UsageError(f"unclip_ratio: expected a number above 0, at most 10, found {self.unclip_ratio}")

    @classmethod
    def from_manifests(cls, *manifests: Manifest | None, **given: Any) -> Options:
        """The defaults, overruled by the manifests' `input` and `post`, overruled by what is given and not None."""
        names = {field.name for field in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for manifest in manifests:
            if manifest is None:
                continue
            if manifest.input is not None and manifest.input.limit_side_len:
                values["limit_side_len"] = manifest.input.limit_side_len
                values["limit_type"] = manifest.input.limit_type
            values.update({name: value for name, value in manifest.post.items() if name in names})
        values.update({name: value for name, value in given.items() if value is not None})
        if unknown := sorted(set(values) - names):
            raise UsageError(f"expected options among {', '.join(sorted(names))}, found {', '.join(unknown)}")
        return cls(**values)
