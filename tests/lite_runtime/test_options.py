"""Defaults, what a manifest changes, what is refused."""

import pytest

from artifact import Input, Manifest
from command import UsageError
from lite_runtime.options import Options


def test_defaults_are_paddleocr_s():
    assert Options() == Options(
        limit_side_len=960,
        limit_type="max",
        thresh=0.3,
        box_thresh=0.6,
        unclip_ratio=1.5,
        max_candidates=1000,
        use_dilation=False,
        score_mode="fast",
        use_angle_cls=True,
        cls_thresh=0.9,
        cls_batch_num=6,
        rec_batch_num=6,
        drop_score=0.5,
    )


def test_manifest_over_default_and_given_over_manifest():
    eats = Input((-1, 3, -1, -1), (0, 0, 0), (1, 1, 1), limit_side_len=736, limit_type="min")
    det = Manifest("nb", "det", "d", input=eats, post={"box_thresh": 0.4, "thresh": 0.2, "foreign": 1})
    cls = Manifest("nb", "cls", "c", post={"cls_thresh": 0.8, "labels": ["0", "180"]})
    options = Options.from_manifests(det, None, cls, thresh=0.1, drop_score=None)
    assert options == Options(limit_side_len=736, limit_type="min", thresh=0.1, box_thresh=0.4, cls_thresh=0.8)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"limit_type": "mean"}, "expected max or min, found 'mean'"),
        ({"score_mode": "quick"}, "expected fast or slow"),
        ({"thresh": 1.1}, "thresh: expected a number from 0 to 1"),
        ({"box_thresh": -0.1}, "box_thresh"),
        ({"drop_score": float("nan")}, "drop_score"),
        ({"limit_side_len": 0}, "limit_side_len: expected a whole number from 1"),
        ({"rec_batch_num": 1.5}, "rec_batch_num"),
        ({"unclip_ratio": 0}, "unclip_ratio"),
        ({"colour": 1}, "found colour"),
    ],
)
def test_bad_values(given, words):
    with pytest.raises(UsageError, match=words):
        Options.from_manifests(**given)
