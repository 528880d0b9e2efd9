"""Reads `.pdparams` files without trusting them.

paddle.save writes a pickle, and loading a pickle runs whatever its author wished. This reader is Python's own pickle
machine with everything taken out that a state dict does not need: dicts, lists, tuples, strings, numbers and numeric
numpy arrays remain. An array is a view of bytes that the file really holds, so that a small file cannot ask for a lot
of memory.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import stat
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from command import ModelError, one_line

# paddle.save's own bookkeeping: structured name → the parameter's global name in the process that saved it.
BOOKKEEPING = "StructuredToParameterName@@"
# Ten times the largest OCR network that PaddleOCR trains.
MAX_BYTES = 2 << 30

# What Paddle writes in protocols 2 to 4 and nothing else: no set, no frozenset, no bytearray (which takes its memory
# before its content is read), no object by class, no persistent id, no extension registry, no text opcode.
_OPCODES = (
    pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK,
    pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1,
    pickle.BINFLOAT, pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINUNICODE8,
    pickle.BINBYTES, pickle.SHORT_BINBYTES, pickle.BINBYTES8,
    pickle.EMPTY_DICT, pickle.EMPTY_LIST, pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2,
    pickle.TUPLE3, pickle.APPEND, pickle.APPENDS, pickle.SETITEM, pickle.SETITEMS,
    pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE, pickle.BUILD,
    pickle.BINGET, pickle.LONG_BINGET, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE,
)  # fmt: skip


# The pure Python machine: in C, one opcode with a large memo index already takes gigabytes.
_Machine: Any = pickle._Unpickler


class _Refused(Exception):
    """What the file holds and a state dict does not."""


class _DtypeState:
    """What a pickled dtype becomes: its type string, then its byte order, both checked."""

    def __init__(self, spec: Any, *_: Any) -> None:
        if not isinstance(spec, str) or not re.fullmatch(r"f[248]|[iu][1248]|b1", spec):
            raise _Refused(f"an array of dtype {_short(spec)}")
        self.spec, self.order = spec, "="

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "="):
            raise _Refused("a dtype in an unknown form")
        if state[2:5] != (None, None, None):
            raise _Refused("an array of records")
        self.order = state[1]


class _ArrayState:
    """What a pickled array becomes: empty, then a view of the file's bytes with the shape that they fill."""

    value: np.ndarray | None = None

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise _Refused("an array in an unknown form")
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _DtypeState) or not isinstance(raw, bytes):
            raise _Refused("an array of objects")
        if not isinstance(shape, tuple) or not all(type(side) is int and 0 <= side < 1 << 31 for side in shape):
            raise _Refused("an array in an unknown form")
        kind = np.dtype(dtype.order + dtype.spec)
        if len(shape) > 8 or math.prod(shape) * kind.itemsize != len(raw):
            raise _Refused(f"an array of {len(raw)} bytes for the shape {list(shape)[:8]}")
        self.value = np.frombuffer(raw, kind).reshape(shape, order="F" if fortran else "C")


