"""Augmentation: geometry that points can follow, pixels that stay in range, no state of its own."""

import math

import cv2
import numpy as np
import pytest

from slim import augment, degrade


@pytest.fixture
def dot():
    """A 60 x 100 black image with one white 5 x 5 square around (70, 20)."""
    image = np.zeros((60, 100, 3), np.uint8)
    image[18:23, 68:73] = 255
    return image


def centre(image: np.ndarray) -> np.ndarray:
    moments = cv2.moments(image[..., 0])
    return np.array([moments["m10"], moments["m01"]]) / moments["m00"]


@pytest.mark.parametrize(
    ("degrees", "point", "expected"),
    [(0, (70, 20), (70, 20)), (90, (60, 30), (50, 40)), (180, (60, 30), (40, 30)), (-90, (50, 20), (40, 30))],
)
def test_rotation_turns_about_the_centre(degrees, point, expected):
    found = augment.warp_points(np.array([point], float), augment.rotation(60, 100, degrees))
    np.testing.assert_allclose(found, [expected], atol=1e-9)


def test_perspective_moves_the_corners():
    moves = np.array([[0.1, 0], [0, 0], [0, 0], [0, -0.1]])
    matrix = augment.perspective(60, 100, moves)
    corners = np.array([[0, 0], [100, 0], [100, 60], [0, 60]], float)
    np.testing.assert_allclose(augment.warp_points(corners, matrix), [[6, 0], [100, 0], [100, 60], [0, 54]], atol=1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_points_follow_the_image(dot, seed):
    strong = augment.Strength(20, 0.15, 0.2, 0, 0, 0, 1.0)
    matrix = augment.geometry(60, 100, np.random.default_rng(seed), strong)
    assert matrix is not None
    warped, matrix = augment.warp_whole(dot, matrix)
    np.testing.assert_allclose(centre(warped), augment.warp_points(np.array([70.0, 20.0]), matrix), atol=0.6)


def test_chance_zero_changes_nothing(dot):
    out = augment.augment_line(dot, np.random.default_rng(0), augment.NONE)
    np.testing.assert_array_equal(out, dot)


@pytest.mark.parametrize("size", [(60, 100), (8, 8), (1, 1), (48, 900)])
def test_augmentation_is_a_function_of_the_generator(size):
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    before = image.copy()
    for seed in range(30):
        first = augment.augment_line(image, np.random.default_rng(seed))
        again = augment.augment_line(image, np.random.default_rng(seed))
        np.testing.assert_array_equal(first, again)
        assert first.dtype == np.uint8 and first.shape[2] == 3 and min(first.shape) >= 1
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    ("contrast", "lift", "expected"),
    [(1, 0, (0, 100, 255)), (1, 10, (10, 110, 255)), (0.5, 0, (64, 114, 191)), (2, 0, (0, 72, 255))],
)
def test_tone(contrast, lift, expected):
    image = np.array([[[0, 100, 255]]], np.uint8)
    assert augment.tone(image, contrast, lift)[0, 0].tolist() == list(expected)


def test_motion_blur_runs_along_its_angle(dot):
    across = degrade.motion(dot, 9, 0.0)[..., 0]
    down = degrade.motion(dot, 9, math.pi / 2)[..., 0]
    assert across.max(axis=0).astype(bool).sum() > across.max(axis=1).astype(bool).sum() + 4
    assert down.max(axis=1).astype(bool).sum() > down.max(axis=0).astype(bool).sum() + 4
    # light is spread, not lost
    assert int(across.sum()) == pytest.approx(int(dot[..., 0].sum()), rel=0.02)
    np.testing.assert_array_equal(degrade.motion(dot, 1.0, 0.3), dot)


def test_noise_has_its_sigma():
    grey = np.full((200, 200, 3), 128, np.uint8)
    noisy = degrade.sensor_noise(grey, np.random.default_rng(0), 6.0)
    assert noisy.std() == pytest.approx(6.0, abs=0.2) and noisy.mean() == pytest.approx(128, abs=0.2)


@pytest.mark.parametrize("size", [(20, 30), (1, 1), (3, 200)])
def test_degradations_keep_size_and_type(size):
    image = np.full((*size, 3), 200, np.uint8)
    rng = np.random.default_rng(0)
    for out in (
        degrade.uneven_light(image, rng, 0.3),
        degrade.shadow(image, rng, 0.5),
        degrade.defocus(image, 1.5),
        degrade.jpeg(image, 60),
    ):
        assert out.shape == image.shape and out.dtype == np.uint8
    assert degrade.shadow(np.full((50, 80, 3), 200, np.uint8), np.random.default_rng(2), 0.5).min() >= 99
