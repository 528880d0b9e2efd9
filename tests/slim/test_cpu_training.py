"""The compiled convolutions give Paddle's outputs and gradients; the environment suits the processor."""

import contextlib
import subprocess
import sys

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import functional as F

from ocr_models.mobilenet_v3 import LineMobileNetV3
from slim import cpu_environment, cpu_training
from slim.cpu_training import fast_convolutions

ZEN5 = "vendor_id\t: AuthenticAMD\nflags\t\t: fpu fma avx2 avx512f avx512dq avx512bw avx512vl avx512cd\n"


@pytest.fixture
def calls(monkeypatch):
    """Names of the compiled paths in the order they were taken."""
    taken = []
    for layer in (cpu_training._Depthwise, cpu_training._SumShifted):

        def noted(*args, real=layer.apply, name=layer.__name__):
            taken.append(name)
            return real(*args)

        monkeypatch.setattr(layer, "apply", noted)
    return taken


def both(compute, *tensors):
    """(output, *gradients) of `compute()` by Paddle and within the context."""
    answers = []
    grad = None
    for fast in (False, True):
        for tensor in tensors:
            tensor.clear_grad()
        if fast:
            with fast_convolutions():
                y = compute()
        else:
            y = compute()
        grad = paddle.randn(y.shape) if grad is None else grad
        y.backward(grad)
        answers.append([y.numpy(), *(tensor.grad.numpy() for tensor in tensors)])
    return zip(*answers, strict=True)


def close(plain, fast):
    assert plain.shape == fast.shape
    np.testing.assert_allclose(fast, plain, rtol=0, atol=1e-5 * np.abs(plain).max())


def test_by_hand(calls):
    # A cross of ones over 1..9: the centre sums 5 + its neighbours 2, 4, 6, 8; the corner 1 + 2 + 4.
    x = paddle.arange(1, 10, dtype="float32").reshape([1, 1, 3, 3])
    w = paddle.to_tensor([[[[0.0, 1, 0], [1, 1, 1], [0, 1, 0]]]])
    x.stop_gradient = w.stop_gradient = False
    with fast_convolutions():
        y = F.conv2d(paddle.concat([x, x], 1), paddle.concat([w, w]), padding=1, groups=2)
    assert len(calls) == 1
    assert y.numpy()[0, 0].tolist() == [[7, 11, 11], [17, 25, 23], [19, 29, 23]]
    y[0, 0, 1, 1].backward()  # only the centre: its taps are the image, its footprint is the cross
    assert w.grad.numpy()[0, 0].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert x.grad.numpy()[0, 0].tolist() == [[0, 1, 0], [1, 1, 1], [0, 1, 0]]


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("stride", [1, 2, (2, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize(
    ("height", "width", "padding"), [(8, 12, None), (7, 9, None), (1, 6, 2), (9, 8, 0), (6, 5, [3, 1])]
)
def test_equals_paddle(calls, size, stride, height, width, padding):
    paddle.seed(1)
    x, w = paddle.randn([3, 7, height, width]), paddle.randn([7, 1, size, size])
    x.stop_gradient = w.stop_gradient = False
    pad = size // 2 if padding is None else padding
    for plain, fast in both(lambda: F.conv2d(x, w, stride=stride, padding=pad, groups=7), x, w):
        close(plain, fast)
    assert len(calls) == 1


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 20), (128, 2), (1, 256)])
def test_narrowing_equals_paddle(calls, size, height, width):
    paddle.seed(4)
    x, w = paddle.randn([2, 7, height, width]), paddle.randn([3, 7, size, size])
    x.stop_gradient = w.stop_gradient = False
    for plain, fast in both(lambda: F.conv2d(x, w, padding=size // 2), x, w):
        close(plain, fast)
    assert calls == ["_SumShifted"]


def test_layers_of_the_detector(calls):
    x = paddle.randn([1, 8, 16, 16])
    for layer, path in (
        (nn.Conv2D(8, 8, 3, padding=1, groups=8, bias_attr=False), "_Depthwise"),
        (nn.Conv2D(8, 2, 3, padding=1, bias_attr=False), "_SumShifted"),
    ):
        plain = layer(x).numpy()
        with fast_convolutions():
            close(plain, layer(x).numpy())
        assert calls.pop() == path


def test_narrowing_by_hand(calls):
    # Ones under a kernel of ones: a corner sees 4 pixels, an edge 6, the inside 9, in each of the 2 channels.
    x = paddle.ones([1, 2, 16, 16])
    with fast_convolutions():
        y = F.conv2d(x, paddle.ones([1, 2, 3, 3]), padding=1).numpy()[0, 0]
    assert (y[0, 0], y[0, 5], y[5, 0], y[7, 7], y[15, 15]) == (8, 12, 12, 18, 8)
    assert calls == ["_SumShifted"]


def test_views_that_are_not_contiguous(calls):
    paddle.seed(2)
    x, w = paddle.randn([2, 6, 5, 4]), paddle.randn([4, 1, 3, 3])
    x.stop_gradient = w.stop_gradient = False
    # channels last to first, and an output that is turned again: both gradients arrive as strided views
    run = lambda: F.conv2d(x.transpose([0, 3, 1, 2]), w, padding=1, groups=4).transpose([0, 2, 3, 1])  # noqa: E731
    for plain, fast in both(run, x, w):
        close(plain, fast)
    assert calls


def test_network(calls):
    paddle.seed(3)
    network = LineMobileNetV3(0.35, (2, 2, 2, 2))
    network.train()
    x = paddle.randn([4, 3, 48, 64])
    x.stop_gradient = False
    trained = [p for p in network.parameters() if not p.stop_gradient]  # all but the running statistics
    pairs = list(both(lambda: network(x), x, *trained))
    assert len(calls) == 11  # one per block
    close(*pairs[0])
    # As one vector: single sums that cancel to nearly nothing would compare rounding with rounding.
    plain, fast = (np.concatenate([pair[k].ravel() for pair in pairs[1:]]) for k in (0, 1))
    assert np.linalg.norm(fast - plain) <= 1e-4 * np.linalg.norm(plain)


def test_frozen_inputs(calls):
    x, w = paddle.randn([1, 2, 4, 4]), paddle.randn([2, 1, 3, 3])
    w.stop_gradient = False
    for plain, fast in both(lambda: F.conv2d(x, w, padding=1, groups=2), w):
        close(plain, fast)
    x.stop_gradient, w.stop_gradient = False, True
    for plain, fast in both(lambda: F.conv2d(x, w, padding=1, groups=2), x):
        close(plain, fast)
    with paddle.no_grad(), fast_convolutions():
        assert F.conv2d(x, w, padding=1, groups=2).stop_gradient
    assert len(calls) == 3


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2D(4, 2, 3, padding=1),
        nn.Conv2D(4, 4, 3, padding=1, bias_attr=False),
        nn.Conv2D(4, 2, 3, padding=1, stride=2, bias_attr=False),
        nn.Conv2D(4, 2, 3, bias_attr=False),
        nn.Conv2D(4, 2, 1, bias_attr=False),
        nn.Conv2D(4, 8, 3, padding=1, groups=4, bias_attr=False),
        nn.Conv2D(4, 4, 3, padding=2, dilation=2, groups=4, bias_attr=False),
        nn.Conv2D(4, 4, 3, padding=1, groups=2, bias_attr=False),
        nn.Conv2D(4, 4, 7, padding=3, groups=4, bias_attr=False),
        nn.Conv2D(4, 4, 3, padding="SAME", groups=4, bias_attr=False),
        nn.Conv2D(4, 4, 3, padding=[0, 1, 0, 1], groups=4, bias_attr=False),
        nn.Conv1D(4, 4, 3, padding=1, groups=4, bias_attr=False),
    ],
    ids=[
        "bias",
        "as wide",
        "strided",
        "shrinking",
        "1x1",
        "multiplier",
        "dilated",
        "grouped",
        "7x7",
        "same",
        "lopsided",
        "1d",
    ],
)
def test_everything_else_is_left_to_paddle(calls, layer):
    x = paddle.randn([2, 4, 18, 18][: 3 if isinstance(layer, nn.Conv1D) else 4])
    plain = layer(x)
    with fast_convolutions():
        np.testing.assert_array_equal(layer(x).numpy(), plain.numpy())
    assert not calls


