"""One process's share of a sensitivity measurement; slim/sensitivity.py is the command.

Work is handed out by group: the network up to the group is computed once for all its ratios.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import command
from artifact import Manifest
from ocr_models import checkpoints
from slim import group_cuts
from slim.group_cuts import Cut, GroupCuts
from slim.masked_program import Cut as CutProgram
from slim.masked_program import MaskedProgram, Runner
from slim.measurements import Measurements, wait
from slim.prepared_samples import METRICS, Prepared, measure
from slim.pruning import FilterPruner
from slim.sensitivity_record import GroupSensitivity, Sensitivity
from slim.slimming import REFERENCE_PX

CUTS = "cuts.json"
BASELINE = "baseline"
# Small inputs for tracing: no layer's choice depends on their size.
TRACE_PX = {"det": (64, 64), "cls": (48, 192), "rec": (32, 96)}
# What lies before a group is kept for so many bytes of samples, and computed again for those beyond.
HELD_BYTES = 1500 << 20

Rows = list[list[float]]


class SensitivityRun:
    """folder: the checkpoint. store: where the measurements go. max_loss: where a group is out of range."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        prepared: Prepared,
        store: Measurements,
        ratios: Sequence[float],
        max_loss: float,
    ) -> None:
        self.manifest, self.prepared, self.store = manifest, prepared, store
        self.ratios, self.max_loss = tuple(ratios), max_loss
        self.network, _ = checkpoints.load_network(folder)
        self.groups = self._cuts()
        self._program: MaskedProgram | None = None

    def measure(self, patient: bool = True) -> None:
        """Measure what nobody else has measured or is measuring. patient: come back when all of it is there."""
        total = sum(len(_distinct(group)) for group in self.groups if not self._complete(group))
        for _ in command.progress(self._work(patient), "sensitivity", total):
            pass

    def record(self, weights: str, data: str) -> Sensitivity:
        """What all measured. weights, data: their digests."""
        baseline = self._baseline()
        groups = []
        for group in self.groups:
            found = self._found(group)
            groups.append(
                GroupSensitivity(
                    name=group.name,
                    filters=group.filters,
                    members=group.members,
                    removed=tuple(cut.removed for cut in group.cuts),
                    metrics={name: tuple(metrics[name] for metrics, _ in found) for name in baseline},
                    measured=tuple(measured for _, measured in found),
                    params=tuple(cut.params for cut in group.cuts),
                    macs=tuple(cut.macs for cut in group.cuts),
                )
            )
        return Sensitivity(
            task=self.manifest.task,
            name=self.manifest.name,
            weights=weights,
            data=data,
            samples=self.prepared.samples,
            of=self.prepared.of,
            metric=self.metric,
            baseline=baseline,
            ratios=self.ratios,
            groups=tuple(groups),
        )

    @property
    def metric(self) -> str:
        return METRICS[self.manifest.task][0]

    def _cuts(self) -> tuple[GroupCuts, ...]:
        path = self.store.folder / CUTS
        try:
            return group_cuts.load(path)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        macs = group_cuts.layer_macs(self.network, (1, 3, *REFERENCE_PX[self.manifest.task]))
        pruner = FilterPruner(self.network, (1, 3, *TRACE_PX[self.manifest.task]))
        groups = group_cuts.group_cuts(pruner, self.ratios, macs)
        command.write_text(path, group_cuts.to_json(groups))
        return groups

    def _work(self, patient: bool) -> Iterator[None]:
        """Yields for each ratio that is done, measured or out of range."""
        while self.store.get(BASELINE) is None:
            if self.store.claim(BASELINE):
                self.store.put(BASELINE, self._rows(self._open().whole()))
                self.store.release(BASELINE)
            else:
                wait()
        left = list(self.groups)
        while left:
            before = len(left)
            for group in list(left):
                if not self._complete(group):
                    if not self.store.claim(group.name):
                        continue
                    try:
                        yield from self._measure(group)
                    finally:
                        self.store.release(group.name)
                left.remove(group)
            if len(left) == before:
                if not patient:
                    return
                wait()

    def _open(self) -> MaskedProgram:
        if self._program is None:
            assert self.manifest.input is not None
            self._program = MaskedProgram(self.network, self.manifest.input.shape)
        return self._program

    def _measure(self, group: GroupCuts) -> Iterator[None]:
        program: CutProgram | None = None
        held: list[dict[str, np.ndarray] | None] = []
        for cut in _distinct(group):
            name = _name(group, cut)
            if self.store.get(name) is None and not self._out_of_range(group, cut):
                if program is None:
                    program = self._open().cut(group.widths)
                    held = [None] * len(self.prepared.batches)
                self.store.put(name, self._masked_rows(program, group, cut, held))
                self.store.claim(group.name)
            yield

    def _masked_rows(
        self, program: CutProgram, group: GroupCuts, cut: Cut, held: list[dict[str, np.ndarray] | None]
    ) -> Rows:
        if program.after is None:
            return self.store.get(BASELINE)  # only training uses these filters
        masks = {}
        for weight, variable in program.masks.items():
            mask = np.zeros((1, group.widths[weight], 1, 1), np.float32)
            mask[:, list(cut.kept[weight])] = 1.0
            masks[variable] = mask
        rows: Rows = []
        room = HELD_BYTES - sum(array.nbytes for arrays in held if arrays for array in arrays.values())
        for index, batch in enumerate(self.prepared.batches):
            arrays = held[index]
            if arrays is None:
                arrays = {"x": batch.x}
                if program.before is not None:
                    arrays = dict(zip(program.held, program.before.run(arrays), strict=True))
                size = sum(array.nbytes for array in arrays.values())
                if size <= room:
                    held[index], room = arrays, room - size
            rows += _judged(batch.judge, program.after, {**arrays, **masks})
        return rows

    def _rows(self, runner: Runner) -> Rows:
        return [row for batch in self.prepared.batches for row in _judged(batch.judge, runner, {"x": batch.x})]

    def _baseline(self) -> dict[str, float]:
        return measure(self.manifest.task, self.store.get(BASELINE))

    def _metrics(self, group: GroupCuts, cut: Cut) -> dict[str, float] | None:
        if not cut.removed:
            return self._baseline()
        rows = self.store.get(_name(group, cut))
        return None if rows is None else measure(self.manifest.task, rows)

    def _out_of_range(self, group: GroupCuts, cut: Cut) -> bool:
        """Whether a smaller cut has already lost too much."""
        baseline = self._baseline()[self.metric]
        for smaller in _distinct(group):
            if smaller.removed >= cut.removed:
                return False
            metrics = self._metrics(group, smaller)
            if metrics is not None and baseline - metrics[self.metric] > self.max_loss:
                return True
        return False

    def _complete(self, group: GroupCuts) -> bool:
        if self.store.get(BASELINE) is None:
            return False
        return all(
            self.store.get(_name(group, cut)) is not None or self._out_of_range(group, cut) for cut in _distinct(group)
        )

    def _found(self, group: GroupCuts) -> list[tuple[dict[str, float], bool]]:
        """(metrics, whether they were measured) at each ratio; out of range the last measured ones hold."""
        found: list[tuple[dict[str, float], bool]] = []
        for cut in group.cuts:
            metrics = None if self._out_of_range(group, cut) else self._metrics(group, cut)
            found.append((metrics, True) if metrics is not None else (found[-1][0], False))
        return found


def _judged(judge: Any, runner: Runner, arrays: dict[str, np.ndarray]) -> Rows:
    (y,) = runner.run(arrays)
    if not np.isfinite(y).all():
        raise command.ModelError("expected numbers from the network, found NaN; this model does not work: train again")
    return judge(y)


def _distinct(group: GroupCuts) -> list[Cut]:
    """Cuts that remove something, ascending; several ratios may remove the same filters."""
    return list({cut.removed: cut for cut in group.cuts if cut.removed}.values())


def _name(group: GroupCuts, cut: Cut) -> str:
    return f"{group.name}-{cut.removed}"
