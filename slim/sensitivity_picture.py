"""The curves of `sensitivity.json` as a picture: one small panel for each group, the most sensitive first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import command
from slim.sensitivity_record import Sensitivity

COLUMNS = 5
LINEAR_BELOW = 0.01
TICKS = (0.0, 0.01, 0.1, 1.0)
LINE, SKIPPED, CHOSEN = "#1f5fa8", "#9db8d6", "#c23b22"


def draw(sensitivity: Sensitivity, path: str | Path, chosen: Mapping[str, float] | None = None) -> None:
    """Write the picture; the suffix (.png, .svg, .pdf) says in which format. chosen: {group: ratio} to mark."""
    try:
        import matplotlib
    except ImportError:
        raise command.UsageError("expected matplotlib for the picture, found none; pip install matplotlib") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = sorted(sensitivity.groups, key=lambda group: -sensitivity.mean_loss(group.name))
    rows = -(-len(groups) // COLUMNS)
    figure, axes = pyplot.subplots(
        rows, COLUMNS, figsize=(2.6 * COLUMNS, 1.7 * rows + 0.6), sharex=True, sharey=True, squeeze=False
    )
    for panel, group in zip(axes.flat, groups, strict=False):
        shares = [0.0, *(removed / group.filters for removed in group.removed)]
        losses = [0.0, *sensitivity.losses(group.name)]
        measured = 1 + sum(group.measured)
        panel.axhline(0, color="#cccccc", linewidth=0.8)
        panel.plot(shares, losses, color=SKIPPED, linestyle=":", linewidth=1)
        panel.plot(shares[:measured], losses[:measured], color=LINE, marker="o", markersize=2.5, linewidth=1.2)
        # What pruning can afford lies below a hundredth, what destroys the model near 1.
        panel.set_yscale("symlog", linthresh=LINEAR_BELOW)
        panel.set_ylim(-LINEAR_BELOW / 2, 1)
        panel.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
        panel.minorticks_off()
        panel.set_xlim(0, 1)
        panel.set_title(f"{short(group.name)}  ({group.filters})", fontsize=7)
        panel.tick_params(labelsize=6)
        ratio = (chosen or {}).get(group.name, 0.0)
        if ratio > 0:
            panel.axvline(ratio, color=CHOSEN, linewidth=0.8)
            panel.plot([ratio], [sensitivity.predicted_loss(group.name, ratio)], color=CHOSEN, marker="D", markersize=4)
    for panel in list(axes.flat)[len(groups) :]:
        panel.set_visible(False)
    marks = ", ".join(
        text
        for text, there in (
            ("dotted: out of range, not measured", any(not all(group.measured) for group in groups)),
            ("red: the chosen ratio", bool(chosen)),
        )
        if there
    )
    figure.suptitle(
        f"{sensitivity.name}: {sensitivity.metric} lost when a share of one group's filters goes "
        f"({sensitivity.samples} of {sensitivity.of} samples{'; ' + marks if marks else ''})",
        fontsize=9,
    )
    figure.supxlabel("share of filters removed (filters of the group in brackets)", fontsize=8)
    figure.supylabel(f"loss of {sensitivity.metric}", fontsize=8)
    figure.tight_layout()
    metadata = {"Date": None} if Path(path).suffix == ".svg" else None  # the same picture, the same bytes
    figure.savefig(path, dpi=110, metadata=metadata)
    pyplot.close(figure)


def short(name: str) -> str:
    """A weight's name without what every name has."""
    return name.removeprefix("backbone.").removesuffix(".weight").removesuffix(".conv")
