"""The demo's results: gathered from artifacts and from what the other commands wrote, checked, and written down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import artifact
import command
from benchmarks.layout import PRETRAINED, SYSTEMS, TASKS, Layout
from benchmarks.render import PHONE_ONLY, html_page, markdown_table, put_in_readme, text_table
from benchmarks.steps import ROOT
from lite_runtime import bundle as sealed
from ocr_models.reference import REFERENCE_SHAPES

# A shipped model whose figure moves by more than this on another machine is no longer the model that was shipped.
METRIC_TOLERANCE = 0.01
NOTES = [
    "Accuracy: on the synthetic test split, read through the runtime's own pipeline; int8 models on the fake-quantized "
    "Paddle program, because Paddle-Lite's x86 kernels compute int8 wrongly.",
    "Weights and .nb file: bytes of the ARM file. MACs: "
    + ", ".join(
        f"{name} at {REFERENCE_SHAPES[task][2]}x{REFERENCE_SHAPES[task][3]}"
        for task, name in (("det", "detector"), ("cls", "classifier"), ("rec", "recognizer"))
    )
    + ".",
    "The photos were read with bundle-x86: the shipped pruned detector, float classifier and recognizer.",
    "Host latency: median of one core with Paddle-Lite x86, fp32 models only; int8 latency exists on phones only.",
]


def gather(layout: Layout, steps: int, complete: bool) -> dict[str, Any]:
    """{"schema", "complete": whether all of the test split was read, "rows": see benchmarks/render.py}.

    steps: training steps of the demo's own models. Each figure comes from an artifact's manifest, from the report of
    slim/evaluate.py, or from that of benchmarks/run_host.py.
    """
    reports = {system: _read_json(layout.metrics(system))["results"] for system in SYSTEMS}
    table = _Table(layout, {**dict.fromkeys(SYSTEMS, ""), "demo": f" ({steps} steps)"}, _work(layout), _latency(layout))
    rows = []
    for task in TASKS:
        rows.append(table.row("float", task, "fp32", metric_of(reports["float"], task)))
        for system in ("shipped", "demo"):
            if task == "det":
                # Measured when it was shipped; the demo's own was watched on a handful of samples.
                recorded = _recorded(layout, "shipped/det-pruned") if system == "shipped" else None
                rows.append(table.row(system, "det-pruned", "pruned fp32", recorded))
            form = "pruned + int8" if task == "det" else "int8"
            rows.append(table.row(system, task, form, metric_of(reports[system], task)))
    for system in SYSTEMS:
        rows.append(table.sum(system, rows, metric_of(reports[system], "system")))
    return {"schema": 1, "complete": complete, "rows": rows}


class _Table:
    """Makes rows. suffixes: system → what its name carries; work, latency: model's name → figures."""

    def __init__(
        self, layout: Layout, suffixes: dict[str, str], work: dict[str, Any], latency: dict[Path, Any]
    ) -> None:
        self.layout, self.suffixes, self.work, self.latency = layout, suffixes, work, latency

    def row(self, system: str, model: str, form: str, metric: dict[str, Any] | None) -> dict[str, Any]:
        name = f"{system}/{model}"
        nb = artifact.load(self.layout.nb(name, "arm"), verify=False)
        # Quantizing changes neither shapes nor work, so an int8 row shows those of the network that it was made of.
        shape = {"det": f"{system}/det-pruned", "cls": "float/cls", "rec": "float/rec"}
        return {
            "task": nb.task,
            "variant": self._variant(system),
            "form": form,
            **(self.work[name] if name in self.work else self.work[shape[model]]),
            "weight_bytes": nb.extra["bytes"]["weights"] + nb.extra["bytes"].get("scales", 0),
            "nb_bytes": nb.files["model.nb"]["bytes"],
            "metric": metric,
            "latency_ms": PHONE_ONLY if nb.quantized else self.latency[self.layout.nb(name, "x86")],
        }

    def sum(self, system: str, rows: list[dict[str, Any]], metric: dict[str, Any]) -> dict[str, Any]:
        """The row of a whole system: its three models together."""
        parts = [row for row in rows if row["variant"] == self._variant(system) and row["form"] != "pruned fp32"]
        return {
            "task": "system",
            "variant": self._variant(system),
            "form": "",
            "params": sum(row["params"] for row in parts),
            "macs": None,
            "weight_bytes": sum(row["weight_bytes"] for row in parts),
            "nb_bytes": sum(row["nb_bytes"] for row in parts),
            "metric": metric,
            "latency_ms": None,
        }

    def _variant(self, system: str) -> str:
        return system + self.suffixes[system]


