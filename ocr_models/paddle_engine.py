"""The runtime's engine protocol on Paddle itself: `run(x) -> y`, `close()`.

How float accuracy is compared with Paddle-Lite, and how int8 accuracy is judged at all: Lite's int8 kernels for x86 are
numerically wrong. This file knows the protocol's shape only; it imports nothing of `lite_runtime`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle

from command import ModelError, one_line
from ocr_models.inference_files import find, read_program, read_weights

# oneDNN keeps one set of kernels per input shape; without a limit a folder of photos fills the memory.
ONEDNN_SHAPES = 16


class InferenceEngine:
    """paddle.inference on an inference folder: `inference.pdmodel` and `inference.pdiparams`, or their older names.

    onednn: None decides by the program: on for float, off for a quantized one, where oneDNN swaps the simulated
    quantization for kernels of its own. optimize=False runs the operators one by one as they stand in the file, which
    gives the training network's own numbers to the last bit; fused, they differ by rounding (up to 5e-5 of a sigmoid).
    Raises ModelError for files that are missing, damaged or of another sort; paddle itself would abort the process.
    """

    def __init__(self, folder: str | Path, threads: int = 1, onednn: bool | None = None, optimize: bool = True) -> None:
        self.folder = Path(folder)
        program = read_program(self.folder)
        read_weights(self.folder, program)
        self.quantized = is_quantized(program)
        self.onednn = optimize and not self.quantized if onednn is None else onednn
        self.shape = _input_shape(self.folder, program)
        config = paddle.inference.Config(*map(str, find(self.folder)))
        config.disable_gpu()
        config.disable_glog_info()
        config.set_cpu_math_library_num_threads(threads)
        config.switch_ir_optim(optimize)
        if self.onednn:
            config.enable_mkldnn()
            config.set_mkldnn_cache_capacity(ONEDNN_SHAPES)
        else:
            config.disable_mkldnn()
        self._predictor: Any = paddle.inference.create_predictor(config)
        self._input = self._predictor.get_input_handle(self._predictor.get_input_names()[0])
        names = self._predictor.get_output_names()
        self._outputs: list[Any] = [self._predictor.get_output_handle(name) for name in names]

    def run(self, x: np.ndarray) -> np.ndarray:
        """x (N, 3, H, W) float32 → the model's output, a copy that outlives the next call."""
        return self.run_all(x)[0]

    def run_all(self, x: np.ndarray) -> list[np.ndarray]:
        """The same of a program that was given several outputs, in its own order."""
        if self._predictor is None:
            raise ModelError(f"{self.folder}: expected an open engine, found a closed one; open it again")
        # Height and width are the manifest's matter: published programs declare sizes that they do not insist on.
        if x.ndim != 4 or x.shape[1] != self.shape[1] or x.dtype != np.float32:
            raise ModelError(
                f"{self.folder}: expected a float32 input {list(self.shape)}, found {x.dtype} {list(x.shape)}; "
                "prepare it as the manifest says"
            )
        self._input.reshape(list(x.shape))
        self._input.copy_from_cpu(np.ascontiguousarray(x))
        try:
            self._predictor.run()
        except (RuntimeError, ValueError, OSError) as error:
            raise ModelError(
                f"{self.folder}: expected the model to run on {list(x.shape)}, found {one_line(str(error))[-200:]}; "
                "give an input that its manifest allows"
            ) from None
        return [output.copy_to_cpu().copy() for output in self._outputs]

    def close(self) -> None:
        self._predictor = self._input = None
        self._outputs = []


class NetworkEngine:
    """A trainable network behind the protocol: evaluation during training.

    The network runs in eval mode until `close`, which puts it back into the mode it came in.
    """

    def __init__(self, layer: paddle.nn.Layer) -> None:
        self.layer = layer
        self._training = layer.training
        layer.eval()

    def run(self, x: np.ndarray) -> np.ndarray:
        """x (N, 3, H, W) float32 → the network's output in eval mode."""
        with paddle.no_grad():
            return self.layer(paddle.to_tensor(np.ascontiguousarray(x, dtype=np.float32))).numpy().copy()

    def close(self) -> None:
        if self._training:
            self.layer.train()


def is_quantized(program: Any) -> bool:
    """Whether a program simulates quantization, in either of PaddleSlim's forms."""
    prefixes = ("fake_quantize", "fake_channel_wise", "fake_dequantize", "quantize_linear", "dequantize_linear")
    return any(op.type.startswith(prefixes) for block in program.blocks for op in block.ops)


def _input_shape(folder: Path, program: Any) -> tuple[int, ...]:
    block = program.blocks[0]
    fed = [name for op in block.ops if op.type == "feed" for slot in op.outputs for name in slot.arguments]
    dims = {var.name: tuple(var.type.lod_tensor.tensor.dims) for var in block.vars}
    if len(fed) != 1 or len(dims.get(fed[0], ())) != 4:
        raise ModelError(f"{folder}: expected a model with one image input, found {len(fed)} inputs; give another")
    return dims[fed[0]]
