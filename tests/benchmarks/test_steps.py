"""Steps run as real child processes: kept while valid, done again when something changed, stopped when one fails."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import steps
from benchmarks.steps import Runner, Step, StepError, step_key

WRITE = "import sys, pathlib; p = pathlib.Path(sys.argv[2]); p.write_text(p.read_text() + 'x' if p.exists() else 'x')"


def writer(tmp_path: Path, name: str = "write", inputs: tuple[Path, ...] = ()) -> Step:
    """Adds one character to its output each time that it runs without the older output having been cleared."""
    out = tmp_path / f"{name}.txt"
    return Step(name, ("-c", WRITE, "--out", str(out)), out, inputs)


def failing(tmp_path: Path, code: int, **changes) -> Step:
    body = f"import sys; print('why', file=sys.stderr); sys.exit({code})"
    return Step("fail", ("-c", body), tmp_path / "never", **changes)


def test_a_second_run_keeps_what_is_there(tmp_path, capsys):
    step = writer(tmp_path)
    Runner(tmp_path).run(step)
    assert "kept" not in capsys.readouterr().err
    Runner(tmp_path).run(step)
    assert "[write] kept from an earlier run" in capsys.readouterr().err
    assert step.output.read_text() == "x"


def test_a_changed_input_runs_it_again_from_nothing(tmp_path, capsys):
    source = tmp_path / "source"
    source.write_text("1")
    step = writer(tmp_path, inputs=(source,))
    Runner(tmp_path).run(step)
    source.write_text("2")
    Runner(tmp_path).run(step)
    assert "kept" not in capsys.readouterr().err
    assert step.output.read_text() == "x"


def test_a_lost_output_is_made_again(tmp_path):
    step = writer(tmp_path)
    Runner(tmp_path).run(step)
    step.output.unlink()
    Runner(tmp_path).run(step)
    assert step.output.exists()


def test_a_killed_step_finds_its_own_state_again(tmp_path):
    step = writer(tmp_path)
    state = step.output.with_name(step.output.name + ".run")
    die = Step(step.name, step.argv, step.output)
    # What a run leaves behind that was killed between its start and its output.
    runner = Runner(tmp_path)
    runner.run(die)
    die.output.unlink()
    record = json.loads((tmp_path / "steps.json").read_text())
    key = record[step.name]["key"]
    (tmp_path / "steps.json").write_text(json.dumps({step.name: {"started": key}}))
    state.mkdir()
    Runner(tmp_path).run(step)
    assert state.exists()
    # Another command line must not go on from that state.
    (tmp_path / "steps.json").write_text(json.dumps({step.name: {"started": "another"}}))
    step.output.unlink()
    Runner(tmp_path).run(step)
    assert not state.exists()


def test_two_steps_run_and_both_are_remembered(tmp_path):
    Runner(tmp_path).run(writer(tmp_path, "a"), writer(tmp_path, "b"))
    assert set(json.loads((tmp_path / "steps.json").read_text())) == {"a", "b"}


def test_a_failing_step_stops_with_its_last_line(tmp_path):
    with pytest.raises(StepError, match="step 'fail' ended with exit code 2: why"):
        Runner(tmp_path).run(failing(tmp_path, 2))


def test_a_check_that_falls_short_is_reported_and_not_hidden(tmp_path):
    runner = Runner(tmp_path)
    runner.run(failing(tmp_path, 1, may_fall_short=True))
    assert runner.fell_short == ["fail"]
    with pytest.raises(StepError):
        runner.run(failing(tmp_path, 2, may_fall_short=True))


def test_one_model_that_cannot_be_made_does_not_stop_the_others(tmp_path):
    runner = Runner(tmp_path)
    runner.run(failing(tmp_path, 2, may_fail=True), writer(tmp_path))
    assert runner.failed == {"fail": "why"} and (tmp_path / "write.txt").exists()
    with pytest.raises(StepError, match="exit code 130"):  # Ctrl-C is no failure of the model
        runner.run(failing(tmp_path, 130, may_fail=True))


def test_long_runs_outlive_a_changed_comment(tmp_path, monkeypatch):
    step = writer(tmp_path)
    before = [step_key(step), step_key(step, follow_code=False)]
    monkeypatch.setattr(steps, "_code_digest", lambda: "changed")
    assert step_key(step) != before[0] and step_key(step, follow_code=False) == before[1]


def test_what_others_use_too_is_completed_not_cleared(tmp_path):
    step = writer(tmp_path)
    step.output.write_text("theirs ")
    Runner(tmp_path).run(dataclasses.replace(step, shared=True))
    assert step.output.read_text() == "theirs x"


def test_finished_measurements_are_not_thrown_away(tmp_path):
    step = Step("measure", ("-c", "pass"), tmp_path / "out")
    (step.output / "measured").mkdir(parents=True)
    (tmp_path / "steps.json").write_text(json.dumps({"measure": {"started": step_key(step)}}))
    Runner(tmp_path).run(step)
    assert (step.output / "measured").is_dir()


def test_a_killed_runner_leaves_no_orphan(tmp_path):
    child = tmp_path / "child"
    body = f"import os, time; open({str(child)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    start = (
        "from pathlib import Path; from benchmarks.steps import Runner, Step;"
        f"Runner(Path({str(tmp_path)!r})).run(Step('wait', ('-c', {body!r}), Path({str(tmp_path / 'never')!r})))"
    )
    runner = subprocess.Popen([sys.executable, "-c", start], stderr=subprocess.DEVNULL)
    wait_until(lambda: child.exists() and child.read_text())
    os.kill(runner.pid, signal.SIGKILL)
    runner.wait()
    wait_until(lambda: not running(int(child.read_text())))


def wait_until(done) -> None:
    end = time.monotonic() + 30
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
