"""The reader of the .nb format on fresh, published and damaged files."""

import random
import time

import numpy as np
import pytest

from export import nb_file, program
from export.nb_file import NbError


@pytest.fixture(scope="module")
def arm_rec(stages) -> bytes:
    return (stages("rec") / "arm" / "model.nb").read_bytes()


@pytest.mark.parametrize("target", ["arm", "x86"])
def test_reads_a_fresh_file(stages, target):
    path = stages("rec") / target / "model.nb"
    nb = nb_file.read(path)
    assert (nb.meta_version, nb.opt_version, nb.targets) == (2, "v2.13-rc", {target})
    assert (nb.inputs, len(nb.outputs), nb.output_shape) == (["x"], 1, (-1, -1, 97))
    assert nb.kernels()["rnn"] == {"fp32": 1}
    assert sum(nb.parts().values()) == path.stat().st_size == nb.size_bytes
    assert nb.weights_by_type() == {"float32": (len(nb.params), nb.parts()["weights"])}
    assert nb.scale_bytes == 0


def test_weights_are_the_programs(stages):
    """By content: the conversion shortens names."""
    folder = stages("rec")
    nb, weights = nb_file.read(folder / "arm" / "model.nb"), program.read(folder / "inference").weights()
    found = {(param.shape, param.data.tobytes()) for param in nb.params.values()}
    assert all(param.array().tobytes() == param.data.tobytes() for param in nb.params.values())
    kept = [name for name in weights if name.startswith(("lstm", "linear"))]  # no batch norm is folded into these
    assert len(kept) > 10
    for name in kept:
        assert (weights[name].shape, weights[name].tobytes()) in found, name


def test_attributes_of_a_convolution(stages):
    nb = nb_file.read(stages("det") / "arm" / "model.nb")
    first = next(op for op in nb.ops if op.type == "conv2d")
    assert first.attributes["strides"] == [2, 2]
    assert first.attributes["paddings"] in ([1, 1], [1, 1, 1, 1])
    assert first.attributes["groups"] == 1
    assert first.attributes["padding_algorithm"] == "EXPLICIT"
    assert first.kernel is not None
    assert (first.kernel.op, first.kernel.target, first.kernel.precision, first.kernel.layout) == (
        "conv2d", "arm", "fp32", "NCHW",
    )  # fmt: skip
    assert first.inputs["Input"] == ["x"]


@pytest.mark.parametrize(
    ("name", "int8", "weights"),
    [
        ("det_db", {"conv2d": 41, "depthwise_conv2d": 15}, 545_088),
        ("cls", {"conv2d": 42, "depthwise_conv2d": 11, "fc": 1}, 124_072),
        ("rec_crnn", {"conv2d": 18, "depthwise_conv2d": 13, "matmul": 2}, 1_652_544),
    ],
)
def test_published_int8_files(published, name, int8, weights):
    nb = nb_file.read(published / "nb" / "ch_PP-OCRv2_slim" / f"{name}.nb")
    assert (nb.opt_version, nb.targets) == ("v2.10", {"arm"})
    found = {kind: counts["int8"] for kind, counts in nb.kernels().items() if "int8" in counts and kind != "calib"}
    assert found == int8
    assert nb.weights_by_type()["int8"][1] == weights
    assert nb.scale_bytes > 10_000
    assert sum(nb.parts().values()) == nb.size_bytes


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "0 bytes"),
        (b"\x02\x00v2.1", "truncated"),
        (b"\x89PNG" + bytes(100), "format version 2"),
        (b"\x01\x00" + bytes(100), "format version 2, found 1"),
        (b"\x02\x00" + bytes(100), "opt's version"),
        (b"\x02\x00v2.13-rc" + bytes(8) + b"\xff" * 8 + bytes(50), "topology"),
        (b"\x02\x00v2.13-rc" + bytes(8) + b"\x08" + bytes(7) + bytes(8), "damage"),
    ],
    ids=["empty", "cut in header", "PNG", "old format", "no version", "huge topology", "no params"],
)
def test_foreign_files(content, complaint):
    with pytest.raises(NbError, match=complaint):
        nb_file.parse(content)


def test_missing_file(tmp_path):
    with pytest.raises(NbError, match=r"none\.nb: expected an \.nb file, found No such file"):
        nb_file.read(tmp_path / "none.nb")


def test_truncated_files(arm_rec):
    for cut in (*range(1, 40), *np.linspace(40, len(arm_rec) - 1, 40).astype(int)):
        with pytest.raises(NbError):
            nb_file.parse(arm_rec[:cut])


def test_trailing_bytes(arm_rec):
    with pytest.raises(NbError, match="left after"):
        nb_file.parse(arm_rec + b"x")


def test_mutated_files_end_in_one_error(arm_rec):
    """Flipped bytes, wild words, copied and removed blocks; half of them in the topology, where all offsets are."""
    rng = random.Random(20)
    topology = int.from_bytes(arm_rec[18:26], "little")
    refused = 0
    for _ in range(300):
        data = bytearray(arm_rec)
        end = 26 + topology if rng.random() < 0.5 else len(data)
        for _ in range(rng.randint(1, 20)):
            at = rng.randrange(end)
            kind = rng.randrange(4)
            if kind == 0:
                data[at] = rng.randrange(256)
            elif kind == 1:
                data[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\x80", b"\xff\xff\xff\x7f"])
            elif kind == 2:
                size = rng.randint(1, 200)
                source = rng.randrange(end)
                data[at : at + size] = data[source : source + size]
            elif rng.random() < 0.2:
                del data[at : at + rng.randint(1, 8)]
        start = time.monotonic()
        try:
            nb_file.parse(bytes(data))
        except NbError as error:
            refused += 1
            assert "\n" not in str(error)
        assert time.monotonic() - start < 5
    assert refused > 150
