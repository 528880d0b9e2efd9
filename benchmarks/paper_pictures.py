"""Two pictures of the results: what is left of each model's bytes, and how its metric differs from the float one's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.paper_bars import NAMES

SIZES, DIFFERENCES = "paper_sizes.png", "paper_differences.png"
COLORS = {"paper": "#b0b0b0", "file": "#5b8db8", "weights": "#1f4e79"}


def draw(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write both pictures as PNG; returns their paths."""
    import matplotlib

    matplotlib.use("Agg")
    made = [row for row in results["rows"] if "failed" not in row and row["variant"] != "float"]
    return [_sizes(results, made, folder / SIZES), _differences(made, folder / DIFFERENCES)]


def _sizes(results: Mapping[str, Any], made: list[Mapping[str, Any]], path: Path) -> Path:
    floats = {row["task"]: row for row in results["rows"] if row["variant"] == "float"}
    bars: list[tuple[str, float, str]] = []
    for table in results["paper"]:
        task, (base, slim) = table["task"], table["rows"]
        bars.append((f"{NAMES[task]}, paper: {slim['variant']}", slim["file_mb"] / base["file_mb"], "paper"))
        for row in (row for row in made if row["task"] == task):
            name = f"{NAMES[task]}, ours: {row['variant']}"
            bars.append((name, row["nb_bytes"] / floats[task]["nb_bytes"], "file"))
            bars.append(("", row["weight_bytes"] / floats[task]["weight_bytes"], "weights"))
    figure, axes = _figure(len(bars))
    axes.barh([name or f" {at}" for at, (name, _, _) in enumerate(bars)], [100 * share for _, share, _ in bars],
              color=[COLORS[kind] for _, _, kind in bars])  # fmt: skip
    axes.set_yticks(range(len(bars)), [name for name, _, _ in bars])
    axes.set_xlabel("% of the float model (grey: paper's file; light: our .nb file; dark: our weights)")
    return _save(figure, axes, path)


def _differences(made: list[Mapping[str, Any]], path: Path) -> Path:
    rows = [(f"{NAMES[row['task']]}: {row['variant']}", row["differences"]["float"]) for row in made]
    figure, axes = _figure(len(rows))
    for at, (_, found) in enumerate(rows):
        axes.plot([found["low"], found["high"]], [at, at], color=COLORS["file"], linewidth=3)
        axes.plot([found["value"]], [at], "o", color=COLORS["weights"])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_xlabel("metric minus the float model's, with its paired 95 % interval")
    return _save(figure, axes, path)


def _figure(lines: int) -> tuple[Any, Any]:
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(8, 1.2 + 0.24 * lines))


def _save(figure: Any, axes: Any, path: Path) -> Path:
    from matplotlib import pyplot

    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    # No date and no version of matplotlib in the file: the same results give the same bytes.
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    return path
