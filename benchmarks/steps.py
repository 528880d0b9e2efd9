"""Runs the other rooms' commands as child processes: two at a time, with progress, reusing what an earlier run left.

A step is done again when its command line, one of its inputs or (unless told otherwise) the project's code has changed.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import artifact
import command

_LIBC = ctypes.CDLL(None)
_SIGNAL_AT_PARENTS_DEATH = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>

ROOT = Path(artifact.__file__).resolve().parent
ROOMS = ("ocr_models", "slim", "export", "lite_runtime", "benchmarks", "configs")


@dataclass(frozen=True)
class Step:
    """One command. `output` is the folder or file that it makes; `inputs` are artifact folders or files it reads."""

    name: str
    argv: tuple[str, ...]
    output: Path
    inputs: tuple[Path, ...] = ()
    # A check's exit code 1 is a finding to report, not a reason to stop before the table.
    may_fall_short: bool = False
    # One model of many that cannot be made is noted in Runner.failed; the others are made all the same.
    may_fail: bool = False
    # The output is other commands' as well: never cleared, only completed.
    shared: bool = False
    # Only a few steps print their whole result for the user; the others say its last line.
    show: bool = False


@dataclass
class StepError(Exception):
    step: Step
    code: int
    tail: str

    def __str__(self) -> str:
        return f"step {self.step.name!r} ended with exit code {self.code}: {self.tail}"


@dataclass
class Runner:
    """Keeps `state` (a JSON file) with one key a finished step, and one log file a step beside it.

    follow_code: run a step again when the code has changed. Hours of training stay valid through a changed comment.
    """

    folder: Path
    follow_code: bool = True
    seconds: dict[str, float] = field(default_factory=dict)
    fell_short: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _children: set[subprocess.Popen] = field(default_factory=set)

    def run(self, *steps: Step) -> None:
        """Run steps that do not need each other, two at a time. Raises the first StepError after both have ended."""
        with ThreadPoolExecutor(max_workers=2 if len(steps) > 1 else 1) as pool:
            jobs = [pool.submit(self._run_one, step, 1 if len(steps) > 1 else 2) for step in steps]
            try:
                for job in jobs:
                    job.result()
            except BaseException:
                for job in jobs:
                    job.cancel()
                self.stop()
                raise

    def stop(self) -> None:
        """End the children that still run; an interrupted command leaves its own work resumable."""
        with self._lock:
            for child in self._children:
                child.terminate()

    def _run_one(self, step: Step, threads: int) -> None:
        key = step_key(step, self.follow_code)
        state = self._state()
        if step.output.exists() and state.get(step.name, {}).get("key") == key:
            self.seconds[step.name] = state[step.name]["seconds"]
            if state[step.name]["code"]:
                self._note_short(step)
            self._say(step, "kept from an earlier run")
            if step.show:
                self._say_raw(self._log(step).read_text(encoding="utf-8").rstrip())
            return
        resumes = state.get(step.name, {}).get("started") == key and _resumable(step.output)
        if not (resumes or step.shared):
            _clear(step.output)
        self._remember(step.name, {"started": key})
        self._say(step, "started")
        start = time.monotonic()
        code, out, tail = self._execute(step, threads)
        seconds = time.monotonic() - start
        if step.may_fail and code in (command.EXIT_CHECK_FAILED, command.EXIT_BAD_INPUT):
            self.failed[step.name] = tail
            self._say(step, "failed; going on without it")
            return
        if code and not (code == 1 and step.may_fall_short):
            raise StepError(step, code, tail)
        if code:
            self._note_short(step)
        self.seconds[step.name] = seconds
        self._remember(step.name, {"key": key, "seconds": seconds, "code": code})
        last = out.rstrip().rsplit("\n", 1)[-1]
        self._say(step, f"{seconds:.0f} s{'  ' + last if last and not step.show else ''}")
        if step.show:
            self._say_raw(out.rstrip())

    def _execute(self, step: Step, threads: int) -> tuple[int, str, str]:
        """Exit code, standard output and the last line of standard error; progress lines pass through."""
        self._log(step).parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
        with self._log(step).open("w+", encoding="utf-8") as log:
            child = subprocess.Popen(
                [sys.executable, *step.argv],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                # An orphan would go on writing to the place where the next run starts the same step.
                preexec_fn=_end_with_parent,
            )
            with self._lock:
                self._children.add(child)
            tail = ""
            assert child.stderr is not None
            for line in child.stderr:
                tail = line.strip() or tail
                self._say(step, line.rstrip())
            code = child.wait()
            with self._lock:
                self._children.discard(child)
            log.seek(0)
            return code, log.read(), tail

    def _log(self, step: Step) -> Path:
        return self.folder / "logs" / f"{step.name.replace('/', '-')}.txt"

    def _state(self) -> dict:
        try:
            return json.loads((self.folder / "steps.json").read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return {}

    def _remember(self, name: str, record: dict) -> None:
        with self._lock:
            state = {**self._state(), name: record}
            command.write_text(self.folder / "steps.json", json.dumps(state, indent=2) + "\n")

    def _note_short(self, step: Step) -> None:
        with self._lock:
            self.fell_short.append(step.name)

    def _say(self, step: Step, text: str) -> None:
        self._say_raw(f"[{step.name}] {text}")

    def _say_raw(self, text: str) -> None:
        with self._lock:
            print(text, file=sys.stderr, flush=True)


def step_key(step: Step, follow_code: bool = True) -> str:
    """What a step's result depends on: its command line, its inputs, and the code of the rooms that it runs in."""
    content = hashlib.sha256(json.dumps(list(step.argv)).encode())
    if follow_code:
        content.update(_code_digest().encode())
    for path in step.inputs:
        content.update(_digest(path).encode())
    return content.hexdigest()


def _resumable(output: Path) -> bool:
    """Whether a stopped command left a state that the same command goes on from.

    Training keeps it in OUT.run, drawing data in partial files, slim/sensitivity.py in its measurements.
    """
    within = any(output.glob("*.partial")) or (output / "measured").is_dir()
    return within or any(output.with_name(output.name + end).exists() for end in (".run", ".partial"))


def _end_with_parent() -> None:
    _LIBC.prctl(_SIGNAL_AT_PARENTS_DEATH, signal.SIGKILL)


def _clear(path: Path) -> None:
    """Remove an output that is no longer valid, and the state of the run that made it."""
    for old in (path, path.with_name(path.name + ".run"), path.with_name(path.name + ".partial")):
        if old.is_dir():
            shutil.rmtree(old)
        elif old.exists():
            old.unlink()


def _digest(path: Path) -> str:
    if (path / artifact.MANIFEST).is_file():
        return artifact.digest(path)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    content = hashlib.sha256()
    for file in files:
        content.update(file.name.encode() + b"\0")
        content.update(hashlib.sha256(file.read_bytes()).digest() if file.exists() else b"none")
    return content.hexdigest()


def _code_digest() -> str:
    content = hashlib.sha256()
    files = [ROOT / "artifact.py", ROOT / "command.py", ROOT / "requirements.lock"]
    for room in ROOMS:
        files += sorted(p for p in (ROOT / room).rglob("*") if p.suffix in (".py", ".yaml"))
    for file in files:
        content.update(file.read_bytes())
    return content.hexdigest()
