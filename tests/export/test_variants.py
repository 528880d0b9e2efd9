"""The forms of a `.nb` file: which model can have which, and what each bought."""

import dataclasses
import shutil

import numpy as np
import pytest

import artifact
from command import ModelError, UsageError
from export import nb_file, program, to_nb, variants, verdict
from ocr_models.paddle_engine import InferenceEngine


@pytest.mark.parametrize(
    ("precision", "quantized", "target", "result"),
    [
        (None, False, "arm", "fp32"),
        (None, False, "x86", "fp32"),
        (None, True, "arm", "int8"),
        ("int8", True, "arm", "int8"),
        ("fp16", False, "arm", "fp16"),
        ("weight-int8", False, "arm", "weight-int8"),
    ],
)
def test_allowed(precision, quantized, target, result):
    assert variants.choose("model", precision, quantized=quantized, target=target) == result


@pytest.mark.parametrize(
    ("precision", "quantized", "target", "complaint"),
    [
        ("int8", False, "arm", "quantize it with slim/quantize.py"),
        ("weight-int8", True, "arm", "whose weights are int8 already; leave --precision out"),
        ("weight-int16", True, "arm", "whose weights are int8 already"),
        ("fp16", True, "arm", "found an int8 one; leave --precision out"),
        ("fp32", True, "arm", "found an int8 one"),
        ("fp16", False, "x86", "only ARM"),
        ("weight-int8", False, "x86", "gives NaN"),
        (None, True, "x86", "results are wrong"),
        ("int4", False, "arm", "found 'int4'"),
    ],
)
def test_refused(precision, quantized, target, complaint):
    with pytest.raises((ModelError, UsageError), match=complaint):
        variants.choose("model", precision, quantized=quantized, target=target)


@pytest.mark.parametrize(("precision", "dtype"), [("weight-int8", "int8"), ("weight-int16", "int16")])
def test_weights_only(stages, tmp_path, precision, dtype):
    """Kernels stay in fp32, the file shrinks, each weight is the nearest step, and both runs give the same bytes."""
    manifest, nb = to_nb.convert(stages("rec") / "inference", tmp_path / "out", target="arm", precision=precision)
    assert manifest.extra["precision"] == precision and "size, not speed" in manifest.extra["buys"]
    assert set(to_nb.convolutions(nb)) == {"fp32"} and dtype in nb.weights_by_type()
    judged = manifest.extra["verdict"]
    plain = artifact.load(stages("rec") / "arm").files["model.nb"]["bytes"]
    assert judged["gained"] and judged["float_bytes"] == plain > nb.size_bytes
    assert "weights within 0.50 of a step; size, not speed" in judged["text"]
    again, _ = to_nb.convert(stages("rec") / "inference", tmp_path / "again", target="arm", precision=precision)
    assert again.files == manifest.files


def test_weight_error_counts_steps():
    """A weight of .26 stored as 2 steps of .1 is .6 of a step off."""

    def file(array, **attributes):
        param = nb_file.Param("w", str(array.dtype), array.shape, memoryview(array.tobytes()))
        op = nb_file.Op("conv2d", {"Filter": ["w"]}, {}, attributes, None)
        return nb_file.NbFile(2, "v", [op], {}, {"w": param}, 1, 1)

    stored = np.array([[2, -3], [0, 5]], np.int8)
    floats = np.array([[0.26, -0.3], [0.0, 1.0]], np.float32)
    assert verdict.weight_error(file(stored, w_quant_scale=[0.1, 0.2]), file(floats)) == pytest.approx(0.6, abs=1e-5)
    with pytest.raises(ModelError, match="within one step"):
        verdict.weight_error(file(stored, w_quant_scale=[0.1, 0.1]), file(floats))
    with pytest.raises(ModelError, match="a scale for each"):
        verdict.weight_error(file(stored), file(floats))


def test_int8_is_compared_with_the_float_network_inside(stages, tmp_path):
    """cls: 53 layers of int8, a file that is smaller than the same network's in fp32."""
    judged = artifact.load(stages("cls-int8") / "arm").extra["verdict"]
    assert judged["gained"] and "53 of 53 convolutions int8" in judged["text"]
    assert judged["float_bytes"] > artifact.load(stages("cls-int8") / "arm").files["model.nb"]["bytes"]
    model = program.read(stages("cls-int8") / "inference")
    twin = verdict.without_quantizers(model, tmp_path)
    assert twin and not twin.quantized and len(twin.ops) == sum(not kind.startswith("fake_") for kind in model.ops)


def test_float_twin_computes_the_network(stages, tmp_path):
    """Without its quantizers the PACT network of noise-trained weights is the float network."""
    folder = stages("cls-int8") / "inference"
    model = program.read(folder)
    twin = verdict.without_quantizers(model, tmp_path)
    assert twin
    shutil.copyfile(model.params, tmp_path / model.params.name)
    x = np.random.default_rng(3).standard_normal((2, 3, 48, 192)).astype(np.float32)
    quantized, plain = (InferenceEngine(f, onednn=False).run(x) for f in (folder, tmp_path))
    assert plain.shape == quantized.shape and np.isfinite(plain).all()
    assert 0 < np.abs(plain - quantized).max() < 0.2


@pytest.mark.parametrize(
    ("kernels", "size", "other", "gained"),
    [
        ((9, 1), 100, 200, True),
        ((1, 9), 100, 200, False),
        ((9, 1), 200, 200, False),
    ],
    ids=["both", "few kernels", "no bytes"],
)
def test_verdict_when_int8_bought_nothing(monkeypatch, stages, kernels, size, other, gained):
    """Counts and sizes are put in by hand; the files around them are real."""
    nb = nb_file.read(stages("cls") / "arm" / "model.nb")
    float_file = nb_file.read(stages("cls") / "arm" / "model.nb")
    monkeypatch.setattr(verdict, "convolutions", lambda _: {"int8": kernels[0], "fp32": kernels[1]})
    judged = verdict.compare(_sized(nb, size), _sized(float_file, other), "int8")
    assert judged.gained == gained
    assert ("bought nothing here" in judged.text) != gained
    assert f"{kernels[0]} of 10 convolutions int8, {size} bytes against {other} in fp32" in judged.text


def _sized(nb, size):
    return dataclasses.replace(nb, size_bytes=size)
