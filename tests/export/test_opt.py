"""opt dies in a child process; here its death is one line."""

from pathlib import Path

import paddle
import pytest
from paddle import nn
from paddle.nn import functional as F
from paddle.static import InputSpec

from command import ModelError
from export import nb_file, opt


class Swish(nn.Layer):
    """F.swish exports without the attribute that opt's kernel wants."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 4, 3)

    def forward(self, x):
        return F.swish(self.conv(x))


class Unsupported(Swish):
    """An operator that Paddle-Lite has no kernel for."""

    def forward(self, x):
        return paddle.erfinv(self.conv(x))


def save(layer: nn.Layer, folder: Path) -> tuple[Path, Path]:
    layer.eval()
    spec = [InputSpec([None, 3, 8, 8], "float32", "x")]
    paddle.jit.save(paddle.jit.to_static(layer, input_spec=spec, full_graph=True), str(folder / "inference"))
    return folder / "inference.pdmodel", folder / "inference.pdiparams"


def files(stages, task: str) -> tuple[Path, Path]:
    folder = stages(task) / "inference"
    return folder / "inference.pdmodel", folder / "inference.pdiparams"


def complaint(model: Path, params: Path, out: Path, **options) -> str:
    with pytest.raises(ModelError) as caught:
        opt.convert(model, params, out, **{"target": "arm", **options})
    assert not out.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_same_bytes_twice_and_no_rubbish_in_the_header(stages, tmp_path):
    written = []
    for name in "ab":
        opt.convert(*files(stages, "cls"), tmp_path / name, target="x86")
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    assert written[0][nb_file.VERSION_FIELD] == b"v2.13-rc" + bytes(8)


def test_swish_names_the_cause_and_the_remedy(tmp_path):
    said = complaint(*save(Swish(), tmp_path), tmp_path / "x.nb")
    assert "SIGABRT" in said and "No attributes called beta" in said and "F.silu" in said


def test_unsupported_operator_is_named(tmp_path):
    said = complaint(*save(Unsupported(), tmp_path), tmp_path / "x.nb")
    assert "erfinv" in said and "replace these ops" in said


@pytest.mark.parametrize("content", [b"", b"\x00" * 3000, b"not a model" * 100], ids=["empty", "zeros", "text"])
def test_garbage_program(stages, tmp_path, content):
    (tmp_path / "inference.pdmodel").write_bytes(content)
    said = complaint(tmp_path / "inference.pdmodel", files(stages, "cls")[1], tmp_path / "x.nb")
    assert "opt ended with SIG" in said


def test_truncated_weights(stages, tmp_path):
    model, params = files(stages, "cls")
    (tmp_path / "short").write_bytes(params.read_bytes()[:-1000])
    assert "Failed to read" in complaint(model, tmp_path / "short", tmp_path / "x.nb")


def test_time_limit(stages, tmp_path):
    said = complaint(*files(stages, "cls"), tmp_path / "x.nb", timeout_s=0.01)
    assert "within 0.01 s" in said


def test_memory_limit(stages, tmp_path):
    """Python starts, paddlelite does not fit."""
    said = complaint(*files(stages, "cls"), tmp_path / "x.nb", memory_bytes=60 << 20)
    assert "opt ended with" in said


def test_list_of_supported_ops():
    """opt's own, asked in a child: the two targets differ where PP-OCR's networks do not care."""
    arm, x86 = opt.supported("arm"), opt.supported("x86")
    assert {"conv2d", "depthwise_conv2d", "rnn", "shape", "matmul_v2"} <= arm.runnable & x86.runnable
    assert "sign" in arm.runnable - x86.runnable and "erfinv" not in arm.runnable | arm.known
    assert "bmm" in arm.known & x86.known and not arm.known & arm.runnable
    assert opt.supported("arm") is arm


def test_list_is_read_by_its_columns():
    text = "noise\n     OP_name  kARM  kHost  kUnk\n         abs     Y      Y      \n        fake                  Y\n"
    found = opt.parse_list(text + "[W 1/1 a log line]\n")
    assert found and (found.runnable, found.known) == ({"abs"}, {"fake"})
    assert opt.parse_list("Segmentation fault") is None


def test_list_that_does_not_come(monkeypatch):
    monkeypatch.setattr(opt, "MEMORY_BYTES", 60 << 20)
    opt.supported.cache_clear()
    with pytest.raises(ModelError, match="expected its list of ops for arm"):
        opt.supported("arm")


def test_weights_in_fewer_bits(stages, tmp_path):
    sizes = []
    for bits in (0, 16, 8):
        opt.convert(*files(stages, "cls"), tmp_path / "x.nb", target="arm", weight_bits=bits)
        sizes.append((tmp_path / "x.nb").stat().st_size)
    assert sizes == sorted(sizes, reverse=True)
