"""What compression has to reach, and whether it does. Pure: rows in, verdicts out.

"No loss" means that the paired interval of the difference to the float model includes 0 or better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SAVED, LOST, NO_LOSS = "saved", "lost", "no loss"
# 540 of 1,000 are 46 % less, whatever 540 / 1000 - 1 is in binary.
EXACT = 1e-12
NAMES = {"det": "detector", "cls": "classifier", "rec": "recognizer", "system": "system", "chinese": "6,625 classes"}
FIGURES = {"params": "params", "weight_bytes": "weight bytes", "nb_bytes": "file"}


@dataclass(frozen=True)
class Bar:
    """kind: SAVED, a figure against the reference's, at most `limit` (−.46: 46 % less); LOST, at most so much of the
    metric against the reference's; NO_LOSS, see above. variants: those that may clear it; None: any.
    """

    task: str
    kind: str
    variants: tuple[str, ...] | None
    limit: float = 0.0
    figure: str = "metric"
    reference: str = "float"
    stretch: bool = False
    note: str = ""


# The bars of a group must be cleared by one and the same model.
GROUPS: tuple[tuple[Bar, ...], ...] = (
    (
        Bar("det", SAVED, ("fpgm",), -0.46, "params"),
        Bar("det", LOST, ("fpgm",), 0.007),
    ),
    (
        Bar("det", LOST, ("both",), 0.005, reference="fpgm"),
        Bar("det", SAVED, ("both",), -0.85, "weight_bytes"),
    ),
    (
        Bar("cls", SAVED, ("pact", "both"), -0.70, "weight_bytes"),
        Bar("cls", SAVED, ("pact", "both"), -0.46, "nb_bytes"),
        Bar("cls", NO_LOSS, ("pact", "both")),
    ),
    (
        Bar("rec", SAVED, ("pact", "both"), -0.42, "weight_bytes", note=", LSTM in float"),
        Bar("rec", NO_LOSS, ("pact", "both")),
    ),
    (Bar("chinese", SAVED, None, -0.60, "weight_bytes"),),
    (
        Bar("rec", SAVED, None, -0.70, "weight_bytes", stretch=True),
        Bar("rec", NO_LOSS, None, stretch=True),
    ),
    (
        Bar("system", SAVED, ("slim", "both", "slim-lstm"), -0.57, "nb_bytes"),
        Bar("system", NO_LOSS, ("slim", "both", "slim-lstm")),
    ),
)


def judge(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """{"task", "bar", "kind", "limit", "stretch", "variant", "value", "interval", "met", "tried"} of each bar.

    Of several variants, the one that clears most of the group's bars stands in the table, the first of equals.
    met: None where no such model was measured. tried: every variant's own value where the bar is not met.
    """
    made = [row for row in rows if "failed" not in row]
    verdicts = []
    for group in GROUPS:
        task = group[0].task
        candidates = [row["variant"] for row in made if row["task"] == task and row["variant"] != "float"]
        if group[0].variants is not None:
            candidates = [name for name in group[0].variants if name in candidates]
        tables = {name: [_value(bar, name, made) for bar in group] for name in candidates}
        best = max(candidates, key=lambda name: sum(met is True for _, _, met in tables[name]), default=None)
        for place, bar in enumerate(group):
            value, interval, met = tables[best][place] if best else (None, None, None)
            verdicts.append(
                {
                    "task": task,
                    "bar": say(bar),
                    "kind": bar.kind,
                    "limit": bar.limit,
                    "stretch": bar.stretch,
                    "variant": best,
                    "value": value,
                    "interval": interval,
                    "met": met,
                    "tried": _tried(bar, rows) if met is False else [],
                }
            )
    return verdicts


def say(bar: Bar) -> str:
    if bar.kind == SAVED:
        return f"{FIGURES[bar.figure]} {100 * bar.limit:+.0f} %".replace("-", "−") + bar.note
    if bar.kind == LOST:
        return f"at most {bar.limit:g} lost against {bar.reference}"
    return "no loss"


def _value(bar: Bar, variant: str, rows: Sequence[Mapping[str, Any]]) -> tuple[float | None, Any, bool | None]:
    """(share saved or difference, its interval, whether the bar is met)."""
    row = _find(rows, bar.task, variant)
    reference = _find(rows, bar.task, bar.reference)
    if row is None or reference is None:
        return None, None, None
    if bar.kind == SAVED:
        share = row[bar.figure] / reference[bar.figure] - 1
        return share, None, share <= bar.limit + EXACT
    found = row["differences"].get(bar.reference)
    if found is None:
        return None, None, None
    interval = [found["low"], found["high"]]
    return found["value"], interval, found["value"] >= -bar.limit if bar.kind == LOST else found["high"] >= 0


def _tried(bar: Bar, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every variant of the task with its own value, failures with their reason."""
    tried: list[dict[str, Any]] = []
    for row in rows:
        if row["task"] != bar.task or row["variant"] in ("float", bar.reference):
            continue
        if "failed" in row:
            tried.append({"variant": row["variant"], "failed": row["failed"]})
            continue
        value, interval, _ = _value(bar, row["variant"], [other for other in rows if "failed" not in other])
        if value is not None:
            tried.append({"variant": row["variant"], "steps": row.get("steps"), "value": value, "interval": interval})
    return tried


def _find(rows: Sequence[Mapping[str, Any]], task: str, variant: str) -> Mapping[str, Any] | None:
    return next((row for row in rows if (row["task"], row["variant"]) == (task, variant)), None)
