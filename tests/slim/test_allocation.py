"""The search for what each group keeps: a table to check by hand, and every choice of small ones tried out."""

import itertools

import numpy as np
import pytest

from slim.allocation import Choices, OutOfReach, cheapest, deepest


def mean_kept(filters):
    """Shares where a group's size is its filters: (…, groups) → (…, 1)."""
    return lambda kept: kept.sum(axis=-1, keepdims=True) / sum(filters)


def test_choices_by_hand():
    """Three groups of 16, 24 and 32; of 72 filters 48 may stay, so 24 go.

    a alone gives 8 for .1; b gives 8 for .02 and 16 for .5; c gives 8 for .03, 16 for .04, 24 for .9.
    24 = b 8 + c 16 for .06; a 8 + c 16 would cost .14, b 16 + c 8 .53.
    """
    groups = (
        Choices((16, 8), (0.0, 0.1)),
        Choices((24, 16, 8), (0.0, 0.02, 0.5)),
        Choices((32, 24, 16, 8), (0.0, 0.03, 0.04, 0.9)),
    )
    shares = mean_kept((16, 24, 32))
    assert cheapest(groups, shares, [48 / 72]).tolist() == [16, 16, 16]
    # With .06 to spend nothing more can go, with .05 c's 16 are the most, with .16 a's 8 go, too.
    assert deepest(groups, shares, 0.06).tolist() == [16, 16, 16]
    assert deepest(groups, shares, 0.05).tolist() == [16, 24, 16]
    assert deepest(groups, shares, 0.16).tolist() == [8, 16, 16]
    assert deepest(groups, shares, 0.0).tolist() == [16, 24, 32]
    assert deepest(groups, shares, 2.0).tolist() == [8, 8, 8]


def test_a_target_is_reached_by_the_smallest_pruning():
    """Free cuts: as few as the target needs, the least cut group first; a target that all keep costs nothing."""
    groups = [Choices((32, 24, 16, 8), (0.0, 0.0, 0.0, 0.0))] * 3
    shares = mean_kept((32, 32, 32))
    assert cheapest(groups, shares, [72 / 96]).tolist() == [24, 24, 24]
    assert cheapest(groups, shares, [0.999]).sum() == 88
    assert cheapest(groups, shares, [1.0]).tolist() == [32, 32, 32]


def test_cuts_meet_between_neighbours():
    """A layer's size is its inputs times its filters: 8 · a + a · b + b with 16 each is 400.

    a = 8 leaves 64 + 128 + 16 = 208, b = 8 leaves 128 + 128 + 8 = 264: at most 210 needs a, at most 300 may be either.
    """

    def shares(kept):
        a, b = kept[..., 0], kept[..., 1]
        return ((8 * a + a * b + b) / 400)[..., None]

    groups = (Choices((16, 8), (0.0, 0.3)), Choices((16, 8), (0.0, 0.1)))
    assert cheapest(groups, shares, [300 / 400]).tolist() == [16, 8]
    assert cheapest(groups, shares, [210 / 400]).tolist() == [8, 16]
    assert cheapest(groups, shares, [150 / 400]).tolist() == [8, 8]
    with pytest.raises(OutOfReach) as caught:
        cheapest(groups, shares, [0.3])
    assert caught.value.least == pytest.approx([(64 + 64 + 8) / 400])


def test_two_targets_at_once():
    """a is all of one size and b of the other: both targets need both groups."""

    def shares(kept):
        return kept / 16

    groups = [Choices((16, 8), (0.0, 0.1)), Choices((16, 8), (0.0, 0.2))]
    assert cheapest(groups, shares, [0.5, 1.0]).tolist() == [8, 16]
    assert cheapest(groups, shares, [0.9, 0.9]).tolist() == [8, 8]


def brute_force(groups, shares, limits):
    """The least price of all choices within the limits."""
    best = np.inf
    for levels in itertools.product(*(range(len(group.kept)) for group in groups)):
        kept = np.array([group.kept[level] for group, level in zip(groups, levels, strict=True)], float)
        if (shares(kept) <= limits).all():
            best = min(best, sum(group.prices[level] for group, level in zip(groups, levels, strict=True)))
    return best


def test_it_finds_the_optimum_of_small_tables():
    """Five groups in a row, sizes multiplied between neighbours, prices with plateaus: all 1,024 choices tried."""
    rng = np.random.default_rng(0)
    found, least = [], []
    for _ in range(40):
        steps = rng.exponential(1, (5, 3)) * rng.integers(0, 2, (5, 3))
        groups = [Choices((32, 24, 16, 8), (0.0, *map(float, np.cumsum(row)))) for row in steps]
        weights = rng.random((6, 2))
        weights /= weights.sum(axis=0)

        def shares(kept, weights=weights):
            edge = np.ones((*kept.shape[:-1], 1))
            row = np.concatenate([edge, kept / 32, edge], axis=-1)
            return (row[..., :-1] * row[..., 1:]) @ weights

        limits = [0.5, 0.45]
        kept = cheapest(groups, shares, limits)
        assert (shares(kept.astype(float)) <= np.array(limits) + 1e-9).all()
        found.append(sum(g.prices[g.kept.index(k)] for g, k in zip(groups, kept, strict=True)))
        least.append(brute_force(groups, shares, limits))
    assert np.allclose(found, least)


@pytest.mark.parametrize("kept, prices", [((8, 16), (0, 1)), ((16, 8), (1, 0)), ((16,), (0, 1)), ((), ())])
def test_levels_that_make_no_sense(kept, prices):
    with pytest.raises(ValueError, match="expected"):
        Choices(kept, prices)
