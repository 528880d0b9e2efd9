"""Looks at a program before opt does: opt dies of what it cannot convert, and converts what the runtime dies of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import command
from command import ModelError
from export import opt, traps
from export.op_view import ops
from export.program import Program

# opt's passes take these out; a program that simulates int8 arithmetic consists of them.
_FOLDED = ("fake_", "quantize_linear", "dequantize_linear")


@dataclass(frozen=True)
class Finding:
    """Something that opt or the runtime fails at. count: ops that fall into it; result: output of the first of them."""

    trap: str
    op: str
    count: int
    result: str
    why: str
    remedy: str
    mendable: bool


def check(program: Program, target: str) -> list[Finding]:
    """What would fail on `target`: traps first, then ops without a kernel. Raises ModelError when opt has no list."""
    findings = []
    explained: set[str] = set()
    for trap in traps.TABLE:
        found = trap.find(program) if target in trap.targets else []
        if found:
            kinds = sorted({op.type for op in found})
            explained.update(kinds)
            name, first = ", ".join(kinds), found[0].result
            findings.append(Finding(trap.name, name, len(found), first, trap.why, trap.remedy, bool(trap.mend)))
    return findings + _unsupported(program, target, explained)


def _unsupported(program: Program, target: str, explained: set[str]) -> list[Finding]:
    supported = opt.supported(target)
    other = next(name for name in opt.TARGETS if name != target)
    found: dict[str, list[str]] = {}
    for op in ops(program):
        if op.type not in supported.runnable and not op.type.startswith(_FOLDED):
            found.setdefault(op.type, []).append(op.result)
    return [
        Finding(
            "no kernel",
            kind,
            len(results),
            results[0],
            f"opt {'knows it and has no kernel for' if kind in supported.known else 'does not have it for'} {target}",
            "build the network without it"
            + (f"; {other} has it" if kind in opt.supported(other).runnable else "")
            + ", and export it again",
            False,
        )
        for kind, results in found.items()
        if kind not in explained
    ]


def refuse(findings: Sequence[Finding], model: Path, target: str) -> None:
    """Raise ModelError with one line about what was found, the first in full and the others by name."""
    if not findings:
        return
    first, others = findings[0], findings[1:]
    times = f" ({first.count} times)" if first.count > 1 else f" (it makes {first.result})"
    more = f"; also {', '.join(f'{finding.op}: {finding.trap}' for finding in others)}" if others else ""
    raise ModelError(
        f"{model}: expected a program that runs on Paddle-Lite {target}, found {first.op}{times}: {first.why}; "
        f"{first.remedy}{more}"
    )


def table(findings: Sequence[Finding]) -> str:
    """One block a finding: op and trap, why, what to do."""
    blocks = []
    for finding in findings:
        times = f"{finding.count} times, first" if finding.count > 1 else "once,"
        blocks.append(
            f"{finding.op}: {finding.trap}; {times} making {finding.result}\n"
            f"  why  {finding.why}\n"
            f"  fix  {finding.remedy}"
        )
    return "\n".join(blocks)


def record(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    return [asdict(finding) for finding in findings]


def mended(findings: Sequence[Finding]) -> str:
    """What --fix did, as a table."""
    return command.table(("fixed", "op", "count"), [(f.trap, f.op, f.count) for f in findings])
