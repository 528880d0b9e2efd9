"""Reads `.pdparams` files without trusting them.

paddle.save writes a pickle, and loading a pickle runs whatever its author wished. This reader admits dicts, lists,
tuples, strings, numbers and numeric numpy arrays, which is all that a state dict holds, and nothing else.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.core import multiarray

from command import ModelError, one_line

# paddle.save's own bookkeeping: structured name → the parameter's global name in the process that saved it.
BOOKKEEPING = "StructuredToParameterName@@"


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Protocol 2 writes bytes as latin-1 text; any other codec has no business in a weights file."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"codec {encoding}")
    return text.encode("latin1")


_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy._core.multiarray", "_reconstruct"): multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy.core.multiarray", "scalar"): multiarray.scalar,  # type: ignore[attr-defined]
    ("numpy._core.multiarray", "scalar"): multiarray.scalar,  # type: ignore[attr-defined]
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): dict,
    # A tensor outside a plain state dict is saved as a pair (name, array).
    ("builtins", "tuple"): tuple,
    ("__builtin__", "tuple"): tuple,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"the object {module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("a persistent id")


def read_pdparams(path: str | Path) -> dict[str, np.ndarray]:
    """Arrays by structured name, as stored.

    Raises ModelError for a file that is missing, truncated, no pickle, or holds anything but arrays by name.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: expected a .pdparams file, found {error.strerror}; check the path") from None
    try:
        state = _Unpickler(io.BytesIO(content)).load()
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: expected a .pdparams file of plain arrays, found {one_line(str(error))}; do not use this file"
        ) from None
    except Exception as error:  # garbage makes the unpickler raise nearly anything
        what = one_line(str(error)) or type(error).__name__
        raise ModelError(
            f"{path}: expected a complete .pdparams file, found a truncated or foreign one ({what}); copy it again"
        ) from None
    if not isinstance(state, dict):
        raise ModelError(f"{path}: expected arrays by name, found a {type(state).__name__}; give another file")
    return {name: _array(path, name, value) for name, value in state.items() if name != BOOKKEEPING}


def _array(path: Path, name: Any, value: Any) -> np.ndarray:
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        value = value[1]
    if not isinstance(name, str) or not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
        raise ModelError(
            f"{path}: expected a numeric array for {name!r}, found {type(value).__name__}; "
            "give a file of weights, not of optimizer state"
        )
    return value
