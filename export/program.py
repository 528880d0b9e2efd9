"""An inference model's files as opt will see them: where they are, what the program does, which weights it holds.

opt aborts on damaged files without saying which one; this module looks first and names the file, what was expected and
what was found.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from command import ModelError

if TYPE_CHECKING:
    import numpy as np

# Pairs of file names that Paddle's tools have used for one model, newest first.
FILE_NAMES = (
    ("inference.pdmodel", "inference.pdiparams"),
    ("model.pdmodel", "model.pdiparams"),
    ("model", "params"),
    ("__model__", "__params__"),
)


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
        from ocr_models import inference_files

        if (self.model.name, self.params.name) == FILE_NAMES[0] and self.model.parent == self.params.parent:
            return inference_files.read_weights(self.model.parent, self.desc)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / FILE_NAMES[0][1]).symlink_to(self.params.resolve())
            try:
                return inference_files.read_weights(folder, self.desc)
            except ModelError as error:
                raise ModelError(str(error).replace(str(Path(folder) / FILE_NAMES[0][1]), str(self.params))) from None


def find(folder: str | Path) -> tuple[Path, Path]:
    """Program and params file of an inference folder, whatever Paddle's tools called them."""
    folder = Path(folder)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise ModelError(f"{folder}: expected a folder with {' and '.join(FILE_NAMES[0])}, found {found}")
    # A model saved under a name of its own; two of them in one folder are a question, not an answer.
    own = [(path.name, f"{path.stem}.pdiparams") for path in sorted(folder.glob("*.pdmodel"))]
    for model, params in (*FILE_NAMES, *(own if len(own) == 1 else ())):
        if (folder / model).is_file():
            if not (folder / params).is_file():
                raise ModelError(f"{folder}: expected {params} beside {model}, found none; copy both files")
            return folder / model, folder / params
    if own:
        names = ", ".join(model for model, _ in own)
        raise ModelError(f"{folder}: expected one model, found {names}; put each into a folder of its own")
    if (folder / "inference.json").is_file():
        raise ModelError(
            f"{folder}: expected inference.pdmodel, found inference.json, Paddle 3's new format, which opt does not "
            "read; export it again with FLAGS_enable_pir_api=0 or with Paddle 2.6"
        )
    raise ModelError(f"{folder}: expected {' and '.join(FILE_NAMES[0])}, found none; give an inference folder")


def read(folder: str | Path) -> Program:
    """Parse the program of an inference folder. Raises ModelError for files that are missing, empty or foreign."""
    model, params = find(folder)
    try:
        content = model.read_bytes()
    except OSError as error:
        raise ModelError(f"{model}: expected a readable file, found {error.strerror}; check the path") from None
    from google.protobuf.message import DecodeError
    from paddle.base.proto import framework_pb2

    desc = framework_pb2.ProgramDesc()
    try:
        desc.ParseFromString(content)
    except DecodeError:
        desc.Clear()
    if not desc.blocks or not {"feed", "fetch"} <= {op.type for op in desc.blocks[0].ops}:
        raise ModelError(
            f"{model}: expected a Paddle program with inputs and outputs, found {len(content)} bytes that are none; "
            "it is truncated or foreign, export the model again"
        )
    return Program(model, params, desc)
