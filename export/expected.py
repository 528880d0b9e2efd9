"""What a bundle's self test expects: small images, and what paddle.inference makes of them.

Int8 models run as the fake-quantized program with oneDNN off, which is what their ARM kernels compute.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np

import artifact
from artifact import Manifest
from command import ModelError, UsageError
from lite_runtime import bundle, preprocess, recorder, recording
from lite_runtime.detector import TextDetector
from lite_runtime.direction import DirectionClassifier
from lite_runtime.engine import Engine
from lite_runtime.options import Options
from lite_runtime.pipeline import OcrPipeline
from lite_runtime.recognizer import TextRecognizer
from lite_runtime.recording import RecordedImage, Recording

SAMPLES = Path(artifact.__file__).resolve().parent / "samples"
# Parts of the sample photos: (name, photo, (left, top, right, bottom) px, quarter turns anticlockwise). Long and short
# lines for five width buckets, a slanted one, and lines upside down.
PARTS = (
    ("long", "1-brick-wall.jpg", (204, 62, 580, 112), 0),
    ("columns", "2-notices.jpg", (4, 344, 404, 484), 0),
    ("slanted", "1-brick-wall.jpg", (50, 174, 230, 228), 0),
    ("upside-down", "1-brick-wall.jpg", (396, 488, 488, 576), 2),
)
# Probabilities are kept to a millionth, a five-hundredth of the strictest tolerance that they are compared with: their
# last bits are noise, which gzip cannot pack, and a Chinese recognizer's thousands of zeros then take no room.
STEPS = 1 << 20
MAX_BYTES = 16 << 20


def default_images() -> dict[str, np.ndarray]:
    """Name → (H, W, 3) uint8 BGR."""
    images = {}
    for name, photo, (left, top, right, bottom), turns in PARTS:
        if not (SAMPLES / photo).is_file():
            raise UsageError(f"{SAMPLES / photo}: expected the sample photo, found none; give --images")
        part = preprocess.read_image(SAMPLES / photo)[top:bottom, left:right]
        images[name] = np.ascontiguousarray(np.rot90(part, turns))
    return images


def read_images(folder: Path) -> dict[str, np.ndarray]:
    """The images of a folder by the stem of their names. Raises UsageError."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: expected a folder of images, found {'a file' if folder.exists() else 'nothing'}")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in preprocess.IMAGE_SUFFIXES)
    if not paths:
        raise UsageError(f"{folder}: expected images ({', '.join(preprocess.IMAGE_SUFFIXES)}), found none")
    images: dict[str, np.ndarray] = {}
    for path in paths:
        name = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in path.stem)
        if name in images:
            raise UsageError(f"{path}: expected images whose names differ in letters or digits; rename it")
        images[name] = preprocess.read_image(path)
    return images


def write(
    folder: Path,
    images: Mapping[str, np.ndarray],
    inference: Mapping[str, Path],
    manifests: Mapping[str, Manifest],
    labels: list[str],
) -> Recording:
    """Fill folder/self_test with the images as PNG and what the inference models make of them.

    manifests: of the `.nb` files, whose settings count. Raises ModelError when the models find no text: a self test
    without lines proves nothing about two of the three.
    """
    target = folder / bundle.SELF_TEST
    (target / "images").mkdir(parents=True)
    ocr = open_paddle(inference, manifests, labels)
    recorded = []
    for name, image in images.items():
        path = target / "images" / f"{name}.png"
        path.write_bytes(cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes())
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        recorded.append(recorder.record(ocr, image, f"images/{name}.png", sha256))
    ocr.close()
    if not any(image.lines for image in recorded):
        raise ModelError(
            f"expected text on the {len(images)} self-test images, found none with these models; give --images with "
            "pictures that they can read"
        )
    engine = f"paddle.inference {metadata.version('paddlepaddle')}"
    run = Recording(engine, tuple(recorded), {"machine": platform.machine(), "onednn": "off"})
    recording.write(target, run)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    if size > MAX_BYTES:
        raise UsageError(f"expected a self test of at most {MAX_BYTES:,} bytes, found {size:,}; give smaller images")
    return run


def open_paddle(inference: Mapping[str, Path], manifests: Mapping[str, Manifest], labels: list[str]) -> OcrPipeline:
    """The pipeline on the inference models, every operator run as it stands in the file."""
    from ocr_models.paddle_engine import InferenceEngine

    engines = {role: _Rounded(InferenceEngine(path, onednn=False, optimize=False)) for role, path in inference.items()}
    return _pipeline(engines, manifests, labels)


def _pipeline(engines: Mapping[str, Engine], manifests: Mapping[str, Manifest], labels: list[str]) -> OcrPipeline:
    options = Options.from_manifests(*(manifests[role] for role in bundle.ROLES))
    return OcrPipeline(
        TextDetector(engines["det"], manifests["det"], options),
        DirectionClassifier(engines["cls"], manifests["cls"], options),
        TextRecognizer(engines["rec"], manifests["rec"], labels, options),
        options,
    )


class _Rounded:
    """An engine whose answers are multiples of 1 / STEPS, so that what is read from them is read from the record."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def run(self, x: np.ndarray) -> np.ndarray:
        return (np.rint(self.engine.run(x) * STEPS) / STEPS).astype(np.float32)

    def close(self) -> None:
        self.engine.close()


def replay(recorded: RecordedImage, image: np.ndarray, manifests: Mapping[str, Manifest], labels: list[str]) -> str:
    """Run everything but the networks again on a recorded image; what differs from the record, or ""."""
    engines = {role: _Replay(recorded, role) for role in bundle.ROLES}
    ocr = _pipeline(engines, manifests, labels)
    try:
        again = recorder.record(ocr, image, recorded.image, recorded.sha256)
    except _Differs as difference:
        return str(difference)
    counts = {role: sum(t.task == role for t in recorded.tensors) for role in bundle.ROLES}
    if counts != {role: engine.runs for role, engine in engines.items()}:
        return "expected the tensors of every line, found others"
    for have, want in zip(recorded.lines, again.lines, strict=True):
        same = (have.quad, have.text, have.angle) == (want.quad, want.text, want.angle)
        if not same or abs(have.score - want.score) > 1e-4:
            return f"expected the line {want.text!r} that its tensors give, found {have.text!r}"
    return ""


class _Differs(Exception):
    pass


class _Replay:
    """Answers with what was recorded, when it is fed what was recorded."""

    def __init__(self, recorded: RecordedImage, role: str) -> None:
        self.tensors = [tensor for tensor in recorded.tensors if tensor.task == role]
        self.role = role
        self.runs = 0

    def run(self, x: np.ndarray) -> np.ndarray:
        if self.runs == len(self.tensors):
            raise _Differs(f"expected {self.role} tensors of every line, found {self.runs}")
        tensor = self.tensors[self.runs]
        self.runs += 1
        if tensor.index != self.runs - 1 or tensor.input.shape != x.shape:
            raise _Differs(f"expected {self.role} inputs of shape {list(x.shape)}, found {list(tensor.input.shape)}")
        # Another processor may resize to the next grey level.
        if float(np.abs(tensor.input - x).max()) > 0.02:
            raise _Differs(f"expected the {self.role} input that the image gives, found another")
        return tensor.output

    def close(self) -> None:
        pass
