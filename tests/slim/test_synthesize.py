"""The generator: texts, fonts, geometry, bytes, and a command that survives being killed."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from command import UsageError
from slim import compose, fonts, lettering, synthesize
from slim.backgrounds import POOL_SIZE, Backgrounds
from slim.labels import read_det_labels
from slim.text_source import TextSource, is_test_word, tells_direction

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "synth"
TEST_FONTS = ROOT / "configs" / "fonts_test.yaml"
TEST_RECIPE = ROOT / "configs" / "synth_test.yaml"


@pytest.fixture(autouse=True)
def cv2_settings():
    yield
    cv2.setUseOptimized(True)
    cv2.setNumThreads(-1)


@pytest.fixture(scope="module")
def shop() -> compose.Workshop:
    paths = [face.path for face in fonts.load(TEST_FONTS)]
    return compose.Workshop(paths, TextSource("test"), Backgrounds(1))


# texts


@pytest.mark.parametrize("part", ["train", "test"])
def test_texts_cover_printable_ascii_and_are_short(part):
    source, rng = TextSource(part), np.random.default_rng(0)
    texts = [source.text(rng) for _ in range(20000)]
    lengths = np.array([len(text) for text in texts])
    counts = Counter("".join(texts))
    assert set(counts) == set(fonts.ASCII)
    assert min(counts.values()) >= 50
    assert lengths.min() >= 1 and lengths.max() <= 48 and 8 < lengths.mean() < 12
    assert 0.2 < (lengths <= 5).mean() < 0.45
    assert not any(text != text.strip() or "  " in text for text in texts)


def test_a_fifth_of_the_words_is_kept_for_the_test_split():
    train, test = TextSource("train"), TextSource("test")
    for name in ("common", "wider", "labels", "function"):
        ours, theirs = set(getattr(train, name)), set(getattr(test, name))
        assert ours and theirs and not ours & theirs
    share = len(test.common + test.wider) / len(test.common + test.wider + train.common + train.wider)
    assert 0.19 < share < 0.21
    assert is_test_word("Sunday") == is_test_word("SUNDAY")


@pytest.mark.parametrize("limit", [1, 2, 5, 13])
def test_texts_respect_a_limit(limit):
    source, rng = TextSource("train"), np.random.default_rng(1)
    for _ in range(500):
        assert 1 <= len(source.text(rng, limit)) <= limit
        if limit > 10:
            assert 1 <= len(source.sentence(rng, limit)) <= limit + 16


@pytest.mark.parametrize(
    ("text", "expected"), [("Bread", True), ("NOON", False), ("1961", False), ("SOS", False), ("$4", True), ("", False)]
)
def test_tells_direction(text, expected):
    assert tells_direction(text) is expected


# fonts


def test_committed_faces_load_and_are_never_trained_on():
    test, train = fonts.load(TEST_FONTS), fonts.read_list(ROOT / "configs" / "fonts_train.yaml")
    assert not {face.package for face in test} & {face.package for face in train}
    assert 0.19 <= len(test) / (len(test) + len(train)) <= 0.25
    assert len(train) >= 60
    for face in test:
        assert face.licence == "OFL-1.1"
        assert face.path.stat().st_size <= 60_000
        assert (face.path.parent / f"LICENSE-{face.package.rpartition('/')[2]}").is_file()


def face(path: Path) -> fonts.Face:
    return fonts.Face(path, hashlib.sha256(path.read_bytes()).hexdigest(), "p", "1", "l")


def test_fonts_are_refused_with_one_line(tmp_path):
    import matplotlib

    ttf = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    with pytest.raises(UsageError, match="other glyphs"):
        fonts.check(face(ttf / "cmsy10.ttf"), "")
    with pytest.raises(UsageError, match="none for '中'"):
        fonts.check(face(ttf / "DejaVuSans.ttf"), "a中")
    with pytest.raises(UsageError, match="expected sha256"):
        fonts.check(fonts.Face(ttf / "DejaVuSans.ttf", "0" * 64, "p", "1", "l"), "a")
    with pytest.raises(UsageError, match="fetch_fonts"):
        fonts.check(fonts.Face(tmp_path / "none.woff", "0" * 64, "p", "1", "l"), "a")
    (tmp_path / "junk.ttf").write_bytes(b"junk")
    with pytest.raises(UsageError, match="expected a font"):
        fonts.check(face(tmp_path / "junk.ttf"), "a")


@pytest.mark.parametrize(
    "content", ["faces: []", "root: x\nfaces: []", "root: x\nfaces: [{path: a}]", "[1]", "a: [", "root: x\nfaces: 3"]
)
def test_font_lists_are_strict(tmp_path, content):
    (tmp_path / "list.yaml").write_text(content)
    with pytest.raises(UsageError, match=r"list\.yaml.*expected"):
        fonts.read_list(tmp_path / "list.yaml")


# geometry


@pytest.mark.parametrize("tracking", [0.0, 0.1])
@pytest.mark.parametrize("text", ["Word", ".", "-", "jgy", "W", "' \"", "{f}"])
def test_box_holds_the_ink(shop, text, tracking):
    for path in shop.fonts:
        line = lettering.letter(path, 30, text, tracking)
        x0, y0, x1, y1 = line.box
        outside = line.mask.copy()
        outside[max(0, round(y0)) : round(y1), max(0, round(x0)) : round(x1)] = 0
        assert line.mask.any() and not outside.any()
        assert y1 - y0 > 10


def test_quads_follow_the_warp():
    """A block with one bright rectangle: what lands in the scene covers the labelled quad and nothing else."""
    for seed in range(12):
        rng = np.random.default_rng(seed)
        alpha = np.zeros((60, 200), np.uint8)
        alpha[20:40, 30:170] = 255
        block = compose._Block(np.zeros((60, 200, 3), np.uint8), alpha, [("x", (30.0, 20.0, 170.0, 40.0))])
        scene = np.full((480, 640, 3), 128, np.uint8)
        [(_, quad)] = compose._placed(rng, scene, np.zeros((480, 640), np.uint8), block)
        drawn = (scene.astype(int) - 128).__abs__().max(axis=2) > 15
        labelled = np.zeros((480, 640), np.uint8)
        cv2.fillConvexPoly(labelled, np.rint(quad).astype(np.int32), 1)
        both, either = (drawn & (labelled > 0)).sum(), (drawn | (labelled > 0)).sum()
        # a shadow or outline may reach beyond the box
        assert both / labelled.sum() > 0.9 and both / either > 0.7


def test_scenes_hold_lines_in_reading_order(shop):
    total = 0
    for seed in range(8):
        image, lines = compose.make_scene(np.random.default_rng(seed), shop)
        total += len(lines)
        for text, quad in lines:
            along, down = quad[1] - quad[0], quad[3] - quad[0]
            assert along[0] * down[1] - along[1] * down[0] > 0, "clockwise on screen"
            assert along[0] > 0, "no text is turned by more than a right angle"
            assert (quad >= 0).all() and (quad < [image.shape[1], image.shape[0]]).all()
            assert text == compose.IGNORED or set(text) <= set(fonts.ASCII)
    assert total >= 8 * 6


def test_lines_are_crops_that_the_pipeline_would_make(shop):
    crops = [compose.make_line(np.random.default_rng([3, seed]), shop)[0] for seed in range(150)]
    heights = np.array([crop.shape[0] for crop in crops])
    assert heights.max() <= 48 and heights.min() >= 6
    assert all(crop.dtype == np.uint8 and crop.shape[2] == 3 for crop in crops)
    # nothing taller than wide by 1.5: those the pipeline lays on their side
    assert all(crop.shape[0] < 1.5 * crop.shape[1] for crop in crops)


def test_backgrounds_are_the_pool_of_their_seed():
    a, b = (Backgrounds(5).piece(np.random.default_rng(1), 50, 70) for _ in range(2))
    assert a.shape == (50, 70, 3) and np.array_equal(a, b)
    assert Backgrounds(5).piece(np.random.default_rng(1), *POOL_SIZE).shape == (*POOL_SIZE, 3)


# bytes


@pytest.mark.parametrize("task", synthesize.TASKS)
def test_test_split_is_the_committed_one(task):
    recipe = synthesize.read_recipe(TEST_RECIPE)
    synthesize.prepare(recipe.split, recipe.seed, str(ROOT / recipe.fonts))
    labels = (GOLDEN / task / "label.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    for index, line in enumerate(labels):
        name = line.partition("\t")[0]
        data, drawn = synthesize.draw(task, recipe.seed, index, name)
        assert drawn == line
        assert data == (GOLDEN / task / name).read_bytes(), "the locked numpy, OpenCV and Pillow draw these bytes"


def test_test_recipe_is_large_enough_and_pinned():
    recipe = synthesize.read_recipe(TEST_RECIPE)
    assert recipe.count["det"] >= 300 and recipe.count["rec"] >= 3000 and recipe.count["cls"] >= 3000
    assert set(recipe.hash) == set(synthesize.TASKS)


def test_golden_scenes_are_read_back():
    for image, boxes in read_det_labels(GOLDEN / "det" / "label.txt"):
        assert image.is_file() and len(boxes) >= 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "expected .*found list"),
        ("split: train", "found split"),
        ("split: a\nseed: 1\nfonts: f\ncount: {det: 1}", "train or test"),
        ("split: test\nseed: -1\nfonts: f\ncount: {det: 1}", "seed"),
        ("split: test\nseed: 1\nfonts: f\ncount: {det: 0}", "count"),
        ("split: test\nseed: 1\nfonts: f\ncount: {lines: 1}", "count"),
        ("split: test\nseed: 1\nfonts: f\ncount: {det: 1}\nhash: 3", "hash"),
        ("split: test\nseed: 1\nfonts: f\ncount: {det: 1}\nsize: 3", "found .*size"),
        ("split: [", "expected a recipe in YAML"),
    ],
)
def test_recipes_are_strict(tmp_path, content, message):
    (tmp_path / "r.yaml").write_text(content)
    with pytest.raises(UsageError, match=message):
        synthesize.read_recipe(tmp_path / "r.yaml")


# the command


def start(out: Path, *options: str, recipe: Path = TEST_RECIPE) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "slim/synthesize.py", "--recipe", str(recipe), "--out", str(out), *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen, code: int) -> tuple[str, str]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    assert "Traceback" not in err
    return out, err


@pytest.mark.slow
def test_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path):
    finish(start(tmp_path / "whole", "--only", "det", "--count", "25", "--workers", "2"), 0)
    process = start(tmp_path / "killed", "--only", "det", "--count", "25", "--workers", "1")
    chunks = tmp_path / "killed" / "det.partial" / "chunks"
    until = time.monotonic() + 120
    while not list(chunks.glob("*.json")):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = len(list(chunks.glob("*.json")))
    assert kept > 0 and not (tmp_path / "killed" / "det").exists()

    other = start(tmp_path / "killed", "--only", "det", "--count", "20", "--workers", "1")
    assert "found others" in finish(other, 2)[1]

    out, _ = finish(start(tmp_path / "killed", "--only", "det", "--count", "25", "--workers", "1", "--json"), 0)
    whole = json.loads((tmp_path / "whole" / "dataset.json").read_text())["parts"]["det"]
    assert json.loads(out)["det"]["sha256"] == whole["sha256"] == synthesize.measure(tmp_path / "killed" / "det")
    assert not list((tmp_path / "killed").glob("*.partial"))


@pytest.mark.slow
def test_unlike_bytes_fail_the_check(tmp_path):
    recipe = tmp_path / "r.yaml"
    fonts_list = os.path.relpath(TEST_FONTS, ROOT)
    recipe.write_text(f"split: test\nseed: 1\nfonts: {fonts_list}\ncount: {{rec: 3}}\nhash: {{rec: '{'0' * 64}'}}\n")
    _, err = finish(start(tmp_path / "out", "--workers", "1", recipe=recipe), 1)
    assert "expected sha256 0000" in err.splitlines()[-1]

    found = json.loads((tmp_path / "out" / "dataset.json").read_text())["parts"]["rec"]["sha256"]
    recipe.write_text(recipe.read_text().replace("0" * 64, found))
    finish(start(tmp_path / "out", recipe=recipe), 0)
    image = next((tmp_path / "out" / "rec" / "images").rglob("*.jpg"))
    image.write_bytes(image.read_bytes()[:-9])
    finish(start(tmp_path / "out", recipe=recipe), 1)

    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").write_text("in the way")
    _, err = finish(start(tmp_path / "out", recipe=recipe), 2)
    assert "expected a folder" in err and len(err.splitlines()) == 1


def test_bad_options_are_one_line(tmp_path):
    for options in (("--workers", "0"), ("--count", "0"), ("--seed", "-4")):
        _, err = finish(start(tmp_path / "out", *options), 2)
        assert "expected a number from" in err and len(err.splitlines()) == 1
    _, err = finish(start(tmp_path / "out", recipe=tmp_path / "none.yaml"), 2)
    assert "expected a recipe" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
