"""The training loop: Adam on one task, resumable at any step, the best averaged weights kept.

Used by finetune and by the slimming commands alike: they differ in the network that they bring and in what they do with
the best weights.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import paddle
from paddle import distributed

from command import ModelError, UsageError
from ocr_models import checkpoints
from slim import adam_state, ranks
from slim.not_finite import first_not_finite
from slim.recipes import Recipe, learning_rate
from slim.run_state import GOOD, STATE, RunState, load_state
from slim.sampling import Draw, Feeder, Sampler
from slim.training_log import Meter

# Averaging touches every weight; at every fifth step it costs nothing and loses nothing.
AVERAGE_EVERY = 5


class Task(Protocol):
    """What the loop needs to know about a task; see slim/tasks.py."""

    metric_names: tuple[str, ...]
    data: Any  # the training samples; its `augment` may be turned off

    def sampler(self) -> Sampler: ...
    def load(self, draw: Draw) -> Any: ...
    def loss(self, network: paddle.nn.Layer, batch: Any) -> tuple[paddle.Tensor, dict[str, float]]: ...
    def validate(self, network: paddle.nn.Layer, limit: int | None) -> dict[str, Any]: ...


class Broken(ModelError):
    """The weights are spoilt: a loss that is no number, or a metric that collapsed. An earlier state may be sound."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM; the state of the run is on disk."""


