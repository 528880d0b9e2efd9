"""The Lite engine on real `.nb` files: what it computes, what it refuses before native code sees it."""

import concurrent.futures
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from artifact import ArtifactError
from command import ModelError
from lite_runtime.engine import LiteEngine, check_runs_here, open_nb, read_targets


def det_answer(x: np.ndarray) -> np.ndarray:
    """What the colour detector computes, by numpy."""
    return 1 / (1 + np.exp(8 * x.sum(axis=1, keepdims=True) + 2))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).uniform(-1, 1, shape).astype(np.float32)


@pytest.fixture
def det(colour_models):
    engine, _ = open_nb(colour_models / "x86" / "det", task="det", max_predictors=2)
    yield engine
    engine.close()


def test_every_size_and_batch_is_right(det):
    """One predictor that saw a second size would give wrong numbers here."""
    for size in [(1, 32, 32), (3, 64, 32), (1, 32, 64), (2, 32, 32), (1, 96, 160), (5, 64, 32), (1, 32, 32)]:
        x = noise(size[0], 3, *size[1:])
        y = det.run(x)
        assert y.dtype == np.float32 and y.shape == (size[0], 1, *size[1:])
        np.testing.assert_allclose(y, det_answer(x), atol=2e-6)
        assert len(det._predictors) <= 2


def test_least_recently_used_predictor_goes_first(det):
    for size in (32, 64, 32, 96):
        det.run(noise(1, 3, size, size))
    assert list(det._predictors) == [(32, 32), (96, 96)]


def test_outputs_are_copies(det):
    first = det.run(noise(1, 3, 32, 32))
    before = first.copy()
    det.run(np.ones((1, 3, 32, 32), np.float32))
    assert np.array_equal(first, before) and first.flags.writeable and first.flags.owndata


def test_views_are_made_contiguous(det):
    x = noise(1, 3, 64, 32)
    np.testing.assert_allclose(det.run(x.transpose(0, 1, 3, 2)), det_answer(x.transpose(0, 1, 3, 2)), atol=2e-6)


def test_threads_take_turns(det):
    inputs = [noise(1, 3, 32 * (1 + index % 3), 32) + np.float32(index / 100) for index in range(24)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for x, y in zip(inputs, pool.map(det.run, inputs), strict=True):
            np.testing.assert_allclose(y, det_answer(x), atol=2e-6)


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((1, 3, 32, 32), np.float64),
        np.zeros((1, 3, 32, 32), np.float16),
        np.zeros((1, 3, 32, 32), np.uint8),
        np.zeros((3, 32, 32), np.float32),
        np.zeros((1, 4, 32, 32), np.float32),
        np.zeros((1, 3, 33, 32), np.float32),
        np.zeros((1, 3, 32, 0), np.float32),
        np.zeros((0, 3, 32, 32), np.float32),
    ],
)
def test_arrays_that_native_code_must_not_see(det, x):
    with pytest.raises(ValueError, match="expected"):
        det.run(x)


def test_fixed_sides_come_from_the_manifest(colour_models):
    engine, manifest = open_nb(colour_models / "x86" / "cls")
    assert manifest.name == "colour_cls"
    assert engine.run(noise(2, 3, 48, 192)).shape == (2, 2)
    with pytest.raises(ValueError, match=r"\(-1, 3, 48, 192\).*found \(1, 3, 48, 96\)"):
        engine.run(noise(1, 3, 48, 96))


def test_closed_engine(det):
    det.run(noise(1, 3, 32, 32))
    det.close()
    assert not det._predictors
    with pytest.raises(ValueError, match="closed"):
        det.run(noise(1, 3, 32, 32))


def test_targets_are_read_without_native_code(colour_models):
    x86, arm = (read_targets(colour_models / target / "rec" / "model.nb") for target in ("x86", "arm"))
    assert set(x86.targets) == {"host", "x86"} and "arm" in arm.targets
    assert x86.precisions["fp32"] > 0 and "int8" not in x86.precisions
    assert x86.opt_version == "v2.13-rc" and x86.ops["conv2d"] == 1 and not x86.int8_weights


