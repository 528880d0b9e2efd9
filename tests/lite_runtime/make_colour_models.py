"""Three networks whose answers are known without training, converted to `.nb` artifacts in argv[1].

A text line is a bar of coloured pieces on white: red reads "r", green "g", blue "b". The weights are set by hand, so
what the real Lite runtime has to answer can be worked out on paper. Runs in a process of its own: it imports paddle.

    python make_colour_models.py OUT     → OUT/x86/det OUT/x86/cls OUT/x86/rec, and the same in OUT/arm
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle.nn import functional as F
from paddlelite.lite import Opt

import artifact

HALF = (0.5, 0.5, 0.5)
# In -1..1 and BGR: 3 for the pure colour, -1 for the other two and for white, 0 for the padding.
REDNESS, GREENNESS, BLUENESS = (-1, -1, 1), (-1, 1, -1), (1, -1, -1)


def fixed(conv: paddle.nn.Conv2D, weight, bias) -> paddle.nn.Conv2D:
    conv.weight.set_value(np.array(weight, np.float32).reshape(conv.weight.shape))
    conv.bias.set_value(np.array(bias, np.float32))
    return conv


class Det(paddle.nn.Layer):
    """sigmoid(-2 - 8 * sum of channels): a colour's sum is -1, white's 3. Of the 3x3 kernel only the centre counts."""

    def __init__(self) -> None:
        super().__init__()
        weight = np.zeros((1, 3, 3, 3))
        weight[0, :, 1, 1] = -8
        self.conv = fixed(paddle.nn.Conv2D(3, 1, 3, padding=1), weight, [-2])

    def forward(self, x):
        return F.sigmoid(self.conv(x))


class Cls(paddle.nn.Layer):
    """A line is upright when its left half is redder than its right half."""

    def __init__(self) -> None:
        super().__init__()
        self.red = fixed(paddle.nn.Conv2D(3, 1, 1), REDNESS, [0])
        weight = np.zeros((2, 1, 48, 192))
        weight[0, :, :, :96], weight[0, :, :, 96:] = 20 / 4608, -20 / 4608
        weight[1] = -weight[0]
        self.halves = fixed(paddle.nn.Conv2D(1, 2, (48, 192)), weight, [0, 0])

    def forward(self, x):
        return F.softmax(paddle.reshape(self.halves(self.red(x)), [-1, 2]), axis=-1)


class Rec(paddle.nn.Layer):
    """Colour of each step of 4 px, averaged over the height; classes: blank, r, g, b, space."""

    def __init__(self) -> None:
        super().__init__()
        weight = 10 * np.array([(0, 0, 0), REDNESS, GREENNESS, BLUENESS, (0, 0, 0)])
        self.colour = fixed(paddle.nn.Conv2D(3, 5, 1), weight, [4, 0, 0, 0, -100])

    def forward(self, x):
        steps = F.avg_pool2d(self.colour(x), kernel_size=(32, 4), stride=(32, 4))  # (N, 5, 1, T)
        return F.softmax(paddle.transpose(paddle.squeeze(steps, axis=2), [0, 2, 1]), axis=-1)


MODELS: dict[str, tuple[type[paddle.nn.Layer], artifact.Input, dict[str, Any]]] = {
    "det": (
        Det,
        artifact.Input((-1, 3, -1, -1), HALF, HALF, multiple_of=32, limit_side_len=960, limit_type="max"),
        {"thresh": 0.3, "box_thresh": 0.6, "unclip_ratio": 0.5},
    ),
    "cls": (Cls, artifact.Input((-1, 3, 48, 192), HALF, HALF, aspect="pad_right"), {"labels": ["0", "180"]}),
    "rec": (
        Rec,
        artifact.Input((-1, 3, 32, -1), HALF, HALF, width_buckets=(96, 160, 320), aspect="pad_right"),
        {},
    ),
}


def main(out: Path) -> None:
    for task, (network, eats, post) in MODELS.items():
        layer = network()
        layer.eval()
        spec = [paddle.static.InputSpec([size if size > 0 else None for size in eats.shape], "float32", "x")]
        stem = str(out / f"{task}_inference")
        paddle.jit.save(paddle.jit.to_static(layer, input_spec=spec, full_graph=True), stem)
        for target in ("x86", "arm"):
            with artifact.create(out / target / task) as folder:
                convert(stem, target, folder / "model")
                charset = None
                if task == "rec":
                    (folder / "charset.txt").write_text("r\ng\nb\n", encoding="utf-8")
                    charset = artifact.charset_record(folder / "charset.txt")
                manifest = artifact.Manifest("nb", task, f"colour_{task}", input=eats, post=post, charset=charset)
                extra = {"target": target, "opt_version": "v2.13-rc", "precision": "fp32"}
                artifact.write(folder, manifest.replace(extra=extra), "make_colour_models.py")


def convert(stem: str, target: str, out: Path) -> None:
    """Inference model `stem`.pdmodel → `out`.nb."""
    opt = Opt()
    opt.set_model_file(stem + ".pdmodel")
    opt.set_param_file(stem + ".pdiparams")
    opt.set_valid_places(target)
    opt.set_model_type("naive_buffer")
    opt.set_optimize_out(str(out))
    opt.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