def _work(layout: Layout) -> dict[str, dict[str, int]]:
    """Float models' parameters and multiply-accumulates by name."""
    from ocr_models import checkpoints, complexity

    work = {}
    for name, folder in layout.checkpoints().items():
        if artifact.load(folder).quantized:
            continue
        network, manifest = checkpoints.load_network(folder)
        macs = complexity.macs(network, REFERENCE_SHAPES[manifest.task])
        work[name] = {"params": complexity.params(network), "macs": macs}
    return work


def _latency(layout: Layout) -> dict[Path, dict[str, float]]:
    """Host latency in ms by `.nb` artifact."""
    return {
        Path(row["artifact"]): {"median": row["median_ms"], "low": row["median_low_ms"], "high": row["median_high_ms"]}
        for row in _read_json(layout.latency)["models"]
    }


def _recorded(layout: Layout, name: str) -> dict[str, Any]:
    return {"name": "hmean", "value": artifact.load(layout.checkpoint(name)).metrics["hmean"]}


def metric_of(results: dict[str, Any], task: str) -> dict[str, Any]:
    """The one figure of a task that the table shows, out of the results of slim/evaluate.py."""
    headline = {"det": "hmean", "cls": "accuracy", "rec": "accuracy", "system": "f_score"}[task]
    result = results[task]
    low, high = result["intervals"][headline]
    return {
        "name": headline,
        "value": result["metrics"][headline],
        "low": low,
        "high": high,
        "samples": result["samples"],
    }


def drift(results: dict[str, Any], recorded: dict[str, dict[str, Any]]) -> list[str]:
    """Shipped models whose figure here is not the recorded one, each with both figures.

    recorded: task → metrics of the shipped model's manifest; see `shipped_metrics`.
    """
    found = []
    for row in results["rows"]:
        metric = row["metric"]
        if row["variant"] != "shipped" or metric is None or metric["name"] not in recorded[row["task"]]:
            continue
        expected = recorded[row["task"]][metric["name"]]
        if results["complete"] and abs(expected - metric["value"]) > METRIC_TOLERANCE:
            found.append(
                f"{row['task']}: expected {metric['name']} {expected:.4f} as shipped, found {metric['value']:.4f}"
            )
    return found


def shipped_metrics(layout: Layout) -> dict[str, dict[str, Any]]:
    """task → the metrics that the shipped models, and their bundle, were shipped with."""
    recorded = {task: artifact.load(layout.checkpoint(f"shipped/{task}")).metrics for task in TASKS}
    return {**recorded, "system": artifact.load(PRETRAINED / "arm-slim").metrics}


def write_report(layout: Layout, results: dict[str, Any]) -> str:
    """results.json, table.md and report.html in the demo's folder; returns the table as text."""
    photos = [
        {
            "title": Path(image["image"]).stem,
            "image": layout.photos / image["annotated"],
            "lines": [(line["text"], line["score"]) for line in image["lines"]],
        }
        for image in _read_json(layout.photos / "results.json")["images"]
    ]
    rows = results["rows"]
    command.write_text(layout.out / "results.json", _json(results))
    command.write_text(layout.out / "table.md", markdown_table(rows) + "\n")
    command.write_text(layout.out / "report.html", html_page("PP-OCR Edge: before and after", rows, photos, NOTES))
    return text_table(rows)


def publish(
    layout: Layout, results: dict[str, Any], package: Path = PRETRAINED, readme: Path = ROOT / "README.md"
) -> None:
    """Make the figures of the float and the shipped models those of the package and of the README."""
    rows = [row for row in results["rows"] if row["variant"] in ("float", "shipped")]
    command.write_text(package / "results.json", _json({**results, "rows": rows}))
    put_in_readme(readme, rows)
    for system, bundle in (("float", "x86"), ("shipped", "arm-slim")):
        [row] = [row for row in rows if row["task"] == "system" and row["variant"] == system]
        measured_on = _read_json(layout.metrics(system))["results"]["system"]["measured_on"]
        manifest = artifact.load(package / bundle, kind="bundle")
        metrics = {"f_score": row["metric"]["value"]}
        sealed.rewrite(package / bundle, manifest.replace(metrics=metrics, measured_on=measured_on))


def _json(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
