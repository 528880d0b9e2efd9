"""Program → `.nb` file: mends, diet, opt, diet. The same input gives the same bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from export import diet, fixes, opt
from export.program import Program
from export.variants import WEIGHT_BITS


def make_nb(
    program: Program, out: Path, *, target: str, precision: str, slim: bool = True, mends: Sequence[str] = ()
) -> None:
    """Convert a program into the file `out`.

    precision: one of variants.PRECISIONS, fit for program and target. slim: without what no kernel reads
    (export/diet.py). mends: names of the traps to get the program out of (export/traps.py). Raises ModelError.
    """
    with tempfile.TemporaryDirectory(prefix="nb.") as scratch:
        if mends:
            program = fixes.apply(program, mends, _folder(scratch, "mended"))
        program = diet.before_opt(program, _folder(scratch, "slim"), keep_attributes=not slim)
        opt.convert(
            program.model,
            program.params,
            out,
            target=target,
            fp16=precision == "fp16",
            weight_bits=WEIGHT_BITS.get(precision, 0),
        )
        if slim:
            diet.after_opt(out)


def _folder(scratch: str, name: str) -> Path:
    folder = Path(scratch) / name
    folder.mkdir()
    return folder
