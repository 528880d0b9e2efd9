"""layers.json as a picture: a bar for each int8 layer, in the order in which they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import command

COLOURS = {
    "first": "#c23b22",
    "last": "#c23b22",
    "SE": "#8e5ea2",
    "depthwise": "#d98c1f",
    "1x1": "#1f5fa8",
    "dense": "#3c8f5a",
    "linear": "#3c8f5a",
}
# Bars of layers without any noise end here, in dB.
CLEAN_DB = 80.0


def draw(record: dict[str, Any], path: str | Path) -> None:
    """record: see analyze_layers.py. The suffix (.png, .svg, .pdf) of `path` says in which format."""
    try:
        import matplotlib
    except ImportError:
        raise command.UsageError("expected matplotlib for the picture, found none; pip install matplotlib") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    layers = record["layers"]
    places = list(range(len(layers)))
    colours = [COLOURS[layer["kind"]] for layer in layers]
    hatches = ["///" if layer["name"] in record["float_layers"] else "" for layer in layers]
    figure, (noise, loss) = pyplot.subplots(2, 1, figsize=(max(0.19 * len(layers), 6) + 1, 7), sharex=True)

    noise.bar(places, [_db(layer["sqnr_db"]) for layer in layers], color=colours, hatch=hatches, edgecolor="white")
    noise.plot(places, [_db(layer["output_sqnr_db"]) for layer in layers], color="#333333", marker=".", linewidth=0.7)
    noise.set_ylabel("signal to noise, dB\n(bar: its output, line: the network's)", fontsize=8)
    loss.bar(places, [layer["lost_alone"] for layer in layers], color=colours, hatch=hatches, edgecolor="white")
    given = [layer["given_back"] for layer in layers]
    loss.plot(places, given, color="#333333", marker="_", linestyle="", markersize=7)
    loss.axhline(0, color="#cccccc", linewidth=0.8)
    loss.set_ylabel(f"{record['metric']}\n(bar: lost alone, dash: given back in float)", fontsize=8)
    loss.set_xticks(places, [layer["name"].removesuffix(".conv") for layer in layers], rotation=90, fontsize=6)
    loss.set_xlim(-0.7, len(layers) - 0.3)
    present = {layer["kind"] for layer in layers}
    names: dict[str, str] = {}
    for kind in (kind for kind in COLOURS if kind in present):
        names[COLOURS[kind]] = f"{names[COLOURS[kind]]}, {kind}" if COLOURS[kind] in names else kind
    handles = [Patch(color=colour, label=name) for colour, name in names.items()]
    if any(hatches):
        handles.append(Patch(facecolor="#bbbbbb", hatch="///", edgecolor="white", label="stays float"))
    noise.legend(
        handles=handles, fontsize=7, ncols=len(handles), loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False
    )
    figure.suptitle(
        f"{record['name']}: each layer alone in int8 ({record['metric']} {record['float']:.4f} in float, "
        f"{record['int8']:.4f} with all int8; {record['samples']} samples)",
        fontsize=9,
    )
    figure.tight_layout()
    metadata = {"Date": None} if Path(path).suffix == ".svg" else None
    figure.savefig(path, dpi=110, metadata=metadata)
    pyplot.close(figure)


def _db(value: float | None) -> float:
    return CLEAN_DB if value is None else max(value, 0.0)
