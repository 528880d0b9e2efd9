import math

import numpy as np
import paddle
import pytest

from slim.losses import CrossEntropyLoss, CTCLoss, DBLoss, balanced_bce, dice, masked_l1


def maps(*rows):
    return paddle.to_tensor(np.array([rows], np.float32))  # (1, H, W)


ONES = maps([1, 1, 1, 1])


class TestBalancedBCE:
    def test_one_positive_brings_its_three_hardest_negatives(self):
        prob = maps([0.9, 0.1, 0.2, 0.3, 0.4])
        target, mask = maps([1, 0, 0, 0, 0]), maps([1, 1, 1, 1, 1])
        # the easiest negative, .1, is left out; four pixels count
        expected = -(math.log(0.9) + math.log(0.8) + math.log(0.7) + math.log(0.6)) / 4
        assert float(balanced_bce(prob, target, mask, 3.0)) == pytest.approx(expected, rel=1e-5)

    def test_fewer_negatives_than_the_ratio_allows(self):
        prob, target = maps([0.5, 0.25]), maps([1, 0])
        expected = -(math.log(0.5) + math.log(0.75)) / 2
        assert float(balanced_bce(prob, target, maps([1, 1]), 3.0)) == pytest.approx(expected, rel=1e-5)

    def test_masked_pixels_count_on_neither_side(self):
        prob, target, mask = maps([0.5, 0.01, 0.99]), maps([1, 1, 0]), maps([1, 0, 0])
        assert float(balanced_bce(prob, target, mask)) == pytest.approx(math.log(2), rel=1e-5)

    def test_no_text_costs_nothing(self):
        assert float(balanced_bce(maps([0.9, 0.9]), maps([0, 0]), maps([1, 1]))) == 0.0

    def test_certain_and_wrong_stays_finite(self):
        assert math.isfinite(float(balanced_bce(maps([0.0, 1.0]), maps([1, 0]), maps([1, 1]))))

    def test_left_out_negatives_get_no_gradient(self):
        prob = maps([0.9, 0.1, 0.2, 0.3, 0.4])
        prob.stop_gradient = False
        balanced_bce(prob, maps([1, 0, 0, 0, 0]), maps([1, 1, 1, 1, 1]), 3.0).backward()
        gradient = prob.grad.numpy()[0, 0]
        assert gradient[1] == 0
        assert gradient[0] < 0 < gradient[4]


@pytest.mark.parametrize(
    ("pred", "target", "expected"),
    [
        pytest.param([1, 1, 0, 0], [1, 1, 0, 0], 0.0, id="perfect"),
        pytest.param([1, 1, 0, 0], [0, 0, 1, 1], 1.0, id="disjoint"),
        pytest.param([1, 1, 1, 0], [0, 1, 1, 1], 1 - 4 / 6, id="partial 2 of 3 and 3"),
        pytest.param([0, 0, 0, 0], [0, 0, 0, 0], 1.0, id="empty"),
    ],
)
def test_dice(pred, target, expected):
    assert float(dice(maps(pred), maps(target), ONES)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("pred", "target", "mask", "expected"),
    [
        pytest.param([0.3, 0.7, 0.5, 0.5], [0.3, 0.7, 0.5, 0.5], [1, 1, 1, 1], 0.0, id="perfect"),
        pytest.param([0.3, 0.7, 0.0, 0.0], [0.7, 0.3, 0.9, 0.9], [1, 1, 0, 0], 0.4, id="half is masked"),
        pytest.param([0.3, 0.7, 0.0, 0.0], [0.7, 0.3, 0.9, 0.9], [0, 0, 0, 0], 0.0, id="empty mask"),
    ],
)
def test_masked_l1(pred, target, mask, expected):
    assert float(masked_l1(maps(pred), maps(target), maps(mask))) == pytest.approx(expected, abs=1e-5)


def test_db_loss_weighs_its_parts_five_one_ten():
    rng = np.random.default_rng(0)
    output = paddle.to_tensor(rng.random((2, 3, 8, 8), dtype=np.float32))
    targets = tuple(paddle.to_tensor((rng.random((2, 8, 8)) > 0.5).astype(np.float32)) for _ in range(4))
    loss, parts = DBLoss()(output, targets)
    assert float(loss) == pytest.approx(5 * parts["prob"] + parts["binary"] + 10 * parts["threshold"], rel=1e-5)


class TestCTC:
    def test_two_steps_one_character(self):
        """Two classes, uniform: of the four paths three spell "a" (aa, a-, -a)."""
        logits = paddle.zeros([1, 2, 2])
        loss, _ = CTCLoss()(logits, paddle.to_tensor([[1]], "int32"), paddle.to_tensor([1], "int64"))
        assert float(loss) == pytest.approx(-math.log(3 / 4), rel=1e-5)

    def test_mean_over_lines_of_different_lengths(self):
        """Three uniform classes, two steps: "a" by 3 of 9 paths, "ab" by 1 of 9."""
        labels = paddle.to_tensor([[1, 0], [1, 2]], "int32")
        loss, _ = CTCLoss()(paddle.zeros([2, 2, 3]), labels, paddle.to_tensor([1, 2], "int64"))
        assert float(loss) == pytest.approx((math.log(3) + math.log(9)) / 2, rel=1e-5)

    def test_certain_and_right_costs_nothing(self):
        logits = np.full((1, 3, 3), -20, np.float32)
        logits[0, [0, 1, 2], [1, 0, 2]] = 20
        loss, _ = CTCLoss()(
            paddle.to_tensor(logits), paddle.to_tensor([[1, 2]], "int32"), paddle.to_tensor([2], "int64")
        )
        assert float(loss) == pytest.approx(0, abs=1e-5)


def test_cross_entropy_of_an_undecided_classifier():
    loss, _ = CrossEntropyLoss()(paddle.zeros([3, 2]), paddle.to_tensor([0, 1, 1], "int64"))
    assert float(loss) == pytest.approx(math.log(2), rel=1e-6)
