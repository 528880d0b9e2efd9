"""Int8 networks: fake quantization with clipping levels that learn (PACT), that follow the data (QAT), or fixed (PTQ).

PACT: Choi et al. 2018, "PACT: Parameterized Clipping Activation for Quantized Neural Networks", arXiv:1805.06085, in
the form of Du et al. 2020, "PP-OCR", arXiv:2009.09941, equation 2: activations are clipped to [-α, α] on both sides,
because hard-swish is negative at times; on ReLU outputs that is the original. One α per tensor with an L2 of its own.

PaddleSlim's QAT wraps the layers; this module says what it wraps, keeps the result loadable and takes PACT out again.
Convolutions and linear layers become int8, but for those that the user or an analysis keeps in float; LSTM and
transposed convolutions stay float.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import paddle
from paddle import nn
from paddle.nn.quant import quant_layers

import artifact
from artifact import Manifest
from command import ModelError, UsageError
from ocr_models import catalogue, checkpoints
from ocr_models.pdparams import read_pdparams
from ocr_models.prune_plan import PrunePlan
from slim.calibration import freeze_batch_norm

# How the scales of activations came about → what a manifest calls it. The networks run alike.
FORMS = {"pact": "pact-int8", "qat": "qat-int8", "ptq": "ptq-int8"}
ALPHA_L2 = 1e-3
# Stands until calibration has seen data; activations behind batch norm are about of this size.
ALPHA_START = 8.0
# Slow, because a scale that follows the last few batches makes one checkpoint differ from the next.
MOVING_RATE = 0.99
# Weights by channel and activations by moving average: the pair that Paddle-Lite's ARM int8 kernels read.
# onnx_format: with it on, paddle.inference departs from the trained fake-quant network by up to .5 on the detector.
CONFIG = {
    "weight_quantize_type": "channel_wise_abs_max",
    "activation_quantize_type": "moving_average_abs_max",
    "weight_bits": 8,
    "activation_bits": 8,
    "moving_rate": MOVING_RATE,
    "quantizable_layer_type": ["Conv2D", "Linear"],
    "onnx_format": False,
}
_PLAIN = (nn.Conv2D, nn.Linear)
_WRAPPED = (quant_layers.QuantizedConv2D, quant_layers.QuantizedLinear)
# Under this key of a manifest's `compression` stand the layers that stay float, with a comma between names.
FLOAT_LAYERS = "float_layers"


def clip(x: paddle.Tensor, alpha: paddle.Tensor) -> paddle.Tensor:
    """Equation 2: -α for x ≤ -α, x between, α for x ≥ α. The gradient of α is 1 above, -1 below, else 0."""
    # Compared this way round a NaN stays one; paddle's minimum and maximum would clip it to α and hide it.
    return paddle.where(x.abs() >= alpha, alpha * x.sign(), x)


class PACT(nn.Layer):
    """Learnable clipping of one tensor; QAT puts one before each activation's quantizer."""

    def __init__(self) -> None:
        super().__init__()
        attr = paddle.ParamAttr(
            initializer=nn.initializer.Constant(ALPHA_START),
            regularizer=paddle.regularizer.L2Decay(ALPHA_L2),
        )
        self.alpha = self.create_parameter([1], attr=attr, dtype="float32")

    def forward(self, x):
        return clip(x, self.alpha)


