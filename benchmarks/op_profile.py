"""Time every layer of networks on this host, at every width that pruning may choose: what prune.py predicts from.

    python benchmarks/op_profile.py ocr_models/pretrained/det ocr_models/pretrained/rec --out op_profile.json

Each layer shape is built as an fp32 `.nb` of one layer (export/one_layer.py, a child process) and run by Paddle-Lite on
one core; the shapes of a kind in turns, medians of some rounds. Times are the core's own: on an idle machine they are
the clock's, on a busy one other programs do not lengthen them. Channel counts between the measured ones are
interpolated. The same command goes on where it was stopped. A profile of another device in OUT stays there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import artifact
import command

if TYPE_CHECKING:
    from ocr_models.layer_shapes import Layer
    from ocr_models.layer_times import Point

ROOT = Path(artifact.__file__).resolve().parent
MULTIPLE = 8
# Of the widest layer of a kind; its narrower sisters add their own widths.
SHARES = (0.7, 0.4, 0.1)
# A width so near to another one tells nothing new.
NEAR = 0.15
ROUNDS = 15
WARMUP = 2
# A layer that takes longer is run less often, but never less than MIN_ROUNDS.
BUDGET_MS = 150.0
MIN_ROUNDS = 5
NOTHING = {"op": "relu", "height": 1, "width": 1}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="op_profile.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("artifacts", type=Path, nargs="+", metavar="ARTIFACT", help="float checkpoints, unpruned")
    parser.add_argument("--out", type=Path, required=True, metavar="JSON", help="file to write or to add to")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"measured runs of each layer (default: {ROUNDS})")
    command.add_common(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    if args.rounds < 1:
        raise command.UsageError(f"expected --rounds of at least 1, found {args.rounds}")
    if not args.out.parent.is_dir():
        raise command.UsageError(f"{args.out}: expected its folder to exist, found none; make it")
    os.environ.setdefault("GLOG_minloglevel", "2")
    networks = [_layers(folder) for folder in args.artifacts]

    from lite_runtime.engine import library_version
    from ocr_models import layer_times
    from ocr_models.layer_times import LayerTimes

    device, engine = _device(), f"Paddle-Lite {library_version()}"
    others = [
        profile
        for profile in (layer_times.load(args.out) if args.out.exists() else ())
        if (profile.device, profile.source, profile.precision) != (device, "host", "fp32")
    ]
    kinds = grids([layer for layers in networks for layer in layers])
    folder = args.out.with_name(args.out.name + ".run")
    folder.mkdir(exist_ok=True)
    points: list[Point] = []
    started = time.monotonic()
    nothing = {**NOTHING, "inputs": MULTIPLE, "outputs": MULTIPLE}
    _build(folder, [nothing, *(shape for shapes in kinds for shape in shapes)])
    call_ms = _measured(folder, [nothing], args.rounds)[0].ms
    for shapes in command.progress(kinds, "kinds of layers"):
        points += _measured(folder, shapes, args.rounds)
    profile = LayerTimes(
        device=device,
        engine=engine,
        precision="fp32",
        source="host",
        threads=1,
        call_ms=call_ms,
        layers=points,
    )
    layer_times.save(args.out, [*others, profile])
    rows = []
    sums: dict[str, float] = {}
    for path, layers in zip(args.artifacts, networks, strict=True):
        sums[str(path)] = float(sum(profile.ms(layer.geometry, layer.inputs, layer.outputs) for layer in layers))
        rows.append((path, len(layers), f"{sums[str(path)]:.2f}"))
    text = command.table(("network", "layers", "sum of its layers, ms"), rows)
    data = {
        "out": str(args.out),
        "device": device,
        "engine": engine,
        "kinds": len(kinds),
        "layers": len(points),
        "call_ms": call_ms,
        "sums_ms": sums,
        "seconds": round(time.monotonic() - started, 1),
    }
    line = f"{len(points)} layers of {len(kinds)} kinds on one core of {device} in {data['seconds']} s"
    command.emit(args, data, f"{text}\n{line}\nwritten to {args.out}")
    return command.EXIT_DONE


def _layers(folder: Path) -> tuple[Layer, ...]:
    manifest = artifact.load(folder, kind="checkpoint")
    from ocr_models import checkpoints, layer_shapes
    from ocr_models.reference import REFERENCE_SHAPES

    if manifest.quantized or manifest.task not in REFERENCE_SHAPES:
        raise command.ModelError(f"{folder}: expected a float checkpoint of det, cls or rec, found another; give one")
    network, _ = checkpoints.load_network(folder)
    return layer_shapes.layers(network, REFERENCE_SHAPES[manifest.task])


def grids(layers: Iterable[Layer]) -> list[list[dict[str, Any]]]:
    """Shapes to measure, by geometry: every pair of chosen inputs and outputs, or one number for both."""
    from ocr_models.layer_times import DIAGONAL, digest

    kinds: dict[str, list[Layer]] = {}
    for layer in layers:
        kinds.setdefault(digest(layer.geometry), []).append(layer)
    found = []
    for members in kinds.values():
        first = members[0]
        inputs = widths([m.inputs for m in members], fixed=all(m.input_axis is None or m.inputs == 3 for m in members))
        outputs = widths([m.outputs for m in members], fixed=all(m.output_axis is None for m in members))
        if first.geometry["op"] in DIAGONAL:
            found.append([first.sized(n, n) for n in outputs])
        else:
            found.append([first.sized(one, other) for one in inputs for other in outputs])
    return found


def widths(channels: Sequence[int], fixed: bool = False) -> list[int]:
    """Channel counts to measure for layers that have `channels` before pruning; fixed: pruning leaves them alone."""
    chosen = sorted(set(channels), reverse=True)
    if fixed:
        return chosen
    for share in SHARES:
        width = max(round(max(channels) * share / MULTIPLE) * MULTIPLE, MULTIPLE)
        if width < max(channels) and all(abs(width - other) > NEAR * other for other in chosen):
            chosen.append(width)
    smallest = max(round(min(channels) * SHARES[-1] / MULTIPLE) * MULTIPLE, MULTIPLE)
    return sorted({*chosen, min(smallest, min(channels))})


def _measured(folder: Path, shapes: list[dict[str, Any]], rounds: int) -> list[Point]:
    """Times of the shapes of one kind, measured in turns; kept in `folder`."""
    import numpy as np

    from lite_runtime.engine import LiteEngine
    from ocr_models.layer_times import Point, digest, input_shape

    path = folder / f"{digest({'shapes': shapes, 'rounds': rounds})}.json"
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
    else:
        runs = []
        for shape in shapes:
            size = input_shape(shape)
            eats = artifact.Input(shape=size, mean=(0.0,) * size[1], std=(1.0,) * size[1])
            engine = LiteEngine(folder / f"{digest(shape)}.nb", input=eats)
            # Noise, not zeros: zeros can take shortcuts that photos do not.
            runs.append((engine, np.random.default_rng(0).standard_normal(size).astype(np.float32)))
        samples: list[list[float]] = [[] for _ in runs]
        slowest = 0.0
        for engine, x in runs:
            for _ in range(WARMUP):
                start = time.process_time()
                engine.run(x)
                slowest = max(slowest, (time.process_time() - start) * 1e3)
        turns = max(min(rounds, int(BUDGET_MS / max(slowest, 1e-3))), min(rounds, MIN_ROUNDS))
        for turn in range(turns):
            for offset in range(len(runs)):
                at = (turn + offset) % len(runs)
                engine, x = runs[at]
                start = time.process_time()
                engine.run(x)
                samples[at].append((time.process_time() - start) * 1e3)
        for engine, _ in runs:
            engine.close()
        known = [{"ms": statistics.median(found), "rounds": turns} for found in samples]
        command.write_text(path, json.dumps(known))
    points = []
    for shape, entry in zip(shapes, known, strict=True):
        geometry = {key: value for key, value in shape.items() if key not in ("inputs", "outputs")}
        points.append(Point(geometry, shape["inputs"], shape["outputs"], entry["ms"], entry["rounds"]))
    return points


def _build(folder: Path, shapes: list[dict[str, Any]]) -> None:
    """Make the `.nb` files that are missing, in one child as long as it lives. ModelError where one cannot be."""
    from ocr_models.layer_times import digest

    path = folder / "layers.json"
    line = [sys.executable, str(ROOT / "export/one_layer.py"), str(path), "--target", "x86", "--out", str(folder)]
    before = None
    while missing := [shape for shape in shapes if not (folder / f"{digest(shape)}.nb").exists()]:
        if len(missing) == before:
            raise command.ModelError(f"expected export/one_layer.py to build {missing[0]}, found the failure above")
        before = len(missing)
        command.write_text(path, json.dumps(missing))
        subprocess.run(line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)


def _device() -> str:
    """What this machine's processor calls itself."""
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    command.main(build_parser(), run, native=True)
