"""Targets of the DB detector, and samples as the networks get them."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from artifact import Input, charset_labels
from command import UsageError
from lite_runtime import preprocess
from slim import db_targets, labels
from slim.datasets import ClsDataset, DetDataset, RecDataset, steps_needed
from slim.fonts import ASCII

GOLDEN = Path(__file__).parents[1] / "golden" / "synth"
REC = Input((-1, 3, 32, -1), (0.5,) * 3, (0.5,) * 3, width_buckets=(64, 160, 320, 640), aspect="pad_right")
CLS = Input((-1, 3, 48, 192), (0.5,) * 3, (0.5,) * 3, aspect="pad_right")
DET = Input((-1, 3, -1, -1), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), multiple_of=32)
CHARSET = charset_labels([*(c for c in ASCII if c != " "), " "], space=True)

SQUARE = np.array([[10, 10], [50, 10], [50, 30], [10, 30]], np.float32)  # 40 x 20: A 800, L 120


# targets of the DB detector


def test_shrink_distance_is_the_papers():
    # D = A (1 - r²) / L = 800 · (1 - .16) / 120
    assert db_targets.shrink_distance(SQUARE) == pytest.approx(5.6)


@pytest.mark.parametrize(("distance", "expected"), [(-5, (15, 15, 45, 25)), (5, (5, 5, 55, 35)), (-10.1, None)])
def test_offset_moves_every_side(distance, expected):
    moved = db_targets.offset(SQUARE, distance)
    if expected is None:
        assert moved is None
        return
    assert moved is not None
    np.testing.assert_allclose([*moved.min(axis=0), *moved.max(axis=0)], expected, atol=0.02)


@pytest.mark.parametrize(
    ("point", "expected"),
    [((5, 0), 0), ((5, 3), 3), ((-3, 4), 5), ((13, -4), 5)],
    ids=["on it", "beside", "before", "after"],
)
def test_segment_distance(point, expected):
    found = db_targets.segment_distance(
        np.array([[point[0]]], float), np.array([[point[1]]], float), np.array([0.0, 0.0]), np.array([10.0, 0.0])
    )
    assert found.item() == pytest.approx(expected)


def test_targets_of_one_line():
    targets = db_targets.draw(40, 64, [SQUARE], [False])
    assert targets.prob[20, 30] == 1 and targets.prob[12, 30] == 0 and targets.prob.sum() > 0
    # shrunk by 5.6: 28.8 x 8.8 px, drawn with its border
    rows, columns = np.nonzero(targets.prob)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (16, 24, 16, 44)
    assert targets.prob_mask.all()
    assert targets.thresh[10, 30] == pytest.approx(0.7)  # on the border
    assert targets.thresh[20, 30] == pytest.approx(0.3)  # 10 px inside, beyond D
    assert targets.thresh[12, 30] == pytest.approx(0.3 + 0.4 * (1 - 2 / 5.6), abs=1e-5)
    assert targets.thresh_mask[6, 30] == 1 and targets.thresh_mask[3, 30] == 0
    assert targets.thresh.min() == pytest.approx(0.3)


def test_ignored_and_tiny_text_does_not_count():
    tiny = np.array([[10, 10], [30, 10], [30, 14], [10, 14]], np.float32)
    for quad, ignored in ((SQUARE, True), (tiny, False)):
        targets = db_targets.draw(40, 64, [quad], [ignored])
        assert not targets.prob.any() and not targets.thresh_mask.any()
        assert targets.prob_mask[12, 20] == 0 and targets.prob_mask[2, 2] == 1


def test_no_text():
    targets = db_targets.draw(8, 9, [], [])
    assert targets.prob.shape == (8, 9) and targets.prob_mask.all() and not targets.prob.any()


# datasets


@pytest.mark.parametrize(("text", "steps"), [("a", 1), ("ab", 2), ("aa", 3), ("aaa", 5), ("book", 5)])
def test_steps_needed(text, steps):
    assert steps_needed(text) == steps


def test_lines_reach_the_network_as_the_runtime_feeds_them():
    dataset = RecDataset(GOLDEN / "rec" / "label.txt", input=REC, labels=CHARSET, augment=False)
    truth = labels.read_rec_labels(GOLDEN / "rec" / "label.txt")
    assert len(dataset) == len(truth) and dataset.skipped == {"charset": 0, "too long": 0}
    for index, (path, text) in enumerate(truth):
        image = cv2.imread(str(path))
        assert dataset.widths[index] == math.ceil(32 * image.shape[1] / image.shape[0])
        width = preprocess.bucket_width(int(dataset.widths[index]), REC.width_buckets)
        x, ids = dataset.sample(index, np.random.default_rng(0), width)
        expected = preprocess.pad_right(image, 32, width, mean=REC.mean, std=REC.std)
        np.testing.assert_array_equal(x, expected)
        assert x.shape == (3, 32, width) and x.dtype == np.float32
        assert "".join(CHARSET[i] for i in ids) == text and ids.dtype == np.int64
        assert dataset.lengths[index] == len(text)


def test_a_space_is_the_last_class():
    dataset = RecDataset(GOLDEN / "rec" / "label.txt", input=REC, labels=CHARSET, augment=False)
    assert dataset.encode("0 ").tolist() == [CHARSET.index("0"), 96]


def test_lines_that_cannot_be_learned_are_left_out(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((32, 64, 3), np.uint8))
    (tmp_path / "l.txt").write_text("a.png\tfine\na.png\t中\na.png\tseventeen letters\na.png\taaaaaaaaa\n")
    dataset = RecDataset(tmp_path / "l.txt", input=REC, labels=CHARSET, augment=False)
    assert dataset.texts == ["fine"] and dataset.skipped == {"charset": 1, "too long": 2}
    assert dataset.sample(0, np.random.default_rng(0), 64)[1].shape == (4,)
    (tmp_path / "l.txt").write_text("a.png\t中\n")
    with pytest.raises(UsageError, match="that the charset can write"):
        RecDataset(tmp_path / "l.txt", input=REC, labels=CHARSET, augment=False)


@pytest.mark.parametrize("cache_mb", [0, 100])
def test_samples_depend_on_the_generator_alone(cache_mb):
    dataset = RecDataset(GOLDEN / "rec" / "label.txt", input=REC, labels=CHARSET, augment=True, cache_mb=cache_mb)
    first, again, other = (dataset.sample(2, np.random.default_rng(seed), 160)[0] for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert any(
        not np.array_equal(first, dataset.sample(2, np.random.default_rng(seed), 160)[0]) for seed in range(20)
    ), other.shape


def encoded(suffix: str) -> bytes:
    noise = np.random.default_rng(1).integers(0, 256, (32, 100, 3), np.uint8)
    return cv2.imencode(suffix, noise)[1].tobytes()


@pytest.mark.parametrize("cache_mb", [0, 100], ids=["read each time", "kept in memory"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "found an empty file", id="empty"),
        pytest.param(b"junk", "expected an image, found something else", id="no image"),
        pytest.param(encoded(".jpg")[:-200], "found a JPEG without its end marker", id="JPEG cut off"),
        pytest.param(encoded(".png")[:-200], "found a PNG without its IEND chunk", id="PNG cut off"),
    ],
)
def test_a_damaged_image_stops_before_the_first_step(tmp_path, content, message, cache_mb):
    """A decoder fills what is missing with grey: the recognizer would learn to read that."""
    (tmp_path / "a.img").write_bytes(content)
    (tmp_path / "l.txt").write_text("a.img\ttext\n")
    with pytest.raises(UsageError, match=rf"a\.img: .*{message}") as caught:
        RecDataset(tmp_path / "l.txt", input=REC, labels=CHARSET, augment=False, cache_mb=cache_mb)
    assert "\n" not in str(caught.value)


def test_an_image_damaged_during_training_is_named(tmp_path):
    (tmp_path / "a.img").write_bytes(encoded(".jpg"))
    (tmp_path / "l.txt").write_text("a.img\t0\n")
    dataset = ClsDataset(tmp_path / "l.txt", input=CLS, augment=False, cache_mb=0)
    assert dataset.sample(0, np.random.default_rng(0))[0].shape == (3, 48, 192)
    (tmp_path / "a.img").write_bytes(encoded(".jpg")[:-200])
    with pytest.raises(UsageError, match="JPEG without its end marker"):
        dataset.sample(0, np.random.default_rng(0))


def test_a_crop_taken_with_the_camera_turned_has_its_shown_width(tmp_path):
    """Orientation 6 turns 32 x 100 px into 100 x 32; the batch's width follows what is shown."""
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((100, 32, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "l.txt").write_text("a.jpg\ttext\n")
    dataset = RecDataset(tmp_path / "l.txt", input=REC, labels=CHARSET, augment=False)
    assert cv2.imread(str(tmp_path / "a.jpg")).shape[:2] == (32, 100)
    assert dataset.widths.tolist() == [100]


def test_direction_crops():
    plain = ClsDataset(GOLDEN / "cls" / "label.txt", input=CLS, augment=False)
    truth = labels.read_cls_labels(GOLDEN / "cls" / "label.txt")
    for index, (path, direction) in enumerate(truth):
        x, label = plain.sample(index, np.random.default_rng(0))
        assert x.shape == (3, 48, 192) and label == (direction == 180) == plain.labels[index]
        expected = preprocess.pad_right(cv2.imread(str(path)), 48, 192, mean=CLS.mean, std=CLS.std)
        np.testing.assert_array_equal(x, expected)
    turned = ClsDataset(GOLDEN / "cls" / "label.txt", input=CLS, augment=True)
    classes = {turned.sample(0, np.random.default_rng(seed))[1] for seed in range(12)}
    assert classes == {0, 1}


@pytest.fixture
def scene(tmp_path):
    """A 400 x 300 grey scene with two white boxes, one of them labelled ###."""
    image = np.full((300, 400, 3), 90, np.uint8)
    image[100:130, 100:200] = 255
    quads = [np.array([[100, 100], [200, 100], [200, 130], [100, 130]]), SQUARE + np.array([220, 200])]
    cv2.imwrite(str(tmp_path / "s.png"), image)
    (tmp_path / "l.txt").write_text(labels.det_line("s.png", [("t", quads[0]), ("###", quads[1])]))
    return tmp_path / "l.txt"


def test_scene_without_augmentation_is_a_window(scene):
    dataset = DetDataset(scene, input=DET, size_px=320, augment=False)
    shown = 0
    for seed in range(10):
        x, prob, prob_mask, thresh, thresh_mask = dataset.sample(0, np.random.default_rng(seed))
        assert x.shape == (3, 320, 320) and x.dtype == np.float32
        assert prob.shape == prob_mask.shape == thresh.shape == thresh_mask.shape == (320, 320)
        white = x[0] > (200 / 255 - DET.mean[0]) / DET.std[0]
        if prob.any():
            assert white[prob > 0].all(), "the shrunk text lies inside the box that was drawn"
            shown += 1
        assert thresh.min() >= 0.3 and thresh.max() <= 0.7 + 1e-6
    assert shown >= 5
    assert np.array_equal(
        dataset.sample(0, np.random.default_rng(3))[0], dataset.sample(0, np.random.default_rng(3))[0]
    )


def test_augmented_targets_follow_the_image(scene):
    dataset = DetDataset(scene, input=DET, size_px=160, augment=True)
    hits = 0
    for seed in range(60):
        x, prob, prob_mask, _, _ = dataset.sample(0, np.random.default_rng(seed))
        if prob.sum() > 100:
            bright = x.mean(axis=0)
            outside = (prob == 0) & (prob_mask == 1)
            assert bright[prob > 0].mean() > bright[outside].mean() + 0.5
            hits += 1
    assert hits > 20


def test_lines_cut_by_the_window_do_not_count(tmp_path):
    """A line longer than the window is always cut: it must be masked, never half labelled."""
    quad = np.array([[5, 100], [395, 100], [395, 140], [5, 140]], np.float32)
    cv2.imwrite(str(tmp_path / "s.png"), np.zeros((300, 400, 3), np.uint8))
    (tmp_path / "l.txt").write_text(labels.det_line("s.png", [("long", quad)]))
    dataset = DetDataset(tmp_path / "l.txt", input=DET, size_px=160, augment=False)
    for seed in range(10):
        _, prob, _, _, thresh_mask = dataset.sample(0, np.random.default_rng(seed))
        assert not prob.any() and not thresh_mask.any()


def test_scenes_without_text_and_odd_sizes(tmp_path):
    cv2.imwrite(str(tmp_path / "s.png"), np.zeros((40, 30, 3), np.uint8))
    (tmp_path / "l.txt").write_text(labels.det_line("s.png", []))
    x, prob, mask, _, _ = DetDataset(tmp_path / "l.txt", input=DET, size_px=64, augment=True).sample(
        0, np.random.default_rng(0)
    )
    assert x.shape == (3, 64, 64) and not prob.any() and mask.all()
    with pytest.raises(UsageError, match="multiple of 32, found 100"):
        DetDataset(tmp_path / "l.txt", input=DET, size_px=100, augment=True)
