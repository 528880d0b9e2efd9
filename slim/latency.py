"""Time of one image before and after, on this host: both models exported to fp32 `.nb` files and run in turns."""

from __future__ import annotations

import platform
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from command import ModelError
from slim import other_rooms

ROUNDS = 21


@dataclass(frozen=True)
class Latency:
    """Medians of interleaved runs at the reference size; ratio: after / before, with its 95 % interval."""

    before_ms: float
    after_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    engine: str
    host: str

    @property
    def label(self) -> str:
        return f"fp32 ms ({self.engine}, one core of {self.host})"

    def row(self) -> tuple[str, str, str, str]:
        """What it is, before, after, and the change with its interval."""
        low, high = 100 * (self.ratio_low - 1), 100 * (self.ratio_high - 1)
        change = f"{100 * (self.ratio - 1):+.1f} % ({low:+.1f} … {high:+.1f})"
        return self.label, f"{self.before_ms:.2f}", f"{self.after_ms:.2f}", change


def measure(before: Path, after: Path) -> Latency:
    """before, after: float checkpoint artifacts of one task. Raises ModelError where this host cannot measure."""
    try:
        version = metadata.version("paddlelite")
    except metadata.PackageNotFoundError:
        raise ModelError("expected the package paddlelite, found none") from None
    with tempfile.TemporaryDirectory() as scratch:
        files = []
        for name, folder in (("before", before), ("after", after)):
            model, nb = Path(scratch) / f"{name}-inference", Path(scratch) / f"{name}-nb"
            other_rooms.run("export/to_inference.py", folder, "--out", model)
            other_rooms.run("export/to_nb.py", model, "--target", "x86", "--keep-attributes", "--out", nb)
            files.append(nb)
        first, second = other_rooms.run("benchmarks/run_host.py", *files, "--rounds", ROUNDS)["models"]
    return Latency(
        first["median_ms"],
        second["median_ms"],
        second["ratio"],
        second["ratio_low"],
        second["ratio_high"],
        f"Paddle-Lite {version} x86",
        host(),
    )


def host() -> str:
    """What this machine's processor calls itself."""
    try:
        lines: Any = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
