"""Runs Paddle-Lite's optimizer (opt) in a child process.

opt never raises: damaged files, unsupported ops and bad options end in abort() or a segmentation fault. Here its death,
its delay and its hunger become one ModelError that names the cause. The same input gives the same bytes.
"""

from __future__ import annotations

import contextlib
import re
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from command import ModelError, native_cause, one_line
from export import nb_file

TARGETS = ("arm", "x86")
TIMEOUT_S = 120
# Address space, not resident memory: importing paddlelite alone reserves several hundred MB.
MEMORY_BYTES = 6 << 30

# What opt says → what the model's author can do. Searched in order in the whole log.
_REMEDIES = (
    ("No attributes called beta", "the op swish has no beta: use F.silu in the network and export it again"),
    ("ops are not supported", "replace these ops in the network, or convert for the other target"),
    ("bad_alloc", "it hit its memory limit: the model's shapes are damaged or far too large"),
    # opt says "Failed to read" of a failed write, too.
    ("(fwrite(", "the folder for temporary files is full: free some space or set TMPDIR to another one"),
    ("Failed to read", "the weights file is shorter than the program needs: copy both files again"),
    ("", "export the model again with export/to_inference.py"),
)


def convert(
    model: Path,
    params: Path,
    out: Path,
    *,
    target: str,
    fp16: bool = False,
    timeout_s: float = TIMEOUT_S,
    memory_bytes: int = MEMORY_BYTES,
) -> None:
    """Convert a program and its weights into the `.nb` file `out`.

    fp16: let opt pick half-precision kernels (arm only). Raises ModelError with one line when opt dies, takes longer
    than `timeout_s` or wants more than `memory_bytes` of address space; `out` is then not written.
    """
    with tempfile.TemporaryDirectory(prefix="opt.") as folder:
        result = Path(folder) / "model"
        options = [str(model.resolve()), str(params.resolve()), str(result), target, str(int(fp16)), str(memory_bytes)]
        with tempfile.TemporaryFile() as log:
            try:
                code = subprocess.run(
                    [sys.executable, "-c", "from export.opt import _child; _child()", *options],
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    timeout=timeout_s,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                raise ModelError(
                    f"{model}: expected opt to convert it for {target} within {timeout_s:g} s, found it still busy; "
                    "the file is damaged or the machine overloaded, export the model again"
                ) from None
            log.seek(0)
            text = log.read(1 << 20).decode("utf-8", "replace")
        nb = result.with_suffix(".nb")
        if code != 0 or not nb.is_file():
            raise ModelError(
                f"{model}: expected a model that opt converts for {target}, found that {_cause(code, text)}; "
                f"{_remedy(text)}"
            )
        out.write_bytes(_settle_header(nb.read_bytes()))


def _settle_header(data: bytes) -> bytes:
    """Zero what follows the version's NUL in the header: stack rubbish, the only bytes that differ between two runs."""
    field = data[nb_file.VERSION_FIELD]
    version = field.split(b"\0")[0].ljust(len(field), b"\0")
    return data[: nb_file.VERSION_FIELD.start] + version + data[nb_file.VERSION_FIELD.stop :]


def _cause(code: int, log: str) -> str:
    said = native_cause(re.sub(r"\]\s*\n\s*(?=\S)", "] ", log))
    how = f"opt ended with exit code {code}"
    if code < 0:
        with contextlib.suppress(ValueError):
            how = f"opt ended with {signal.Signals(-code).name}"
    if not said:
        lines = [line for line in log.splitlines() if line.strip()]
        said = one_line(lines[-1])[:240] if lines else ""
    return f"{how}: {said.rstrip('. ')}" if said else how


def _remedy(log: str) -> str:
    return next(remedy for sign, remedy in _REMEDIES if sign in log)


def _child() -> None:
    """The child: everything here may die."""
    model, params, out, target, fp16, memory_bytes = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_AS, (int(memory_bytes), int(memory_bytes)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from paddlelite.lite import Opt

    opt = Opt()
    opt.set_model_file(model)
    opt.set_param_file(params)
    opt.set_model_type("naive_buffer")
    opt.set_optimize_out(out)
    if int(fp16):
        opt.enable_fp16()  # after set_valid_places it would do nothing, silently
    opt.set_valid_places(target)
    opt.run()
