"""Files that are damaged, or made to hurt: NbError and nothing else, in bounded memory and time."""

import json
import os
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import hypothesis
import paddle
import pytest
import tiny_nb
from hypothesis import strategies as st
from paddle import nn
from paddle.static import InputSpec
from tiny_nb import Numbers, Repeated, Scalar, TinyOp

from export import nb_diff, nb_file, nb_report, opt
from export.nb_file import NbError

FUZZER = Path(__file__).with_name("nb_fuzz.py")
SHIPPED = Path(__file__).resolve().parents[2] / "ocr_models" / "pretrained" / "arm-slim"


class Small(nn.Layer):
    """One convolution, 8 ops in all."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2D(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x):
        return nn.functional.softmax(self.linear(nn.functional.hardswish(self.conv(x)).mean([2, 3])))


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> dict[str, Path]:
    """Real files of 9 KB for each machine, and a hand-made one."""
    folder = tmp_path_factory.mktemp("small")
    layer = Small()
    layer.eval()
    spec = [InputSpec([None, 3, 8, 8], "float32", "x")]
    paddle.jit.save(paddle.jit.to_static(layer, input_spec=spec, full_graph=True), str(folder / "inference"))
    for target in opt.TARGETS:
        opt.convert(
            folder / "inference.pdmodel", folder / "inference.pdiparams", folder / f"{target}.nb", target=target
        )
    (folder / "tiny.nb").write_bytes(tiny_nb.build(**tiny_nb.convolutions()))
    return {path.stem: path for path in folder.glob("*.nb")}


def fuzz(count: int, seed: int, megabytes: int, *files: Path) -> dict[str, int]:
    """Counts of refused and read mutants of the first file."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(FUZZER), str(count), str(seed), str(megabytes), *map(str, files)],
        capture_output=True, text=True, timeout=300, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert not result["wrong"], result
    assert sum(result["counts"].values()) == count
    return result["counts"]


def test_ten_thousand_mutants_of_a_small_file(small):
    counts = fuzz(10_000, 20, 64, small["arm"], small["x86"], small["tiny"])
    assert counts["read"] > 1000 and counts["refused"] > 5000  # both paths were walked


def test_mutants_of_a_shipped_file(small):
    counts = fuzz(200, 21, 192, SHIPPED / "cls" / "model.nb", small["arm"])
    assert counts["read"] > 20 and counts["refused"] > 50


BROKEN = """
import sys

sys.path.insert(0, {folder!r})
sys.argv = ["", "2", "1", "64", {file!r}]
import nb_fuzz

calls = []
parse = nb_fuzz.nb_file.parse


def broken(data):
    calls.append(data)
    while len(calls) > 1:  # the first call reads the original
        {fault}
    return parse(data)


nb_fuzz.LIMIT_S = 0.2
nb_fuzz.nb_file.parse = broken
nb_fuzz.main()
"""


@pytest.mark.parametrize(
    ("fault", "report"),
    [
        ("raise KeyError", "KeyError"),
        ("pass", "TimeoutError"),
        ("return bytearray(1 << 30)", "MemoryError"),
        ("raise nb_fuzz.nb_file.NbError('a\\x1b[2J')", "message"),
    ],
)
def test_the_fuzzer_sees_what_is_wrong(tmp_path, fault, report):
    """A reader that raises something else, hangs, eats memory or lets an escape sequence through is reported."""
    (tmp_path / "tiny.nb").write_bytes(tiny_nb.build(**tiny_nb.convolutions()))
    script = BROKEN.format(folder=str(FUZZER.parent), file=str(tmp_path / "tiny.nb"), fault=fault)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert report in json.loads(done.stdout)["wrong"][0][1], done.stderr


# Files made to hurt.

_ATTRIBUTE = {0: "a", 1: Scalar("<i", 3), 5: Numbers("i", [1] * 1000)}
_OP = {0: "conv2d", 3: [_ATTRIBUTE]}
_SHAPE = Numbers("q", [1 << 62] * 20_000)

BOMBS: dict[str, dict[int, Any]] = {
    "blocks that share ops": {0: Repeated({3: Repeated(_OP, 2000)}, 2000)},
    "ops that share attributes": {0: [{3: Repeated({0: "conv2d", 3: Repeated(_ATTRIBUTE, 2000)}, 2000)}]},
    "one list of numbers, often": {
        0: [{3: [{0: "x", 3: Repeated({0: "a", 1: Scalar("<i", 7), 9: Numbers("?", [True] * 50_000)}, 5000)}]}]
    },
    "one long text, often": {0: [{3: [{0: "x", 1: Repeated({0: "s" * 100_000}, 10_000)}]}]},
    "texts in a shared list": {0: [{3: Repeated({0: "x", 1: Repeated({0: "s", 1: Repeated("n", 3000)}, 1000)}, 100)}]},
    "empty ops": {0: [{3: Repeated({}, 20_000)}]},
    "variables without end": {
        0: [{2: Repeated({0: "v", 1: {2: {0: {1: Numbers("q", [1] * 9)}}}}, 20_000), 3: [{0: "x"}]}]
    },
    "a variable of many dimensions": {
        0: [{2: [{0: "v", 1: {2: {0: {0: Scalar("<i", 5), 1: _SHAPE}}}}], 3: [{0: "x"}]}]
    },
}


