"""`sensitivity.json`: what each group of filters costs in the task's metric, ratio by ratio; read, written, asked.

    {"schema": 1, "criterion": "fpgm", "task": "rec", "name": "…", "weights": "sha256", "data": "sha256",
     "samples": 300, "of": 1000, "metric": "ned", "baseline": {"ned": .9, "accuracy": .7}, "ratios": [.1, …],
     "groups": [{"name": "backbone.conv1.conv.weight", "filters": 8, "members": [["…weight", 0], …],
                 "removed": [1, …], "metrics": {"ned": [.89, …], "accuracy": […]}, "measured": [true, …],
                 "params": [31, …], "macs": [40960, …]}]}

Lists run along `ratios`. removed: filters that go. params, macs: what that saves, of the export and of one image of the
reference size. measured false: out of range after a smaller ratio, and the metric is that one's. A loss is the drop of
`metric` below the baseline, in the metric's own unit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import command
from artifact import Manifest
from command import ModelError, one_line

FILE = "sensitivity.json"
SCHEMA = 1


@dataclass(frozen=True)
class GroupSensitivity:
    """One group; see the module's docstring."""

    name: str
    filters: int
    members: tuple[tuple[str, int], ...]
    removed: tuple[int, ...]
    metrics: dict[str, tuple[float, ...]]
    measured: tuple[bool, ...]
    params: tuple[int, ...]
    macs: tuple[int, ...]


@dataclass(frozen=True)
class Sensitivity:
    """A network's sensitivity to pruning. Raises ModelError, on construction, when its parts do not fit together."""

    task: str
    name: str
    weights: str
    data: str
    samples: int
    of: int
    metric: str
    baseline: dict[str, float]
    ratios: tuple[float, ...]
    groups: tuple[GroupSensitivity, ...]
    criterion: str = "fpgm"

    def __post_init__(self) -> None:
        _require(list(self.ratios) == sorted(set(self.ratios)) and bool(self.ratios), "ascending ratios", self.ratios)
        _require(all(0 < ratio < 1 for ratio in self.ratios), "ratios between 0 and 1", self.ratios)
        _require(self.metric in self.baseline, f"a baseline of {self.metric}", sorted(self.baseline))
        for group in self.groups:
            lists = [group.removed, group.measured, group.params, group.macs, *group.metrics.values()]
            lengths = {len(values) for values in lists}
            _require(lengths == {len(self.ratios)}, f"{len(self.ratios)} values a list in {group.name}", lengths)
            _require(set(group.metrics) == set(self.baseline), f"the baseline's metrics in {group.name}", group.metrics)
            good = list(group.removed) == sorted(group.removed) and group.removed[0] >= 0
            _require(good and group.removed[-1] < group.filters, f"ascending counts in {group.name}", group.removed)

    def group(self, name: str) -> GroupSensitivity:
        for group in self.groups:
            if group.name == name:
                return group
        raise ModelError(f"expected a group of the measured network, found {name}; measure this model's sensitivity")

    def losses(self, group: str, metric: str | None = None) -> tuple[float, ...]:
        """Drop of the metric at each ratio, in the metric's unit; below 0 where pruning helped."""
        name = metric or self.metric
        return tuple(self.baseline[name] - value for value in self.group(group).metrics[name])

    def mean_loss(self, group: str, metric: str | None = None) -> float:
        """Averaged over the ratios: what groups are ranked by."""
        losses = self.losses(group, metric)
        return sum(losses) / len(losses)

    def predicted_loss(self, group: str, ratio: float) -> float:
        """Loss when a share `ratio` of the group's filters goes: never negative, never falling while the ratio grows.

        Straight lines between the measured shares, from no loss at 0 to the whole metric at 1. Where chance made a
        larger cut look better than a smaller one, the smaller one's loss holds. ratio: 0 to 1.
        """
        if not 0 <= ratio <= 1:
            raise ValueError(f"ratio: expected a number from 0 to 1, found {ratio}")
        found = self.group(group)
        highest, points = 0.0, [(0.0, 0.0)]
        for removed, loss in zip(found.removed, self.losses(group), strict=True):
            highest = max(highest, loss)
            share = removed / found.filters
            if share > points[-1][0]:
                points.append((share, highest))
        points.append((1.0, max(highest, self.baseline[self.metric])))
        for (left, low), (right, high) in itertools.pairwise(points):
            if ratio <= right:
                return low + (high - low) * (ratio - left) / (right - left)
        raise AssertionError

    def to_json(self) -> str:
        return json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)}, indent=1) + "\n"

    def digest(self) -> str:
        """sha256 of what `save` writes."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write as JSON, whole or not at all; a folder gets the file `sensitivity.json`."""
        path = Path(path)
        command.write_text(path / FILE if path.is_dir() else path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Sensitivity:
        """Read the file, or the one in a folder. Raises ModelError for anything else."""
        path = Path(path)
        path = path / FILE if path.is_dir() else path
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(record, dict) or record.pop("schema", None) != SCHEMA:
                raise ValueError("another schema")
            groups = tuple(_group(entry) for entry in record.pop("groups"))
            _known(cls, record, {"groups"})
            record["ratios"] = tuple(map(float, record["ratios"]))
            record["baseline"] = {str(name): float(value) for name, value in record["baseline"].items()}
            return cls(**record, groups=groups)
        except OSError as error:
            raise ModelError(
                f"{path}: expected {FILE}, found {error.strerror}; make it with slim/sensitivity.py"
            ) from None
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            raise ModelError(
                f"{path}: expected a sensitivity record (JSON, schema {SCHEMA}), found {one_line(repr(error))[:120]}; "
                "make it again with slim/sensitivity.py"
            ) from None


def weights_digest(manifest: Manifest) -> str:
    """What `weights` holds of a record that was measured on this checkpoint."""
    weights = {name: entry["sha256"] for name, entry in manifest.files.items()}
    return hashlib.sha256(json.dumps(weights, sort_keys=True).encode()).hexdigest()


def _group(entry: dict[str, Any]) -> GroupSensitivity:
    _known(GroupSensitivity, entry, set())
    return GroupSensitivity(
        name=str(entry["name"]),
        filters=int(entry["filters"]),
        members=tuple((str(name), int(axis)) for name, axis in entry["members"]),
        removed=tuple(map(int, entry["removed"])),
        metrics={str(name): tuple(map(float, values)) for name, values in entry["metrics"].items()},
        measured=tuple(map(bool, entry["measured"])),
        params=tuple(map(int, entry["params"])),
        macs=tuple(map(int, entry["macs"])),
    )


def _known(kind: Any, record: dict[str, Any], besides: set[str]) -> None:
    """Every field there and none beside them: what is not understood must not be passed over."""
    names = {field.name for field in dataclasses.fields(kind)} - besides
    if set(record) != names:
        raise KeyError(f"keys {', '.join(sorted(set(record) ^ names))}")


def _require(good: bool, expected: str, found: Any) -> None:
    if not good:
        shown = list(found) if isinstance(found, Iterable) and not isinstance(found, str) else found
        raise ModelError(f"expected {expected}, found {shown}; make it again with slim/sensitivity.py")
