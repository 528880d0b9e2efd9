"""The smallest network that falls into each trap of export/traps.py, and what really becomes of a program."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F
from paddle.static import InputSpec

from command import ModelError
from export import opt
from export.program import Program

SHAPE = (2, 3, 16, 20)
_RUN = """
import sys
import numpy as np
from paddlelite.lite import MobileConfig, create_paddle_predictor
config = MobileConfig()
config.set_model_from_file(sys.argv[1])
predictor = create_paddle_predictor(config)
predictor.get_input(0).from_numpy(np.load(sys.argv[2]))
predictor.run()
np.save(sys.argv[3], predictor.get_output(0).numpy())
"""


class Network(nn.Layer):
    def __init__(self, function: Callable, layer: nn.Layer | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 8, 3, padding=1)
        self.function, self.layer = function, layer

    def forward(self, x):
        return self.function(self.layer, self.conv(x))


def _sequence(x: Any) -> Any:
    return x.mean(2).transpose([0, 2, 1])


def _one(number: int) -> Any:
    return paddle.full([1], number, "int32")


# trap → (function of layer and features, layer)
MODELS: dict[str, tuple[Callable, Callable[[], nn.Layer] | None]] = {
    "rnn states": (lambda lstm, x: lstm(_sequence(x))[0], lambda: nn.LSTM(8, 4, direction="bidirect")),
    "0-D constant": (lambda _, x: x * (x > 0).astype("float32"), None),
    "swish without beta": (lambda _, x: F.swish(x), None),
    "relu6 without threshold": (lambda _, x: F.relu6(x * 4), None),
    "flatten without XShape": (lambda _, x: x.flatten(2), None),
    "instance_norm without statistics": (lambda norm, x: norm(x), lambda: nn.InstanceNorm2D(8)),
    "layer_norm without weights": (lambda _, x: F.layer_norm(_sequence(x), [8]), None),
    "bmm": (lambda _, x: paddle.bmm(_sequence(x), _sequence(x).transpose([0, 2, 1])), None),
    "NHWC layout": (
        lambda conv, x: conv(x.transpose([0, 2, 3, 1])),
        lambda: nn.Conv2D(8, 4, 3, data_format="NHWC", bias_attr=False),
    ),
    "float16": (lambda _, x: (x.astype("float16") * 2).astype("float32"), None),
    "float64": (lambda _, x: x.astype("float64").exp().astype("float32"), None),
    "backward slice": (lambda _, x: x[:, 6:1:-1], None),
    "rnn that is neither LSTM nor GRU": (
        lambda rnn, x: rnn(_sequence(x), paddle.full(paddle.concat([_one(1), paddle.shape(x)[0:1], _one(4)]), 0.0))[0],
        lambda: nn.SimpleRNN(8, 4),
    ),
    "scale by a tensor": (lambda _, x: paddle.scale(x, scale=x.max([0, 1, 2, 3], keepdim=True).reshape([1])), None),
    "vector to a number": (lambda _, x: x * x.mean([1, 2, 3]).sum(), None),
    "square by pow": (lambda _, x: paddle.pow(x, 2.0), None),
    "power of a negative number": (lambda _, x: paddle.pow(x, 3.0), None),
    "p_norm": (lambda _, x: paddle.norm(x, p=1, axis=1), None),
    "float floor division": (lambda _, x: paddle.floor_divide(x, paddle.full([1], 2.0)), None),
    "float remainder": (lambda _, x: paddle.remainder(x, paddle.full([1], 2.0)), None),
    "abs after an addition": (lambda _, x: paddle.abs(x), None),
    "bool output": (lambda _, x: x > x.mean(1, keepdim=True), None),
}


def save(name: str, folder: Path) -> Path:
    """The inference folder of one model."""
    function, layer = MODELS[name]
    return save_network(Network(function, layer() if layer else None), folder)


def save_network(network: nn.Layer, folder: Path) -> Path:
    network.eval()
    spec = [InputSpec([None, 3, SHAPE[2], SHAPE[3]], "float32", "x")]
    paddle.jit.save(paddle.jit.to_static(network, input_spec=spec, full_graph=True), str(folder / "inference"))
    return folder


def outcome(program: Program, folder: Path) -> np.ndarray | str:
    """What opt and the x86 runtime make of a program as it is: the output, or who died."""
    nb = folder / "plain.nb"
    try:
        opt.convert(program.model, program.params, nb, target="x86")
    except ModelError as error:
        return f"opt: {error}"
    return run(nb, folder)


def run(nb: Path, folder: Path) -> np.ndarray | str:
    """The output of an x86 file on the fixed noise, run in a child; a text when the runtime died."""
    np.save(folder / "x.npy", noise())
    files = [str(nb), str(folder / "x.npy"), str(folder / "y.npy")]
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *files], capture_output=True, text=True, timeout=120, check=False
    )
    return np.load(folder / "y.npy") if done.returncode == 0 else f"runtime: exit code {done.returncode}"


def noise() -> np.ndarray:
    return np.random.default_rng(5).standard_normal(SHAPE).astype(np.float32)
