"""How many filters each group keeps, so that a target is reached and least is lost.

Every group has a few levels, each with a price. Prices add up; sizes do not, because neighbouring groups share layers.
The search takes the cheapest cut for what it gains until the target is reached, then gives back and exchanges single
cuts and pairs of them for as long as that helps. Nothing here knows networks: numbers in, numbers out.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

# (…, groups) kept filters → (…, targets) shares of the whole.
Shares = Callable[[np.ndarray], np.ndarray]

EPSILON = 1e-9
BISECTIONS = 14
AT_ONCE = 4096


@dataclass(frozen=True)
class Choices:
    """A group's levels: filters kept, from all of them downwards, and what each costs, rising from 0."""

    kept: tuple[int, ...]
    prices: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.kept) != len(self.prices) or not self.kept:
            raise ValueError(f"expected a price for each level, found {self.kept} and {self.prices}")
        if list(self.kept) != sorted(set(self.kept), reverse=True) or list(self.prices) != sorted(self.prices):
            raise ValueError(f"expected falling levels at rising prices, found {self.kept} and {self.prices}")


class OutOfReach(Exception):
    """Not even the deepest cuts reach the target. least: (targets,) the shares that they do reach."""

    def __init__(self, least: np.ndarray) -> None:
        super().__init__(f"the deepest cuts leave {least}")
        self.least = least


def cheapest(groups: Sequence[Choices], shares: Shares, limits: Sequence[float], thorough: bool = True) -> np.ndarray:
    """(groups,) kept filters at the least price whose `shares` are all within `limits`; of equal ones the largest.

    No group can be given a level back without missing the target. thorough: search from other starts, too.
    Raises OutOfReach.
    """
    return _Search(groups, shares, np.asarray(limits, float)).run(thorough)


def deepest(groups: Sequence[Choices], shares: Shares, budget: float) -> np.ndarray:
    """(groups,) kept filters with the least share, averaged over what `shares` counts, whose prices sum to `budget`
    at most."""

    def mean(kept: np.ndarray) -> np.ndarray:
        return shares(kept).mean(axis=-1, keepdims=True)

    def price(kept: np.ndarray) -> float:
        return sum(group.prices[group.kept.index(int(k))] for group, k in zip(groups, kept, strict=True))

    low = float(mean(np.array([group.kept[-1] for group in groups]))[0])
    high, best = 1.0, np.array([group.kept[0] for group in groups])
    if price(floor := cheapest(groups, mean, [low], thorough=False)) <= budget + EPSILON:
        return floor
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        found = cheapest(groups, mean, [middle], thorough=False)
        if price(found) <= budget + EPSILON:
            high, best = min(middle, float(mean(found)[0])), found
        else:
            low = middle
    # At this size it may be had for less.
    return min((best, cheapest(groups, mean, [high])), key=price)