class Trainer:
    """One run of one network. `folder` None keeps no state (short fine-tuning inside another command).

    identity: what has to be the same when a run is resumed (network, task, seed, parent).
    on_best(metrics, step): called while the network holds the averaged weights that scored best so far.
    keep_good: keep the state of the last sound validation besides, for `roll_back`.
    """

    def __init__(
        self,
        network: paddle.nn.Layer,
        task: Task,
        recipe: Recipe,
        folder: Path | None,
        *,
        identity: dict[str, Any],
        on_best: Callable[[dict[str, Any], int], None] | None = None,
        quiet: bool = False,
        keep_good: bool = False,
    ) -> None:
        self.network, self.task, self.recipe, self.folder = network, task, recipe, folder
        self.identity, self.on_best, self.quiet, self.keep_good = identity, on_best, quiet, keep_good
        self.rank, self.ranks = distributed.get_rank(), distributed.get_world_size()
        if recipe.batch < self.ranks:
            raise UsageError(
                f"expected a batch of at least one sample per process, found {recipe.batch}; raise --batch"
            )
        self.tensors = checkpoints.parameters(network)  # structured name → weight or buffer
        trainable = [p for p in network.parameters() if p.trainable]
        self.optimizer = paddle.optimizer.Adam(
            learning_rate=recipe.lr,
            parameters=trainable,
            weight_decay=paddle.regularizer.L2Decay(recipe.l2) if recipe.l2 else None,
            grad_clip=paddle.nn.ClipGradByGlobalNorm(recipe.clip_norm),
        )
        self.average: dict[str, np.ndarray] = {}
        self.sampler = task.sampler()
        self.step = 0
        self.rewarm_from = 0
        self.rollbacks, self.rate_factor = 0, 1.0
        self.best: dict[str, Any] = {}
        self.history: dict[str, list] = {"train": [], "validation": []}
        self.seconds = 0.0
        self._stop = self._unscored = False
        self._model: paddle.nn.Layer | None = None
        self._resume()

    def run(self) -> dict[str, Any]:
        """Train up to `recipe.steps`; returns the best validation's metrics.

        Raises Interrupted after saving, Broken in all processes when the weights are spoilt, OSError for a full disk.
        """
        ranks.meet()  # the first process may have measured the model; DataParallel does not wait that long
        paddle.seed(self.recipe.seed + self.rank)
        if self._model is None:  # after a rollback its hooks are in place already
            self._model = paddle.DataParallel(self.network) if self.ranks > 1 else self.network
        self.network.train()
        if not self.average and self.recipe.average_decay:
            self.average = self._weights()
        meter = Meter(self.step, self.recipe, quiet=self.quiet or self.rank > 0)
        if self._unscored:
            self._validate(meter)
            self.save()
        if self.keep_good and self.folder and self.step < self.recipe.steps and not (self.folder / GOOD).exists():
            self._save(self.sampler.state(), GOOD)
        with self._signals(), Feeder(self.sampler, self._load, self.step) as feeder:
            started, before = time.monotonic(), self.seconds
            while self.step < self.recipe.steps:
                rate = self.rate_factor * learning_rate(self.recipe, self.step, self.rewarm_from)
                loss, parts = self._one_step(self._model, feeder.next(), rate)
                self.step += 1
                self.seconds = before + time.monotonic() - started
                meter.add(loss, parts)
                if self.step % self.recipe.log_every == 0 or self.step == self.recipe.steps:
                    self.history["train"].append(meter.record(self.step, rate, self.seconds))
                last = self.step == self.recipe.steps
                if last or self.step % self.recipe.validate_every == 0:
                    if self.folder and not (self.folder / STATE).exists():
                        self._save(feeder.state)  # what on_best writes must never be there without a state to resume
                    self._validate(meter)
                    if self.keep_good:
                        self._save(feeder.state, GOOD)
                stop = ranks.any_of(self._stop)
                if last or stop or self.step % self.recipe.save_every == 0:
                    self._save(feeder.state)
                if stop:
                    raise Interrupted(f"interrupted at step {self.step}")
        return self.best

    def _load(self, draw: Draw) -> Any:
        return self.task.load(draw.share(self.rank, self.ranks))

    def _one_step(self, model: paddle.nn.Layer, batch: Any, rate: float) -> tuple[float, dict[str, float]]:
        loss, parts = self.task.loss(model, batch)
        value = float(loss)
        broken = not np.isfinite(value)
        if ranks.any_of(broken):
            if not broken:
                raise Broken(f"step {self.step + 1}: the loss is no number in another process; its log says where")
            where = first_not_finite(self.network, self.tensors, lambda network: self.task.loss(network, batch))
            raise Broken(f"step {self.step + 1}: the loss is {value}, first seen in {where}; lower --lr")
        loss.backward()
        self.optimizer.set_lr(rate)
        self.optimizer.step()
        self.optimizer.clear_grad()
        if self.average and (self.step + 1) % AVERAGE_EVERY == 0:
            self._update_average((self.step + 1) // AVERAGE_EVERY)
        return value, parts

    def _update_average(self, updates: int) -> None:
        # Early on the average must forget the random start: it behaves like a plain mean of all weights so far.
        decay = min(self.recipe.average_decay**AVERAGE_EVERY, (1 + updates) / (10 + updates))
        for name, tensor in self.tensors.items():
            value = tensor.numpy()
            if value.dtype == np.float32:
                self.average[name] += (1.0 - decay) * (value - self.average[name])
            else:
                self.average[name] = value

    def _weights(self) -> dict[str, np.ndarray]:
        return {name: np.array(tensor.numpy()) for name, tensor in self.tensors.items()}

    def _validate(self, meter: Meter) -> None:
        """Score the averaged weights with the run-time pipeline; only the first process does, the others wait."""
        broken: Broken | None = None
        if self.rank == 0:
            try:
                self._score(meter)
            except Broken as error:
                broken = error
        ranks.meet()
        if ranks.any_of(broken is not None):
            raise broken or Broken(f"step {self.step}: the first process found the model broken; its log says where")

    def _score(self, meter: Meter) -> None:
        with self.averaged():
            metrics = self.task.validate(self.network, self.recipe.validate_samples)
            self.history["validation"].append({"step": self.step, **metrics})
            names = self.task.metric_names
            if not self.best or [metrics[n] for n in names] >= [self.best["metrics"][n] for n in names]:
                self.best = {"step": self.step, "metrics": metrics}
                if self.on_best:
                    self.on_best(metrics, self.step)
        shown = "  ".join(f"{name} {metrics[name]:.4f}" for name in metrics if isinstance(metrics[name], float))
        meter.say(f"step {self.step}  validation: {shown}  (best at step {self.best['step']})")

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The network in eval mode with the averaged weights; the raw ones and train mode are back afterwards."""
        raw = self._weights() if self.average else {}
        self._assign(self.average)
        self.network.eval()
        try:
            yield
        finally:
            self._assign(raw)
            self.network.train()

    def _assign(self, arrays: dict[str, np.ndarray]) -> None:
        for name, array in arrays.items():
            self.tensors[name].set_value(array)

    def save(self) -> None:
        """Keep the state as it is between two steps."""
        self._save(self.sampler.state())

    def roll_back(self, factor: float) -> bool:
        """Go back to the last good state and lower the learning rate to `factor` of it; False where none was kept.

        What happened in between is forgotten, but for the count of rollbacks and the rate, which the state keeps.
        """
        state = load_state(self.folder, GOOD) if self.folder and self.keep_good else None
        if state is None:
            return False
        assert self.folder is not None
        state.rollbacks, state.rate_factor = self.rollbacks + 1, self.rate_factor * factor
        ranks.meet()  # nobody may still be reading what is written now
        if self.rank == 0:
            state.save(self.folder)
        ranks.meet()
        self.optimizer.clear_grad()
        self._resume()
        return True

    def _save(self, sampler_state: dict[str, int], name: str = STATE) -> None:
        if self.folder is None:
            return
        weights = self._weights()
        broken = [name for name, array in weights.items() if not np.isfinite(array).all()]
        if broken:
            raise Broken(f"step {self.step}: {broken[0]} is no longer finite; lower --lr")
        if self.rank > 0:
            return
        RunState(
            step=self.step,
            identity=self.identity,
            recipe=self.recipe.to_json(),
            weights=weights,
            average=self.average,
            moments=adam_state.read(self.optimizer, self.tensors),
            sampler=sampler_state,
            rewarm_from=self.rewarm_from,
            rollbacks=self.rollbacks,
            rate_factor=self.rate_factor,
            best=self.best,
            history=self.history,
            seconds=self.seconds,
        ).save(self.folder, name)

    def _resume(self) -> None:
        state = load_state(self.folder) if self.folder else None
        if state is None:
            return
        assert self.folder is not None
        changed = [key for key in self.identity if state.identity.get(key) != self.identity[key]]
        if changed:
            key = changed[0]
            raise UsageError(
                f"{self.folder / STATE}: expected a run with {key} {self.identity[key]!r}, found one with "
                f"{state.identity.get(key)!r}; give another --out, or remove the folder to start afresh"
            )
        shapes = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        if {name: array.shape for name, array in state.weights.items()} != shapes:
            raise ModelError(f"{self.folder / STATE}: expected this network's weights, found others; remove the folder")
        self._assign(state.weights)
        self.average = {name: np.array(array) for name, array in state.average.items()}
        if self.recipe.average_decay and not self.average:
            self.average = self._weights()
        if not self.recipe.average_decay:
            self.average = {}
        adam_state.write(self.optimizer, self.tensors, state.moments)
        self.sampler.restore(state.sampler)
        self.step, self.best, self.history, self.seconds = state.step, state.best, state.history, state.seconds
        self.rollbacks, self.rate_factor = state.rollbacks, state.rate_factor
        finished = state.step >= state.recipe["steps"]
        # Killed during the first validation of all, which was the last as well: no weights have been handed out yet.
        self._unscored = state.step == self.recipe.steps > 0 and not state.best
        self.rewarm_from = state.step if finished else state.rewarm_from

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM ends the run after the current step; a second one ends it at once."""

        def ask(number: int, _frame: Any) -> None:
            if self._stop:
                raise KeyboardInterrupt
            self._stop = True

        try:
            old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: whoever runs us there handles signals
            old = {}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
