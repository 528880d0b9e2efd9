"""DB's head as matrix products: by hand for one pixel, and against Paddle's own transposed convolutions."""

import numpy as np
import paddle
import pytest
from paddle import nn

from slim.masked_program import MaskedProgram
from slim.pixelwise_end import PixelwiseEnd


def test_one_pixel_by_hand():
    """A pixel of value 2 becomes 2·(1, 2, 3, 4) − 5 = (−3, −1, 1, 3), cut at 0; each of these becomes four again."""
    grow = np.array([[1.0], [2.0], [3.0], [4.0]], np.float32)
    end = PixelwiseEnd(
        "x",
        [
            (grow, np.full((4, 1), -5, np.float32), True),
            (np.ones((4, 1), np.float32), np.array([[0.0], [0.0], [0.0], [1.0]], np.float32), False),
        ],
    )
    logits = np.array([[0, 0, 0, 0], [0, 1, 0, 1], [1, 1, 3, 3], [1, 2, 3, 4]], np.float32)
    found = end.run(np.full((1, 1, 1, 1), 2, np.float32))
    assert found.shape == (1, 1, 4, 4) and found.dtype == np.float32
    assert np.allclose(found[0, 0], 1 / (1 + np.exp(-logits)), atol=1e-6)


def test_far_logits_are_no_overflow():
    end = PixelwiseEnd("x", [(np.ones((4, 1), np.float32), np.zeros((4, 1), np.float32), False)])
    with np.errstate(over="raise"):
        found = end.run(np.array([-1e4, 1e4], np.float32).reshape(1, 1, 1, 2))
    assert np.allclose(found[0, 0, 0], [0, 0, 1, 1], atol=1e-6)


class Head(nn.Layer):
    def __init__(self, stride=2, activation="sigmoid"):
        super().__init__()
        self.first = nn.Conv2D(3, 6, 3, padding=1)
        self.grow = nn.Conv2DTranspose(6, 5, 2, stride=stride)
        self.norm = nn.BatchNorm2D(5)
        self.last = nn.Conv2DTranspose(5, 1, 2, stride=2)
        self.activation = activation

    def forward(self, x):
        y = nn.functional.relu(self.norm(self.grow(self.first(x))))
        return getattr(nn.functional, self.activation)(self.last(y))


@pytest.mark.parametrize("stride, activation, steps", [(2, "sigmoid", 2), (1, "sigmoid", 1), (2, "relu", 0)])
def test_a_program_ends_as_paddle_computes_it(stride, activation, steps):
    """Overlapping outputs and other activations stay with Paddle. More pixels than one strip holds."""
    paddle.seed(5)
    network = Head(stride, activation)
    for tensor in (network.norm.weight, network.norm.bias, network.norm._mean, network.norm._variance):
        tensor.set_value(paddle.uniform([5], min=0.5, max=1.5))
    network.eval()
    x = np.random.default_rng(1).standard_normal((2, 3, 40, 64)).astype(np.float32)
    program = MaskedProgram(network, (-1, 3, -1, -1))
    assert (len(program._end.steps) if program._end else 0) == steps
    with paddle.no_grad():
        expected = network(paddle.to_tensor(x)).numpy()
    assert np.allclose(program.whole().run({"x": x})[0], expected, atol=1e-5)
