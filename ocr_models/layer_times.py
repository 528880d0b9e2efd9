"""`op_profile.json`: how long single layers take on a device; read, written, asked for sizes in between.

    {"schema": 1, "profiles": [
      {"device": "AMD EPYC", "engine": "Paddle-Lite 2.13rc0", "precision": "fp32", "source": "host", "threads": 1,
       "call_ms": 0.008, "layers": [
         {"geometry": {"op": "conv2d", "kernel": [1, 1], …, "height": 40, "width": 40},
          "inputs": 56, "outputs": 336, "ms": 0.81, "rounds": 15}]}]}

geometry, inputs, outputs: as ocr_models/layer_shapes.py gives them. ms: median of one run of a model of just this
layer; call_ms: of a model that does nothing, which every ms contains. Points of one geometry form a whole grid of
inputs and outputs, or for layers with as many outputs as inputs a row. One file holds any number of devices.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

import command
from command import ModelError, UsageError, one_line

SCHEMA = 1
SOURCES = ("host", "phone")
# Work on every channel by itself: inputs and outputs are one number.
DIAGONAL = ("depthwise_conv2d", "elementwise_add", "elementwise_mul", "pool2d", "nearest_interp_v2", "sigmoid")


@dataclass(frozen=True)
class Point:
    """One measured layer."""

    geometry: dict[str, Any]
    inputs: int
    outputs: int
    ms: float
    rounds: int


class LayerTimes:
    """One device's profile. Raises ModelError, on construction, for numbers that cannot be times."""

    def __init__(
        self,
        *,
        device: str,
        engine: str,
        precision: str,
        source: str,
        threads: int,
        call_ms: float,
        layers: Iterable[Point],
    ) -> None:
        if source not in SOURCES or precision not in ("fp32", "fp16", "int8") or threads < 1 or not call_ms >= 0:
            raise ModelError(
                f"expected a source among {', '.join(SOURCES)}, a precision, threads and a call_ms, found {source}, "
                f"{precision}, {threads} and {call_ms}; profile again with benchmarks/op_profile.py"
            )
        self.device, self.engine, self.precision = device, engine, precision
        self.source, self.threads, self.call_ms = source, threads, call_ms
        self.layers = tuple(layers)
        points: dict[str, list[Point]] = {}
        for point in self.layers:
            if not (np.isfinite(point.ms) and point.ms > 0):
                raise ModelError(f"expected a time above 0, found {point.ms} of {point.geometry}; profile again")
            points.setdefault(digest(point.geometry), []).append(point)
        self._tables = {key: _table(found) for key, found in points.items()}

    def ms(self, geometry: dict[str, Any], inputs: ArrayLike, outputs: ArrayLike) -> np.ndarray:
        """Time of a layer, the call left out: straight lines between measured channels, the nearest ones beyond them.

        inputs, outputs: channels, arrays of one shape. Raises ModelError for a geometry that was not measured.
        """
        table = self._tables.get(digest(geometry))
        if table is None:
            raise ModelError(
                f"expected a profile with {_shown(geometry)}, found none; profile this model with "
                "benchmarks/op_profile.py"
            )
        rows, columns, times = table
        if columns is None:
            found = np.interp(np.asarray(outputs), rows, times)
        else:
            at, part = _place(rows, inputs)
            to, share = _place(columns, outputs)
            upper = times[at, to] * (1 - share) + times[at, np.minimum(to + 1, len(columns) - 1)] * share
            below = np.minimum(at + 1, len(rows) - 1)
            lower = times[below, to] * (1 - share) + times[below, np.minimum(to + 1, len(columns) - 1)] * share
            found = upper * (1 - part) + lower * part
        return np.maximum(found - self.call_ms, 0.0)

    def to_json(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "engine": self.engine,
            "precision": self.precision,
            "source": self.source,
            "threads": self.threads,
            "call_ms": self.call_ms,
            "layers": [asdict(point) for point in self.layers],
        }


def save(path: Path, profiles: Iterable[LayerTimes]) -> None:
    record = {"schema": SCHEMA, "profiles": [profile.to_json() for profile in profiles]}
    command.write_text(path, json.dumps(record, indent=1) + "\n")


def load(path: Path) -> tuple[LayerTimes, ...]:
    """All profiles of a file. Raises ModelError for anything else."""
    record = read_json(path)
    try:
        if set(record) != {"schema", "profiles"} or record["schema"] != SCHEMA:
            raise ValueError(f"schema {record.get('schema')!r}")
        return tuple(
            LayerTimes(**{**profile, "layers": [Point(**point) for point in profile["layers"]]})
            for profile in record["profiles"]
        )
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path}: expected layer times (JSON, schema {SCHEMA}), found {one_line(repr(error))[:120]}; "
            "profile again with benchmarks/op_profile.py"
        ) from None


def choose(path: Path, device: str | None) -> LayerTimes:
    """The fp32 profile of a device, or the only one of the file."""
    profiles = [profile for profile in load(path) if profile.precision == "fp32"]
    found = [profile for profile in profiles if device in (None, profile.device)]
    if len(found) != 1:
        names = ", ".join(repr(profile.device) for profile in profiles) or "none"
        raise UsageError(f"{path}: expected one fp32 profile, found {names}; name one with --device")
    return found[0]


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: expected a file, found {error.strerror}; give another") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: expected JSON, found {one_line(str(error))}; make it again") from None


def digest(layer: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(layer, sort_keys=True).encode()).hexdigest()[:20]


def input_shape(layer: dict[str, Any]) -> tuple[int, int, int, int]:
    """What a model of just this layer eats."""
    if layer["op"] == "linear":
        return (1, 1, layer["rows"], layer["inputs"])
    if layer["op"] == "lstm":
        return (1, 1, layer["steps"], layer["inputs"])
    channels = layer["inputs"] // layer["parts"] if layer["op"] == "concat" else layer["inputs"]
    return (1, channels, layer["height"], layer["width"])


def _table(points: list[Point]) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """(inputs, outputs or None for a row, ms) of one geometry, ascending."""
    times = {(point.inputs, point.outputs): point.ms for point in points}
    if points[0].geometry.get("op") in DIAGONAL:
        ordered = sorted((outputs, ms) for (_, outputs), ms in times.items())
        return np.array([row[0] for row in ordered]), None, np.array([row[1] for row in ordered])
    rows, columns = sorted({key[0] for key in times}), sorted({key[1] for key in times})
    missing = [(row, column) for row in rows for column in columns if (row, column) not in times]
    if missing:
        raise ModelError(
            f"expected times of {_shown(points[0].geometry)} for every pair of channels, found none for {missing[0]}; "
            "profile again with benchmarks/op_profile.py"
        )
    return np.array(rows), np.array(columns), np.array([[times[row, column] for column in columns] for row in rows])


def _place(marks: np.ndarray, values: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """(index of the mark below, share of the way to the next one) of values, kept within the marks."""
    values = np.clip(values, marks[0], marks[-1])
    at = np.clip(np.searchsorted(marks, values, side="right") - 1, 0, max(len(marks) - 2, 0))
    gap = marks[np.minimum(at + 1, len(marks) - 1)] - marks[at]
    return at, np.where(gap > 0, (values - marks[at]) / np.maximum(gap, 1), 0.0)


def _shown(geometry: dict[str, Any]) -> str:
    details = ", ".join(f"{key} {value}" for key, value in geometry.items() if key != "op" and value != "")
    return f"{geometry.get('op')} ({details})"
