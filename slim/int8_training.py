"""What watches over an int8 run: settings, frozen batch norm, collapse with the guilty layer's name, and what α did."""

from __future__ import annotations

import dataclasses
import statistics
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paddle
from paddle import nn

from command import UsageError
from slim.calibration import freeze_batch_norm
from slim.layer_error import culprit, layer_errors
from slim.pact import QuantizedNetwork
from slim.recipes import Recipe
from slim.sampling import Draw, Sampler
from slim.thresholds import METHODS
from slim.training import Broken

if TYPE_CHECKING:
    from slim.training import Task, Trainer

# An int8 model below half of its float twin's metric is not worse, it is broken.
COLLAPSED = 0.5
# Below it the float model itself can do nothing, and there is nothing to lose.
MEANINGFUL = 0.05
# Relative change of α below which it has not learned, and relative size below which it has clipped everything away.
STUCK = 1e-5
VANISHED = 1e-2


@dataclass(frozen=True)
class QuantizeSettings:
    """calibration: the rule (kl, hist, mse) for where to clip |activation| over `calibration_batches` training batches,

    and the percentile that hist takes; ptq_calibration: the same where nothing trains. freeze_norm_after: share of the
    steps after which batch norm's statistics stand still. alpha_l2: of the clipping levels alone. alpha_rate: their
    learning rate, times the level, as a multiple of the network's. rollbacks: how often a broken run may go back, each
    time with `rollback_rate` of the learning rate.
    """

    calibration: str = "hist"
    ptq_calibration: str = "mse"
    percentile: float = 99.99
    calibration_batches: int = 8
    freeze_norm_after: float = 0.0
    alpha_l2: float = 1e-3
    alpha_rate: float = 1.0
    rollbacks: int = 4
    rollback_rate: float = 0.3

    def __post_init__(self) -> None:
        rules = {
            "calibration": (self.calibration in METHODS, " | ".join(METHODS)),
            "ptq_calibration": (self.ptq_calibration in METHODS, " | ".join(METHODS)),
            "percentile": (50 <= self.percentile <= 100, "50 to 100"),
            "calibration_batches": (self.calibration_batches >= 1, "at least 1"),
            "freeze_norm_after": (0 <= self.freeze_norm_after <= 1, "0 to 1"),
            "alpha_l2": (self.alpha_l2 >= 0, "0 or more"),
            "alpha_rate": (self.alpha_rate > 0, "above 0"),
            "rollbacks": (self.rollbacks >= 0, "0 or more"),
            "rollback_rate": (0 < self.rollback_rate < 1, "between 0 and 1"),
        }
        for name, (sound, wanted) in rules.items():
            if not sound:
                raise UsageError(f"expected quantize.{name} to be {wanted}, found {getattr(self, name)!r}")

    def to_json(self, method: str = "pact") -> dict[str, Any]:
        """What has a say in `method`."""
        record = {**dataclasses.asdict(self), "calibration": self.rule(method)}
        mute = {"pact": ("ptq_",), "qat": ("ptq_", "alpha_"), "ptq": ("ptq_", "alpha_", "freeze_", "rollback")}[method]
        return {name: value for name, value in record.items() if not name.startswith(mute)}

    def rule(self, method: str) -> str:
        """How `method` calibrates."""
        return self.ptq_calibration if method == "ptq" else self.calibration

    def calibrated_by(self, rule: str | None) -> QuantizeSettings:
        """The same with another rule for all methods; None changes nothing."""
        return dataclasses.replace(self, calibration=rule, ptq_calibration=rule) if rule else self


def parse_settings(values: dict[str, Any], path: Path) -> QuantizeSettings:
    """Settings from a recipe's `quantize` mapping; an unknown key or a value of another type is an error."""
    hints = typing.get_type_hints(QuantizeSettings)
    kinds: dict[Any, tuple[tuple[type, ...], str]] = {
        float: ((int, float), "a number"),
        int: ((int,), "a whole number"),
        str: ((str,), "a word"),
    }
    for key, value in values.items():
        if key not in hints:
            raise UsageError(
                f"{path}: expected only {', '.join(hints)} under quantize, found {key}; remove or correct it"
            )
        kind, wanted = kinds[hints[key]]
        if isinstance(value, bool) or not isinstance(value, kind):
            raise UsageError(f"{path}: expected quantize.{key} to be {wanted}, found {value!r}")
    return QuantizeSettings(**values)


