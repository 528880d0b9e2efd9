import errno
import json
import os
from pathlib import Path

import numpy as np
import paddle
import pytest

from command import ModelError, UsageError
from slim import run_state
from slim.not_finite import first_not_finite
from slim.recipes import CONFIGS, learning_rate, load_recipe, parse_recipe
from slim.run_state import STATE, RunState, load_state
from slim.sampling import Draw, Feeder, Sampler

PLAIN = {"task": "cls", "steps": 100, "batch": 4, "lr": 0.1, "warmup_steps": 10, "final_lr_ratio": 0.0}


class TestRecipe:
    @pytest.mark.parametrize("task", ["det", "cls", "rec"])
    def test_the_committed_recipes_are_sound(self, task):
        assert load_recipe(CONFIGS / f"{task}.yaml").task == task

    def test_flags_overrule_the_file(self, tmp_path):
        assert load_recipe(CONFIGS / "cls.yaml", steps=7, lr=None).steps == 7

    def test_survives_json(self):
        recipe = load_recipe(CONFIGS / "rec.yaml")
        assert parse_recipe(json.loads(json.dumps(recipe.to_json())), "json") == recipe

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            pytest.param({"learning_rate": 1}, "found learning_rate", id="unknown key"),
            pytest.param({"steps": None}, "expected steps to be of type int", id="no value"),
            pytest.param({"steps": 1.5}, "expected steps to be of type int", id="fraction of a step"),
            pytest.param({"augment": 1}, "expected augment to be of type bool", id="number for a flag"),
            pytest.param({"lr": "fast"}, "expected lr to be a number", id="text for a number"),
            pytest.param({"lr": 0}, "expected lr to be a rate", id="rate of nothing"),
            pytest.param({"batch": 0}, "expected batch to be at least 1", id="empty batch"),
            pytest.param({"task": "ocr"}, "expected task to be det | cls | rec", id="foreign task"),
            pytest.param({"widths": [64, "x"]}, "whole numbers", id="text for a width"),
            pytest.param({"task": "det", "size_px": 100}, "multiple of 32", id="crop the network cannot take"),
            pytest.param(
                {"task": "rec", "widths": [64], "batch_width_px": 64, "width_schedule": [[5, 64]]},
                "steps ascending",
                id="schedule that begins late",
            ),
        ],
    )
    def test_bad_values_are_named(self, change, message):
        with pytest.raises(UsageError, match=message):
            parse_recipe({**PLAIN, **change}, "recipe")

    @pytest.mark.parametrize("content", [b"task: [", b"\xff\xfe", b"[" * 5000], ids=["open", "bytes", "deep"])
    def test_what_is_no_yaml_is_one_line(self, tmp_path, content):
        (tmp_path / "recipe.yaml").write_bytes(content)
        with pytest.raises(UsageError, match=r"recipe\.yaml: expected a recipe in YAML, found ") as caught:
            load_recipe(tmp_path / "recipe.yaml")
        assert "\n" not in str(caught.value)

    def test_missing_key_and_missing_file(self, tmp_path):
        with pytest.raises(UsageError, match="expected the keys lr"):
            parse_recipe({key: value for key, value in PLAIN.items() if key != "lr"}, "recipe")
        with pytest.raises(UsageError, match="No such file"):
            load_recipe(tmp_path / "none.yaml")

    def test_yaml_reads_1e_minus_5_as_text_and_we_do_not(self, tmp_path):
        path = tmp_path / "recipe.yaml"
        path.write_text("task: cls\nsteps: 1\nbatch: 1\nlr: 1e-3\nwarmup_steps: 0\n")
        assert load_recipe(path).lr == 0.001

    def test_width_schedule(self):
        recipe = parse_recipe(
            {**PLAIN, "task": "rec", "widths": [64, 320], "batch_width_px": 64, "width_schedule": [[0, 64], [10, 320]]},
            "recipe",
        )
        assert [recipe.widest_px(step) for step in (0, 9, 10, 99)] == [64, 64, 320, 320]


