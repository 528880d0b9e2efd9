"""Results of benchmarks/reproduce_paper.py → Markdown, and a short text for the terminal. JSON is the truth.

A fake-quantized program's time, or that of an int8 model on x86, is never shown: such a cell says `phone only`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import command
from benchmarks.paper_bars import NAMES, SAVED
from benchmarks.render import size_text

HEADERS = ("", "variant", "metric", "difference to float (95 %)", "weights", "file", "params", "MACs", "ms")
METHODS = ("pact", "qat", "ptq-hist", "ptq-mse", "ptq-kl")
VARIANT_NAMES = {
    "fpgm": "FPGM",
    "pact": "PACT",
    "both": "FPGM + PACT",
    "qat": "QAT",
    "pact-lstm": "PACT, LSTM in bytes",
    "both-lstm": "FPGM + PACT, LSTM in bytes",
    "slim-lstm": "slim, LSTM in bytes",
}


def markdown(results: Mapping[str, Any]) -> str:
    """The whole page: bars, the paper's tables with ours, three ways to int8, the published models, notes."""
    rows = results["rows"]
    parts = [
        "# What compression costs, beside the PP-OCR paper",
        _scope(results),
        "## Bars",
        bars_table(results["bars"]),
    ]
    for table in results["paper"]:
        title = f"## Table {table['table']}: {table['title']}"
        ours = [row for row in rows if row["task"] == table["task"] and row["variant"] not in METHODS[1:]]
        parts += [title, _table(HEADERS, [*map(_paper_cells, _with_task(table)), *map(row_cells, ours)])]
    int8 = [row for row in rows if row["variant"] in METHODS and row["task"] != "system"]
    if {row["variant"] for row in int8} != {"pact"}:
        headers = ("", "method", *HEADERS[2:6])
        named = [[NAMES[row["task"]], *row_cells(row)[1:6]] for row in int8]
        parts += ["## Ways to int8, from the same float model", _table(headers, named)]
    if results["published"]:
        parts += ["## PaddleOCR's published v2.0 models", *_published(results["published"])]
    parts += ["## Notes", "\n".join(f"- {note}" for note in NOTES)]
    return "\n\n".join(parts) + "\n"


NOTES = (
    "Metrics: ours on the synthetic test split, int8 models as fake-quantized programs in Paddle, because "
    "Paddle-Lite's x86 kernels compute int8 wrongly; the paper's on its own data.",
    "Differences: of the same images read by both models, with the paired bootstrap's 95 % interval over images.",
    "Weights: weights and their scales in the ARM `.nb` file, which is the file. The paper names its model size only.",
    "ms: ours one core of this host with Paddle-Lite x86, fp32 models only; the paper's a Snapdragon 855. The two do "
    "not compare; a system's is of one of our sample pictures, on average. Int8 has no time here: it runs on phones.",
)


def _scope(results: Mapping[str, Any]) -> str:
    kind = {
        "shipped": "The shipped models, as they are.",
        "missing": "The shipped models as they are; those that do not ship were trained for this table.",
        "all": "All trained from the float models for this table.",
    }[results["mode"]]
    samples = {row["task"]: row["metric"]["samples"] for row in results["rows"] if "failed" not in row}
    named = {"det": "scenes", "cls": "direction crops", "rec": "lines"}
    counts = ", ".join(f"{samples[task]:,} {word}" for task, word in named.items() if task in samples)
    short = "" if results["complete"] else " **A trial run on little data: these figures prove nothing.**"
    return f"{kind} Test split: {counts}.{short} Host: {results['host']}."


def bars_table(bars: Sequence[Mapping[str, Any]]) -> str:
    return _table(("", "bar", "reached", "by", "", "tried"), [bar_cells(bar) for bar in bars])


def bar_cells(bar: Mapping[str, Any]) -> list[str]:
    met = {True: "met", False: "**unmet**", None: "not measured"}[bar["met"]]
    name = f"stretch: {bar['bar']}" if bar["stretch"] else bar["bar"]
    by = _named(bar["variant"]) if bar["variant"] else ""
    return [NAMES[bar["task"]], name, _reached(bar), by, met, "; ".join(_tried(each, bar) for each in bar["tried"])]


def _reached(bar: Mapping[str, Any]) -> str:
    if bar["value"] is None:
        return ""
    return share(bar["value"]) if bar["kind"] == SAVED else interval(bar["value"], bar["interval"])


def _tried(each: Mapping[str, Any], bar: Mapping[str, Any]) -> str:
    name = _named(each["variant"]) + (f" ({each['steps']:,} steps)" if each.get("steps") else "")
    return f"{name}: {each['failed'] if 'failed' in each else _reached({**bar, **each})}"


