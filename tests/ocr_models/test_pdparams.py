"""Reading .pdparams: what Paddle writes is read, everything else is refused without being run."""

import builtins
import io
import os
import pickle
import pickletools
import random
import struct
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import paddle
import pytest

from command import ModelError
from ocr_models.pdparams import BOOKKEEPING, read_pdparams

ARRAYS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "half": np.float16([0.5, -2]),
    "double": np.float64([[1e300]]),
    "count": np.array(7),
    "flags": np.array([True, False]),
    "bytes": np.uint8([0, 255]),
    "none": np.zeros((0, 3), np.float32),
}


def read(tmp_path, content):
    path = tmp_path / "x.pdparams"
    path.write_bytes(content)
    return read_pdparams(path)


def refused(tmp_path, content, said):
    with pytest.raises(ModelError, match=said) as error:
        read(tmp_path, content)
    assert str(error.value).startswith(f"{tmp_path}/x.pdparams: expected") and "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def same(found, arrays):
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array), name


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_a_state_dict_of_paddle_is_read(tmp_path, protocol):
    """The first layout: names and arrays, with Paddle's bookkeeping beside them."""
    layer = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4))
    path = tmp_path / "best_accuracy.pdparams"
    paddle.save(layer.state_dict(), str(path), protocol=protocol)
    assert BOOKKEEPING.encode() in path.read_bytes()
    same(read_pdparams(path), {name: tensor.numpy() for name, tensor in layer.state_dict().items()})


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_tensors_saved_as_pairs_are_read(tmp_path, protocol):
    """The second layout: what is no plain state dict is saved as (name, array) under each key."""
    tensor = paddle.to_tensor([[1.0, 2.0]])
    buffer = io.BytesIO()
    pickled = {"w": (tensor.name, tensor.numpy()), BOOKKEEPING: {"w": tensor.name}}
    pickle.dump(pickled, buffer, protocol)
    same(read(tmp_path, buffer.getvalue()), {"w": tensor.numpy()})
    paddle.save({"w": tensor, "step": paddle.to_tensor(3)}, str(tmp_path / "y.pdparams"), protocol=protocol)
    same(read_pdparams(tmp_path / "y.pdparams"), {"w": tensor.numpy(), "step": np.array(3)})


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_arrays_of_every_kind_come_back(tmp_path, protocol):
    arrays = {**ARRAYS, "fortran": np.asfortranarray(ARRAYS["conv.weight"]), "big": ARRAYS["double"].astype(">f8")}
    same(read(tmp_path, pickle.dumps(arrays, protocol)), arrays)


def test_names_of_later_numpy_are_known(tmp_path):
    content = pickle.dumps(ARRAYS, 2).replace(b"cnumpy.core.multiarray", b"cnumpy._core.multiarray")
    same(read(tmp_path, content), ARRAYS)


def test_what_is_read_takes_the_files_memory_and_no_more(tmp_path):
    content = pickle.dumps({f"w{n}": np.ones(1 << 18, np.float32) for n in range(8)}, 4)
    (tmp_path / "x.pdparams").write_bytes(content)
    tracemalloc.start()
    arrays = read_pdparams(tmp_path / "x.pdparams")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(arrays) == 8 and peak < 3.5 * len(content)


