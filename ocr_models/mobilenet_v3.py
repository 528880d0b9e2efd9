"""MobileNetV3 in the two shapes that PP-OCR uses: pyramid features for detection, one row of features for text lines.

Howard et al. 2019, "Searching for MobileNetV3", arXiv:1905.02244, tables 1 (large) and 2 (small); the thinning and the
strides for text lines follow Du et al. 2020, "PP-OCR", arXiv:2009.09941, sections 2.1 and 2.3 (figure 12).
Sublayer names are those of PaddleOCR's checkpoints, so that its trained weights load key by key.
"""

from typing import NamedTuple

import paddle
from paddle import nn
from paddle.nn import functional as F


class Block(NamedTuple):
    """One row of the paper's tables: an inverted residual block at scale 1."""

    kernel: int
    expand: int
    out: int
    se: bool
    act: str
    stride: int


R, H = "relu", "hardswish"

LARGE = (
    Block(3, 16, 16, False, R, 1),
    Block(3, 64, 24, False, R, 2),
    Block(3, 72, 24, False, R, 1),
    Block(5, 72, 40, True, R, 2),
    Block(5, 120, 40, True, R, 1),
    Block(5, 120, 40, True, R, 1),
    Block(3, 240, 80, False, H, 2),
    Block(3, 200, 80, False, H, 1),
    Block(3, 184, 80, False, H, 1),
    Block(3, 184, 80, False, H, 1),
    Block(3, 480, 112, True, H, 1),
    Block(3, 672, 112, True, H, 1),
    Block(5, 672, 160, True, H, 2),
    Block(5, 960, 160, True, H, 1),
    Block(5, 960, 160, True, H, 1),
)
SMALL = (
    Block(3, 16, 16, True, R, 2),
    Block(3, 72, 24, False, R, 2),
    Block(3, 88, 24, False, R, 1),
    Block(5, 96, 40, True, H, 2),
    Block(5, 240, 40, True, H, 1),
    Block(5, 240, 40, True, H, 1),
    Block(5, 120, 48, True, H, 1),
    Block(5, 144, 48, True, H, 1),
    Block(5, 288, 96, True, H, 2),
    Block(5, 576, 96, True, H, 1),
    Block(5, 576, 96, True, H, 1),
)
STEM = 16
LARGE_LAST = 960
SMALL_LAST = 576


