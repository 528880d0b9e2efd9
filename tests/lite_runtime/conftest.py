"""Real `.nb` models with known answers, and pictures that they can read."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

import artifact
from lite_runtime import bundle, recorder, recording
from lite_runtime.pipeline import OcrPipeline

COLOURS = {"r": (0, 0, 255), "g": (0, 255, 0), "b": (255, 0, 0), " ": (255, 255, 255)}  # BGR
PIECE_PX = 40


@pytest.fixture(scope="session")
def colour_models(tmp_path_factory) -> Path:
    """Folder with x86/ and arm/, each with det/, cls/ and rec/ artifacts that read coloured bars."""
    out = tmp_path_factory.mktemp("colour_models")
    maker = Path(__file__).with_name("make_colour_models.py")
    made = subprocess.run([sys.executable, maker, out], capture_output=True, text=True, timeout=300, check=False)
    assert made.returncode == 0, made.stderr[-2000:]
    return out


@pytest.fixture(scope="session")
def colour_bundle(colour_models, page, tmp_path_factory) -> Path:
    """The x86 colour models as a sealed bundle whose self test is `page`. Copy it before changing it."""
    out = tmp_path_factory.mktemp("bundles") / "colours"
    shutil.copytree(colour_models / "x86", out)
    images = out / bundle.SELF_TEST / "images"
    images.mkdir(parents=True)
    cv2.imwrite(str(images / "page.png"), page)
    sha256 = hashlib.sha256((images / "page.png").read_bytes()).hexdigest()
    recorded = recorder.record(OcrPipeline.from_folder(colour_models / "x86"), page, "images/page.png", sha256)
    recording.write(images.parent, recording.Recording("the same engine", (recorded,)))
    models = {role: {"name": f"colour_{role}", "precision": "fp32"} for role in bundle.ROLES}
    extra = {"target": "x86", "opt_version": "v2.13-rc", "models": models}
    bundle.write(out, artifact.Manifest("bundle", "system", "colours", extra=extra), "test")
    return out


@pytest.fixture(scope="session")
def bar() -> Callable[[str, int], np.ndarray]:
    """bar(text, height) → (height, 40 * len(text), 3) BGR: one coloured piece a letter."""

    def draw(text: str, height: int = 24) -> np.ndarray:
        return np.concatenate([np.full((height, PIECE_PX, 3), COLOURS[letter], np.uint8) for letter in text], axis=1)

    return draw


@pytest.fixture(scope="session")
def page(bar) -> np.ndarray:
    """(320, 480, 3): "rgb" and "rb" in the first row, "rgbg" upside down below, "rb" running downwards on the right."""
    image = np.full((320, 480, 3), 255, np.uint8)
    image[40:64, 30:150] = bar("rgb")
    image[44:68, 230:310] = bar("rb")
    image[120:144, 30:190] = np.rot90(bar("rgbg"), 2)
    image[200:280, 400:424] = np.rot90(bar("rb"), -1)
    return image