@pytest.mark.parametrize("name", BOMBS)
def test_small_files_that_would_unfold_into_large_trees(name):
    data = tiny_nb.frame(tiny_nb.flat(BOMBS[name]), {})
    start = time.process_time()
    with pytest.raises(NbError, match=r"more often than|dimensions"):
        nb_file.parse(data)
    assert time.process_time() - start < 3
    tracemalloc.start()
    try:
        with pytest.raises(NbError):
            nb_file.parse(data)
        assert tracemalloc.get_traced_memory()[1] < (8 << 20) + 64 * len(data)
    finally:
        tracemalloc.stop()


def test_sharing_that_opt_or_a_writer_may_do_is_read():
    """300 ops of 15 attributes each, all equal and stored once."""
    attributes = Repeated({0: "mkldnn_data_type", 1: Scalar("<i", 2), 4: "float32"}, 15)
    data = tiny_nb.frame(tiny_nb.flat({0: [{3: Repeated({0: "relu", 3: attributes}, 300)}]}), {})
    assert len(data) < 2000
    assert nb_file.parse(data).kernels() == {"relu": {"unknown": 300}}


def test_a_weight_of_many_dimensions():
    """The product of 20,000 large sides alone would take minutes."""
    start = time.process_time()
    data = tiny_nb.frame(tiny_nb.flat({0: [{3: [{0: "x"}]}]}), {"w": ("int8", (1 << 62,) * 20_000, [1])})
    with pytest.raises(NbError, match="does not match its 1 bytes"):
        nb_file.parse(data)
    assert time.process_time() - start < 1


def test_two_weights_of_one_name():
    twice = tiny_nb.build(**tiny_nb.convolutions())
    changed = twice.replace(b"\x02\0\0\0w2\0", b"\x02\0\0\0w1\0")
    assert changed != twice
    with pytest.raises(NbError, match="two params are called 'w1'"):
        nb_file.parse(changed)


def test_counts_larger_than_the_file():
    """The number of params, of bytes and of every vector, each at its largest."""
    data = tiny_nb.build(**tiny_nb.convolutions())
    topology = 26 + int.from_bytes(data[18:26], "little")
    with pytest.raises(NbError, match="topology"):
        nb_file.parse(data[:18] + b"\xff" * 8 + data[26:])
    with pytest.raises(NbError):
        nb_file.parse(data[: topology + 6] + b"\xff\xff" + data[topology + 8 :])
    for at in range(26, len(data) - 3, 3):
        with_extreme = data[:at] + struct.pack("<I", 0xFFFFFFFF) + data[at + 4 :]
        try:
            nb_file.parse(with_extreme)
        except NbError as error:
            assert str(error).isprintable()


def test_larger_than_any_model(tmp_path, monkeypatch):
    monkeypatch.setattr(nb_file, "_MAX_BYTES", 1000)
    (tmp_path / "large.nb").write_bytes(bytes(1001))
    with pytest.raises(NbError, match=r"large\.nb: expected an \.nb file of at most 1,000 bytes, found more"):
        nb_file.read(tmp_path / "large.nb")


# Whatever a program holds comes back as it was.

_names = st.text(min_size=1, max_size=12)
_values = st.one_of(
    st.booleans(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(width=32),
    _names,
    st.lists(st.integers(-(1 << 31), (1 << 31) - 1), max_size=4),
    st.lists(st.floats(width=32), min_size=1, max_size=4),
    st.lists(st.booleans(), min_size=1, max_size=4),
    st.lists(_names, min_size=1, max_size=4),
)
_arguments = st.dictionaries(_names, st.lists(_names, max_size=3), max_size=3)
_ops = st.builds(TinyOp, _names, _arguments, _arguments, st.dictionaries(_names, _values, max_size=4), st.just(""))


@hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
@hypothesis.given(
    st.lists(_ops, min_size=1, max_size=4), st.dictionaries(_names, st.lists(st.floats(width=32)), max_size=3)
)
def test_any_program_is_read_as_it_was_written(ops, weights):
    data = tiny_nb.build(ops, {}, {name: ("float32", (len(items),), items) for name, items in weights.items()})
    nb = nb_file.parse(data)
    assert [(op.type, op.inputs, op.outputs) for op in nb.ops] == [(op.type, op.inputs, op.outputs) for op in ops]
    assert repr([op.attributes for op in nb.ops]) == repr([op.attributes for op in ops])
    for name, items in weights.items():
        assert nb.params[name].data.tobytes() == struct.pack(f"<{len(items)}f", *items)
    assert nb_diff.compare(nb, nb_file.parse(data)).equal
    text = nb_report.text("f", nb_report.describe(nb, ops=True, weights=3))
    assert all(c == "\n" or c.isprintable() for c in text)
