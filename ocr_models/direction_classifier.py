"""Text direction classifier of PP-OCR mobile v2.0: is a line upright or turned by 180°?

Du et al. 2020, "PP-OCR", arXiv:2009.09941, section 2.2. Names are those of PaddleOCR's checkpoints.
"""

import math

from paddle import ParamAttr, nn
from paddle.nn import functional as F
from paddle.nn.initializer import Uniform

from ocr_models.mobilenet_v3 import LineMobileNetV3


class ClsHead(nn.Layer):
    def __init__(self, inp: int, classes: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(inp)
        self.pool = nn.AdaptiveAvgPool2D(1)
        self.fc = nn.Linear(inp, classes, weight_attr=ParamAttr(initializer=Uniform(-bound, bound)))

    def forward(self, x):
        x = self.fc(self.pool(x).squeeze([2, 3]))  # (N, classes)
        return x if self.training else F.softmax(x, axis=1)


class DirectionClassifier(nn.Layer):
    """x (N, 3, 48, 192). eval: softmax (N, classes), class 0 upright, 1 turned. train: logits."""

    def __init__(self, backbone_scale: float = 0.35, classes: int = 2) -> None:
        super().__init__()
        self.backbone = LineMobileNetV3(backbone_scale, (2, 2, 2, 2))
        self.head = ClsHead(self.backbone.out_channels, classes)

    def forward(self, x):
        return self.head(self.backbone(x))
