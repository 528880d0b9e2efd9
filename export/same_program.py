"""Proves that a `.nb` file and its slim copy make Paddle-Lite do the same: what an ARM file allows on any machine.

Names are free, as long as one stands for one; everything else that the runtime reads has to be equal, bit by bit.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from export import op_attributes
from export.nb_file import NbFile, Op
from export.op_attributes import HALF, STORED
from export.parity import Finding


def same_program(before: NbFile, after: NbFile) -> list[Finding]:
    """Compare opt's file with the slim one: ops, kernels, wiring, attributes, weights, scales, variables."""
    findings = [
        _equal("opt version", [before.opt_version], [after.opt_version]),
        _equal("ops", [op.type for op in before.ops], [op.type for op in after.ops]),
        _equal("kernels", [op.kernel for op in before.ops], [op.kernel for op in after.ops]),
    ]
    if not all(finding.passed for finding in findings):
        return findings
    names, clashes = _names(before, after)
    findings.append(Finding("arguments", "one name for one variable", _count(clashes, "clash"), not clashes))
    findings.append(_equal("inputs and outputs", [*before.inputs, *before.outputs], [*after.inputs, *after.outputs]))
    findings.append(_attributes(before, after, names))
    findings.append(_weights(before, after, names))
    used = {name for op in before.ops for name in _arguments(op)}
    same = [
        (var.dtype, var.shape, var.persistable) == (other.dtype, other.shape, other.persistable)
        for name, var in before.vars.items()
        if name in used and (other := after.vars.get(names[name])) is not None
    ]
    missing = len(used & before.vars.keys()) - len(same)
    findings.append(_all("variables", same, f"{len(same)} equal in type and shape", missing))
    return findings


def _names(before: NbFile, after: NbFile) -> tuple[dict[str, str], list[str]]:
    """Old name → new by their places in the ops, and the places that contradict it."""
    names: dict[str, str] = {}
    back: dict[str, str] = {}
    clashes: list[str] = []
    for here, there in zip(before.ops, after.ops, strict=True):
        for kind in ("inputs", "outputs"):
            a, b = getattr(here, kind), getattr(there, kind)
            if {slot: len(found) for slot, found in a.items()} != {slot: len(found) for slot, found in b.items()}:
                clashes.append(f"{kind} of {here.type}")
                continue
            for slot in a:
                for old, new in zip(a[slot], b[slot], strict=True):
                    if names.setdefault(old, new) != new or back.setdefault(new, old) != old:
                        clashes.append(old)
    return names, clashes


def _attributes(before: NbFile, after: NbFile, names: dict[str, str]) -> Finding:
    """What is needed has to be equal; what is left has to come from there."""
    compared = dropped = 0
    wrong: list[str] = []
    for here, there in zip(before.ops, after.ops, strict=True):
        a = {_renamed(name, names): (name, value) for name, value in here.attributes.items()}
        wrong += [f"{here.type}.{name} is new" for name in there.attributes.keys() - a.keys()]
        for name, (old, value) in a.items():
            if name in there.attributes:
                compared += 1
                if _bits(value) != _bits(there.attributes[name]):
                    wrong.append(f"{here.type}.{old}")
            elif op_attributes.needed(here.type, old, value, after_opt=True):
                wrong.append(f"{here.type}.{old} is gone")
            else:
                dropped += 1
    found = f"{compared} equal, {dropped} unread ones gone"
    if wrong:
        found += f", {len(wrong)} wrong ({', '.join(sorted(set(wrong))[:3])})"
    return Finding("attributes", "each that is read, equal", found, not wrong)


def _renamed(name: str, names: dict[str, str]) -> str:
    suffix = next((suffix for suffix in (HALF, STORED) if name.endswith(suffix)), "")
    weight = name.removesuffix(suffix)
    return names[weight] + suffix if suffix and weight in names else name


def _bits(value: Any) -> Any:
    """Floats by their bits, so that -0 differs from 0 and NaN equals NaN."""
    if isinstance(value, float):
        return struct.pack("<d", value)
    if isinstance(value, list):
        return [_bits(item) for item in value]
    # opt leaves out what is 0, which a reader takes for a number or for no.
    return int(value) if isinstance(value, bool) else value


def _weights(before: NbFile, after: NbFile, names: dict[str, str]) -> Finding:
    same = []
    missing = len(after.params) - len(before.params)
    for name, param in before.params.items():
        other = after.params.get(names.get(name, name))
        if other is None:
            missing += 1
        else:
            same.append((param.dtype, param.shape, param.data) == (other.dtype, other.shape, other.data))
    size = sum(len(param.data) for param in after.params.values())
    return _all("weights", same, f"{sum(same)} of {len(before.params)} equal, {size:,} bytes", missing)


def _equal(what: str, before: Iterable[Any], after: Iterable[Any]) -> Finding:
    a, b = list(before), list(after)
    if a == b:
        return Finding(what, "the same, in the same order", _count(a, what.split()[0]), True)
    gone, new = Counter(a) - Counter(b), Counter(b) - Counter(a)
    found = f"{gone.total()} gone, {new.total()} new" if gone or new else "another order"
    return Finding(what, "the same, in the same order", found, False)


def _all(what: str, same: list[bool], found: str, missing: int) -> Finding:
    return Finding(what, "the same", found + (f", {missing} missing" if missing else ""), all(same) and not missing)


def _count(items: list[Any], noun: str) -> str:
    return f"{len(items)} {noun.rstrip('s')}{'' if len(items) == 1 else 'es' if noun == 'clash' else 's'}"


def _arguments(op: Op) -> Iterator[str]:
    for slots in (op.inputs, op.outputs):
        for names in slots.values():
            yield from names
