"""An op of a program in plain Python."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from export.program import Program


@dataclass(frozen=True)
class OpView:
    """An op of the program in plain Python. desc: its OpDesc, block: the BlockDesc that holds it."""

    type: str
    inputs: dict[str, list[str]]
    outputs: dict[str, list[str]]
    attributes: dict[str, Any]
    desc: Any
    block: Any

    @property
    def result(self) -> str:
        """Name of its first output."""
        return next((name for names in self.outputs.values() for name in names), "")


def ops(program: Program) -> Iterator[OpView]:
    """All ops of all blocks, feed and fetch left out."""
    for block in program.desc.blocks:
        for op in block.ops:
            if op.type not in ("feed", "fetch"):
                yield view(op, block)


def view(op: Any, block: Any) -> OpView:
    inputs = {slot.parameter: list(slot.arguments) for slot in op.inputs}
    outputs = {slot.parameter: list(slot.arguments) for slot in op.outputs}
    return OpView(op.type, inputs, outputs, {attr.name: _value(attr) for attr in op.attrs}, op, block)


def _value(attribute: Any) -> Any:
    """Of an op's attribute, whatever its type; None where an empty list leaves no trace in the file."""
    contents = [content for field, content in attribute.ListFields() if field.name not in ("name", "type")]
    if not contents:
        return None
    content = contents[0]
    return content if isinstance(content, int | float | str | bytes) else list(content)
