"""Any artifact → an engine that runs it on this machine: the one place that knows which kind needs which."""

from __future__ import annotations

from pathlib import Path

import artifact
from artifact import Manifest
from command import ModelError
from lite_runtime.engine import Engine, open_nb


def open_engine(folder: str | Path, *, threads: int = 1) -> tuple[Engine, Manifest]:
    """checkpoint (float, pruned or quantized) → the trainable network; inference → paddle.inference; nb → Paddle-Lite.

    Raises ArtifactError for a damaged folder, ModelError for what cannot run here: an `.nb` for ARM, an int8 one (whose
    x86 kernels are numerically wrong), a bundle.
    """
    folder = Path(folder)
    manifest = artifact.load(folder)
    if manifest.kind == "bundle":
        raise ModelError(f"{folder}: expected one model, found a bundle; give one of its subfolders")
    if manifest.input is None:
        raise ModelError(f"{folder}: expected a manifest with `input`, found none; make the artifact again")
    if manifest.kind == "nb":
        return open_nb(folder)
    if manifest.kind == "inference":
        from ocr_models.paddle_engine import InferenceEngine

        return InferenceEngine(folder, threads=threads), manifest
    from ocr_models import checkpoints
    from ocr_models.paddle_engine import NetworkEngine

    if manifest.quantized:
        from slim.pact import load_quantized

        return NetworkEngine(load_quantized(folder)[0]), manifest
    return NetworkEngine(checkpoints.load_network(folder)[0]), manifest
