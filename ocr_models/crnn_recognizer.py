"""CRNN text recognizer of PP-OCR mobile v2.0.

Shi et al. 2015, "An End-to-End Trainable Neural Network for Image-based Sequence Recognition", arXiv:1507.05717, on the
light backbone of Du et al. 2020, "PP-OCR", arXiv:2009.09941, section 2.3. Names are those of PaddleOCR's checkpoints.
"""

import math

import paddle
from paddle import ParamAttr, nn
from paddle.nn import functional as F
from paddle.nn.initializer import Uniform

from ocr_models.mobilenet_v3 import LineMobileNetV3

LSTM_LAYERS = 2


@paddle.jit.not_to_static
def _zero_state(sequence, hidden: int):
    """Zeros (layers · 2 directions, N, hidden) for a sequence (N, T, C).

    While N is unknown the shape is glued from 1-D tensors: nn.LSTM's own default states export as 0-D tensors, which
    Paddle-Lite converts and then aborts on at run time. A known N is used as it is, because PaddleSlim traces with
    one and the shape check of `rnn` refuses the mixture.
    """
    batch = sequence.shape[0]
    if batch > 0:
        return paddle.zeros([2 * LSTM_LAYERS, batch, hidden], "float32")
    shape = paddle.concat(
        [
            paddle.full([1], 2 * LSTM_LAYERS, "int32"),
            paddle.shape(sequence)[0:1],
            paddle.full([1], hidden, "int32"),
        ]
    )
    return paddle.zeros(shape, "float32")


class RNNEncoder(nn.Layer):
    """Two bidirectional LSTM layers. (N, T, C) → (N, T, 2 · hidden)."""

    def __init__(self, inp: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.lstm = nn.LSTM(inp, hidden, num_layers=LSTM_LAYERS, direction="bidirectional")

    def forward(self, x):
        state = _zero_state(x, self.hidden)
        x, _ = self.lstm(x, (state, state))
        return x


class SequenceNeck(nn.Layer):
    """Reads the one row of features from left to right. (N, C, 1, T) → (N, T, 2 · hidden)."""

    def __init__(self, inp: int, hidden: int) -> None:
        super().__init__()
        self.encoder = RNNEncoder(inp, hidden)

    def forward(self, x):
        return self.encoder(x.squeeze(2).transpose([0, 2, 1]))


class CTCHead(nn.Layer):
    def __init__(self, inp: int, classes: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(inp)
        self.fc = nn.Linear(
            inp,
            classes,
            weight_attr=ParamAttr(initializer=Uniform(-bound, bound)),
            bias_attr=ParamAttr(initializer=Uniform(-bound, bound)),
        )

    def forward(self, x):
        x = self.fc(x)  # (N, T, classes)
        return x if self.training else F.softmax(x, axis=2)


class CRNNRecognizer(nn.Layer):
    """x (N, 3, 32, W). eval: softmax (N, T, classes) with T = W/4, class 0 the blank. train: logits."""

    def __init__(self, backbone_scale: float = 0.5, hidden: int = 48, classes: int = 97) -> None:
        super().__init__()
        self.backbone = LineMobileNetV3(backbone_scale, (1, 2, 2, 2))
        self.neck = SequenceNeck(self.backbone.out_channels, hidden)
        self.head = CTCHead(2 * hidden, classes)

    def forward(self, x):
        return self.head(self.neck(self.backbone(x)))
