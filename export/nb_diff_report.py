"""The difference of two `.nb` files as plain data and as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import command
from export.nb_diff import Difference
from export.nb_file import NbFile
from export.nb_report import plain, short, shown

_MOST_ROWS = 24


def as_json(a: NbFile, b: NbFile, found: Difference) -> dict[str, Any]:
    parts_a, parts_b = a.parts(), b.parts()
    return {
        "equal": found.equal,
        "differs": found.counts(),
        "header": [{"what": what, "a": x, "b": y} for what, x, y in found.header],
        "ops": {
            "matched": found.matched,
            "removed": [{"a": i, "type": kind} for i, kind in found.removed],
            "added": [{"b": j, "type": kind} for j, kind in found.added],
            "kernels": [
                {"a": i, "b": j, "type": kind, "kernel_a": x, "kernel_b": y} for i, j, kind, x, y in found.kernels
            ],
            "attributes": [
                {"a": i, "b": j, "type": kind, "name": name, "value_a": plain(x), "value_b": plain(y)}
                for i, j, kind, name, x, y in found.attributes
            ],
            "wiring": [
                {"a": i, "b": j, "type": kind, "slot": slot, "from_a": x, "from_b": y}
                for i, j, kind, slot, x, y in found.wiring
            ],
        },
        "weights": {
            "same": found.same_weights,
            "differ": [{"name_a": x, "name_b": y, "what": what} for x, y, what in found.weights],
        },
        "renamed": found.renamed,
        "bytes": {part: {"a": parts_a[part], "b": parts_b[part]} for part in parts_a},
    }


def text(name_a: str, name_b: str, a: NbFile, b: NbFile, found: Difference, *, identical: bool) -> str:
    """The report; the last line is the verdict. identical: the two have the same bytes."""
    if identical:
        return f"A {shown(name_a, 200)}\nB {shown(name_b, 200)}\nequal: the same bytes"
    blocks = [
        f"A {shown(name_a, 200)}\nB {shown(name_b, 200)}",
        _table(("header", "A", "B"), [(what, _plainly(x), _plainly(y)) for what, x, y in found.header]),
        _table(("ops", "count"), _by_type("only in A", found.removed) + _by_type("only in B", found.added)),
        _table(("kernels", "ops", "A", "B"), _grouped(found.kernels, lambda k: k[2:])),
        _table(("attributes", "name", "ops", "A", "B"), _attributes(found)),
        _table(
            ("wiring", "slot", "from in A", "from in B"),
            [(f"#{i} #{j} {shown(kind)}", *map(shown, row)) for i, j, kind, *row in found.wiring],
        ),
        _table(
            ("weights", "B", "what"),
            [(shown(x) or "-", "=" if x == y else shown(y) or "-", shown(what, 120)) for x, y, what in found.weights],
        ),
        _sizes(a, b),
        _verdict(found),
    ]
    return "\n\n".join(block for block in blocks if block)


def _table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return ""
    more = f"\n… and {len(rows) - _MOST_ROWS} more, all of them in --json" if len(rows) > _MOST_ROWS else ""
    return command.table(headers, rows[:_MOST_ROWS]) + more


def _plainly(value: Any) -> str:
    if isinstance(value, list):
        return shown(", ".join(map(_plainly, value[:4])), 80) or "none"
    if isinstance(value, dict):
        return f"{shown(value['name'])} {value['dtype']} {value['shape']}"
    return shown(str(value))


def _by_type(where: str, ops: list[tuple[int, str]]) -> list[tuple[str, int]]:
    counts: dict[str, int] = {}
    for _, kind in ops:
        counts[kind] = counts.get(kind, 0) + 1
    return [(f"{where}: {shown(kind)}", count) for kind, count in counts.items()]


def _grouped(items: Sequence[Any], key: Callable[[Any], tuple[str, str, str]]) -> list[tuple[str, int, str, str]]:
    """Equal changes of several ops in one row."""
    counts: dict[tuple[str, str, str], int] = {}
    for item in items:
        counts[key(item)] = counts.get(key(item), 0) + 1
    return [(shown(kind), count, shown(x), shown(y)) for (kind, x, y), count in counts.items()]


def _attributes(found: Difference) -> list[tuple[str, str, int, str, str]]:
    """One row per op type and attribute; where the values of its ops vary, those of the first and an ellipsis."""
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for _, _, kind, name, x, y in found.attributes:
        values = tuple("absent" if value is None else short(value) for value in (x, y))
        groups.setdefault((kind, name), []).append(values)  # type: ignore[arg-type]
    rows = []
    for (kind, name), pairs in groups.items():
        x, y = (f"{pairs[0][k]}{' …' if len({pair[k] for pair in pairs}) > 1 else ''}" for k in (0, 1))
        rows.append((shown(kind), shown(name), len(pairs), x, y))
    return rows


def _sizes(a: NbFile, b: NbFile) -> str:
    parts_a = {**a.parts(), "total": a.size_bytes}
    parts_b = {**b.parts(), "total": b.size_bytes}
    rows = [(part, f"{x:,}", f"{parts_b[part]:,}", f"{parts_b[part] - x:+,}") for part, x in parts_a.items()]
    return command.table(("bytes", "A", "B", "B - A"), rows)


def _verdict(found: Difference) -> str:
    same = f"{found.matched} ops and {found.same_weights} weights matched, {len(found.renamed)} variables renamed"
    if found.equal:
        return f"equal: {same}; only names and the layout of the bytes differ"
    return f"different: {', '.join(f'{what} {n}' for what, n in found.counts().items())}; {same}"