class _Reader(_Machine):
    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self.text_left = len(content)
        self.admitted = {
            "_reconstruct": lambda *_: _ArrayState(),
            "dtype": _DtypeState,
            # A tensor outside a plain state dict is saved as a pair (name, array).
            "tuple": self._tuple,
            "encode": self._encode,
            "OrderedDict": lambda *given: self._empty({}, given),
            "bytes": lambda *given: self._empty(b"", given),
            "ndarray": None,
        }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _GLOBALS:
            raise _Refused(f"the object {_short(f'{module}.{name}')}")
        return _Global(self.admitted[name])

    def _tuple(self, items: Any = ()) -> tuple:
        if not isinstance(items, tuple):
            raise _Refused("a tuple in an unknown form")
        return items

    def _empty(self, made: Any, given: tuple) -> Any:
        if given:
            raise _Refused(f"a {type(made).__name__} in an unknown form")
        return made

    def _encode(self, text: str, encoding: str = "latin1") -> bytes:
        """Protocol 2 writes bytes as latin-1 text; any other codec has no business in a weights file."""
        if encoding != "latin1":
            raise _Refused(f"codec {_short(encoding)}")
        self.text_left -= len(text)
        if self.text_left < 0:
            raise _Refused("more bytes than the file has")
        return text.encode("latin1")

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        maker = self.stack[-1]
        if not isinstance(maker, _Global) or maker.make is None or not isinstance(arguments, tuple):
            raise _Refused(f"a call of {type(maker).__name__}")
        self.stack[-1] = maker.make(*arguments)

    def load_build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _ArrayState | _DtypeState):
            raise _Refused(f"a state for {type(self.stack[-1]).__name__}")
        self.stack[-1].build(state)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def load_setitems(self) -> None:
        self._set(self.pop_mark())

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        # Hashing a nested tuple can take for ever.
        if type(target) is not dict or not all(type(key) in (str, int) for key in items[::2]):
            raise _Refused("a dict whose keys are no names")
        target.update(zip(items[::2], items[1::2], strict=True))

    def load_append(self) -> None:
        value = self.stack.pop()
        self._extend([value])

    def load_appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise _Refused(f"items for {type(self.stack[-1]).__name__}")
        self.stack[-1].extend(items)

    dispatch: ClassVar[dict[int, Any]] = {
        **{code[0]: _Machine.dispatch[code[0]] for code in _OPCODES},
        pickle.REDUCE[0]: load_reduce,
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.APPEND[0]: load_append,
        pickle.APPENDS[0]: load_appends,
    }


class _Global:
    """An admitted name of a module. It can be called through REDUCE and nothing else."""

    def __init__(self, make: Any) -> None:
        self.make = make


_GLOBALS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
    ("builtins", "tuple"),
    ("__builtin__", "tuple"),
    # How protocol 2 writes the content of an empty array.
    ("__builtin__", "bytes"),
}


def read_pdparams(path: str | Path) -> dict[str, np.ndarray]:
    """Arrays by structured name, as stored, not writable.

    Raises ModelError for a file that is missing, truncated, too large, no pickle, or holds anything but arrays by name.
    """
    path = Path(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{path}: expected a .pdparams file, found no regular file; check the path")
        if status.st_size > MAX_BYTES:
            raise ModelError(
                f"{path}: expected at most {MAX_BYTES:,} bytes, found {status.st_size:,}; give a file of weights"
            )
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: expected a .pdparams file, found {error.strerror}; check the path") from None
    try:
        state = _Reader(content).load()
    except _Refused as error:
        raise ModelError(
            f"{path}: expected a .pdparams file of plain arrays, found {one_line(str(error))}; do not use this file"
        ) from None
    except Exception as error:  # garbage makes the machine raise nearly anything
        what = f"opcode {error}" if isinstance(error, KeyError) else one_line(str(error)) or type(error).__name__
        raise ModelError(
            f"{path}: expected a whole .pdparams file, found a truncated or foreign one ({_short(what)}); copy it again"
        ) from None
    if not isinstance(state, dict):
        raise ModelError(f"{path}: expected arrays by name, found a {type(state).__name__}; give another file")
    return {name: _array(path, name, value) for name, value in state.items() if name != BOOKKEEPING}


def _array(path: Path, name: Any, value: Any) -> np.ndarray:
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        value = value[1]
    if not isinstance(name, str) or not isinstance(value, _ArrayState) or value.value is None:
        raise ModelError(
            f"{path}: expected a numeric array for {_short(name)!r}, found {type(value).__name__}; "
            "give a file of weights, not of optimizer state"
        )
    return value.value


def _short(value: Any) -> Any:
    """A value of the file as a message may show it: a nested one could be of any length."""
    if isinstance(value, str):
        return value if len(value) <= 80 else value[:80] + "…"
    return value if isinstance(value, int) and abs(value) < 1 << 63 else type(value).__name__
