"""Looks for an LSTM's stored matrices (export/lstm_storage.py) in a `.nb` file, for any target."""

from __future__ import annotations

import numpy as np

from command import ModelError
from export.lstm_storage import SLOT, chains
from export.nb_file import Kernel, NbFile, Op
from export.parity import Finding
from export.program import Program

_CHAIN = ("cast", "scale", "elementwise_mul")


def check(nb: NbFile, matrices: int, name: str) -> None:
    """Prove that opt left the program's `matrices` stored ones as they are. Raises ModelError."""
    found = _matrices(nb)
    if len(found) != matrices:
        raise ModelError(
            f"{name}: expected {matrices} LSTM matrices of bytes in the file, found {len(found)}; opt computed the "
            "others in advance, export with --lstm fp32"
        )


def compare(name: str, nb: NbFile, program: Program) -> list[Finding]:
    """The file's stored matrices against those of the program that opt saw."""
    wanted = chains(program)
    if not wanted:
        return []
    weights = program.weights()
    found = _matrices(nb)
    same = sum(
        all(part in nb.params and _equal(nb.params[part].array(), weights[part]) for part in (codes, step))
        for codes, step, _ in wanted
        if codes in found
    )
    kernels = sorted({f"{kernel.op} on {kernel.target}" for made in found.values() for kernel in made})
    said = f"{len(found)} by {', '.join(kernels)}; {same} equal"
    expected = f"{len(wanted)} of bytes, equal to the program's"
    return [Finding(f"{name}: LSTM matrices", expected, said, same == len(wanted) == len(found))]


def _matrices(nb: NbFile) -> dict[str, list[Kernel]]:
    """Codes that an rnn's weight is made of in the file → the kernels that make it."""
    found: dict[str, list[Kernel]] = {}
    # opt gives one name to several tensors that are not alive together: who made a tensor is known at its place only.
    made: dict[str, tuple[str, list[Op]]] = {}
    for op in nb.ops:
        source = op.inputs.get("X", [""])[0]
        code, before = (source, []) if op.type == _CHAIN[0] else made.get(source, ("", []))
        for weight in op.inputs.get(SLOT, ()) if op.type == "rnn" else ():
            code_of, ops = made.get(weight, ("", []))
            param = nb.params.get(code_of)
            if len(ops) == len(_CHAIN) and param is not None and param.dtype == "uint8":
                found[code_of] = [made_by.kernel for made_by in ops if made_by.kernel]
        for name in (name for names in op.outputs.values() for name in names):
            made.pop(name, None)
            if code and op.type == _CHAIN[min(len(before), 2)]:
                made[name] = (code, [*before, op])
    return found


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and np.array_equal(a, b)