class QuantizedNetwork(nn.Layer):
    """A network under fake quantization, in train or eval mode like the network itself.

    network: float, pruned or not; it is wrapped in place. `forward` has the network's own shapes.
    method: pact, qat or ptq; only pact has levels α. float_layers: names of layers that stay as they are.
    Raises UsageError for a name that is no layer which could become int8.
    """

    def __init__(self, network: nn.Layer, method: str = "pact", float_layers: Sequence[str] = ()) -> None:
        super().__init__()
        self.method, self.float_layers = method, tuple(float_layers)
        plain = quantizable(network)
        for name in self.float_layers:
            if name not in plain:
                raise UsageError(
                    f"expected a convolution or linear layer to keep in float, found {name}; "
                    f"give one such as {', '.join(list(plain)[:2])}"
                )
            plain[name].skip_quant = True
        self.qat = _qat(method)
        self.network = self.qat.quantize(network)
        # QAT keeps a copy of the float network for an export that this class does itself.
        self.qat._model = None

    def forward(self, x):
        return self.network(x)

    def quantized_layers(self) -> dict[str, nn.Layer]:
        """The int8 layers by the structured name that they have in the float network."""
        return {
            float_name(name): layer for name, layer in self.network.named_sublayers() if isinstance(layer, _WRAPPED)
        }

    def alphas(self) -> dict[str, float]:
        """Clipping level α in front of each int8 layer; none without PACT."""
        if self.method != "pact":
            return {}
        return {name: float(layer._act_preprocess.alpha) for name, layer in self.quantized_layers().items()}

    def scales(self) -> dict[str, float]:
        """Activation that the largest int8 value stands for, in front of each int8 layer."""
        return {name: float(layer._fake_quant_input._scale) for name, layer in self.quantized_layers().items()}

    def set_alpha_training(self, rate: float, l2: float = ALPHA_L2) -> None:
        """How the α learn: with a learning rate of `rate` times the α they start from, times the network's, and `l2`.

        Adam moves every parameter by about the learning rate a step, whatever its size; a multiple of α lets small
        and large activations learn equally fast.
        """
        for layer in self.quantized_layers().values() if self.method == "pact" else ():
            alpha = layer._act_preprocess.alpha
            alpha.optimize_attr["learning_rate"] = rate * float(alpha)
            alpha.regularizer = paddle.regularizer.L2Decay(l2)

    def int8_weights(self, skipped: Sequence[str] = ()) -> int:
        """How many weights are stored as int8; layers whose name starts with one of `skipped` do not count."""
        return sum(
            layer.weight.size
            for name, layer in self.quantized_layers().items()
            if not name.startswith(tuple(skipped) or ("\0",))
        )

    def calibrate(self, levels: Mapping[str, float], batches: Iterable[paddle.Tensor]) -> None:
        """Start every α and every scale from where `slim.calibration.levels` clips the float network.

        Where scales will follow the data, `batches` (N, 3, H, W) go through once, so that they know the quantized
        activations, too. Raises ModelError when a layer was not observed.
        """
        for name, layer in self.quantized_layers().items():
            if name not in levels:
                raise ModelError(f"{name}: expected the range of its input, found none; calibrate on the same network")
            if layer._act_preprocess is not None:
                layer._act_preprocess.alpha.set_value(paddle.to_tensor([levels[name]]))
            _set_scale(layer._fake_quant_input, levels[name])
        if self.method != "ptq":
            self.train()
            freeze_batch_norm(self)
            with paddle.no_grad():
                for x in batches:
                    self(x)
        self.eval()

    @contextlib.contextmanager
    def int8_only(self, names: Iterable[str]) -> Iterator[None]:
        """Inside, only the int8 layers of these names compute so; the others run in float with the same weights."""
        kept = set(names)
        bypassed = [
            part
            for name, layer in self.quantized_layers().items()
            if name not in kept
            for part in (layer._act_preprocess, layer._fake_quant_input, layer._fake_quant_weight)
            if part is not None
        ]
        for part in bypassed:
            part.forward = _unchanged
        try:
            yield
        finally:
            for part in bypassed:
                del part.forward

    def seal(self) -> None:
        """Bound every scale by its α, for ever: without PACT the quantizer alone then clips no later than PACT.

        The scale is a moving average of what α let through, so it may lag behind an α that shrinks.
        """
        for layer in self.quantized_layers().values():
            if layer._act_preprocess is None:
                continue
            scale, alpha = float(layer._fake_quant_input._scale), float(layer._act_preprocess.alpha)
            _set_scale(layer._fake_quant_input, min(scale, alpha))

    def detach_pact(self) -> None:
        """Take the clipping out; a sealed network computes the same without it."""
        for layer in self.quantized_layers().values():
            layer._act_preprocess = None

    def save_inference(self, path_prefix: str | Path, input_spec: list[Any]) -> None:
        """Write `path_prefix`.pdmodel and .pdiparams with fake-quant operators, for opt and paddle.inference.

        input_spec: [InputSpec] as for paddle.jit.save. The network is used up. Paddle's mode (static or dynamic) and
        its global scope are left as they were found.
        """
        path_prefix = Path(path_prefix)
        self.seal()
        self.detach_pact()
        self.eval()
        with _dynamic_mode(), paddle.static.scope_guard(paddle.static.Scope()), quiet():
            # Traced here, as a whole graph: left to itself the saver drops input_spec with a warning.
            traced = paddle.jit.to_static(self.network, input_spec=input_spec, full_graph=True)
            self.qat.imperative_qat.save_quantized_model(traced, str(path_prefix))
        path_prefix.with_name(path_prefix.name + ".pdiparams.info").unlink(missing_ok=True)