def test_a_model_for_another_machine_is_refused(colour_models):
    with pytest.raises(ModelError, match="expected a model for x86, found one for arm"):
        open_nb(colour_models / "arm" / "det")
    x86 = colour_models / "x86" / "det" / "model.nb"
    with pytest.raises(ModelError, match="expected a model for arm, found one for x86"):
        check_runs_here(x86, machine="aarch64")
    assert check_runs_here(colour_models / "arm" / "det" / "model.nb", machine="armv7l").targets["arm"]


def kernels(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data and len(old) == len(new)
    return data.replace(old, new)


def test_int8_on_x86_is_refused(colour_models, tmp_path):
    data = (colour_models / "x86" / "det" / "model.nb").read_bytes()
    (tmp_path / "int8.nb").write_bytes(kernels(data, b"/2/1/1\0", b"/2/2/1\0"))
    with pytest.raises(ModelError, match="int8 kernels, which Paddle-Lite computes wrongly on x86"):
        LiteEngine(tmp_path / "int8.nb")


@pytest.mark.parametrize("size", [0, 1, 2, 17, 26, 30, 500, -500, -1])
def test_cut_off_files(colour_models, tmp_path, size):
    data = (colour_models / "x86" / "det" / "model.nb").read_bytes()
    path = tmp_path / "model.nb"
    path.write_bytes(data[:size])
    with pytest.raises(ModelError, match=r"expected a .*\.nb file"):
        LiteEngine(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(ModelError, match=f"of {len(data)} bytes, found {len(data) + 1}"):
        LiteEngine(path)


@pytest.mark.parametrize(
    "data", [b"hello, no model" * 9, bytes(9999), b"\x02\0" + bytes(9999), b"\x02\0" + b"\xff" * 99]
)
def test_foreign_files(tmp_path, data):
    path = tmp_path / "model.nb"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"model\.nb: expected"):
        LiteEngine(path)


def test_missing_file(tmp_path):
    with pytest.raises(ModelError, match="No such file"):
        LiteEngine(tmp_path / "none.nb")
    with pytest.raises(ModelError, match="Is a directory"):
        LiteEngine(tmp_path)


def test_changed_weights_are_found_by_their_hash(colour_models, tmp_path):
    folder = shutil.copytree(colour_models / "x86" / "det", tmp_path / "det")
    data = bytearray((folder / "model.nb").read_bytes())
    data[-1] ^= 1
    (folder / "model.nb").write_bytes(data)
    with pytest.raises(ArtifactError, match="sha256"):
        open_nb(folder)


def test_another_task_is_refused(colour_models):
    with pytest.raises(ArtifactError, match="expected a model for task rec, found task det"):
        open_nb(colour_models / "x86" / "det", task="rec")


def test_manifest_without_model_or_input(colour_models, tmp_path):
    for key, value, words in (("files", {}, r"model\.nb in the manifest"), ("input", None, "manifest with `input`")):
        folder = shutil.copytree(colour_models / "x86" / "det", tmp_path / key)
        record = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**record, key: value}))
        with pytest.raises(ModelError, match=words):
            open_nb(folder)


def test_a_missing_paddlelite_is_one_line(colour_models):
    script = (
        "import sys; sys.modules['paddlelite'] = None\n"
        "from lite_runtime.engine import open_nb\n"
        "from command import ModelError\n"
        "try: open_nb(sys.argv[1])\n"
        "except ModelError as error: print(error)\n"
    )
    folder = colour_models / "x86" / "det"
    said = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=True).stdout
    assert "pip install paddlelite==2.13rc0" in said and "ARM board needs Paddle-Lite's Python package" in said
    assert len(said.splitlines()) == 1


def test_published_int8_files_are_refused(published):
    for name in ("det_db", "cls", "rec_crnn"):
        path = published / "nb" / "ch_PP-OCRv2_slim" / f"{name}.nb"
        with pytest.raises(ModelError, match="found one for arm"):
            check_runs_here(path, machine="x86_64")
        found = check_runs_here(path, machine="aarch64")
        assert found.opt_version == "v2.10" and found.precisions["int8"] > 60
