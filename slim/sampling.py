"""Which samples make up each optimizer step, and reading them ahead of it.

A step's samples follow from the seed and the sampler's small state alone, so that a run that was killed goes on with
exactly the samples it would have seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

# The share of line batches that is padded as far as at run time. Tight batches are cheaper; but a recognizer that has
# never seen a wide margin does not read a line that has one.
PADDED_SHARE = 0.5


@dataclass(frozen=True)
class Draw:
    """One step's samples. `seed` drives their augmentation; `width` is the batch's width in px (0: no line batch)."""

    step: int
    indices: tuple[int, ...]
    width: int
    seed: tuple[int, ...]

    def share(self, rank: int, ranks: int) -> Draw:
        """The part of the step that process `rank` of `ranks` computes: distinct samples, as even as possible."""
        return Draw(self.step, self.indices[rank::ranks], self.width, (*self.seed, rank))


@dataclass
class Sampler:
    """Endless batches; within a width group every sample comes once before any comes again.

    groups: width in px → indices of the samples of that width ({0: all} where width does not matter).
    batch_of: width → samples in a batch. widest_of: step → the widest group that takes part.
    padded_of: width of a group → width of its batches at run time.
    A group is chosen in proportion to samples / batch size, so that all samples are seen equally often.
    """

    groups: Mapping[int, np.ndarray]
    batch_of: Callable[[int], int]
    seed: int
    widest_of: Callable[[int], int] | None = None
    padded_of: Callable[[int], int] | None = None
    positions: dict[int, int] = field(default_factory=dict)

    def draw(self, step: int) -> Draw:
        """The samples of `step`; steps must be asked for in order."""
        widest = self.widest_of(step) if self.widest_of else max(self.groups)
        widths = [w for w in sorted(self.groups) if w <= widest and len(self.groups[w])]
        if not widths:
            # A schedule may begin below the narrowest line there is.
            widths = [min(w for w in self.groups if len(self.groups[w]))]
        rng = np.random.default_rng([self.seed, 1, step])
        weights = np.array([len(self.groups[w]) / self.batch_of(w) for w in widths])
        group = width = widths[int(rng.choice(len(widths), p=weights / weights.sum()))]
        if self.padded_of and rng.random() < PADDED_SHARE:
            width = self.padded_of(group)
        return Draw(step, tuple(self._take(group, self.batch_of(width))), width, (self.seed, 2, step))

    def _take(self, group: int, count: int) -> Iterator[int]:
        members = self.groups[group]
        position = self.positions.get(group, 0)
        self.positions[group] = position + count
        for number in range(position, position + count):
            epoch, offset = divmod(number, len(members))
            yield int(members[self._order(group, epoch)[offset]])

    def _order(self, group: int, epoch: int) -> np.ndarray:
        key = (group, epoch)
        if key not in self._orders:
            for old in [k for k in self._orders if k[0] == group and k[1] < epoch - 1]:
                del self._orders[old]
            self._orders[key] = np.random.default_rng([self.seed, 3, group, epoch]).permutation(len(self.groups[group]))
        return self._orders[key]

    def __post_init__(self) -> None:
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    def state(self) -> dict[str, int]:
        """Samples taken from each group so far; with the seed it determines all that follows."""
        return {str(width): position for width, position in self.positions.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.positions = {int(width): int(position) for width, position in state.items()}


class Feeder:
    """Loads the batches of coming steps in a thread while the current one computes.

    A thread and not a process: decoding and resizing release the interpreter lock, and nothing is left behind when
    the run is killed. `state` is the sampler's state after the batch handed out last, not after the ones read ahead.
    """

    def __init__(self, sampler: Sampler, load: Callable[[Draw], T], first_step: int, ahead: int = 2) -> None:
        self._sampler = sampler
        self._load = load
        self._next_step = first_step
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="feeder")
        self._waiting: deque[tuple[Future, dict[str, int]]] = deque()
        self._ahead = ahead
        self.state = sampler.state()

    def next(self) -> Any:
        while len(self._waiting) <= self._ahead:
            draw = self._sampler.draw(self._next_step)
            self._next_step += 1
            self._waiting.append((self._pool.submit(self._load, draw), self._sampler.state()))
        future, self.state = self._waiting.popleft()
        return future.result()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Feeder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
