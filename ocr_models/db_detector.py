"""DB text detector of PP-OCR mobile v2.0.

Liao et al. 2020, "Real-time Scene Text Detection with Differentiable Binarization", arXiv:1911.08947;
slimmed for phones by Du et al. 2020, "PP-OCR", arXiv:2009.09941, section 2.1.
Children `backbone`, `neck`, `head` and their names are those of PaddleOCR's checkpoints.
"""

import math

import paddle
from paddle import ParamAttr, nn
from paddle.nn import functional as F
from paddle.nn.initializer import Constant, KaimingUniform, Uniform

from ocr_models.mobilenet_v3 import PyramidMobileNetV3


def _upsample(x, factor: int):
    return F.interpolate(x, scale_factor=factor, mode="nearest")


class DBFPN(nn.Layer):
    """Feature pyramid: four levels brought to one width, added top-down, fused at 1/4 of the input."""

    def __init__(self, in_channels: list[int], channels: int) -> None:
        super().__init__()

        def conv(inp: int, out: int, kernel: int) -> nn.Conv2D:
            attr = ParamAttr(initializer=KaimingUniform())
            return nn.Conv2D(inp, out, kernel, padding=kernel // 2, weight_attr=attr, bias_attr=False)

        for level, inp in zip((2, 3, 4, 5), in_channels, strict=True):
            self.add_sublayer(f"in{level}_conv", conv(inp, channels, 1))
        for level in (5, 4, 3, 2):
            self.add_sublayer(f"p{level}_conv", conv(channels, channels // 4, 3))
        self.out_channels = channels // 4 * 4

    def forward(self, features):
        c2, c3, c4, c5 = features
        in5 = self.in5_conv(c5)
        in4 = self.in4_conv(c4)
        in3 = self.in3_conv(c3)
        in2 = self.in2_conv(c2)
        out4 = in4 + _upsample(in5, 2)  # (N, C, H/16, W/16)
        out3 = in3 + _upsample(out4, 2)  # (N, C, H/8, W/8)
        out2 = in2 + _upsample(out3, 2)  # (N, C, H/4, W/4)
        p5 = _upsample(self.p5_conv(in5), 8)
        p4 = _upsample(self.p4_conv(out4), 4)
        p3 = _upsample(self.p3_conv(out3), 2)
        p2 = self.p2_conv(out2)
        return paddle.concat([p5, p4, p3, p2], axis=1)  # (N, C, H/4, W/4)


class MapHead(nn.Layer):
    """Grows fused features back to the input's size and squashes them to one map in (0, 1)."""

    def __init__(self, inp: int) -> None:
        super().__init__()
        mid = inp // 4
        bound = 1.0 / math.sqrt(mid)

        def norm() -> nn.BatchNorm2D:
            return nn.BatchNorm2D(
                mid,
                weight_attr=ParamAttr(initializer=Constant(1.0)),
                bias_attr=ParamAttr(initializer=Constant(1e-4)),
            )

        def grow(out: int) -> nn.Conv2DTranspose:
            return nn.Conv2DTranspose(
                mid,
                out,
                2,
                stride=2,
                weight_attr=ParamAttr(initializer=KaimingUniform()),
                bias_attr=ParamAttr(initializer=Uniform(-bound, bound)),
            )

        self.conv1 = nn.Conv2D(inp, mid, 3, padding=1, bias_attr=False)
        self.conv_bn1 = norm()
        self.conv2 = grow(mid)
        self.conv_bn2 = norm()
        self.conv3 = grow(1)

    def forward(self, x):
        x = F.relu(self.conv_bn1(self.conv1(x)))  # (N, C/4, H/4, W/4)
        x = F.relu(self.conv_bn2(self.conv2(x)))  # (N, C/4, H/2, W/2)
        return F.sigmoid(self.conv3(x))  # (N, 1, H, W)


class DBHead(nn.Layer):
    """Probability map; in training also the threshold map and the approximate binary map (equation 1)."""

    def __init__(self, inp: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.binarize = MapHead(inp)
        self.thresh = MapHead(inp)

    def forward(self, x):
        prob = self.binarize(x)
        if not self.training:
            return prob
        threshold = self.thresh(x)
        # B = 1 / (1 + exp(-k (P - T))); the sigmoid keeps exp from overflowing.
        binary = F.sigmoid(self.k * (prob - threshold))
        return paddle.concat([prob, threshold, binary], axis=1)


class DBDetector(nn.Layer):
    """x (N, 3, H, W), H and W multiples of 32.

    eval: probability map (N, 1, H, W). train: probability, threshold, binary maps (N, 3, H, W).
    """

    # The export has no use for these: only the loss looks at the threshold map.
    train_only = ("head.thresh.",)

    def __init__(self, backbone_scale: float = 0.5, neck_channels: int = 96, k: int = 50) -> None:
        super().__init__()
        self.backbone = PyramidMobileNetV3(backbone_scale)
        self.neck = DBFPN(self.backbone.out_channels, neck_channels)
        self.head = DBHead(self.neck.out_channels, k)

    def forward(self, x):
        return self.head(self.neck(self.backbone(x)))
