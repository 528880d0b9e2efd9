"""Exit codes, one-line errors and the guard around native code, each in a real process."""

import subprocess
import sys
from pathlib import Path

import pytest

import command

ROOT = Path(command.__file__).parent

PROGRAM = """
import argparse, ctypes, os, sys
import command
from artifact import ArtifactError

def run(args):
    {body}
    return 0

command.main(argparse.ArgumentParser(prog="verb"), run, native={native})
"""

FULL = "verb: expected free disk space, found none at {}; free some\n"
LIMITED = "verb: expected to write out/a whole, found a limit; see ulimit -f\n"


def execute(body: str, native: bool = False, **kwargs) -> subprocess.CompletedProcess:
    program = PROGRAM.format(body=body, native=native)
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, **kwargs
    )


@pytest.mark.parametrize("native", [False, True], ids=["plain", "native"])
@pytest.mark.parametrize(
    ("body", "code", "stderr"),
    [
        ("pass", 0, ""),
        ("return 1", 1, ""),
        ("raise ArtifactError('expected a,\\nfound b')", 2, "verb: expected a, found b\n"),
        ("raise command.UsageError('x')", 2, "verb: x\n"),
        ("raise command.ModelError('x')", 2, "verb: x\n"),
        ("raise KeyboardInterrupt", 130, "verb: interrupted; finished work is kept\n"),
        ("open('setup.cfg/x')", 2, "verb: expected a usable path, found setup.cfg/x: Not a directory; give another\n"),
        ("raise OSError(28, 'No space', 'out/a')", 2, FULL.format("out/a")),
        ("raise OSError(27, 'File too large', 'out/a')", 2, LIMITED),
        ("open('/dev/full', 'w').write('x' * 100000)", 2, FULL.format("the output")),
    ],
    ids=[
        "done", "check failed", "artifact", "usage", "model", "ctrl-c", "no folder", "full disk", "file limit",
        "really full disk",
    ],
)  # fmt: skip
def test_exit_codes(body, code, stderr, native):
    done = execute(body, native)
    assert (done.returncode, done.stderr) == (code, stderr)


def test_a_bug_keeps_its_traceback():
    done = execute("1 / 0", native=True)
    assert done.returncode not in (0, 1, 2)
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("os.write(2, b'[F 1/2 op.cc:44] Check failed: no shape\\n'); os.abort()", "SIGABRT: Check failed: no shape"),
        ("ctypes.string_at(0)", "SIGSEGV"),
    ],
    ids=["abort", "segmentation fault"],
)  # fmt: skip
def test_native_death_is_one_line(body, expected):
    done = execute(body, native=True)
    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1


def test_native_noise_is_hidden_and_output_kept():
    done = execute("os.write(2, b'[I loading]\\n'); print('text')", native=True)
    assert (done.stdout, done.stderr, done.returncode) == ("text\n", "", 0)


def test_a_closed_pipe_is_no_error():
    program = PROGRAM.format(body="[print('x' * 1000) for _ in range(1000)]", native=False)
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == ""


def test_table_aligns():
    assert command.table(["name", "ms"], [["det", 101], ["recognizer", None]]) == (
        "name         ms\n----------  ---\ndet         101\nrecognizer"
    )


def test_progress_passes_items_on_and_reports_lines(capsys):
    assert list(command.progress(range(3), "reading", every_s=0)) == [0, 1, 2]
    assert "reading 3/3" in capsys.readouterr().err


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    command.write_text(path, "old")
    with pytest.raises(TypeError):
        command.write_text(path, 3)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(command.UsageError, match="expected its folder to exist"):
        command.write_text(tmp_path / "none" / "a.json", "x")
