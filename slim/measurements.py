"""One folder that several processes, on several machines, fill with measurements.

Every measurement is a file of its own, written whole and flushed when it is made: what a kill leaves behind is valid,
and whoever comes next goes on. A claim keeps two from the same work. It is a courtesy, not a lock: the same work gives
the same numbers, so if two do meet, only time is lost.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from command import UsageError

RUN = "run.json"
# A claim whose owner did not touch it for so long is free: longer than the slowest single measurement.
STALE_S = 600.0


class Measurements:
    """The folder. identity: what the numbers depend on, as plain JSON; a folder of other numbers is refused."""

    def __init__(self, folder: Path, identity: Mapping[str, Any], stale_s: float = STALE_S) -> None:
        self.folder, self.stale_s = folder, stale_s
        self._done, self._claims = folder / "measured", folder / "claims"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / RUN
        if not path.exists():
            if any(folder.iterdir()):
                raise UsageError(
                    f"{folder}: expected a new folder or one of an earlier run, found other files; give another --out"
                )
            _write_once(path, json.dumps(dict(identity), indent=1, sort_keys=True) + "\n")
        known = _read(path)
        if known is None:
            raise UsageError(f"{path}: expected JSON, found something else; remove the folder or give another --out")
        self.identity = now = json.loads(json.dumps(dict(identity)))
        differing = sorted(key for key in {*known, *now} if known.get(key) != now.get(key))
        if differing:
            raise UsageError(
                f"{folder}: expected the earlier run's {', '.join(differing)}, found others; "
                "give the same arguments or another --out"
            )
        self._done.mkdir(exist_ok=True)
        self._claims.mkdir(exist_ok=True)

    def get(self, name: str) -> Any:
        """A measurement, or None where there is none yet."""
        return _read(self._done / f"{name}.json")

    def put(self, name: str, value: Any) -> None:
        _write(self._done / f"{name}.json", json.dumps(value, separators=(",", ":")))

    def claim(self, work: str) -> bool:
        """Whether this process may do `work` now. Ask again to show that it is still being done."""
        path = self._claims / f"{work}.json"
        mine = {"host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid())}
        try:
            with path.open("x", encoding="utf-8") as file:
                json.dump(mine, file)
            return True
        except FileExistsError:
            pass
        owner = _read(path)
        if owner == mine:
            os.utime(path)
            return True
        if not self._abandoned(path, owner):
            return False
        _write(path, json.dumps(mine))
        return True

    def release(self, work: str) -> None:
        (self._claims / f"{work}.json").unlink(missing_ok=True)

    def _abandoned(self, path: Path, owner: Any) -> bool:
        if isinstance(owner, dict) and owner.get("host") == socket.gethostname():
            return _born(int(owner["pid"])) != owner.get("born")
        try:
            age = self._now() - path.stat().st_mtime
        except FileNotFoundError:
            return True
        return age > self.stale_s

    def _now(self) -> float:
        """The time by the clock that dates the folder's files, which may be another machine's."""
        probe = self._claims / f".clock-{socket.gethostname()}-{os.getpid()}"
        probe.touch()
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)


def wait(seconds: float = 1.0) -> None:
    """Until somebody else has got further."""
    time.sleep(seconds)


def _born(pid: int) -> str:
    """When a process of this machine began, as far as the system tells; "" when it is gone."""
    try:
        # The name in brackets may hold anything; field 22 of the line counts from behind it.
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return ""
    except PermissionError:
        pass
    return "alive"


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _write_once(path: Path, text: str) -> None:
    """Write a file unless somebody else was first; nobody sees half of it."""
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
