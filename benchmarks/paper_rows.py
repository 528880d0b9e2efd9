"""Rows of our models, each figure out of an artifact or of what another command measured. JSON is the truth.

A row: {"task", "variant", "origin": "shipped" or "trained", "steps": of its last training, "parts": of a system,
"checkpoint_sha256", "params", "macs", "weight_bytes", "nb_bytes", "metric": see results.metric_of, "differences": to
float, and to what it was made of: {variant: {"value", "low", "high"}}, "latency_ms": {"median", "low", "high"} or why
there is none}.
A variant that could not be made is {"task", "variant", "failed": why}.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import artifact
import command
from benchmarks import stats
from benchmarks.paper_models import EXPORTED, FLOAT_FORMS, TASKS, VARIANTS, Key, Places, source
from benchmarks.render import PHONE_ONLY
from benchmarks.results import metric_of
from ocr_models.reference import REFERENCE_SHAPES

# A metric as a function of the means of the columns that slim/evaluate.py writes for an image.
MEASURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "det": stats.harmonic_mean,
    "cls": stats.first_mean,
    "rec": stats.first_mean,
    "system": stats.harmonic_mean,
}


def gather(
    places: Places, models: Mapping[Key, Path], origins: Mapping[Key, str], systems: Mapping[str, Mapping[str, str]]
) -> list[dict[str, Any]]:
    """The rows of all models, in the order of TASKS and VARIANTS, and of all systems."""
    latency = {
        Path(row["artifact"]).name: {name: row[f"median{end}_ms"] for name, end in ENDS.items()}
        for row in _read_json(places.latency)["models"]
    }
    rows: dict[Key, dict[str, Any]] = {}
    photos = {
        frozenset(Path(part).name for part in row["artifacts"]): {
            name: row[f"median{end}_ms"] for name, end in ENDS.items()
        }
        for row in _read_json(places.photo_latency)["systems"]
    }
    order = ["float", *VARIANTS, *EXPORTED]
    for task in TASKS:
        for variant in sorted((v for t, v in models if t == task), key=order.index):
            key = task, variant
            rows[key] = model_row(places, key, models[key], rows)
            rows[key]["origin"] = origins[task, source(variant)]
            rows[key]["latency_ms"] = latency["-".join(key)] if variant in FLOAT_FORMS else PHONE_ONLY
    for name, parts in systems.items():
        rows["system", name] = _system_row(places, name, [rows[task, parts[task]] for task in TASKS])
        timed = frozenset("-".join(part) for part in parts.items())
        rows["system", name]["latency_ms"] = photos[timed] if set(parts.values()) <= set(FLOAT_FORMS) else PHONE_ONLY
    for task, name in rows:
        others = {"float", VARIANTS[name].of} if name in VARIANTS else {"float"}
        others |= {EXPORTED[name][0]} if name in EXPORTED else set()
        rows[task, name]["differences"] = {
            other: difference(places, task, name, other) for other in sorted(others - {name}) if (task, other) in rows
        }
    return list(rows.values())


ENDS = {"median": "", "low": "_low", "high": "_high"}


def model_row(places: Places, key: Key, checkpoint: Path, known: Mapping[Key, Mapping[str, Any]]) -> dict[str, Any]:
    """All but origin, differences and latency. known: the rows of the float networks that int8 ones were made of."""
    task, variant = key
    manifest = artifact.load(checkpoint)
    nb = artifact.load(places.nb(key, "arm"), verify=False)
    if nb.quantized != manifest.quantized or manifest.quantized == (variant in FLOAT_FORMS):
        raise command.ModelError(
            f"{places.nb(key, 'arm')}: expected a file of the {variant} model, found another; delete it and run again"
        )
    return {
        "task": task,
        "variant": variant,
        "steps": manifest.extra.get("recipe", {}).get("steps", manifest.extra.get("steps")),
        "checkpoint_sha256": artifact.digest(checkpoint),
        **_work(key, checkpoint, known),
        **nb_bytes(nb),
        "metric": metric_of(_read_json(places.metrics(key))["results"], task),
    }


def nb_bytes(nb: artifact.Manifest) -> dict[str, int]:
    """weight_bytes: weights and their scales; nb_bytes: the whole file."""
    sizes = nb.extra["bytes"]
    return {"weight_bytes": sizes["weights"] + sizes.get("scales", 0), "nb_bytes": nb.files["model.nb"]["bytes"]}


def _work(key: Key, checkpoint: Path, known: Mapping[Key, Mapping[str, Any]]) -> dict[str, int | None]:
    """Params and MACs. Quantizing changes neither, so an int8 model shows those of the network that it was made of."""
    task, variant = key
    if variant not in FLOAT_FORMS:
        parent = known.get((task, VARIANTS[source(variant)].of), {})
        return {"params": parent.get("params"), "macs": parent.get("macs")}
    from ocr_models import checkpoints, complexity

    network, _ = checkpoints.load_network(checkpoint)
    return {"params": complexity.params(network), "macs": complexity.macs(network, REFERENCE_SHAPES[task])}


def _system_row(places: Places, name: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums over three models, and what they read together; all but latency."""
    sums = {figure: sum(part[figure] for part in parts) for figure in ("params", "weight_bytes", "nb_bytes")}
    return {
        "task": "system",
        "variant": name,
        "origin": "shipped" if {part["origin"] for part in parts} == {"shipped"} else "trained",
        "steps": None,
        "parts": {part["task"]: part["variant"] for part in parts},
        **sums,
        "macs": None,
        "metric": metric_of(_read_json(places.metrics(("system", name)))["results"], "system"),
    }


def difference(places: Places, task: str, variant: str, other: str) -> dict[str, float]:
    """The metric of `variant` minus that of `other`, with its paired interval over the test split's images."""
    ours, theirs = (_read_json(places.images((task, name)))["tasks"][task] for name in (variant, other))
    for field in ("labels_sha256", "columns", "images"):
        if ours[field] != theirs[field]:
            raise command.ModelError(
                f"{places.images((task, variant))}: expected the same {field} as {other}, found others; "
                "measure both again"
            )
    value, low, high = stats.paired_difference(ours["records"], theirs["records"], MEASURES[task])
    return {"value": value, "low": low, "high": high}


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
