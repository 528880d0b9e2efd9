"""Several processes fill one folder; one of them dies."""

import json
import os
import subprocess
import sys
import time

import pytest

from command import UsageError
from slim.measurements import Measurements

IDENTITY = {"weights": "abc", "ratios": [0.5]}
CLAIM = """
import sys, time
from pathlib import Path
from slim.measurements import Measurements
store = Measurements(Path(sys.argv[1]), {"weights": "abc", "ratios": [0.5]})
print(store.claim("group"), flush=True)
time.sleep(60)
"""


def test_measurements_are_found_again(tmp_path):
    Measurements(tmp_path / "m", IDENTITY).put("group-3", [[1.0, 0.5]])
    again = Measurements(tmp_path / "m", {"weights": "abc", "ratios": (0.5,)})
    assert again.get("group-3") == [[1.0, 0.5]]
    assert again.get("group-4") is None


def test_half_a_file_counts_as_none(tmp_path):
    store = Measurements(tmp_path / "m", IDENTITY)
    (tmp_path / "m" / "measured" / "group-3.json").write_text("[[1.0, ")
    assert store.get("group-3") is None


def test_other_numbers_are_refused(tmp_path):
    Measurements(tmp_path / "m", IDENTITY)
    with pytest.raises(UsageError, match="the earlier run's ratios, found others"):
        Measurements(tmp_path / "m", {"weights": "abc", "ratios": [0.5, 0.6]})
    (tmp_path / "m" / "run.json").write_text("{")
    with pytest.raises(UsageError, match="expected JSON"):
        Measurements(tmp_path / "m", IDENTITY)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="expected a new folder or one of an earlier run"):
        Measurements(tmp_path, IDENTITY)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_claim_holds_while_its_owner_lives(tmp_path):
    store = Measurements(tmp_path / "m", IDENTITY)
    child = subprocess.Popen([sys.executable, "-c", CLAIM, str(tmp_path / "m")], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        assert child.stdout.readline().strip() == "True"
        assert not store.claim("group")
        assert store.claim("another")
    finally:
        child.kill()
        child.wait()
    assert store.claim("group"), "its owner was killed"
    assert store.claim("group"), "one's own claim is renewed"
    store.release("group")
    store.release("group")
    assert Measurements(tmp_path / "m", IDENTITY).claim("group")


@pytest.mark.parametrize("age_s, free", [(5, False), (120, True)])
def test_another_machines_claim_ages(age_s, free, tmp_path):
    store = Measurements(tmp_path / "m", IDENTITY, stale_s=60)
    path = tmp_path / "m" / "claims" / "group.json"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "born": "5"}))
    os.utime(path, (time.time() - age_s,) * 2)
    assert store.claim("group") is free


def test_a_reused_process_number_is_another_process(tmp_path):
    store = Measurements(tmp_path / "m", IDENTITY)
    path = tmp_path / "m" / "claims" / "group.json"
    store.claim("group")
    owner = json.loads(path.read_text())
    path.write_text(json.dumps({**owner, "born": "0"}))
    assert store.claim("group")


def test_a_broken_claim_ages_too(tmp_path):
    store = Measurements(tmp_path / "m", IDENTITY, stale_s=60)
    path = tmp_path / "m" / "claims" / "group.json"
    path.write_text("{")
    assert not store.claim("group")
    os.utime(path, (time.time() - 120,) * 2)
    assert store.claim("group")
