"""How far a training run is: one line every so many steps, a bar on a terminal, and the history's records."""

from __future__ import annotations

import sys
import time
from typing import Any

from slim.recipes import Recipe


class Meter:
    """Mean loss since the last record, and how far the run is, on stderr."""

    def __init__(self, step: int, recipe: Recipe, quiet: bool) -> None:
        self.steps, self.quiet, self.tty = recipe.steps, quiet, sys.stderr.isatty()
        self.first, self.started = step, time.monotonic()
        self._reset()

    def _reset(self) -> None:
        self.losses: list[float] = []
        self.parts: dict[str, float] = {}

    def add(self, loss: float, parts: dict[str, float]) -> None:
        self.losses.append(loss)
        for name, value in parts.items():
            self.parts[name] = self.parts.get(name, 0.0) + value

    def record(self, step: int, rate: float, seconds: float) -> dict[str, Any]:
        count = len(self.losses)
        mean = sum(self.losses) / count
        parts = {name: total / count for name, total in self.parts.items()}
        pace = (step - self.first) / max(time.monotonic() - self.started, 1e-9)
        left = (self.steps - step) / pace
        shown = "".join(f"  {name} {value:.3f}" for name, value in parts.items())
        line = (
            f"step {step}/{self.steps}  loss {mean:.4f}{shown}  lr {rate:.2e}  "
            f"{pace:.2f} steps/s  eta {left / 60:.1f} min"
        )
        if self.tty and not self.quiet:
            filled = 24 * step // max(self.steps, 1)
            print(f"\r[{'#' * filled}{'.' * (24 - filled)}] {line}", end="   ", file=sys.stderr, flush=True)
        else:
            self.say(line)
        self._reset()
        return {"step": step, "loss": mean, **parts, "lr": rate, "seconds": round(seconds, 1)}

    def say(self, line: str) -> None:
        if not self.quiet:
            print(f"{chr(10) if self.tty else ''}{line}", file=sys.stderr, flush=True)