class Call:
    """Its pickle calls a function when loaded."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Build:
    def __reduce__(self):
        return os.system, ("true",), {"state": 1}


class Plain:
    pass


def _nested_global(module, name):
    """STACK_GLOBAL with a dotted name, which protocol 4 looks up attribute by attribute."""
    text = lambda value: b"\x8c" + bytes([len(value)]) + value.encode()  # noqa: E731
    return b"\x80\x04" + text(module) + text(name) + b"\x93)R."


TRACE = "import os; os.system('touch {}')"
ATTACKS = {
    "os.system": lambda trace: pickle.dumps({"w": Call(os.system, f"touch {trace}")}),
    "os.system, protocol 0": lambda trace: pickle.dumps({"w": Call(os.system, f"touch {trace}")}, 0),
    "os.system, protocol 2": lambda trace: pickle.dumps({"w": Call(os.system, f"touch {trace}")}, 2),
    "subprocess": lambda trace: pickle.dumps({"w": Call(subprocess.call, ["touch", str(trace)])}),
    "eval": lambda trace: pickle.dumps({"w": Call(builtins.eval, f"open({str(trace)!r}, 'w')")}),
    "exec": lambda trace: pickle.dumps({"w": Call(builtins.exec, TRACE.format(trace))}),
    "getattr": lambda trace: pickle.dumps({"w": Call(builtins.getattr, "x", "upper")}),
    "import": lambda trace: pickle.dumps({"w": Call(builtins.__import__, "antigravity")}),
    "a state for a call": lambda trace: pickle.dumps({"w": Build()}),
    "an object": lambda trace: pickle.dumps({"w": Plain()}),
    "a class": lambda trace: pickle.dumps({"w": Plain}),
    "an object array": lambda trace: pickle.dumps({"w": np.array([Call(os.system, f"touch {trace}")], dtype=object)}),
    "an object array in a pair": lambda trace: pickle.dumps({"w": ("w", np.array([{}], dtype=object))}),
    "text array": lambda trace: pickle.dumps({"w": np.array(["text"])}),
    "record array": lambda trace: pickle.dumps({"w": np.zeros(2, [("a", "f4")])}),
    "complex array": lambda trace: pickle.dumps({"w": np.zeros(2, complex)}),
    "in the bookkeeping": lambda trace: pickle.dumps({BOOKKEEPING: Call(os.system, f"touch {trace}")}),
    "nested global": lambda trace: _nested_global("numpy", "ndarray.__reduce__"),
    "nested module": lambda trace: _nested_global("os", "path.os.system"),
    "INST": lambda trace: f"(S'touch {trace}'\nios\nsystem\n.".encode(),
    "OBJ": lambda trace: f"(cos\nsystem\nS'touch {trace}'\no.".encode(),
    "NEWOBJ": lambda trace: b"\x80\x02cnumpy\nndarray\nK\x05\x85\x81.",
    "EXT1": lambda trace: b"\x80\x02\x82\x01.",
    "a persistent id": lambda trace: b"\x80\x02Pw\n.",
    "a set": lambda trace: pickle.dumps({"w": {1, 2}}),
    "LoDTensor": lambda trace: pickle.dumps({"w": Call(builtins.eval, "data", {"data": [1.0]})}),
    "a call of what was called": lambda trace: b"\x80\x02ccollections\nOrderedDict\n)R)R.",
    "a constructor called": lambda trace: b"\x80\x02cnumpy\nndarray\nK\x05\x85R.",
    "another codec": lambda trace: b"\x80\x02c_codecs\nencode\nX\x01\0\0\0aX\x03\0\0\0hex\x86R.",
}


@pytest.mark.parametrize("case", list(ATTACKS))
def test_an_attack_is_refused_and_runs_nothing(tmp_path, case):
    trace = tmp_path / "trace"
    refused(tmp_path, ATTACKS[case](trace), "do not use this file|truncated or foreign")
    assert not trace.exists()


def _put(value):
    return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\x01b\x87R"
DTYPE = b"cnumpy\ndtype\n\x8c\x02f4\x89\x88\x87R(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"


def _array(shape, raw):
    sides = b"".join(b"\x8a\x08" + struct.pack("<q", side) for side in shape)
    return b"\x80\x04}" + _put("w") + ARRAY + b"(K\x01(" + sides + b"t" + DTYPE + b"\x89" + raw + b"tbs."


# A tuple that holds the same tuple twice, 60 levels deep: 2 ** 60 leaves for whoever walks or hashes it.
PAIRS = b"\x80\x04Nq\x000" + b"h\x00h\x00\x86q\x000" * 60


BOMBS = {
    "a shape that the file does not fill": _array([1 << 30, 1 << 30], b"C\x01x"),
    "a negative shape": _array([-4, -1], b"C\x10" + bytes(16)),
    "an empty shape of any size": _array([0, 1 << 40], b"C\0"),
    "a size with 2,000 digits": b"\x80\x04\x8b" + struct.pack("<i", 1000) + b"\x7f" * 1000 + b".",
    "an array made large": ARRAY.join([b"\x80\x04", b""]).replace(b"K\0\x85", b"J\xff\xff\xff\x7f\x85") + b".",
    "a memo index of 4 billion": b"\x80\x04Nr\xff\xff\xff\x7f.",
    "bytes that are not there": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x.",
    "bytearray that is not there": b"\x80\x05\x96" + struct.pack("<Q", 1 << 36) + b"x.",
    "text that is not there": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"x.",
    "a frame that is not there": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"N.",
    "a name of pairs of pairs": PAIRS + b"}h\x00Ns.",
    "a value of pairs of pairs": PAIRS + b"}" + _put("w") + b"h\x00s.",
    "lists in lists": b"\x80\x04" + b"](" * 50_000 + b"e" * 50_000 + b".",
    "the same text encoded often": b"\x80\x02(X"
    + struct.pack("<I", 1 << 20) + b"a" * (1 << 20) + b"q\0" + b"c_codecs\nencode\nh\0\x85R" * 2_000 + b"l.",
}  # fmt: skip


@pytest.mark.parametrize("case", list(BOMBS))
def test_a_size_bomb_is_refused_at_once(tmp_path, case):
    tracemalloc.start()
    start = time.process_time()
    refused(tmp_path, BOMBS[case], "expected")
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (64 << 20) and seconds < 5


def test_the_bombs_differ_from_a_good_file_in_their_size_alone(tmp_path):
    """The bytes that the bombs are made of are an array where the numbers are right."""
    same(read(tmp_path, _array([2, 1], b"C\x08" + np.float32([1, 2]).tobytes())), {"w": np.float32([[1], [2]])})


def test_a_file_larger_than_any_model_is_not_read(tmp_path):
    with (tmp_path / "x.pdparams").open("wb") as file:
        file.truncate((2 << 30) + 1)
    with pytest.raises(ModelError, match="at most 2,147,483,648 bytes, found 2,147,483,649"):
        read_pdparams(tmp_path / "x.pdparams")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.pdparams")
    with pytest.raises(ModelError, match="found no regular file"):
        read_pdparams(tmp_path / "x.pdparams")


def test_garbage_ends_in_its_own_error(tmp_path):
    """Bytes changed at random: arrays or a ModelError, never another exception, and nothing is imported."""
    chance = random.Random(2)
    modules = set(sys.modules)
    for protocol in (2, 4):
        whole = pickle.dumps(ARRAYS, protocol)
        for _ in range(300):
            content = bytearray(whole)
            for _ in range(chance.randint(1, 6)):
                content[chance.randrange(len(content))] = chance.randrange(256)
            try:
                found = read(tmp_path, bytes(content))
            except ModelError:
                continue
            assert all(isinstance(array, np.ndarray) and array.dtype.kind in "fiub" for array in found.values())
    assert set(sys.modules) <= modules


def test_the_opcodes_that_paddle_uses_are_few(tmp_path):
    """What the machine still knows is what Paddle writes; a new Paddle that writes more shows here."""
    from ocr_models import pdparams

    layer = paddle.nn.LSTM(3, 4)
    for protocol in (2, 3, 4):
        path = tmp_path / f"{protocol}.pdparams"
        paddle.save(layer.state_dict(), str(path), protocol=protocol)
        used = {opcode.code.encode("latin1")[0] for opcode, _, _ in pickletools.genops(path.read_bytes())}
        assert used <= set(pdparams._Reader.dispatch)


@pytest.mark.parametrize(
    "value",
    [
        {"w": np.array([{}], dtype=object)},
        {"w": "text"},
        {"w": np.array(["text"])},
        {3: np.zeros(1)},
        [np.zeros(1)],
        {"LR_Scheduler": {"last_epoch": 3}},
    ],
    ids=["objects", "string", "strings", "unnamed", "list", "optimizer"],
)
def test_only_numeric_arrays_by_name_are_read(tmp_path, value):
    path = tmp_path / "x.pdparams"
    path.write_bytes(pickle.dumps(value))
    with pytest.raises(ModelError, match="expected"):
        read_pdparams(path)


@pytest.mark.parametrize("content", [b"", b"\x80", b"not a pickle at all", b"\x80\x04]."], ids=range(4))
def test_a_foreign_file_is_one_line(tmp_path, content):
    path = tmp_path / "x.pdparams"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"x\.pdparams: expected") as error:
        read_pdparams(path)
    assert "\n" not in str(error.value)


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "x.pdparams"
    paddle.save({"w": paddle.zeros([3])}, str(path))
    content = path.read_bytes()
    assert read_pdparams(path)["w"].shape == (3,)
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(ModelError):
            read_pdparams(path)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(ModelError, match="No such file"):
        read_pdparams(tmp_path / "none.pdparams")
