"""Which corner of a quad ends where in the crop."""

import numpy as np
import pytest

from lite_runtime import crop as crop_module
from lite_runtime.crop import crop_quad

CORNERS = np.array([10, 80, 160, 240], np.uint8)  # grey of top-left, top-right, bottom-right, bottom-left


def coded(width: int, height: int, at: tuple[int, int] = (7, 5)) -> tuple[np.ndarray, np.ndarray]:
    """An image with a box whose four quarters have the grey of their corner, and the box's quad."""
    image = np.zeros((height + 30, width + 30, 3), np.uint8)
    box = image[at[1] : at[1] + height, at[0] : at[0] + width]
    box[: height // 2, : width // 2] = CORNERS[0]
    box[: height // 2, width // 2 :] = CORNERS[1]
    box[height // 2 :, width // 2 :] = CORNERS[2]
    box[height // 2 :, : width // 2] = CORNERS[3]
    x, y = at
    return image, np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]], np.float32)


def corners_of(crop: np.ndarray) -> list[int]:
    height, width = crop.shape[:2]
    y, x = height // 4, width // 4
    return [int(crop[at][0]) for at in ((y, x), (y, -x - 1), (-y - 1, -x - 1), (-y - 1, x))]


@pytest.mark.parametrize(
    ("size", "shape", "order"),
    [
        ((40, 20), (20, 40), [10, 80, 160, 240]),  # upright
        ((20, 29), (29, 20), [10, 80, 160, 240]),  # h / w = 1.45: stays
        ((20, 30), (20, 30), [80, 160, 240, 10]),  # 1.5: turned anticlockwise, the top is now on the left
        ((10, 60), (10, 60), [80, 160, 240, 10]),
    ],
)
def test_orientation(size, shape, order):
    image, quad = coded(*size)
    crop = crop_quad(image, quad)
    assert crop.shape == (*shape, 3)
    assert crop.flags.c_contiguous
    assert corners_of(crop) == order


def test_the_first_corner_decides():
    image, quad = coded(40, 20)
    assert corners_of(crop_quad(image, np.roll(quad, 2, axis=0))) == [160, 240, 10, 80]  # turned by 180 degrees


def test_axis_aligned_crop_is_the_slice():
    image = np.random.default_rng(0).integers(0, 256, (50, 90, 3), np.uint8)
    quad = np.array([[10, 20], [70, 20], [70, 45], [10, 45]], np.float32)
    assert np.array_equal(crop_quad(image, quad), image[20:45, 10:70])


def test_slanted_quad_takes_the_longer_sides():
    image = np.zeros((100, 100, 3), np.uint8)
    quad = np.array([[10, 10], [50, 10], [60, 30], [10, 30]], np.float32)  # top 40, bottom 50, left 20, right 22.4
    assert crop_quad(image, quad).shape == (22, 50, 3)


def test_outside_the_image_the_border_is_repeated():
    image = np.full((20, 40, 3), 77, np.uint8)
    quad = np.array([[-10, -5], [50, -5], [50, 25], [-10, 25]], np.float32)
    assert np.all(crop_quad(image, quad) == 77)


@pytest.mark.parametrize("quad", [[[5, 5]] * 4, [[5, 5], [9, 5], [9, 5], [5, 5]]])
def test_degenerate_quad(quad):
    with pytest.raises(ValueError, match="at least 1 px"):
        crop_quad(np.zeros((20, 20, 3), np.uint8), np.array(quad, np.float32))


def test_images_beyond_cv2_s_limit_give_the_same_crop(monkeypatch):
    image = np.random.default_rng(1).integers(0, 256, (120, 200, 3), np.uint8)
    quad = np.array([[31, 40], [150, 30], [155, 71], [33, 80]], np.float32)
    whole = crop_quad(image, quad)
    monkeypatch.setattr(crop_module, "REMAP_LIMIT_PX", 100)
    assert np.abs(crop_quad(image, quad).astype(int) - whole).max() <= 2
    monkeypatch.undo()
    wide = np.full((8, 40_000, 3), 9, np.uint8)
    assert crop_quad(wide, np.array([[39_000, 0], [39_999, 0], [39_999, 7], [39_000, 7]])).shape == (7, 999, 3)
