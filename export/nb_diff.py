"""Compares two parsed `.nb` files: what differs between them, whatever their variables are called.

Two files are equal when header, ops, kernels, attributes, wiring and weights are: names of variables inside
and the layout of the bytes may differ.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from export import nb_align
from export.nb_file import KERNEL_ATTRIBUTE, NbFile, Op
from export.nb_report import ends, kernel_text


@dataclass
class Difference:
    """What differs between a and b; numbers of ops are places in `NbFile.ops`.

    header: (what, in a, in b). removed, added: (number, type) of ops without a partner. kernels: (number in a, number
    in b, type, kernel of a, of b). attributes: (number, number, type, name, value of a, of b), None for absent.
    wiring: (number, number, type, input, where it comes from in a, in b). weights: (name in a, name in b, what).
    renamed: variable of a → of b.

    The shapes that a file declares for inner variables are left out: opt lets values share a variable, whose shape then
    fits one of them, and the runtime infers all shapes anyway.
    """

    matched: int = 0
    header: list[tuple[str, Any, Any]] = field(default_factory=list)
    removed: list[tuple[int, str]] = field(default_factory=list)
    added: list[tuple[int, str]] = field(default_factory=list)
    kernels: list[tuple[int, int, str, str, str]] = field(default_factory=list)
    attributes: list[tuple[int, int, str, str, Any, Any]] = field(default_factory=list)
    wiring: list[tuple[int, int, str, str, str, str]] = field(default_factory=list)
    weights: list[tuple[str, str, str]] = field(default_factory=list)
    same_weights: int = 0
    renamed: dict[str, str] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """What differs → how often, for what does."""
        found: dict[str, list[Any]] = {
            "header": self.header, "ops removed": self.removed, "ops added": self.added, "kernels": self.kernels,
            "attributes": self.attributes, "wiring": self.wiring, "weights": self.weights,
        }  # fmt: skip
        return {name: len(items) for name, items in found.items() if items}

    @property
    def equal(self) -> bool:
        return not self.counts()


def compare(a: NbFile, b: NbFile) -> Difference:
    found = Difference()
    _header(a, b, found)
    digests = nb_align.digests(a), nb_align.digests(b)
    pairs = nb_align.align(a, b, *digests)
    found.matched = len(pairs)
    left, right = {i for i, _ in pairs}, {j for _, j in pairs}
    found.removed = [(i, op.type) for i, op in enumerate(a.ops) if i not in left]
    found.added = [(j, op.type) for j, op in enumerate(b.ops) if j not in right]
    for i, j in pairs:
        _op(i, j, a.ops[i], b.ops[j], found)
    _Wires(a, b, *digests, found).follow(pairs)
    return found


def _header(a: NbFile, b: NbFile, found: Difference) -> None:
    for what, x, y in (
        ("format", a.meta_version, b.meta_version),
        ("opt", a.opt_version, b.opt_version),
        ("targets", sorted(a.targets), sorted(b.targets)),
        ("inputs", [ends(a, name) for name in a.inputs], [ends(b, name) for name in b.inputs]),
        ("outputs", [ends(a, name) for name in a.outputs], [ends(b, name) for name in b.outputs]),
    ):
        if x != y:
            found.header.append((what, x, y))


def _op(i: int, j: int, a: Op, b: Op, found: Difference) -> None:
    if a.kernel != b.kernel:
        found.kernels.append((i, j, a.type, kernel_text(a.kernel), kernel_text(b.kernel)))
    for name in [*a.attributes, *(name for name in b.attributes if name not in a.attributes)]:
        x, y = a.attributes.get(name), b.attributes.get(name)
        # repr: NaN equals itself, 0.0 differs from -0.0 and 1 from 1.0.
        if name != KERNEL_ATTRIBUTE and ((name in a.attributes) != (name in b.attributes) or repr(x) != repr(y)):
            found.attributes.append((i, j, a.type, name, x, y))


class _Wires:
    """Follows values through both programs: names may be reused (opt shares memory), so each write is a new value."""

    def __init__(
        self, a: NbFile, b: NbFile, digests_a: dict[str, str], digests_b: dict[str, str], found: Difference
    ) -> None:
        self.a, self.b, self.found = a, b, found
        self.digests_a, self.digests_b = digests_a, digests_b
        # Variable → (its value, the number of the op that wrote it).
        self.values_a: dict[str, tuple[object, int]] = {}
        self.values_b: dict[str, tuple[object, int]] = {}
        self.seen: set[tuple[str, str]] = set()

    def follow(self, pairs: list[tuple[int, int]]) -> None:
        i = j = 0
        for to_i, to_j in [*pairs, (len(self.a.ops), len(self.b.ops))]:
            _write_alone(self.a.ops, range(i, to_i), self.values_a)
            _write_alone(self.b.ops, range(j, to_j), self.values_b)
            if to_i < len(self.a.ops) and to_j < len(self.b.ops):
                self._pair(to_i, to_j)
            i, j = to_i + 1, to_j + 1
        self._weights_without_ops()

    def _pair(self, i: int, j: int) -> None:
        a, b = self.a.ops[i], self.b.ops[j]
        for slot in [*a.inputs, *(slot for slot in b.inputs if slot not in a.inputs)]:
            for x, y in itertools.zip_longest(a.inputs.get(slot, []), b.inputs.get(slot, [])):
                if not self._read(x, y):
                    sources = _source(self.a, x, self.values_a), _source(self.b, y, self.values_b)
                    self.found.wiring.append((i, j, a.type, slot, *sources))
        for slot in [*a.outputs, *(slot for slot in b.outputs if slot not in a.outputs)]:
            for x, y in itertools.zip_longest(a.outputs.get(slot, []), b.outputs.get(slot, [])):
                value = object()
                if x is not None:
                    self.values_a[x] = (value, i)
                if y is not None:
                    self.values_b[y] = (value, j)
                if x is None or y is None:
                    wrote = "not written" if x is None else "written", "not written" if y is None else "written"
                    self.found.wiring.append((i, j, a.type, slot, *wrote))
                elif x != y:
                    self.found.renamed[x] = y

    def _read(self, x: str | None, y: str | None) -> bool:
        """Whether both ops read the same value here."""
        if x is None or y is None:
            return False
        if x in self.digests_a and y in self.digests_b:
            self._weight(x, y)
            return True
        if x in self.digests_a or y in self.digests_b:
            return False
        if x not in self.values_a and y not in self.values_b:
            self.values_a[x] = self.values_b[y] = (object(), -1)
        here, there = self.values_a.get(x), self.values_b.get(y)
        return here is not None and there is not None and here[0] is there[0]

    def _weight(self, x: str, y: str) -> None:
        if (x, y) in self.seen:
            return
        self.seen.add((x, y))
        if x != y:
            self.found.renamed[x] = y
        if self.digests_a[x] == self.digests_b[y]:
            self.found.same_weights += 1
        else:
            self.found.weights.append((x, y, _how_far(self.a, x, self.b, y)))

    def _weights_without_ops(self) -> None:
        """Weights of ops that have no partner: paired by content, then by name."""
        seen_a, seen_b = {x for x, _ in self.seen}, {y for _, y in self.seen}
        left = {x: content for x, content in self.digests_a.items() if x not in seen_a}
        right = {y: content for y, content in self.digests_b.items() if y not in seen_b}
        for x in [x for x, content in left.items() if right.get(x) == content]:
            del left[x], right[x]
            self._weight(x, x)
        by_content: dict[str, deque[str]] = {}
        for y, content in right.items():
            by_content.setdefault(content, deque()).append(y)
        for x, content in list(left.items()):
            if by_content.get(content):
                y = by_content[content].popleft()
                del left[x], right[y]
                self._weight(x, y)
        for x in [x for x in left if x in right]:
            del left[x], right[x]
            self._weight(x, x)
        self.found.weights += [(x, "", f"only in A, {_weight_kind(self.a, x)}") for x in left]
        self.found.weights += [("", y, f"only in B, {_weight_kind(self.b, y)}") for y in right]


def _write_alone(ops: list[Op], numbers: range, values: dict[str, tuple[object, int]]) -> None:
    """The outputs of ops without a partner are values that the other program does not have."""
    for i in numbers:
        for names in ops[i].outputs.values():
            values.update((name, (object(), i)) for name in names)


def _source(nb: NbFile, name: str | None, values: dict[str, tuple[object, int]]) -> str:
    if name is None:
        return "nothing"
    if name in nb.params:
        return "a weight"
    number = values.get(name, (None, -1))[1]
    return f"#{number} {nb.ops[number].type}" if number >= 0 else "no op"


def _weight_kind(nb: NbFile, name: str) -> str:
    return f"{nb.params[name].dtype} {list(nb.params[name].shape)}"


def _how_far(a: NbFile, x: str, b: NbFile, y: str) -> str:
    kinds = _weight_kind(a, x), _weight_kind(b, y)
    if kinds[0] != kinds[1]:
        return f"{kinds[0]} → {kinds[1]}"
    import numpy as np

    with np.errstate(all="ignore"):
        u, v = a.params[x].array().astype(np.float64), b.params[y].array().astype(np.float64)
        away = u != v
        return f"{kinds[0]}: {int(away.sum()):,} of {u.size:,} differ, by at most {float(np.max(np.abs(u - v))):.3g}"
