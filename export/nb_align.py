"""Finds for each op of one `.nb` file its partner in another, by what it computes and not by its variables' names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from export.nb_file import KERNEL_ATTRIBUTE, Kernel, NbFile, Op, Param

# Work grows with the product of the two lengths; beyond this (1,000 ops that differ in each) all count as replaced.
_MOST_CELLS = 1_000_000


@dataclass(frozen=True)
class _Face:
    """What an op looks like, whatever its variables are called."""

    type: str
    kernel: Kernel | None
    attributes: str
    weights: tuple[str, ...]


def digests(nb: NbFile) -> dict[str, str]:
    """Weight → hash of its item type, shape and content."""
    return {name: _digest(param) for name, param in nb.params.items()}


def _digest(param: Param) -> str:
    content = hashlib.blake2b(f"{param.dtype}{param.shape}".encode(), digest_size=16)
    content.update(param.data)
    return content.hexdigest()


def align(a: NbFile, b: NbFile, digests_a: dict[str, str], digests_b: dict[str, str]) -> list[tuple[int, int]]:
    """Pairs (number in a, number in b) of ops of equal type, ascending in both; the most alike of all such lists."""
    return _pairs(_faces(a, digests_a), _faces(b, digests_b))


def _faces(nb: NbFile, digests: dict[str, str]) -> list[_Face]:
    return [
        _Face(
            op.type,
            op.kernel,
            repr(sorted((name, repr(value)) for name, value in op.attributes.items() if name != KERNEL_ATTRIBUTE)),
            tuple(digests[name] for name in _inputs(op) if name in digests),
        )
        for op in nb.ops
    ]


def _inputs(op: Op) -> list[str]:
    return [name for slot in sorted(op.inputs) for name in op.inputs[slot]]


def _pairs(a: list[_Face], b: list[_Face]) -> list[tuple[int, int]]:
    """Equal ends are paired at once; between them the list of pairs with the highest sum of likenesses is sought."""
    shorter = min(len(a), len(b))
    head = next((i for i in range(shorter) if a[i] != b[i]), shorter)
    tail = next((i for i in range(shorter - head) if a[-1 - i] != b[-1 - i]), shorter - head)
    middle = _best(a[head : len(a) - tail], b[head : len(b) - tail])
    pairs = [(i, i) for i in range(head)]
    pairs += [(head + i, head + j) for i, j in middle]
    return pairs + [(len(a) - i, len(b) - i) for i in range(tail, 0, -1)]


def _best(a: list[_Face], b: list[_Face]) -> list[tuple[int, int]]:
    if len(a) * len(b) > _MOST_CELLS:
        return []
    # best[i][j]: the highest sum for a[i:] and b[j:].
    best = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in range(len(a) - 1, -1, -1):
        row, below = best[i], best[i + 1]
        for j in range(len(b) - 1, -1, -1):
            alike = _likeness(a[i], b[j])
            row[j] = max(row[j + 1], below[j], below[j + 1] + alike)
    pairs, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        alike = _likeness(a[i], b[j])
        if alike and best[i][j] == best[i + 1][j + 1] + alike:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return pairs


def _likeness(a: _Face, b: _Face) -> int:
    """0: never partners. Any pair of one type outweighs what a pair's details add."""
    if a.type != b.type:
        return 0
    return 8 + 4 * (a.weights == b.weights) + 2 * (a.attributes == b.attributes) + (a.kernel == b.kernel)
