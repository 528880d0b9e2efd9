"""An LSTM's matrices stored as bytes: the same numbers at every stage, and bytes in the file."""

import numpy as np
import pytest
import seeded_models

import artifact
from artifact import ArtifactError
from command import ModelError, UsageError
from export import conversion, ladder, lstm_check, lstm_storage, nb_file, program, structure, to_inference, to_nb
from lite_runtime.engine import LiteEngine
from ocr_models import checkpoints
from ocr_models.paddle_engine import InferenceEngine, NetworkEngine

# Of rec's seeded network: 2 layers in 2 directions, each with a matrix for its input and one for its state.
MATRICES = 8
WIDTHS = [(1, 96), (3, 160)]


@pytest.fixture(scope="module")
def stored(stages, tmp_path_factory):
    """Folder with inference/, arm/ and x86/ of the seeded recognizer, its LSTM as bytes."""
    folder = tmp_path_factory.mktemp("stored")
    to_inference.export(stages("rec") / "checkpoint", folder / "inference", lstm="uint8")
    for target in ("arm", "x86"):
        to_nb.convert(folder / "inference", folder / target, target=target)
    return folder


def inputs():
    return [seeded_models.noise((batch, 3, 32, width)) for batch, width in WIDTHS]


def test_codes_by_hand():
    matrix = np.array([[1.27, -0.64, 0.005], [0, 0, 0], [-2.54, 2.54, 0.01]], np.float32)
    codes, steps = lstm_storage.encode(matrix)
    assert codes.dtype == np.uint8
    assert codes.tolist() == [[255, 64, 128], [128, 128, 128], [1, 255, 128]]
    assert np.allclose(steps, [0.01, 1, 0.02])
    back = lstm_storage.decode(codes, steps)
    assert back.dtype == np.float32
    assert np.allclose(back, [[1.27, -0.64, 0], [0, 0, 0], [-2.54, 2.54, 0]], atol=1e-6)


def test_rounding_is_half_a_step_at_most_and_done_once():
    matrix = seeded_models.noise((64, 48))
    codes, steps = lstm_storage.encode(matrix)
    rounded = lstm_storage.decode(codes, steps)
    assert np.abs(rounded - matrix).max() <= 0.501 * steps.max()
    assert np.array_equal(lstm_storage.encode(rounded)[0], codes)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_no_numbers(wrong):
    with pytest.raises(ModelError, match="expected finite LSTM weights, found NaN or infinity"):
        lstm_storage.encode(np.array([[0.5, wrong]], np.float32))


def test_paddle_computes_with_the_rounded_weights(stages, stored):
    network, _ = checkpoints.load_network(stages("rec") / "checkpoint")
    before = [NetworkEngine(network).run(x) for x in inputs()]
    assert lstm_storage.round_network(network) == MATRICES
    for x, unrounded in zip(inputs(), before, strict=True):
        expected = NetworkEngine(network).run(x)
        assert np.abs(expected - unrounded).max() > 1e-5  # or equal would prove nothing
        assert np.array_equal(InferenceEngine(stored / "inference", optimize=False).run(x), expected)
        assert np.abs(InferenceEngine(stored / "inference").run(x) - expected).max() <= 1e-6


def test_lite_computes_the_same(stored):
    manifest = artifact.load(stored / "x86")
    engine = LiteEngine(stored / "x86" / to_nb.FILE, input=manifest.input)
    for x in inputs():
        expected = InferenceEngine(stored / "inference", optimize=False).run(x)
        # Twice: an op of the chain that changed its input in place would change the weights.
        for _ in range(2):
            assert np.abs(engine.run(x) - expected).max() <= 1e-6


@pytest.mark.parametrize("target", ["arm", "x86"])
def test_file_holds_the_bytes(stages, stored, target):
    network, _ = checkpoints.load_network(stages("rec") / "checkpoint")
    lstm = network.neck.encoder.lstm
    wanted = sorted(lstm_storage.encode(w.numpy())[0].tobytes() for w in lstm.parameters() if w.ndim == 2)
    nb = nb_file.read(stored / target / to_nb.FILE)
    assert sorted(p.data.tobytes() for p in nb.params.values() if p.dtype == "uint8") == wanted
    kernels = [(op.type, op.kernel.target, op.kernel.precision) for op in nb.ops if op.type in ("cast", "rnn")]
    assert kernels == [("cast", "host", "any")] * MATRICES + [("rnn", target, "fp32")]
    # Every cast reads unsigned bytes: on ARM a plain char, which Paddle-Lite reads int8 through, has no sign.
    assert {(op.attributes["in_dtype"], op.attributes["out_dtype"]) for op in nb.ops if op.type == "cast"} == {(20, 5)}
    weights = nb.parts()["weights"], nb_file.read(stages("rec") / target / to_nb.FILE).parts()["weights"]
    matrices = sum(map(len, wanted))
    rows = sum(w.shape[0] for w in lstm.parameters() if w.ndim == 2)
    assert weights[1] - weights[0] == 3 * matrices - 4 * rows