def test_an_empty_output_is_left_to_paddle(calls):
    with fast_convolutions(), contextlib.suppress(ValueError, RuntimeError):
        F.conv2d(paddle.randn([1, 2, 2, 2]), paddle.randn([2, 1, 5, 5]), groups=2)
    assert not calls


def test_leaves_no_trace():
    before = F.conv._conv_nd, F.conv2d
    with pytest.raises(KeyError), fast_convolutions(), fast_convolutions():
        assert F.conv._conv_nd is not before[0]
        assert F.conv2d is not before[1]
        raise KeyError
    assert (F.conv._conv_nd, F.conv2d) == before


def test_nan_stays_visible():
    x = paddle.full([1, 3, 4, 4], float("nan"))
    with fast_convolutions():
        y = F.conv2d(x, paddle.ones([3, 1, 3, 3]), padding=1, groups=3)
    assert np.isnan(y.numpy()).all()


@pytest.mark.parametrize(
    ("cpu_info", "path"),
    [
        (ZEN5, "7"),
        (ZEN5.replace("avx512vl", ""), "5"),
        (ZEN5.replace("avx2", "").replace("avx512f", ""), ""),
        (ZEN5.replace("AuthenticAMD", "GenuineIntel"), ""),
        ("", ""),
    ],
    ids=["avx512", "avx2", "sse", "intel", "unknown"],
)
def test_mkl_path(cpu_info, path):
    assert cpu_environment._mkl_path(cpu_info) == path


def test_what_the_user_set_stays(monkeypatch):
    monkeypatch.setattr(cpu_environment, "_cpu_info", lambda: ZEN5)
    monkeypatch.setenv("MKL_DEBUG_CPU_TYPE", "5")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cpu_environment.prepare(threads=3)
    assert cpu_environment.os.environ["MKL_DEBUG_CPU_TYPE"] == "5"
    assert cpu_environment.os.environ["OMP_NUM_THREADS"] == "3"
    cpu_environment.prepare(threads=4)
    assert cpu_environment.os.environ["OMP_NUM_THREADS"] == "3"


ENVIRONMENT_FIRST = (
    "from slim import cpu_environment; cpu_environment.prepare(); import paddle, zlib; zlib.compress(b'a')"
)
PADDLE_FIRST = """
import paddle
from slim.cpu_training import fast_convolutions
with fast_convolutions():
    x = paddle.ones([1, 2, 5, 5])
    print(float(paddle.nn.functional.conv2d(x, paddle.ones([2, 1, 3, 3]), groups=2).max()))
"""


def test_zlib_works_beside_paddle():
    done = subprocess.run([sys.executable, "-c", ENVIRONMENT_FIRST], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-500:]


def test_this_suite_compiles():
    assert cpu_environment.zlib_is_sound(), "tests/conftest.py must call prepare() before Paddle is imported"


def test_paddle_imported_first_is_slow_at_worst():
    done = subprocess.run([sys.executable, "-c", PADDLE_FIRST], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.split()[-1] == "9.0"
