"""Tiny models and data for the slimming commands: untrained weights, a handful of drawn words."""

from pathlib import Path

import cv2
import numpy as np
import paddle
import yaml

import artifact
from ocr_models import catalogue, checkpoints
from slim.labels import cls_line, det_line, rec_line

NAMES = {"det": "det_mv3_db", "cls": "cls_mv3", "rec": "rec_mv3_crnn_en"}
QUICK: dict[str, dict] = {
    "det": {"batch": 2, "size_px": 64},
    "cls": {"batch": 4},
    "rec": {"batch": 4, "batch_width_px": 64, "widths": [64, 96], "width_schedule": []},
}


def word(text: str) -> np.ndarray:
    image = np.full((32, 16 * len(text) + 8, 3), 235, np.uint8)
    return cv2.putText(image, text, (4, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (20, 20, 20), 2)


def make_data(folder: Path) -> Path:
    """FOLDER/{det,cls,rec}/label.txt: two scenes, four crops, four lines."""
    texts = ("one", "two", "tree", "four")
    for task in NAMES:
        (folder / task).mkdir(parents=True)
    scenes = []
    for number, text in enumerate(texts[:2]):
        scene, image = np.full((96, 96, 3), 180, np.uint8), word(text)
        height, width = image.shape[:2]
        scene[20 : 20 + height, 10 : 10 + width] = image
        cv2.imwrite(str(folder / "det" / f"{number}.png"), scene)
        quad = np.array([[10, 20], [10 + width, 20], [10 + width, 20 + height], [10, 20 + height]], np.float32)
        scenes.append(det_line(f"{number}.png", [(text, quad)]))
    for number, text in enumerate(texts):
        cv2.imwrite(str(folder / "rec" / f"{number}.png"), word(text))
        cv2.imwrite(str(folder / "cls" / f"{number}.png"), word(text)[:: 1 - 2 * (number % 2), :: 1 - 2 * (number % 2)])
    lines = [rec_line(f"{n}.png", text) for n, text in enumerate(texts)]
    crops = [cls_line(f"{n}.png", 180 * (n % 2)) for n in range(4)]
    for task, written in (("det", scenes), ("rec", lines), ("cls", crops)):
        (folder / task / "label.txt").write_text("".join(written), encoding="utf-8")
    return folder


def make_checkpoint(folder: Path, task: str) -> Path:
    """A checkpoint artifact whose running statistics fit its random weights."""
    card = catalogue.card(NAMES[task])
    paddle.seed(7)
    network = catalogue.build(card.network)
    height, width = {"det": (64, 64), "cls": (48, 192), "rec": (32, 96)}[task]
    with paddle.no_grad():
        for norm in network.sublayers():
            if isinstance(norm, paddle.nn.BatchNorm2D):
                norm._momentum = 0.3
        for _ in range(4):
            network(paddle.randn([2, 3, height, width]))
    with artifact.create(folder) as temporary:
        manifest = card.manifest(temporary)
        checkpoints.save_network(network, temporary)
        artifact.write(temporary, manifest, "toy")
    return folder


def make_config(path: Path, settings: dict | None = None, **recipe) -> Path:
    """A slimming recipe that fits the data. settings: {"prune": {…}} or {"quantize": {…}}."""
    common = {"validate_samples": 2, "log_every": 1, "save_every": 1, "lr": 0.001, "average_decay": 0.0, **recipe}
    sections: dict[str, dict] = {task: {**common, **quick} for task, quick in QUICK.items()}
    path.write_text(yaml.safe_dump({**(settings or {}), **sections}))
    return path
