"""An inference model's files as opt will see them: where they are, what the program does, which weights it holds.

opt aborts on damaged files without saying which one; this module looks first and names the file, what was expected and
what was found.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocr_models import inference_files
from ocr_models.inference_files import FILE_NAMES, find

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FILE_NAMES", "Program", "find", "read"]


@dataclass(frozen=True)
class Program:
    """An inference model on disk, its program parsed. `desc`: framework.proto's ProgramDesc."""

    model: Path
    params: Path
    desc: Any

    @property
    def block(self) -> Any:
        return self.desc.blocks[0]

    @cached_property
    def ops(self) -> list[str]:
        """Types of all ops, feed and fetch left out."""
        return [op.type for block in self.desc.blocks for op in block.ops if op.type not in ("feed", "fetch")]

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Variable → its shape, -1 for a free side."""
        return {var.name: tuple(var.type.lod_tensor.tensor.dims) for var in self.block.vars}

    @property
    def inputs(self) -> list[str]:
        return [op.outputs[0].arguments[0] for op in self.block.ops if op.type == "feed"]

    @property
    def outputs(self) -> list[str]:
        return [op.inputs[0].arguments[0] for op in self.block.ops if op.type == "fetch"]

    @cached_property
    def quantized(self) -> bool:
        """Whether it simulates int8 arithmetic, so that opt picks int8 kernels."""
        from ocr_models.paddle_engine import is_quantized

        return is_quantized(self.desc)

    def weights(self) -> dict[str, np.ndarray]:
        """Arrays by variable name. Raises ModelError where the file does not hold exactly the program's variables."""
        return inference_files.read_weights_file(self.params, self.desc)


def read(folder: str | Path) -> Program:
    """Parse the program of an inference folder. Raises ModelError for files that are missing, empty or foreign."""
    return Program(*find(folder), inference_files.read_program(folder))
