"""What the ladder found → JSON and tables: a line each rung, every input that differs, and why a tolerance is that."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import command
from export import tolerances
from export.first_op import Culprit
from export.ladder import REPEATS, Model, Picture
from export.parity import Difference, Finding, Repeat, Rung
from export.tolerances import Tolerance


@dataclass
class Report:
    """models: one, or det, cls and rec; photos: rungs of whole photos; culprit: what --bisect found."""

    models: list[Model]
    photos: list[Rung] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    unmeasured: list[str] = field(default_factory=list)
    culprit: Culprit | None = None

    @property
    def rungs(self) -> list[Rung]:
        return [*(rung for model in self.models for rung in model.rungs), *self.photos]

    @property
    def repeats(self) -> list[Repeat]:
        return [repeat for model in self.models for repeat in model.repeats]

    @property
    def findings(self) -> list[Finding]:
        return [finding for model in self.models for finding in model.findings]

    @property
    def passed(self) -> bool:
        return not self.first

    @property
    def first(self) -> str:
        """Where the first difference appears: rung, what, on which input; "" when there is none."""
        for rung in self.rungs:
            if rung.fault:
                return f"{rung.stage}: {rung.fault} of {rung.task} {rung.case}"
        for repeat in self.repeats:
            if not repeat.passed:
                return f"{repeat.stage}: {repeat.order} of {repeat.task} {repeat.case}"
        return next((finding.what for finding in self.findings if not finding.passed), "")

    @property
    def first_stage(self) -> str:
        failed = [*(r.stage for r in self.rungs if r.fault), *(r.stage for r in self.repeats if not r.passed)]
        return failed[0] if failed else next((f.what for f in self.findings if not f.passed), "")

    @property
    def missing(self) -> list[str]:
        """Rungs that nobody has climbed yet."""
        return [*(line for model in self.models for line in model.unmeasured), *self.unmeasured]

    @property
    def note(self) -> str:
        return "; ".join(model.note for model in self.models if model.note)

    @property
    def name(self) -> str:
        return " + ".join(f"{model.manifest.name} ({model.task})" for model in self.models)

    def tolerances(self) -> list[Tolerance]:
        """Those that were used here."""
        model = self.models[0]
        used = [tolerances.INPUT, tolerances.AS_SAVED]
        used += list({model.fused.what: model.fused for model in self.models}.values())
        here = {stage.name for m in self.models for stage in m.stages}
        on_phone = {r.tolerance for m in self.models for r in m.rungs if r.stage not in here}
        if on_phone:
            assert model.manifest.input is not None
            used.append(tolerances.phone_input(model.manifest.input.std))
        for quantized, limit in ((False, tolerances.FP16), (True, tolerances.PHONE_INT8)):
            if limit.value in on_phone and any(m.manifest.quantized == quantized for m in self.models):
                used.append(limit)
        return [*used, tolerances.BOXES, tolerances.TEXTS, tolerances.REPEAT]

    def to_json(self) -> dict[str, Any]:
        single = self.models[0] if len(self.models) == 1 else None
        return {
            "name": single.manifest.name if single else self.name,
            "task": single.task if single else "system",
            "passed": self.passed,
            "first_failure": self.first_stage,
            "first_difference": self.first,
            "culprit": dataclasses.asdict(self.culprit) if self.culprit else None,
            "rungs": [_record(rung) for rung in self.rungs],
            "repeats": [_finite({**dataclasses.asdict(r), "passed": r.passed}) for r in self.repeats],
            "structure": [dataclasses.asdict(finding) for finding in self.findings],
            "not_measured": self.missing,
            "tolerances": [dataclasses.asdict(t) for t in self.tolerances()],
            "note": self.note,
        }

    def to_text(self) -> str:
        heads, rows = self.ladder()
        parts = [command.table(heads, rows)]
        if wrong := [rung for rung in self.rungs if rung.fault]:
            parts.append(command.table(("differs", "on", "what", "max", "result"), [_wrong(r) for r in wrong]))
        parts.append(self._again())
        if self.findings:
            structure = [(f.what, f.expected, f.found, _ok(f.passed)) for f in self.findings]
            parts.append(command.table(("structure", "expected", "found", ""), structure))
        parts.append("\n".join(f"{t.what}: {t.value:.3g}, because {t.why}" for t in self.tolerances()))
        if self.missing:
            parts.append("\n".join(self.missing))
        return "\n\n".join([*parts, self.verdict()])

    def _again(self) -> str:
        """One line when every engine answered the same to the last bit, else the ones that did not."""
        wrong = [r for r in self.repeats if r.identical < r.runs]
        if not wrong:
            asked = sum(r.runs for r in self.repeats)
            return f"A, B, A and the same image {REPEATS} times, each stage: {asked} answers, all bit-identical"
        rows = [(r.stage, f"{r.task} {r.case}", r.order, r.found, _ok(r.passed)) for r in wrong]
        return command.table(("again", "input", "order", "answers", ""), rows)

    def verdict(self) -> str:
        """The last line."""
        said = f"{self.name}: differs first at {self.first}" if self.first else f"{self.name}: {_SAME}"
        found = f"first op: {self.culprit.said}" if self.culprit else ""
        return "; ".join(part for part in (said, found, self.note) if part)

    def ladder(self) -> tuple[Sequence[str], list[Sequence[str]]]:
        """Heads and rows of the table: the worst of each stage and task over all its inputs."""
        groups: dict[tuple[str, str], list[Rung]] = {}
        for rung in self.rungs:
            groups.setdefault((rung.stage, rung.task), []).append(rung)
        return HEADS, [_row(stage, task, rungs) for (stage, task), rungs in groups.items()]


HEADS = (
    "stage", "task", "inputs", "input max", "output max", "mean", "cosine", "tolerance", "boxes", "IoU low", "IoU mean",
    "edits", "",
)  # fmt: skip
_SAME = "every stage computes the same"


def _row(stage: str, task: str, rungs: Sequence[Rung]) -> Sequence[str]:
    gaps = [rung.difference for rung in rungs if rung.difference]
    inputs = [rung.input for rung in rungs if rung.input]
    boxes = [rung.boxes for rung in rungs if rung.boxes]
    edits = [rung.edits for rung in rungs if rung.edits is not None]
    pairs = sum(len(box.pairs) for box in boxes)
    return (
        stage,
        task,
        str(len(rungs)),
        _most(gap.max_abs for gap in inputs),
        _most(gap.max_abs for gap in gaps),
        _most(gap.mean_abs for gap in gaps),
        f"{min(gap.cosine for gap in gaps):.6f}" if gaps else "",
        f"{max(rung.tolerance for rung in rungs):.0e}" if gaps else "",
        f"{pairs} of {sum(box.expected for box in boxes)}" if boxes else "",
        f"{min(box.iou_lowest for box in boxes):.3f}" if boxes else "",
        f"{sum(box.iou_mean * len(box.pairs) for box in boxes) / pairs:.3f}" if pairs else "",
        str(sum(edits)) if edits else "",
        _ok(not any(rung.fault for rung in rungs)),
    )


def _wrong(rung: Rung) -> Sequence[str]:
    gap = rung.input if rung.fault == "input tensor" else rung.difference
    return rung.stage, f"{rung.task} {rung.case}", rung.fault, f"{gap.max_abs:.1e}" if gap else "", rung.result


def _most(values: Iterable[float]) -> str:
    found = list(values)
    return f"{max(found):.1e}" if found else ""


def _ok(passed: bool) -> str:
    return "ok" if passed else "DIFFERS"


def _record(rung: Rung) -> dict[str, Any]:
    record = {**dataclasses.asdict(rung), "fault": rung.fault, "passed": rung.passed}
    for name in ("difference", "input"):
        gap: Difference | None = getattr(rung, name)
        record[name] = _finite(dataclasses.asdict(gap)) if gap else None
    return record


def _finite(record: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no infinity: null is what cannot be compared."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
