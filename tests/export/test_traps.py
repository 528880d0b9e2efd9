"""Each trap is found, is real on the pinned Paddle-Lite, and is left by its mend with the same numbers."""

import numpy as np
import paddle
import pytest
import trap_models
from paddle.nn import functional as F

from command import ModelError
from export import conversion, fixes, opt, preflight, program, traps
from ocr_models.paddle_engine import InferenceEngine

NAMES = [trap.name for trap in traps.TABLE]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """saved(trap) → (folder, program), made once."""
    made = {}

    def get(name: str):
        if name not in made:
            folder = trap_models.save(name, tmp_path_factory.mktemp("trap"))
            made[name] = folder, program.read(folder)
        return made[name]

    return get


def expected(folder) -> np.ndarray:
    return InferenceEngine(folder, onednn=False, optimize=False).run(trap_models.noise())


def test_every_row_has_its_model():
    assert set(NAMES) == set(trap_models.MODELS)
    assert {trap.mend for trap in traps.TABLE} - {""} == set(fixes.MENDS)


@pytest.mark.parametrize("name", NAMES)
def test_trap_is_found_and_alone(saved, name):
    _, model = saved(name)
    found = preflight.check(model, "x86")
    assert [finding.trap for finding in found] == [name]
    assert all((found[0].op, found[0].result, found[0].why, found[0].remedy))


@pytest.mark.parametrize("name", NAMES)
def test_trap_is_real(saved, tmp_path, name):
    """Without the check opt or the runtime dies, or the numbers are wrong."""
    folder, model = saved(name)
    result = trap_models.outcome(model, tmp_path)
    if isinstance(result, np.ndarray):
        wanted = expected(folder).astype(np.float64)
        same = result.shape == wanted.shape and np.abs(result - wanted).max() <= 1e-3 * np.abs(wanted).max()
        assert not same, "this Paddle-Lite computes it: take the row out of the table"


@pytest.mark.parametrize("name", [trap.name for trap in traps.TABLE if trap.mend])
def test_mend_gives_the_same_numbers(saved, tmp_path, name):
    folder, model = saved(name)
    before = model.desc.SerializeToString(deterministic=True)
    conversion.make_nb(model, tmp_path / "model.nb", target="x86", precision="fp32", mends=[name])
    assert model.desc.SerializeToString(deterministic=True) == before, "the original stays as it is"
    result, wanted = trap_models.run(tmp_path / "model.nb", tmp_path), expected(folder)
    assert not isinstance(result, str), result
    assert result.shape == wanted.shape
    assert np.abs(result - wanted).max() <= 1e-5 * max(1, np.abs(wanted).max())
    conversion.make_nb(model, tmp_path / "arm.nb", target="arm", precision="fp32", mends=[name])


@pytest.mark.parametrize("name", [trap.name for trap in traps.TABLE if trap.mend])
def test_nothing_is_found_after_the_mend(saved, tmp_path, name):
    assert preflight.check(fixes.apply(saved(name)[1], [name], tmp_path), "arm") == []


def test_trap_of_one_target(saved):
    assert preflight.check(saved("abs after an addition")[1], "arm") == []


def test_power_of_what_is_never_negative(tmp_path):
    network = trap_models.Network(lambda _, x: paddle.pow(F.sigmoid(x), 3.0))
    model = program.read(trap_models.save_network(network, tmp_path))
    assert preflight.check(model, "x86") == []
    assert not isinstance(result := trap_models.outcome(model, tmp_path), str)
    assert np.abs(result - expected(tmp_path)).max() <= 1e-6


@pytest.mark.parametrize("direction", ["forward", "bidirect"])
@pytest.mark.parametrize("kind", [paddle.nn.LSTM, paddle.nn.GRU])
def test_states_of_every_kind_of_rnn(tmp_path, kind, direction):
    network = trap_models.Network(lambda rnn, x: rnn(x.mean(2).transpose([0, 2, 1]))[0], kind(8, 4, 2, direction))
    model = program.read(trap_models.save_network(network, tmp_path))
    assert [finding.trap for finding in preflight.check(model, "x86")] == ["rnn states"]
    conversion.make_nb(model, tmp_path / "model.nb", target="x86", precision="fp32", mends=["rnn states"])
    result = trap_models.run(tmp_path / "model.nb", tmp_path)
    assert not isinstance(result, str), result
    assert np.abs(result - expected(tmp_path)).max() <= 1e-6


def test_program_with_a_branch(tmp_path):
    """Ops of inner blocks count, and attributes that name blocks do no harm."""

    def branch(_, x):
        return paddle.static.nn.cond(x.mean() > 0, lambda: F.swish(x), lambda: x * 3)

    model = program.read(trap_models.save_network(trap_models.Network(branch), tmp_path))
    assert [finding.trap for finding in preflight.check(model, "x86")] == ["0-D constant", "swish without beta"]


def test_operator_without_a_kernel(saved, tmp_path):
    network = trap_models.Network(lambda _, x: paddle.erfinv(x))
    model = program.read(trap_models.save_network(network, tmp_path))
    (finding,) = preflight.check(model, "arm")
    assert (finding.trap, finding.op, finding.mendable) == ("no kernel", "erfinv", False)
    with pytest.raises(
        ModelError, match=r"found erfinv .it makes .*: opt does not have it for arm; build the network"
    ) as e:
        preflight.refuse([finding], model.model, "arm")
    assert "\n" not in str(e.value)


def test_refusal_names_all(saved):
    found = [f for name in ("swish without beta", "bmm") for f in preflight.check(saved(name)[1], "arm")]
    with pytest.raises(ModelError, match=r"found swish .*--fix; also bmm: bmm$"):
        preflight.refuse(found, saved("bmm")[1].model, "arm")
    text = preflight.table(found)
    assert text.count("why") == text.count("fix  ") == 2
    preflight.refuse([], saved("bmm")[1].model, "arm")


def test_the_project_s_networks_pass(stages):
    for task in ("det", "cls", "rec", "cls-int8"):
        assert preflight.check(program.read(stages(task) / "inference"), "arm") == [], task


def test_published_models_pass(published):
    for folder in sorted((published / "models").iterdir()):
        for target in opt.TARGETS:
            assert preflight.check(program.read(folder), target) == [], folder.name
