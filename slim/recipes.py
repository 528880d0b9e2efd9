"""How a model is trained, as one frozen record: read strictly from YAML, written into the artifact that it made."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command import UsageError
from slim.yaml_file import read_yaml

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
TASKS = ("det", "cls", "rec")


@dataclass(frozen=True)
class Recipe:
    """One training recipe. `batch` counts the samples of one optimizer step over all processes.

    warmup_steps: linear rise to `lr`; then a cosine falls to `final_lr_ratio · lr` at `steps`.
    l2: weight of ½‖w‖² in the loss, PaddleOCR's convention. clip_norm: limit of the gradient's global norm.
    average_decay: of the running average of the weights that is validated and exported; 0 uses the raw weights.
    widths (rec): line widths in px that batches come in. width_schedule (rec): [[from step, widest px], …].
    batch_width_px (rec): the width at which a batch has `batch` lines; others keep batch · width the same.
    size_px (det): side of the square training crops. box_thresh (det): mean probability from which a box counts, chosen
    on validation data and written into the model's manifest; 0 keeps what the manifest says.
    upright_lines (cls): the recognizer's training lines, where the data has them, take part as upright crops.
    """

    task: str
    steps: int
    batch: int
    lr: float
    warmup_steps: int
    final_lr_ratio: float = 0.01
    l2: float = 0.0
    clip_norm: float = 5.0
    average_decay: float = 0.999
    seed: int = 1
    augment: bool = True
    log_every: int = 20
    save_every: int = 200
    validate_every: int = 500
    validate_samples: int = 200
    size_px: int = 0
    box_thresh: float = 0.0
    upright_lines: bool = False
    widths: tuple[int, ...] = ()
    width_schedule: tuple[tuple[int, int], ...] = ()
    batch_width_px: int = 0
    max_batch: int = 0
    prob_weight: float = 5.0
    binary_weight: float = 1.0
    threshold_weight: float = 10.0
    negative_ratio: float = 3.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        object.__setattr__(self, "width_schedule", tuple(tuple(stage) for stage in self.width_schedule))
        rules = {
            "task": (self.task in TASKS, " | ".join(TASKS)),
            "steps": (self.steps >= 0, "0 or more"),
            "batch": (self.batch >= 1, "at least 1"),
            "lr": (0 < self.lr < 1 and math.isfinite(self.lr), "a rate between 0 and 1"),
            "warmup_steps": (self.warmup_steps >= 0, "0 or more"),
            "final_lr_ratio": (0 <= self.final_lr_ratio <= 1, "0 to 1"),
            "l2": (self.l2 >= 0, "0 or more"),
            "clip_norm": (self.clip_norm > 0, "above 0"),
            "average_decay": (0 <= self.average_decay < 1, "0 up to 1"),
            "log_every": (self.log_every >= 1, "at least 1"),
            "save_every": (self.save_every >= 1, "at least 1"),
            "validate_every": (self.validate_every >= 1, "at least 1"),
            "validate_samples": (self.validate_samples >= 1, "at least 1"),
            "size_px": (self.task != "det" or (self.size_px >= 32 and self.size_px % 32 == 0), "a multiple of 32"),
            "box_thresh": (0 <= self.box_thresh < 1, "a probability below 1"),
            "widths": (
                self.task != "rec" or (bool(self.widths) and list(self.widths) == sorted(set(self.widths))),
                "ascending widths in px",
            ),
            "batch_width_px": (self.task != "rec" or self.batch_width_px > 0, "a width in px"),
            "width_schedule": (self._schedule_is_sound(), "[[0, px], [later step, px], …] with steps ascending"),
        }
        for name, (sound, wanted) in rules.items():
            if not sound:
                raise UsageError(f"recipe: expected {name} to be {wanted}, found {getattr(self, name)!r}")

    def _schedule_is_sound(self) -> bool:
        starts = [stage[0] for stage in self.width_schedule]
        sized = all(len(stage) == 2 and stage[1] > 0 for stage in self.width_schedule)
        return not starts or (sized and starts[0] == 0 and starts == sorted(set(starts)))

    def widest_px(self, step: int) -> int:
        """The widest line that takes part at `step` (0-based); without a schedule the last of `widths`."""
        allowed = [px for start, px in self.width_schedule if start <= step]
        return allowed[-1] if allowed else self.widths[-1]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def load_recipe(path: str | Path, **overrides: Any) -> Recipe:
    """Read a recipe; `overrides` that are not None replace its values.

    Raises UsageError for a missing file, no mapping, an unknown or missing key, or a value of another type.
    """
    path = Path(path)
    record = read_yaml(path, "a recipe", "give a file such as configs/rec.yaml")
    if not isinstance(record, dict):
        raise UsageError(f"{path}: expected a mapping of recipe keys, found {type(record).__name__}; correct the file")
    record.update({key: value for key, value in overrides.items() if value is not None})
    return parse_recipe(record, str(path))


def parse_recipe(record: dict[str, Any], where: str) -> Recipe:
    """A recipe from plain values; every key is checked by name and type."""
    hints = typing.get_type_hints(Recipe)
    unknown = sorted(set(map(str, record)) - set(hints))
    if unknown:
        raise UsageError(f"{where}: expected only {', '.join(hints)}, found {', '.join(unknown)}; remove or correct it")
    required = [f.name for f in dataclasses.fields(Recipe) if f.default is dataclasses.MISSING]
    missing = sorted(set(required) - set(record))
    if missing:
        raise UsageError(f"{where}: expected the keys {', '.join(missing)}, found none; add them")
    values: dict[str, Any] = {}
    for key, value in record.items():
        wanted = hints[key]
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if wanted is float and isinstance(value, str):
            # YAML 1.1 reads 1e-3 (without a point) as text.
            try:
                value = float(value)
            except ValueError:
                raise UsageError(f"{where}: expected {key} to be a number, found {value!r}") from None
        kind = tuple if isinstance(wanted, types.GenericAlias) else wanted
        if isinstance(value, bool) != (kind is bool) or not isinstance(value, (list, tuple) if kind is tuple else kind):
            raise UsageError(f"{where}: expected {key} to be of type {kind.__name__}, found {value!r}")
        if kind is tuple and not _whole_numbers(value):
            raise UsageError(f"{where}: expected {key} to hold whole numbers, found {value!r}")
        values[key] = value
    try:
        return Recipe(**values)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _whole_numbers(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_whole_numbers(item) for item in value)
    return isinstance(value, int) and not isinstance(value, bool)


def learning_rate(recipe: Recipe, step: int, rewarm_from: int = 0) -> float:
    """Rate of the 0-based `step`: linear warm-up, then half a cosine down to the final ratio at `recipe.steps`.

    rewarm_from: the step at which a finished run was extended. The cosine stretches over the new horizon, so the rate
    there jumps up; a second linear warm-up that starts at this step softens the jump.
    """
    horizon = max(recipe.steps - recipe.warmup_steps, 1)
    progress = min(max(step - recipe.warmup_steps, 0) / horizon, 1.0)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    rate = recipe.lr * (recipe.final_lr_ratio + (1.0 - recipe.final_lr_ratio) * cosine)
    if recipe.warmup_steps:
        rate *= min(1.0, (step - rewarm_from + 1) / recipe.warmup_steps)
    return rate