def scaled(channels: int, scale: float, divisor: int = 8) -> int:
    """`channels · scale`, rounded to a multiple of `divisor` but never down by more than a tenth."""
    wanted = channels * scale
    rounded = max(divisor, int(wanted + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * wanted else rounded


def activate(x: paddle.Tensor, act: str) -> paddle.Tensor:
    if act == R:
        return F.relu(x)
    return F.hardswish(x) if act == H else x


class ConvBNLayer(nn.Layer):
    """Convolution without bias, batch norm, activation ("relu", "hardswish" or "" for none)."""

    def __init__(self, inp: int, out: int, kernel: int, stride=1, groups: int = 1, act: str = "") -> None:
        super().__init__()
        self.act = act
        self.conv = nn.Conv2D(inp, out, kernel, stride=stride, padding=kernel // 2, groups=groups, bias_attr=False)
        self.bn = nn.BatchNorm2D(out)

    def forward(self, x):
        return activate(self.bn(self.conv(x)), self.act)


class SEModule(nn.Layer):
    """Squeeze and excitation: every channel is scaled by a gate computed from its mean.

    The gate is PaddleOCR's hard sigmoid with slope 0.2, not MobileNetV3's 1/6: its trained weights expect that.
    """

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2D(1)
        self.conv1 = nn.Conv2D(channels, channels // reduction, 1)
        self.conv2 = nn.Conv2D(channels // reduction, channels, 1)

    def forward(self, x):
        gate = F.relu(self.conv1(self.avg_pool(x)))  # (N, C/4, 1, 1)
        return x * F.hardsigmoid(self.conv2(gate), slope=0.2, offset=0.5)  # (N, C, H, W)


class ResidualUnit(nn.Layer):
    """Inverted residual: 1x1 expand, depthwise, optional SE, 1x1 project; shortcut where shapes allow."""

    def __init__(self, inp: int, block: Block, scale: float, stride, se: bool) -> None:
        super().__init__()
        mid, out = scaled(block.expand, scale), scaled(block.out, scale)
        self.shortcut = stride == 1 and inp == out
        self.expand_conv = ConvBNLayer(inp, mid, 1, act=block.act)
        self.bottleneck_conv = ConvBNLayer(mid, mid, block.kernel, stride=stride, groups=mid, act=block.act)
        if se:
            self.mid_se = SEModule(mid)
        self.has_se = se
        self.linear_conv = ConvBNLayer(mid, out, 1)

    def forward(self, x):
        y = self.bottleneck_conv(self.expand_conv(x))
        if self.has_se:
            y = self.mid_se(y)
        y = self.linear_conv(y)
        return x + y if self.shortcut else y


class PyramidMobileNetV3(nn.Layer):
    """MobileNetV3-large for the detector: features at 1/4, 1/8, 1/16 and 1/32 of the input.

    SE is off by default: PP-OCR drops it, because it costs time and brings the detector nothing (section 2.1).
    Children: `conv`, `stage0` … `stage3`; `out_channels` holds the four widths.
    """

    def __init__(self, scale: float = 0.5, se: bool = False) -> None:
        super().__init__()
        width = scaled(STEM, scale)
        self.conv = ConvBNLayer(3, width, 3, stride=2, act=H)
        stages: list[list[nn.Layer]] = [[]]
        self.out_channels: list[int] = []
        for index, block in enumerate(LARGE):
            # The block that first halves to 1/4 stays in stage 0: the pyramid starts there.
            if block.stride == 2 and index > 2:
                self.out_channels.append(width)
                stages.append([])
            stages[-1].append(ResidualUnit(width, block, scale, block.stride, se and block.se))
            width = scaled(block.out, scale)
        last = scaled(LARGE_LAST, scale)
        stages[-1].append(ConvBNLayer(width, last, 1, act=H))
        self.out_channels.append(last)
        self.depth = len(stages)
        for index, layers in enumerate(stages):
            self.add_sublayer(f"stage{index}", nn.Sequential(*layers))

    def forward(self, x):
        x = self.conv(x)  # (N, C, H/2, W/2)
        features = []
        for index in range(self.depth):
            x = getattr(self, f"stage{index}")(x)
            features.append(x)
        return features


class LineMobileNetV3(nn.Layer):
    """MobileNetV3-small for text lines: vertical strides only, so that one column of features stays a narrow slice.

    `strides`: vertical stride of the four blocks that halve the image in the paper's table. (1, 2, 2, 2) takes a
    32-pixel line to height 1, as the recognizer needs; (2, 2, 2, 2) serves the classifier's 48 pixels.
    Output (N, C, H', W/4) with C = `out_channels`.
    """

    def __init__(self, scale: float, strides: tuple[int, int, int, int]) -> None:
        super().__init__()
        width = scaled(STEM, scale)
        self.conv1 = ConvBNLayer(3, width, 3, stride=2, act=H)
        blocks: list[nn.Layer] = []
        vertical = iter(strides)
        for block in SMALL:
            stride = (next(vertical), 1) if block.stride == 2 else 1
            blocks.append(ResidualUnit(width, block, scale, stride, block.se))
            width = scaled(block.out, scale)
        self.blocks = nn.Sequential(*blocks)
        self.out_channels = scaled(SMALL_LAST, scale)
        self.conv2 = ConvBNLayer(width, self.out_channels, 1, act=H)
        self.pool = nn.MaxPool2D(2, 2)

    def forward(self, x):
        return self.pool(self.conv2(self.blocks(self.conv1(x))))