class TestLearningRate:
    recipe = parse_recipe(PLAIN, "recipe")

    @pytest.mark.parametrize(
        ("step", "rate"),
        [
            pytest.param(0, 0.01, id="first step: a tenth of the warm-up"),
            pytest.param(9, 0.1, id="end of the warm-up"),
            pytest.param(55, 0.05, id="half of the cosine"),
            pytest.param(100, 0.0, id="end"),
            pytest.param(500, 0.0, id="beyond the end"),
        ],
    )
    def test_values(self, step, rate):
        assert learning_rate(self.recipe, step) == pytest.approx(rate, abs=1e-6)

    def test_an_extended_run_warms_up_again_to_the_longer_cosine(self):
        longer = parse_recipe({**PLAIN, "steps": 200}, "recipe")
        assert learning_rate(self.recipe, 99) < 0.001
        rates = [learning_rate(longer, step, rewarm_from=100) for step in range(100, 200)]
        assert rates[0] == pytest.approx(learning_rate(longer, 100) / 10)
        assert rates[9] == pytest.approx(learning_rate(longer, 109))
        assert rates[50] == learning_rate(longer, 150)


def line_sampler(**changes):
    groups = {64: np.arange(0, 40), 160: np.arange(40, 60)}
    return Sampler(groups, lambda width: 640 // width, 5, **changes)


class TestSampler:
    def test_every_sample_once_before_any_comes_again(self):
        sampler = Sampler({0: np.arange(10)}, lambda _: 4, seed=1)
        seen = [index for step in range(5) for index in sampler.draw(step).indices]
        assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
        assert seen[:10] != seen[10:]

    def test_a_restored_sampler_goes_on_exactly(self):
        whole = line_sampler()
        draws = [whole.draw(step) for step in range(20)]
        first, second = line_sampler(), line_sampler()
        for step in range(7):
            first.draw(step)
        second.restore(json.loads(json.dumps(first.state())))
        assert [second.draw(step) for step in range(7, 20)] == draws[7:]

    def test_batch_times_width_is_constant_and_groups_do_not_mix(self):
        for step in range(30):
            draw = line_sampler().draw(step)
            assert len(draw.indices) * draw.width == 640
            assert {index < 40 for index in draw.indices} == {draw.width == 64}

    def test_samples_are_seen_equally_often_whatever_their_width(self):
        sampler = line_sampler()
        counts = np.bincount([i for step in range(600) for i in sampler.draw(step).indices], minlength=60)
        assert counts[:40].mean() == pytest.approx(counts[40:].mean(), rel=0.1)

    def test_schedule_keeps_wide_lines_back(self):
        sampler = line_sampler(widest_of=lambda step: 64 if step < 20 else 160)
        widths = [sampler.draw(step).width for step in range(60)]
        assert set(widths[:20]) == {64}
        assert set(widths[20:]) == {64, 160}

    def test_a_schedule_below_every_line_takes_the_narrowest(self):
        assert line_sampler(widest_of=lambda _: 32).draw(0).width == 64

    def test_half_of_the_batches_are_padded_as_at_run_time(self):
        sampler = Sampler({64: np.arange(10)}, lambda width: 640 // width, 1, padded_of=lambda _: 96)
        widths = [sampler.draw(step).width for step in range(200)]
        assert set(widths) == {64, 96}
        assert widths.count(96) == pytest.approx(100, abs=25)

    def test_two_processes_share_a_step_without_overlap(self):
        draw = line_sampler().draw(0)
        parts = [draw.share(rank, 2) for rank in (0, 1)]
        assert sorted(parts[0].indices + parts[1].indices) == sorted(draw.indices)
        assert parts[0].seed != parts[1].seed


class TestFeeder:
    def test_hands_out_steps_in_order_with_the_state_of_each(self):
        sampler = line_sampler()
        with Feeder(sampler, lambda draw: draw, 0) as feeder:
            draws, states = [], []
            for _ in range(5):
                draws.append(feeder.next())
                states.append(feeder.state)
        assert [draw.step for draw in draws] == list(range(5))
        again = line_sampler()
        for draw, state in zip(draws, states, strict=True):
            assert again.draw(draw.step) == draw
            assert again.state() == state

    def test_an_unreadable_sample_stops_the_run_with_its_error(self):
        def load(draw: Draw):
            raise UsageError("images/7.png: cut off")

        with Feeder(line_sampler(), load, 0) as feeder, pytest.raises(UsageError, match="cut off"):
            feeder.next()


def some_state(step: int = 3) -> RunState:
    return RunState(
        step=step,
        identity={"task": "cls"},
        recipe=parse_recipe(PLAIN, "recipe").to_json(),
        weights={"head.fc.weight": np.arange(6, dtype=np.float32).reshape(2, 3)},
        average={"head.fc.weight": np.ones((2, 3), np.float32)},
        moments={"head.fc.weight|moment1_0": np.zeros((2, 3), np.float32)},
        sampler={"0": 12},
        best={"step": 2, "metrics": {"accuracy": 0.5}},
    )


class TestRunState:
    def test_round_trip(self, tmp_path):
        state = some_state()
        state.save(tmp_path)
        again = load_state(tmp_path)
        assert again is not None
        assert (again.step, again.sampler, again.best, again.recipe["lr"]) == (3, {"0": 12}, state.best, 0.1)
        for group in run_state.ARRAYS:
            for name, array in getattr(state, group).items():
                np.testing.assert_array_equal(getattr(again, group)[name], array)

    def test_none_where_there_is_none(self, tmp_path):
        assert load_state(tmp_path) is None

    def test_full_disk_keeps_the_last_good_state(self, tmp_path, monkeypatch):
        some_state(3).save(tmp_path)

        def full(_descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError) as caught:
                some_state(4).save(tmp_path)
        assert caught.value.errno == errno.ENOSPC
        assert str(tmp_path / STATE) in str(caught.value.filename)
        kept = load_state(tmp_path)
        assert kept is not None and kept.step == 3
        assert sorted(path.name for path in tmp_path.iterdir()) == ["history.json", STATE]

    @pytest.mark.parametrize("damage", ["truncated", "foreign", "empty", "other archive"])
    def test_damaged_files_are_one_line(self, tmp_path: Path, damage):
        some_state().save(tmp_path)
        path = tmp_path / STATE
        if damage == "truncated":
            path.write_bytes(path.read_bytes()[:400])
        elif damage == "foreign":
            path.write_bytes(b"no archive at all")
        elif damage == "empty":
            path.write_bytes(b"")
        else:
            with path.open("wb") as file:
                np.savez(file, x=np.zeros(3))
        with pytest.raises(ModelError, match="expected the state of a training run") as caught:
            load_state(tmp_path)
        assert "\n" not in str(caught.value)


class Divides(paddle.nn.Layer):
    """Puts out no number where its input is zero."""

    def forward(self, x):
        return x / x


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        pytest.param([Divides(), paddle.nn.ReLU()], "the output of layer 0", id="the first layer of two"),
        pytest.param([paddle.nn.ReLU(), Divides()], "the output of layer 1", id="a later layer"),
        pytest.param([paddle.nn.ReLU()], "the loss itself", id="no layer"),
    ],
)
def test_where_a_loss_of_nan_begins(layers, expected):
    network = paddle.nn.Sequential(*layers)
    assert first_not_finite(network, {}, lambda network: network(paddle.zeros([1, 2]))) == expected


def test_a_broken_weight_comes_first():
    network = paddle.nn.Sequential(Divides())
    weights = {"fine": paddle.ones([2]), "broken": paddle.to_tensor([1.0, float("inf")])}
    assert first_not_finite(network, weights, lambda network: network(paddle.zeros([1]))) == "the weights broken"
