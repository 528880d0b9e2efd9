"""What a variant bought: the file against the one that the same network makes in fp32."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from command import ModelError
from export import conversion, lstm_storage, nb_file
from export.nb_file import NbFile
from export.op_attributes import STORED
from export.program import FILE_NAMES, Program
from export.to_nb import convolutions
from export.variants import WEIGHT_BITS

# Below this share of its convolutions a network spends its time in float kernels.
ENOUGH = 0.5
_SIMULATORS = (
    "fake_quantize_dequantize", "fake_channel_wise_quantize_dequantize", "quantize_linear", "dequantize_linear",
)  # fmt: skip
_INT8 = 21  # of framework.proto's VarType.Type


@dataclass(frozen=True)
class Verdict:
    """gained: whether the variant is worth having. float_bytes: size of the fp32 file, None where none was made."""

    gained: bool
    text: str
    float_bytes: int | None = None

    def record(self) -> dict[str, Any]:
        return asdict(self)


def judge(
    nb: NbFile, program: Program, precision: str, *, target: str, slim: bool, mends: Sequence[str] = ()
) -> Verdict | None:
    """Compare a file with the fp32 one of the same network; None for fp32. Raises ModelError for damaged weights."""
    if precision in ("fp32", "fp16"):  # fp16 files hold fp32 weights
        return None if precision == "fp32" else compare(nb, None, precision)
    with tempfile.TemporaryDirectory(prefix="float.") as scratch:
        twin = program if precision in WEIGHT_BITS else without_quantizers(program, Path(scratch))
        if twin is None:
            return compare(nb, None, precision)
        if precision not in WEIGHT_BITS:
            twin = lstm_storage.restored(twin, Path(scratch))
        path = Path(scratch) / "float.nb"
        conversion.make_nb(twin, path, target=target, precision="fp32", slim=slim, mends=mends)
        return compare(nb, nb_file.read(path), precision)


def compare(nb: NbFile, other: NbFile | None, precision: str) -> Verdict:
    """Kernels for what runs in fewer bits, bytes for what is stored in fewer. other: the fp32 file, if there is one."""
    facts, short = [], []
    if precision not in WEIGHT_BITS:
        counts = convolutions(nb)
        found, total = counts.get(precision, 0), sum(counts.values())
        facts.append(f"{found} of {total} convolutions {precision}")
        short += ["most convolutions stay in fp32"] if found < ENOUGH * total else []
    if other is not None:
        facts.append(f"{nb.size_bytes:,} bytes against {other.size_bytes:,} in fp32")
        short += [] if nb.size_bytes < other.size_bytes else ["the file is not smaller"]
    elif precision == "int8":
        facts.append("not compared with a fp32 file, as its weights are no floats")
    if precision in WEIGHT_BITS and other is not None:
        facts.append(f"weights within {weight_error(nb, other):.2f} of a step; size, not speed")
    text = f"{precision}: {', '.join(facts)}"
    if short:
        text += f"; {precision} bought nothing here: {', '.join(short)}"
    return Verdict(not short, text, other.size_bytes if other else None)


def without_quantizers(program: Program, folder: Path) -> Program | None:
    """The float network inside of a program that simulates int8, in `folder`; None where its weights are integers."""
    desc = copy.deepcopy(program.desc)
    integers = {var.name for var in desc.blocks[0].vars if var.type.lod_tensor.tensor.data_type == _INT8}
    for block in desc.blocks:
        source: dict[str, str] = {}
        kept = []
        for op in block.ops:
            inputs = {slot.parameter: list(slot.arguments) for slot in op.inputs}
            if op.type.startswith(("fake_", "quantize_linear", "dequantize_linear")):
                if not op.type.startswith(_SIMULATORS) or inputs["X"][0] in integers:
                    return None
                for slot in op.outputs:
                    if slot.parameter in ("Out", "Y"):
                        source[slot.arguments[0]] = source.get(inputs["X"][0], inputs["X"][0])
                continue
            for slot in op.inputs:
                slot.arguments[:] = [source.get(name, name) for name in slot.arguments]
            for name in [a.name for a in op.attrs if a.name in ("with_quant_attr", "quantization_type", "enable_int8")]:
                op.attrs.remove(next(a for a in op.attrs if a.name == name))
            kept.append(copy.deepcopy(op))
        del block.ops[:]
        block.ops.extend(kept)
    model = folder / FILE_NAMES[0][0]
    model.write_bytes(desc.SerializeToString(deterministic=True))
    return Program(model, program.params, desc)


def weight_error(nb: NbFile, other: NbFile) -> float:
    """Largest distance between a stored weight and the fp32 file's, in steps of its channel's scale.

    Raises ModelError where a scale is missing, or for more than one step: the file does not hold this network then.
    """
    worst = 0.0
    for op, twin in zip(nb.ops, other.ops, strict=True):
        for slot, names in op.inputs.items():
            for name, original in zip(names, twin.inputs[slot], strict=True):
                param = nb.params.get(name)
                if param is None or param.dtype not in ("int8", "int16"):
                    continue
                scales = op.attributes.get(f"{name}{STORED}")
                if not isinstance(scales, list) or not scales:
                    raise ModelError(f"expected a scale for each stored weight, found none for {op.type}'s {slot}")
                worst = max(
                    worst, _distance(param.array(), np.array(scales, np.float64), other.params[original].array())
                )
    if not 0 < worst <= 1:
        raise ModelError(f"expected weights within one step of the fp32 ones, found {worst:.2f} steps; convert again")
    return worst


def _distance(stored: np.ndarray, scales: np.ndarray, wanted: np.ndarray) -> float:
    """In steps of the scales, which belong to the first or the second axis: opt takes the output's."""
    errors = []
    for axis in range(min(stored.ndim, 2)):
        if stored.shape[axis] == len(scales):
            steps = scales.reshape([-1 if i == axis else 1 for i in range(stored.ndim)])
            # A dead channel's scale is next to nothing; what lies below it is nothing, too.
            errors.append(float((np.abs(stored * steps - wanted) / np.maximum(steps, 1e-30)).max()))
    return min(errors, default=np.inf)