class _Search:
    """State: the level of each group, 0 keeping all."""

    def __init__(self, groups: Sequence[Choices], shares: Shares, limits: np.ndarray) -> None:
        self.shares, self.limits = shares, limits
        self.levels = np.array([len(group.kept) for group in groups])
        depth = int(self.levels.max())
        rows = np.arange(depth)
        # A level beyond a group's last one repeats it, so that both tables are rectangular.
        self.kept = np.array([[g.kept[min(i, len(g.kept) - 1)] for i in rows] for g in groups], float)
        self.prices = np.array([[g.prices[min(i, len(g.kept) - 1)] for i in rows] for g in groups])
        self.every = np.arange(len(groups))

    def run(self, thorough: bool) -> np.ndarray:
        deepest = self.levels - 1
        if self._excess(deepest) > EPSILON:
            raise OutOfReach(self._shares(deepest))
        best = self._improved(self._greedy(np.zeros(len(self.every), int)))
        best = min(best, self._improved(deepest), key=self._rank)
        while thorough and (better := self._elsewhere(best)) is not None:
            best = better
        return self.kept[self.every, best].astype(int)

    def _elsewhere(self, best: np.ndarray) -> np.ndarray | None:
        """A better end than `best` from a start beside it: two neighbours whole, cut as deep as can be, or one each."""
        pairs = itertools.product(itertools.pairwise([*self.every, self.every[0]]), (0, -1), (0, -1))
        for (one, other), first, second in pairs:
            start = best.copy()
            start[one], start[other] = first % self.levels[one], second % self.levels[other]
            with contextlib.suppress(OutOfReach):
                end = self._improved(self._greedy(start))
                if self._rank(end) < self._rank(best):
                    return end
        return None

    def _excess(self, levels: np.ndarray) -> np.ndarray:
        """(…, groups) levels → (…,) how far the shares are beyond the limits, in parts of the way from the whole."""
        found = self._shares(levels)
        return np.maximum((found - self.limits) / np.maximum(1 - self.limits, EPSILON), 0).sum(axis=-1)

    def _shares(self, levels: np.ndarray) -> np.ndarray:
        """(…, groups) levels → (…, targets); many at a time, but not all in memory at once."""
        kept = self.kept[self.every, levels]
        if kept.ndim == 1 or len(kept) <= AT_ONCE:
            return self.shares(kept)
        return np.concatenate([self.shares(kept[at : at + AT_ONCE]) for at in range(0, len(kept), AT_ONCE)])

    def _price(self, levels: np.ndarray) -> np.ndarray:
        return self.prices[self.every, levels].sum(axis=-1)

    def _rank(self, levels: np.ndarray) -> tuple[float, float]:
        """Cheaper first, then larger: a search for the smallest pruning that reaches the target."""
        size = self._shares(levels).sum()
        return round(float(self._price(levels)), 9), -float(size)

    def _greedy(self, levels: np.ndarray) -> np.ndarray:
        """Cut further from `levels` until the target is reached."""
        excess = float(self._excess(levels))
        while excess > EPSILON:
            moves = self._moves(levels, deeper=True)
            gains = excess - self._excess(moves)
            rates = np.where(
                gains > EPSILON, (self._price(moves) - self._price(levels)) / np.maximum(gains, EPSILON), np.inf
            )
            # Among equally cheap cuts the one into the least cut group: what measuring calls free may not quite be.
            group = np.argmax(moves - levels, axis=1)
            left = self.kept[group, moves[np.arange(len(moves)), group]] / self.kept[group, 0]
            best = np.lexsort((-left, np.round(rates, 12)))[0]
            if not np.isfinite(rates[best]):
                raise OutOfReach(self._shares(levels))
            levels = moves[best]
            excess = float(self._excess(levels))
        return levels

    def _moves(self, levels: np.ndarray, deeper: bool) -> np.ndarray:
        """(moves, groups): each changes one group, to any deeper or any shallower level."""
        moves = []
        for group, level in enumerate(levels):
            for other in range(level + 1, self.levels[group]) if deeper else range(level):
                moves.append(levels.copy())
                moves[-1][group] = other
        return np.array(moves, int).reshape(-1, len(levels))

    def _improved(self, levels: np.ndarray) -> np.ndarray:
        """Give back single cuts, then change pairs, until neither helps."""
        while True:
            better = self._best_of(levels, self._moves(levels, deeper=False))
            if better is None:
                better = self._best_of(levels, self._pairs(levels))
            if better is None:
                return levels
            levels = better

    def _pairs(self, levels: np.ndarray) -> np.ndarray:
        """(moves, groups): one group gets filters back, another one pays for it."""
        back, forth = self._moves(levels, deeper=False), self._moves(levels, deeper=True)
        pairs = (back[:, None, :] + forth[None, :, :] - levels).reshape(-1, len(levels))
        gains = self._price(pairs) - self._price(levels)
        return pairs[gains <= EPSILON]

    def _best_of(self, levels: np.ndarray, moves: np.ndarray) -> np.ndarray | None:
        """The best of the moves that keep the target, where it is better than staying."""
        moves = moves[self._excess(moves) <= EPSILON] if len(moves) else moves
        if not len(moves):
            return None
        sizes = self._shares(moves).sum(axis=-1)
        best = moves[np.lexsort((-sizes, np.round(self._price(moves), 9)))[0]]
        return best if self._rank(best) < self._rank(levels) else None