def test_manifest_and_structure(stored):
    for name in ("inference", "arm", "x86"):
        assert artifact.load(stored / name).compression == {"lstm": "uint8"}
    findings = structure.check_nb(stored / "arm", artifact.load(stored / "arm"), stored / "inference")
    assert all(finding.passed for finding in findings)
    found = next(finding for finding in findings if finding.what.endswith("LSTM matrices"))
    assert found.found == "8 by cast on host, elementwise_mul on arm, scale on arm; 8 equal"


def test_structure_sees_one_other_byte(stored, tmp_path):
    model = conversion.diet.before_opt(program.read(stored / "inference"), tmp_path)
    path = stored / "arm" / to_nb.FILE
    data = bytearray(path.read_bytes())
    code = max(
        (param for param in nb_file.parse(bytes(data)).params.values() if param.dtype == "uint8"),
        key=lambda param: len(param.data),
    )
    assert lstm_check.compare("arm", nb_file.parse(bytes(data)), model)[0].passed
    data[bytes(data).index(code.data.tobytes()) + 100] ^= 1
    found = lstm_check.compare("arm", nb_file.parse(bytes(data)), model)[0]
    assert not found.passed and found.found.endswith("7 equal")


def test_folded_matrices_are_refused(stages):
    nb = nb_file.read(stages("rec") / "arm" / to_nb.FILE)
    with pytest.raises(ModelError, match="model: expected 8 LSTM matrices of bytes in the file, found 0"):
        lstm_check.check(nb, MATRICES, "model")


def test_restored_computes_the_same(stored, tmp_path):
    model = program.read(stored / "inference")
    assert len(lstm_storage.stored(model)) == MATRICES
    again = lstm_storage.restored(model, tmp_path)
    assert lstm_storage.stored(again) == []
    assert {array.dtype.name for array in again.weights().values()} == {"float32"}
    assert "cast" not in again.ops and again.ops.count("scale") == model.ops.count("scale") - MATRICES
    x = inputs()[0]
    expected = InferenceEngine(stored / "inference", optimize=False).run(x)
    assert np.array_equal(InferenceEngine(tmp_path, optimize=False).run(x), expected)
    assert lstm_storage.restored(again, tmp_path / "unused") is again


@pytest.mark.slow
def test_parity_of_all_stages(stages, stored):
    model = ladder.open_model(
        stages("rec") / "checkpoint", stored / "inference", [stored / "arm", stored / "x86"], tolerance=5e-4
    )
    try:
        ladder.climb(model, [np.full((32, 96, 3), 90, np.uint8)])
    finally:
        model.close()
    assert {rung.stage for rung in model.rungs} == {"inference, as saved", "inference, fused", "x86, x86"}
    assert all(rung.passed for rung in model.rungs)
    assert all(finding.passed for finding in model.findings)


def test_with_int8_arithmetic(stages, tmp_path):
    to_inference.export(stages("rec-int8") / "checkpoint", tmp_path / "inference", lstm="uint8")
    manifest, nb = to_nb.convert(tmp_path / "inference", tmp_path / "arm", target="arm")
    assert manifest.compression == {"quantization": "pact-int8", "lstm": "uint8"}
    assert nb.weights_by_type()["uint8"][0] == MATRICES and "int8" in nb.weights_by_type()
    # What int8 bought is told against a file whose LSTM is float, too.
    network = checkpoints.load_network(stages("rec") / "checkpoint")[0]
    assert manifest.extra["verdict"]["float_bytes"] > sum(4 * p.size for p in network.parameters() if p.ndim > 1)


def test_folder_without_manifest(stored, tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in ("inference.pdmodel", "inference.pdiparams", "inference.yml"):
        (plain / name).write_bytes((stored / "inference" / name).read_bytes())
    manifest, _ = to_nb.convert(plain, tmp_path / "arm", target="arm")
    assert manifest.compression == {"lstm": "uint8"}


def test_refusals(stages, stored, tmp_path):
    with pytest.raises(UsageError, match="found them stored as bytes: the half-precision"):
        to_nb.convert(stored / "inference", tmp_path / "out", target="arm", precision="fp16")
    with pytest.raises(UsageError, match="expected a recognizer with --lstm uint8, found task cls"):
        to_inference.export(stages("cls") / "checkpoint", tmp_path / "out", lstm="uint8")
    with pytest.raises(ModelError, match="expected an LSTM whose matrices are float32, found none"):
        lstm_storage.store(program.read(stages("cls") / "inference"), tmp_path)
    with pytest.raises(ModelError, match="expected an LSTM whose matrices are float32, found none"):
        lstm_storage.store(program.read(stored / "inference"), tmp_path)
    with pytest.raises(ArtifactError):
        to_inference.export(stages("rec") / "inference", tmp_path / "out", lstm="uint8")
    assert not (tmp_path / "out").exists()


def test_same_bytes_twice(stages, stored, tmp_path):
    again = to_inference.export(stages("rec") / "checkpoint", tmp_path / "again", lstm="uint8")
    assert again.files == artifact.load(stored / "inference").files
