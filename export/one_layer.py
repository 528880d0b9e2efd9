"""Make `.nb` files of single layers, for benchmarks/op_profile.py to time; of no use to anybody else.

    python export/one_layer.py LAYERS.json --target x86 --out DIR

LAYERS.json: a list of layers as ocr_models/layer_shapes.py describes them. DIR gets a file for each, named by its
digest; files that are there already stay. All in one process, because starting opt takes longer than its work: when it
dies, what it had made is there.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import command

COMMAND = "export/one_layer.py"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=COMMAND, description="Make .nb files of single layers.")
    parser.add_argument("layers", type=Path, help="JSON list of layers")
    parser.add_argument("--target", choices=("arm", "x86"), required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder, made where it is missing")
    command.add_common(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    os.environ.setdefault("GLOG_minloglevel", "2")
    from ocr_models.layer_times import digest, read_json

    args.out.mkdir(parents=True, exist_ok=True)
    made = []
    for layer in command.progress(read_json(args.layers), "building layers"):
        path = args.out / f"{digest(layer)}.nb"
        if not path.exists():
            _make(layer, path, args.target)
        made.append(path.name)
    command.emit(args, {"out": str(args.out), "files": made}, f"{len(made)} layers in {args.out}")
    return command.EXIT_DONE


def _make(layer: dict[str, Any], path: Path, target: str) -> None:
    from paddlelite.lite import Opt

    with tempfile.TemporaryDirectory() as scratch:
        prefix = str(Path(scratch) / "layer")
        save(layer, prefix)
        Path(f"{prefix}.pdiparams").touch()  # a layer without weights writes none, and opt wants one
        opt = Opt()
        opt.set_model_file(f"{prefix}.pdmodel")
        opt.set_param_file(f"{prefix}.pdiparams")
        opt.set_model_type("naive_buffer")
        opt.set_optimize_out(prefix)
        opt.set_valid_places(target)
        opt.run()
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_bytes(Path(f"{prefix}.nb").read_bytes())
        os.replace(temporary, path)


def save(layer: dict[str, Any], prefix: str) -> None:
    """Write PREFIX.pdmodel and PREFIX.pdiparams of a layer with weights of no meaning."""
    import paddle
    from paddle import static

    from ocr_models.layer_times import input_shape

    paddle.enable_static()
    try:
        main, startup = static.Program(), static.Program()
        with static.scope_guard(static.Scope()), static.program_guard(main, startup), paddle.utils.unique_name.guard():
            x = static.data("x", list(input_shape(layer)), "float32")
            y = _output(layer, x)
            executor = static.Executor(paddle.CPUPlace())
            executor.run(startup)
            static.save_inference_model(prefix, [x], [y], executor, program=main)
    finally:
        paddle.disable_static()


def _output(layer: dict[str, Any], x: Any) -> Any:
    import paddle
    from paddle import static
    from paddle.nn import functional as F

    acts = {"": lambda y: y, "relu": F.relu, "hard_swish": F.hardswish, "hard_sigmoid": F.hardsigmoid}
    op, outputs = layer["op"], layer["outputs"]
    if op in ("conv2d", "depthwise_conv2d"):
        groups = layer["inputs"] if op == "depthwise_conv2d" else 1
        y = static.nn.conv2d(
            x,
            outputs,
            layer["kernel"],
            layer["strides"],
            layer["paddings"],
            groups=groups,
            use_cudnn=groups == 1,  # what makes it the operator for one filter a channel
        )
        return acts[layer["act"]](y)
    if op == "conv2d_transpose":
        y = static.nn.conv2d_transpose(
            x, outputs, filter_size=layer["kernel"], stride=layer["strides"], padding=layer["paddings"]
        )
        return acts[layer["act"]](y)
    if op == "linear":
        weight = paddle.create_parameter([layer["inputs"], outputs], "float32")
        return paddle.matmul(x, weight) + paddle.create_parameter([outputs], "float32", is_bias=True)
    if op == "lstm":
        from ocr_models.crnn_recognizer import RNNEncoder

        return RNNEncoder(layer["inputs"], outputs)(x.squeeze(1))
    if op in ("elementwise_add", "elementwise_mul"):
        other = paddle.create_parameter([1, outputs, 1, 1], "float32") if layer["gate"] else x
        return x + other if op == "elementwise_add" else x * other
    if op == "pool2d":
        if layer["global"]:
            return F.adaptive_avg_pool2d(x, 1)
        pool = F.max_pool2d if layer["pooling"] == "max" else F.avg_pool2d
        return pool(x, layer["kernel"], layer["strides"])
    if op == "nearest_interp_v2":
        return F.interpolate(x, scale_factor=layer["scale"], mode="nearest")
    if op == "concat":
        return paddle.concat([x] * layer["parts"], axis=1)
    if op in ("sigmoid", *acts):
        return F.sigmoid(x) if op == "sigmoid" else acts[op](x)
    raise command.ModelError(f"expected a layer that can be built by itself, found {op}; leave it out")


if __name__ == "__main__":
    command.main(build_parser(), run, native=True)
