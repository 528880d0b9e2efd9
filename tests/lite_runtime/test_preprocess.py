"""Resizing, normalising, padding: tables that can be checked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifact import Input
from command import UsageError
from lite_runtime import preprocess

HALF = (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("height", "width", "limit", "kind", "expected"),
    [
        (960, 960, 960, "max", (960, 960)),
        (720, 1280, 960, "max", (544, 960)),  # 720 * .75 = 540 = 16.875 * 32
        (1280, 720, 960, "max", (960, 544)),
        (100, 200, 960, "max", (96, 192)),  # never grown; 3.125 and 6.25 multiples
        (48, 80, 960, "max", (64, 64)),  # 1.5 and 2.5 multiples: ties go to the even one
        (112, 112, 960, "max", (128, 128)),  # 3.5 → 4
        (10, 10, 960, "max", (32, 32)),  # at least one multiple
        (100, 20_000, 960, "max", (32, 960)),  # int(4.8) = 4 px → 32
        (20_000, 100, 960, "max", (960, 32)),
        (720, 1280, 736, "min", (736, 1312)),  # int(735.99…) = 736 or 735 → 23 multiples
        (1000, 2000, 736, "min", (992, 1984)),  # long enough: only rounded (31.25, 62.5 → 62)
        (100, 200, 736, "min", (736, 1472)),
        (1, 1, 64, "min", (64, 64)),
    ],
)
def test_detection_size(height, width, limit, kind, expected):
    assert preprocess.detection_size(height, width, limit, kind, 32) == expected


def test_detection_size_refuses_an_unknown_limit():
    with pytest.raises(ValueError, match="expected max or min, found 'mean'"):
        preprocess.detection_size(100, 100, 960, "mean", 32)


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([320, 736, 960, 1280]))
def test_detection_size_bounds(height, width, limit):
    sized = preprocess.detection_size(height, width, limit, "max", 32)
    assert all(side % 32 == 0 and 32 <= side <= limit + 16 for side in sized)


def test_resize_for_detection_pads_tiny_images_with_black():
    resized = preprocess.resize_for_detection(np.full((3, 5, 3), 255, np.uint8), 960, "max", 32)
    assert resized.shape == (32, 32, 3)
    assert resized[:3, :5].min() == 255
    assert resized[3:].max() == 0 and resized[:, 5:].max() == 0


def test_padded_size():
    assert preprocess.padded_size(3, 5) == (32, 32)
    assert preprocess.padded_size(3, 50) == (32, 50)
    assert preprocess.padded_size(3, 61) == (3, 61)  # 64 in all: PaddleOCR stretches it


def test_resize_keeps_a_fitting_image():
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    assert preprocess.resize_for_detection(image, 960, "max", 32) is image


def test_normalize_follows_the_channel_order():
    pixel = np.array([[[0, 51, 255]]], np.uint8)  # 0, .2, 1 after division by 255
    out = preprocess.normalize(pixel, (0.5, 0.1, 0.0), (0.5, 0.1, 2.0))
    np.testing.assert_allclose(out[:, 0, 0], [-1.0, 1.0, 0.5], rtol=1e-6)
    assert out.shape == (3, 1, 1) and out.dtype == np.float32 and out.flags.c_contiguous


def test_normalize_gives_the_same_for_bytes_and_floats():
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    by_table = preprocess.normalize(image, mean, std)
    assert np.array_equal(by_table, preprocess.normalize(image.astype(np.float32), mean, std))
    exact = ((image / 255 - mean) / std).transpose(2, 0, 1)
    np.testing.assert_allclose(by_table, exact, atol=3e-7)


@pytest.mark.parametrize(
    ("width", "height", "to_height", "expected"),
    [(100, 32, 32, 100), (100, 64, 32, 50), (101, 64, 32, 51), (1, 20_000, 32, 1), (20_000, 1, 32, 640_000)],
)
def test_rec_width(width, height, to_height, expected):
    assert preprocess.rec_width(width, height, to_height) == expected


@given(st.integers(1, 5000), st.integers(1, 500))
def test_rec_width_is_paddleocr_s_at_height_32(width, height):
    assert preprocess.rec_width(width, height, 32) == int(np.ceil(32 * (width / float(height))))


@pytest.mark.parametrize(
    ("width", "expected"), [(1, 96), (96, 96), (97, 160), (160, 160), (161, 320), (320, 320), (321, 320), (9999, 320)]
)
def test_bucket_width(width, expected):
    assert preprocess.bucket_width(width, (96, 160, 320)) == expected


def test_pad_right_keeps_aspect_and_pads():
    out = preprocess.pad_right(np.full((16, 20, 3), 255, np.uint8), 32, 96, mean=HALF, std=HALF, pad_value=-0.25)
    assert out.shape == (3, 32, 96)
    assert np.all(out[:, :, :40] == 1.0)
    assert np.all(out[:, :, 40:] == -0.25)


def test_pad_right_squeezes_what_is_too_wide():
    image = np.zeros((10, 1000, 3), np.uint8)
    image[:, 500:] = 255
    out = preprocess.pad_right(image, 32, 96, mean=HALF, std=HALF)
    assert np.all(out[:, :, :47] == -1.0) and np.all(out[:, :, 49:] == 1.0)


def test_batch_puts_channels_in_the_manifest_s_order():
    crop = np.zeros((32, 8, 3), np.uint8)
    crop[..., 0] = 255  # blue
    for colour, channel in (("BGR", 0), ("RGB", 2)):
        record = Input((-1, 3, 32, -1), HALF, HALF, color=colour)
        out = preprocess.batch([crop, crop], 32, 8, record)
        assert out.shape == (2, 3, 32, 8) and out.dtype == np.float32
        assert np.all(out[:, channel] == 1.0) and out.sum() == -out[:, channel].sum()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.full((1, 2), 7, np.uint8), 7),
        (np.full((1, 2, 1), 7, np.uint8), 7),
        (np.full((1, 2, 3), 7, np.uint8), 7),
        (np.full((1, 2, 3), 7 * 256 + 255, np.uint16), 7),
        (np.array([[[10, 10, 10, 255], [10, 10, 10, 255]]], np.uint8), 10),
        (np.array([[[10, 10, 10, 0], [10, 10, 10, 0]]], np.uint8), 255),  # transparent: white, whatever lies under
        (np.array([[[0, 0, 0, 51], [0, 0, 0, 51]]], np.uint8), 204),  # a fifth of black
    ],
)
def test_to_bgr(given, expected):
    out = preprocess.to_bgr(given)
    assert out.shape == (1, 2, 3) and out.dtype == np.uint8 and np.all(out == expected)


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 5, 2), (5,), (1, 5, 5, 3)])
def test_to_bgr_refuses_other_arrays(shape):
    with pytest.raises(UsageError, match="expected an image"):
        preprocess.to_bgr(np.zeros(shape, np.uint8))
    with pytest.raises(UsageError, match="float32"):
        preprocess.to_bgr(np.zeros((5, 5, 3), np.float32))
