"""What an installation from a wheel holds: everything that the code reads, nothing of a training run's state."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import command

ROOT = Path(command.__file__).resolve().parent
ROOMS = ("ocr_models", "slim", "export", "lite_runtime", "benchmarks", "configs")
STATE = Path("ocr_models/pretrained/state/rec/state.npz")
SHIPPED = Path("ocr_models/pretrained/x86/det/model.nb")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The unpacked wheel of a copy of this tree, in which pretrained models and a training state lie."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    leave = shutil.ignore_patterns("__pycache__", "pretrained")
    for room in ROOMS:
        shutil.copytree(ROOT / room, source / room, ignore=leave)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "artifact.py", "command.py"):
        shutil.copy(ROOT / name, source / name)
    for path in (STATE, SHIPPED):
        (source / path).parent.mkdir(parents=True)
        (source / path).write_bytes(b"x")
    argv = ["wheel", "-q", "--no-index", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *argv], check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def test_every_file_that_the_rooms_hold_is_there(wheel):
    held = [path for room in ROOMS for path in (wheel.parent / "source" / room).rglob("*") if path.is_file()]
    for path in held:
        name = path.relative_to(wheel.parent / "source")
        assert (wheel / name).is_file() == (name != STATE), name


def test_it_runs_from_where_it_is_installed(wheel, tmp_path):
    """The interpreter starts without this environment's own copy of the project."""
    lines = (
        "import artifact, lite_runtime.pipeline as p, slim.recipes as r",
        "print(p.DEFAULT_MODELS, r.CONFIGS)",
        "assert r.load_recipe(r.CONFIGS / 'rec.yaml').task == 'rec'",
    )
    environment = {**os.environ, "PYTHONPATH": str(wheel)}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(wheel / SHIPPED.parents[1]), str(wheel / "configs")]
    done = subprocess.run(
        [sys.executable, str(wheel / "lite_runtime" / "recognize.py"), "--help"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.startswith("usage: recognize.py"), done.stderr
