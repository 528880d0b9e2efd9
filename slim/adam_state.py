"""Adam's accumulators by the structured names of their parameters: out of an optimizer, and back into one.

paddle names them after parameters numbered by counters of the process, which another process counts differently.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import paddle

# Each accumulator as it stands before the first step, with paddle's own decay rates.
START = {"moment1_0": 0.0, "moment2_0": 0.0, "beta1_pow_acc_0": 0.9, "beta2_pow_acc_0": 0.999}


def read(optimizer: paddle.optimizer.Adam, tensors: Mapping[str, paddle.Tensor]) -> dict[str, np.ndarray]:
    """ "<parameter>|<accumulator>" → array; empty before the first step. tensors: parameters by structured name."""
    state = optimizer.state_dict()
    return {
        f"{name}|{kind}": np.array(state[f"{tensor.name}_{kind}"].numpy())
        for name, tensor in tensors.items()
        for kind in START
        if f"{tensor.name}_{kind}" in state
    }


def write(
    optimizer: paddle.optimizer.Adam, tensors: Mapping[str, paddle.Tensor], arrays: Mapping[str, np.ndarray]
) -> None:
    """Make the optimizer stand where `read` gave `arrays`, wherever it stands now."""
    present = optimizer.state_dict()
    for tensor in tensors.values():
        for kind, start in START.items():
            accumulator = present.get(f"{tensor.name}_{kind}")
            if accumulator is not None:
                accumulator.set_value(paddle.full_like(accumulator, start))
    state = {}
    for key, array in arrays.items():
        name, _, kind = key.partition("|")
        state[f"{tensors[name].name}_{kind}"] = paddle.to_tensor(array)
    if state:
        optimizer.set_state_dict(state)