def float_name(name: str) -> str:
    """Structured name in the float network of a layer inside QAT's wrappers."""
    return ".".join(part for part in name.split(".") if part != "_layer")


def load_quantized(folder: str | Path) -> tuple[QuantizedNetwork, Manifest]:
    """The fake-quant network of a quantized checkpoint artifact, from the artifact alone, in eval mode.

    Built from the manifest's network and prune plan, wrapped, and filled with weights, α and scales; every key matches.
    Raises ArtifactError for a damaged folder, ModelError for one that is not quantized or not exactly this network.
    """
    folder = Path(folder)
    manifest = artifact.load(folder, kind="checkpoint")
    found = manifest.compression.get("quantization")
    method = {form: name for name, form in FORMS.items()}.get(found or "")
    if method is None:
        raise ModelError(
            f"{folder}: expected a checkpoint with quantization {' | '.join(FORMS.values())}, found "
            f"{found or 'a float one'}; make one with slim/quantize.py"
        )
    network = catalogue.build(manifest.network)
    plan = manifest.compression.get("prune_plan")
    if plan:
        PrunePlan.load(folder / plan).apply(network)
    stays = manifest.compression.get(FLOAT_LAYERS, "")
    try:
        quantized = QuantizedNetwork(network, method, stays.split(",") if stays else ())
    except UsageError as error:
        raise ModelError(f"{folder / artifact.MANIFEST}: {error}") from None
    path = folder / checkpoints.WEIGHTS
    checkpoints.assign(quantized.network, read_pdparams(path), path)
    quantized.eval()
    return quantized, manifest


def quantizable(network: nn.Layer) -> dict[str, nn.Layer]:
    """The layers of a float network that can become int8, by structured name."""
    return {name: layer for name, layer in network.named_sublayers() if isinstance(layer, _PLAIN)}


def _unchanged(x: paddle.Tensor) -> paddle.Tensor:
    return x


def _qat(method: str) -> Any:
    with quiet():
        from paddleslim.dygraph.quant import QAT

        return QAT(copy.deepcopy(CONFIG), act_preprocess=PACT if method == "pact" else None)


def _set_scale(quantizer: nn.Layer, scale: float) -> None:
    """Put a moving average at rest at `scale`: as if infinitely many batches had shown it."""
    steady = 1.0 / (1.0 - MOVING_RATE)
    quantizer._scale.set_value(paddle.to_tensor([scale]))
    quantizer._state.set_value(paddle.to_tensor([steady]))
    quantizer._accum.set_value(paddle.to_tensor([steady * scale]))


@contextlib.contextmanager
def _dynamic_mode() -> Iterator[None]:
    was_dynamic = paddle.in_dynamic_mode()
    paddle.disable_static()
    try:
        yield
    finally:
        if was_dynamic:
            paddle.disable_static()
        else:
            paddle.enable_static()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence PaddleSlim, which logs each variable that it touches and warns of its own use of old numpy names."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
