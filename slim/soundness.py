"""Proofs that a pruned network is what its plan says, made before any training: here a mistake costs minutes.

Weights that do not fit their plan would load into rubbish without a word, and an export that fails after training
wastes the training. So the network goes through the disk once and is exported and run once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import paddle
from paddle import nn

import artifact
from artifact import Manifest
from command import ModelError
from ocr_models import checkpoints
from ocr_models.prune_plan import FILE, PrunePlan
from slim import other_rooms

# Two ways to build, or to run, one network: only the order of float sums may differ.
TOLERANCE = 1e-5
EXPORT_TOLERANCE = 1e-4


class Proof(NamedTuple):
    """network: rebuilt from disk. Largest differences to PaddleSlim's own; exported: None where nothing was exported.

    export_bytes: of the inference model, program and weights.
    """

    network: nn.Layer
    rebuilt: float
    exported: float | None
    export_bytes: int


def prove(
    pruned: nn.Layer, plan: PrunePlan, manifest: Manifest, charset: Path | None, x_shape: Sequence[int], export: bool
) -> Proof:
    """Rebuild a pruned network from a checkpoint artifact, export that, and compare all three on one input.

    manifest: of the checkpoint before pruning. charset: its file. x_shape: (N, 3, H, W). export: whether to do that.
    Raises ModelError where the outputs differ or the export fails.
    """
    x = np.random.default_rng(0).standard_normal(tuple(x_shape)).astype(np.float32)
    pruned.eval()
    wanted = _run(pruned, x)
    with tempfile.TemporaryDirectory() as scratch:
        folder, model = Path(scratch) / "pruned", Path(scratch) / "inference"
        with artifact.create(folder) as temporary:
            checkpoints.save_network(pruned, temporary)
            plan.save(temporary)
            if charset:
                (temporary / charset.name).write_bytes(charset.read_bytes())
            sealed = manifest.replace(
                kind="checkpoint", compression={"prune_plan": FILE}, files={}, made_by={}, metrics={}, extra={}
            )
            artifact.write(temporary, sealed, "slim/prune.py")
        network, _ = checkpoints.load_network(folder)
        rebuilt = _difference(wanted, _run(network, x))
        if not rebuilt <= TOLERANCE:
            raise ModelError(
                f"expected the network rebuilt from the prune plan to equal the pruned one, found a difference of "
                f"{rebuilt:.2g}; do not use this plan, report the model"
            )
        if not export:
            return Proof(network, rebuilt, None, 0)
        sizes = other_rooms.run("export/to_inference.py", folder, "--out", model)["bytes"]
        from ocr_models.paddle_engine import InferenceEngine

        engine = InferenceEngine(model, optimize=False)
        exported = _difference(wanted, engine.run(x))
        engine.close()
    if not exported <= EXPORT_TOLERANCE:
        raise ModelError(
            f"expected the export of the pruned network to equal it, found a difference of {exported:.2g}; "
            "do not use this plan, report the model"
        )
    return Proof(network, rebuilt, exported, sum(sizes.values()))


def _run(network: nn.Layer, x: np.ndarray) -> np.ndarray:
    with paddle.no_grad():
        return np.asarray(network(paddle.to_tensor(x)).numpy())


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    """NaN where the shapes differ, which no tolerance admits."""
    return float(np.abs(one - other).max()) if one.shape == other.shape else float("nan")