def share(value: float) -> str:
    """-.84956 → −84.96 %: in fewer digits that would look like a bar of 85 % that it does not clear."""
    return f"{100 * value:+.2f} %".replace("-", "−")


def interval(value: float, bounds: Sequence[float]) -> str:
    return f"{value:+.4f} ({bounds[0]:+.4f} to {bounds[1]:+.4f})".replace("-", "−")


def row_cells(row: Mapping[str, Any]) -> list[str]:
    """The texts of one of our rows, in the order of HEADERS."""
    name = _named(row["variant"])
    if "failed" in row:
        return ["ours", name, f"failed: {row['failed']}", *[""] * (len(HEADERS) - 3)]
    origin = "ours, shipped" if row["origin"] == "shipped" else "ours"
    steps = f", {row['steps']:,} steps" if row["steps"] and row["variant"] != "float" else ""
    if row["task"] == "system":
        name += f" ({', '.join(f'{task} {_named(part)}' for task, part in row['parts'].items())})"
    found = row["differences"].get("float")
    latency = row["latency_ms"]
    return [
        origin,
        name + steps,
        f"{row['metric']['name']} {row['metric']['value']:.4f}",
        interval(found["value"], (found["low"], found["high"])) if found else "",
        size_text(row["weight_bytes"]),
        size_text(row["nb_bytes"]),
        "" if row["params"] is None else f"{row['params']:,}",
        "" if row["macs"] is None else f"{row['macs'] / 1e6:,.1f} M",
        latency or "" if latency is None or isinstance(latency, str) else f"{latency['median']:.1f}",
    ]


def _with_task(table: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    base = table["rows"][0]["value"]
    for row in table["rows"]:
        yield {**row, "metric": table["metric"], "difference": row["value"] - base}


def _paper_cells(row: Mapping[str, Any]) -> list[str]:
    gained = "" if row["variant"] == "float" else f"{row['difference']:+.4f}".replace("-", "−")
    metric = f"{row['metric']} {row['value']:.4f}"
    return [
        "paper",
        _named(row["variant"]),
        metric,
        gained,
        "",
        f"{row['file_mb']} MB",
        "",
        "",
        f"{row['sd855_ms']} (SD 855)",
    ]


def _published(found: Mapping[str, Any]) -> list[str]:
    floats = {row["task"]: row for row in found["models"] if row["variant"] == "float"}
    sizes = [
        [
            NAMES[row["task"]],
            _named(row["variant"]),
            size_text(row["weight_bytes"]),
            share(row["weight_bytes"] / floats[row["task"]]["weight_bytes"] - 1),
            size_text(row["nb_bytes"]),
            f"{found['icdar2015_det'][row['variant']]:.3f}" if row["task"] == "det" else "",
        ]
        for row in found["models"]
    ]
    words = found["agreement"]["words"]
    totals = {"all photos": found["agreement"]["total"], **found["agreement"]["folders"]}
    said = (
        "Slim against float. Boxes: found by both at an IoU of .5 (2 · matched / all). Texts, 1−NED: of those boxes. "
        "Lines: of the float models' lines, the share that the slim ones read at the same place with the same text. "
        f"The recognizer knows no Chinese. Single words: {words['identical']} of {words['read']} read alike."
    )
    agreement = [
        [name, str(total["photos"]), str(total["reference"])]
        + ["" if value is None else f"{100 * value:.1f} %" for value in total["shares"].values()]
        for name, total in totals.items()
    ]
    agreed = _table(("", "photos", "lines", "boxes", "texts", "1−NED", "lines the same"), agreement)
    headers = ("", "variant", "weights", "", "file", "hmean on ten ICDAR photos, for information")
    chinese = {row["variant"]: row for row in found["chinese"]}
    reference = chinese["float"]["weight_bytes"]
    bytes_said = ", ".join(
        f"{_named(form)} {row['weight_bytes']:,} bytes of weights ({share(row['weight_bytes'] / reference - 1)})"
        for form, row in chinese.items()
    )
    return [said, agreed, _table(headers, sizes), f"Recognizer of 6,625 classes, counted only: {bytes_said}."]


def text(results: Mapping[str, Any]) -> str:
    """The bars, for the terminal."""
    rows = [bar_cells(bar)[:5] for bar in results["bars"]]
    width = max(len(row[0]) for row in rows)
    joined = [[f"{row[0].ljust(width)}  {row[1]}", *(cell.replace("**", "") for cell in row[2:])] for row in rows]
    return command.table([f"{''.ljust(width)}  bar", "reached", "by", ""], joined)


def _named(variant: str) -> str:
    if variant.startswith("ptq-"):
        _, calibration, *lstm = variant.split("-")
        return f"PTQ, {calibration}" + (", LSTM in bytes" if lstm else "")
    return VARIANT_NAMES.get(variant, variant)


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
