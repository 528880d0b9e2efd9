"""Takes out of a model what costs bytes in a `.nb` file and is read by nobody.

    before_opt: attributes of Paddle's own kernels, variables that no op uses, the parameters' long names
    after_opt: what opt added or left over, the temporaries' names; equal parts of the topology are stored once

opt and Paddle-Lite see the same ops, kernels, weights and scales; export/same_program.py proves it file by file.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from export import bias_fold, nb_writer, op_attributes, program_writer
from export.program import Program
from export.same_program import same_program

__all__ = ["after_opt", "before_opt", "same_program"]

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def before_opt(program: Program, folder: Path, *, keep_attributes: bool = False) -> Program:
    """Write the copy of an inference model that opt shall convert into `folder`, an empty one.

    Inputs and outputs keep their names; parameters get new ones in the order of the old, because both files and opt
    sort by name. keep_attributes: fold the biases (export/bias_fold.py) and change nothing else. Raises ModelError for
    weights that are not the program's.
    """
    desc = copy.deepcopy(program.desc)
    weights = program.weights()
    folded = bias_fold.fold(desc)
    if keep_attributes:
        return program_writer.write(folder, desc, weights) if folded else program
    for block in desc.blocks:
        for op in block.ops:
            _keep(op.attrs, [a for a in op.attrs if op_attributes.needed(op.type, a.name, value(a), after_opt=False)])
        used = {name for op in block.ops for name in _arguments(op)}
        if len(desc.blocks) == 1:
            _keep(block.vars, [var for var in block.vars if var.name in used])
    names = short_names(program_writer.persistable(desc), {var.name for block in desc.blocks for var in block.vars})
    _rename(desc, names)
    return program_writer.write(folder, desc, {names[old]: weights[old] for old in names})


def after_opt(path: Path) -> None:
    """Rewrite a `.nb` file in place. Raises NbError for a damaged one."""
    data = path.read_bytes()
    topology = nb_writer.read_topology(data)
    blocks = topology["blocks"]
    for block in blocks:
        for op in block["ops"]:
            op["attrs"] = [a for a in op["attrs"] if _needed_at_run_time(op["type"], a)]
    if len(blocks) == 1:
        used = {name for op in blocks[0]["ops"] for name in _flat_arguments(op)}
        blocks[0]["vars"] = [var for var in blocks[0]["vars"] if var["name"] in used]
        _rename_temporaries(blocks[0])
    path.write_bytes(nb_writer.with_topology(data, topology))


def value(attribute: Any) -> object:
    """Of a ProgramDesc's attribute, whatever its type is: the one field besides name and type."""
    return next((content for field, content in attribute.ListFields() if field.name not in ("name", "type")), None)


def short_names(names: list[str], taken: set[str]) -> dict[str, str]:
    """Old → new, in the same order when sorted. taken: names that stay and must not be used."""
    digits, order = 1, sorted(names)
    while len(_DIGITS) ** digits < len(order):
        digits += 1
    prefix = "w"
    while any(re.fullmatch(f"{prefix}.{{{digits}}}", name) for name in taken - set(names)):
        prefix += "w"
    return {name: prefix + _number(i, digits) for i, name in enumerate(order)}


def _number(value: int, digits: int = 1) -> str:
    text = ""
    while value or len(text) < digits:
        value, digit = divmod(value, len(_DIGITS))
        text = _DIGITS[digit] + text
    return text


def _rename(desc: Any, names: dict[str, str]) -> None:
    for block in desc.blocks:
        for var in block.vars:
            var.name = names.get(var.name, var.name)
        for op in block.ops:
            for slot in (*op.inputs, *op.outputs):
                slot.arguments[:] = [names.get(name, name) for name in slot.arguments]


def _arguments(op: Any) -> Iterator[str]:
    for slot in (*op.inputs, *op.outputs):
        yield from slot.arguments


def _keep(field: Any, items: list[Any]) -> None:
    kept = [copy.deepcopy(item) for item in items]
    del field[:]
    field.extend(kept)


def _needed_at_run_time(op: str, attribute: dict[str, Any]) -> bool:
    on = attribute.get("b", False)
    return op_attributes.needed(op, attribute["name"], on, after_opt=True)


def _flat_arguments(op: dict[str, Any]) -> Iterator[str]:
    for slot in (*op.get("inputs", ()), *op.get("outputs", ())):
        yield from slot.get("arguments", ())


def _rename_temporaries(block: dict[str, Any]) -> None:
    """Number what is neither a weight nor an input or output of the model, in the order of first use."""
    fixed = {var["name"] for var in block["vars"] if var.get("persistable")}
    for op in block["ops"]:
        if op["type"] in ("feed", "fetch"):
            fixed.update(_flat_arguments(op))
    names: dict[str, str] = {}
    counter = 0
    for op in block["ops"]:
        for name in _flat_arguments(op):
            if name in fixed or name in names:
                continue
            while _number(counter) in fixed:
                counter += 1
            names[name] = _number(counter)
            counter += 1
    for op in block["ops"]:
        for slot in (*op.get("inputs", ()), *op.get("outputs", ())):
            if "arguments" in slot:
                slot["arguments"] = [names.get(name, name) for name in slot["arguments"]]
    for var in block["vars"]:
        var["name"] = names.get(var["name"], var["name"])
