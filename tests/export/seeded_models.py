"""Small seeded models at every stage of the export: made once, read by all tests of the room."""

from pathlib import Path

import numpy as np
import paddle

import artifact
from export import to_inference, to_nb
from ocr_models import catalogue, checkpoints
from ocr_models.prune_plan import PrunePlan

SMALL = {
    "det": ("det_mv3_db", {"type": "DBDetector", "backbone_scale": 0.35, "neck_channels": 24, "k": 50}, (160, 160)),
    "cls": ("cls_mv3", {"type": "DirectionClassifier", "backbone_scale": 0.35, "classes": 2}, (48, 192)),
    "rec": (
        "rec_mv3_crnn_en",
        {"type": "CRNNRecognizer", "backbone_scale": 0.35, "hidden": 16, "classes": 97},
        (32, 96),
    ),
}


def network(task: str, seed: int = 7) -> paddle.nn.Layer:
    """Random weights whose batch norms fit them: with fresh statistics every output would be the same constant."""
    _, description, (height, width) = SMALL[task]
    paddle.seed(seed)
    layer = catalogue.build(description)
    with paddle.no_grad():
        for norm in layer.sublayers():
            if isinstance(norm, paddle.nn.BatchNorm2D):
                norm._momentum = 0.0
        layer(paddle.randn([2, 3, height, width]))
    layer.eval()
    return layer


def save_checkpoint(layer: paddle.nn.Layer, task: str, folder: Path, plan: PrunePlan | None = None, **changes) -> Path:
    name, description, _ = SMALL[task]
    with artifact.create(folder) as temporary:
        if plan:
            plan.save(temporary / "prune_plan.json")
            changes["compression"] = {"prune_plan": "prune_plan.json"}
        manifest = catalogue.card(name).manifest(temporary).replace(network=description, **changes)
        checkpoints.save_network(layer, temporary)
        artifact.write(temporary, manifest, "test")
    return folder


def save_quantized(task: str, folder: Path) -> Path:
    """A PACT checkpoint, calibrated on noise and sealed, as training leaves it."""
    from slim import calibration, pact

    _, _, (height, width) = SMALL[task]
    layer = network(task)
    noise = [paddle.randn([1, 3, height, width])]
    levels = calibration.levels(calibration.observe(layer, noise))
    quantized = pact.QuantizedNetwork(layer)
    quantized.calibrate(levels, noise)
    quantized.seal()
    return save_checkpoint(quantized.network, task, folder, compression={"quantization": pact.FORMS["pact"]})


def export_all(checkpoint: Path, targets: tuple[str, ...]) -> None:
    """CHECKPOINT → its siblings inference, arm, x86."""
    to_inference.export(checkpoint, checkpoint.parent / "inference")
    for target in targets:
        to_nb.convert(checkpoint.parent / "inference", checkpoint.parent / target, target=target)


def noise(shape: tuple[int, ...], seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