@dataclass(frozen=True)
class Alphas:
    """What training did to the clipping levels. moved: {layer: relative change}; stuck and vanished: layers."""

    moved: dict[str, float]
    stuck: tuple[str, ...]
    vanished: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        changes = sorted(abs(change) for change in self.moved.values())
        return {
            "median_move": round(statistics.median(changes), 6),
            "largest_move": round(changes[-1], 6),
            "stuck": list(self.stuck),
            "vanished": list(self.vanished),
        }

    def __str__(self) -> str:
        record = self.to_json()
        lines = [
            f"alpha: {len(self.moved)} layers, moved by {100 * record['median_move']:.2f} % in the median, "
            f"{100 * record['largest_move']:.2f} % at most"
        ]
        if self.stuck:
            lines.append(f"alpha never moved in {len(self.stuck)} layers: {', '.join(self.stuck[:4])}")
        if self.vanished:
            lines.append(f"alpha went to zero in {len(self.vanished)} layers: {', '.join(self.vanished[:4])}")
        return "\n".join(lines)


def compare_alphas(start: dict[str, float], end: dict[str, float], steps: int) -> Alphas:
    """start, end: {layer: α}. Without steps nothing can be stuck."""
    moved = {name: (end[name] - level) / level for name, level in start.items()}
    return Alphas(
        moved,
        tuple(name for name, change in moved.items() if steps and abs(change) < STUCK),
        tuple(name for name in moved if end[name] < VANISHED * start[name]),
    )


class Int8Guard:
    """The task as the training loop sees it, with a watch on the quantized network.

    original: the float twin, for naming the layer where a collapse begins. x: inputs (N, 3, H, W) to compare them on.
    before: the float model's metrics.
    """

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        settings: QuantizeSettings,
        original: nn.Layer,
        quantized: QuantizedNetwork,
        x: paddle.Tensor,
        before: dict[str, Any],
    ) -> None:
        self.metric_names = task.metric_names
        self.data = task.data
        self._task, self._x = task, x
        self._original, self._quantized = original, quantized
        self._freeze_from = round(settings.freeze_norm_after * recipe.steps)
        self._start = quantized.alphas()
        self._reference = float(before.get(self.metric_names[0], 0.0))
        self._trainer: Trainer | None = None
        self._was_sound = False

    def follow(self, trainer: Trainer) -> None:
        """Learn from the loop at which step it is."""
        self._trainer = trainer
        self._was_sound = bool(trainer.best) and not self.collapsed(trainer.best["metrics"])

    def sampler(self) -> Sampler:
        return self._task.sampler()

    def load(self, draw: Draw) -> Any:
        return self._task.load(draw)

    def loss(self, network: nn.Layer, batch: Any) -> tuple[paddle.Tensor, dict[str, float]]:
        if self._trainer and self._trainer.step >= self._freeze_from:
            freeze_batch_norm(network)
        return self._task.loss(network, batch)

    def validate(self, network: nn.Layer, limit: int | None) -> dict[str, Any]:
        """The task's metrics. Raises Broken when a model that was sound has collapsed, or an α is not positive."""
        metrics = self._task.validate(network, limit)
        gone = [name for name, alpha in self._quantized.alphas().items() if not alpha > 0]
        if gone:
            raise Broken(
                f"step {self._step}: expected positive clipping levels, found alpha at or below zero in {gone[0]}; "
                "lower --lr or quantize.alpha_rate"
            )
        sound = not self.collapsed(metrics)
        if self._was_sound and not sound:
            self.require(metrics, self._step)
        self._was_sound = self._was_sound or sound
        return metrics

    def collapsed(self, metrics: dict[str, Any]) -> bool:
        return self._reference >= MEANINGFUL and metrics[self.metric_names[0]] < COLLAPSED * self._reference

    def require(self, metrics: dict[str, Any], step: int) -> None:
        """Raise Broken with the layer's name when these metrics are a collapse."""
        if not self.collapsed(metrics):
            return
        was_training = self._quantized.network.training
        errors = layer_errors(self._original, self._quantized, self._x)
        if was_training:
            self._quantized.network.train()
        layer, name = culprit(errors), self.metric_names[0]
        raise Broken(
            f"step {step}: expected int8 to keep {name} {self._reference:.4f}, found {metrics[name]:.4f}; it breaks at "
            f"layer {layer} ({errors[layer]:.1f} dB signal to noise); lower --lr, or train and calibrate on more data"
        )

    def alphas(self, quantized: QuantizedNetwork, steps: int) -> Alphas | None:
        """What became of the levels that `quantized` holds after `steps`; None for a network without levels."""
        return compare_alphas(self._start, quantized.alphas(), steps) if self._start else None

    @property
    def _step(self) -> int:
        return self._trainer.step if self._trainer else 0
