"""What every command shares: exit codes, one-line errors, tables, progress, and a guard around native code.

Exit 0: done. 1: a check fell short. 2: bad input. 130: Ctrl-C. Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from artifact import ArtifactError

T = TypeVar("T")

# What a path that the user gave can be wrong in, where no command said it better.
_PATH_ERRORS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EEXIST)

EXIT_DONE = 0
EXIT_CHECK_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


class ModelError(Exception):
    """A model's files or weights cannot be used; the message is one line for the user."""


class UsageError(Exception):
    """The command's arguments or data cannot be used; the message is one line for the user."""


USER_ERRORS = (ArtifactError, ModelError, UsageError)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Options that every command has."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON and nothing else")


def main(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int], *, native: bool = False) -> None:
    """Parse, run and exit. `native`: run in a forked child, so that an abort of native code becomes one line."""
    args = parser.parse_args()
    sys.exit(_guarded(parser.prog, run, args) if native else _attempt(parser.prog, run, args))


def _attempt(prog: str, run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Call `run`; what the user can mend becomes one line, everything else keeps its traceback."""
    try:
        code = run(args)
        sys.stdout.flush()
        return code
    except USER_ERRORS as error:
        return _fail(prog, str(error))
    except KeyboardInterrupt:
        _fail(prog, "interrupted; finished work is kept")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has gone: nothing is wrong, and Python must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except MemoryError:
        return _fail(prog, "expected enough memory, found none left; give smaller images or a smaller batch")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _fail(prog, f"expected free disk space, found none at {error.filename or 'the output'}; free some")
        if error.errno == errno.EFBIG:
            return _fail(
                prog, f"expected to write {error.filename or 'the output'} whole, found a limit; see ulimit -f"
            )
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            return _fail(prog, f"expected access to {error.filename}, found {error.strerror}; change its permissions")
        if error.errno in _PATH_ERRORS and error.filename is not None:
            return _fail(prog, f"expected a usable path, found {error.filename}: {error.strerror}; give another")
        raise


def _fail(prog: str, message: str) -> int:
    print(f"{prog}: {one_line(message)}", file=sys.stderr, flush=True)
    return EXIT_BAD_INPUT


def _guarded(prog: str, run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Run in a forked child whose native stderr goes to a file; translate its death by a signal.

    Paddle-Lite never raises: missing operators, damaged files and wrong shapes end in abort() or a segmentation
    fault with pages of backtrace. Python's own stderr still reaches the user.
    """
    with tempfile.TemporaryFile() as log:
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            # Python writes to a copy of the real stderr; native code writes to descriptor 2, which is the log.
            sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
            os.dup2(log.fileno(), 2)
            code = 70
            try:
                code = _attempt(prog, run, args)
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else EXIT_BAD_INPUT
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                with contextlib.suppress(OSError, ValueError):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(code)
        while True:
            try:
                _, status = os.waitpid(child, 0)
                break
            except KeyboardInterrupt:
                continue  # the child got the signal too and ends by itself
        if os.WIFEXITED(status):
            return os.WEXITSTATUS(status)
        log.seek(0)
        cause = native_cause(log.read().decode("utf-8", "replace"))
        name = signal.Signals(os.WTERMSIG(status)).name
        return _fail(
            prog,
            f"expected the native library to run the model, found that it ended with {name}"
            f"{': ' + cause if cause else ''}; check that the model was made for this machine by export/to_nb.py",
        )


def native_cause(log: str) -> str:
    """The line of a native log that says why it died, without time stamps and addresses; "" when none does."""
    fatal = [line for line in log.splitlines() if re.match(r"\s*\[F\b", line) or "Check failed" in line]
    if not fatal:
        fatal = [line for line in log.splitlines() if "rror" in line]
    if not fatal:
        return ""
    text = re.sub(r"^\s*\[[A-Z][^\]]*\]\s*", "", fatal[-1])
    return one_line(text)[:240]


def one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def emit(args: argparse.Namespace, data: Any, text: str) -> None:
    """Print the result: the text for people, or JSON alone with --json."""
    if args.json:
        print(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        print(text)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; its folder must exist."""
    if not path.parent.is_dir():
        raise UsageError(f"{path}: expected its folder to exist, found none; make it or give another --out")
    if path.is_dir():
        raise UsageError(f"{path}: expected a file to write, found a folder; give another --out")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Align columns as text; numbers to the right, the first column to the left."""
    cells = [[str(h) for h in headers], *[["" if c is None else str(c) for c in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]
    lines = [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    ]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(line.rstrip() for line in lines)


def progress(items: Iterable[T], label: str, total: int | None = None, every_s: float = 10.0) -> Iterator[T]:
    """Pass the items on and show how far it is on stderr: a bar on a terminal, else a line every `every_s` seconds."""
    if total is None:
        with contextlib.suppress(TypeError):
            total = len(items)  # type: ignore[arg-type]
    tty = sys.stderr.isatty()
    start = shown = time.monotonic()
    done = 0

    def show(end: str) -> None:
        seconds = time.monotonic() - start
        rate = done / seconds if seconds > 0 else 0.0
        left = f", {(total - done) / rate:.0f} s left" if total and rate and done < total else ""
        count = f"{done}/{total}" if total else f"{done}"
        bar = ""
        if tty and total:
            filled = 24 * done // max(total, 1)
            bar = f" [{'#' * filled}{'.' * (24 - filled)}]"
        print(
            f"{chr(13) if tty else ''}{label}{bar} {count}  {seconds:.0f} s{left}   ",
            end=end,
            file=sys.stderr,
            flush=True,
        )

    try:
        for item in items:
            yield item
            done += 1
            now = time.monotonic()
            if now - shown >= (0.2 if tty else every_s):
                shown = now
                show("" if tty else "\n")
    finally:
        if tty and done:
            show("\n")
