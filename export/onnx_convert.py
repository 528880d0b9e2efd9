"""Runs paddle2onnx in a child process.

It aborts on ops and opsets that it does not know; here its death, its delay and its hunger become one ModelError that
names the cause. Only its compiled part is loaded: the package around it imports Paddle, which the conversion does
not need. Version 1.3.1 is the last that reads the programs of Paddle 2.6; 2.x insists on Paddle 3.
"""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from command import ModelError, UsageError, one_line
from export.opt import limit_process

MODULE = "paddle2onnx_cpp2py_export"
OPSETS = (7, 19)
TIMEOUT_S = 120
# Address space, not resident memory.
MEMORY_BYTES = 4 << 30


def convert(
    model: Path, params: Path, out: Path, *, opset: int, timeout_s: float = TIMEOUT_S, memory_bytes: int = MEMORY_BYTES
) -> None:
    """Convert a program and its weights into the ONNX file `out`.

    Raises ModelError with one line when paddle2onnx cannot, dies, takes longer than `timeout_s` or wants more than
    `memory_bytes` of address space, and UsageError when the model needs a later opset or paddle2onnx is not
    installed; `out` is then not written.
    """
    with tempfile.TemporaryDirectory(prefix="onnx.") as folder, tempfile.TemporaryFile() as log:
        result = Path(folder) / "model.onnx"
        options = [str(memory_bytes), str(model.resolve()), str(params.resolve()), str(result), str(opset)]
        try:
            code = subprocess.run(
                [sys.executable, "-c", "from export.onnx_convert import _child; _child()", *options],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=timeout_s,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            raise ModelError(
                f"{model}: expected paddle2onnx to convert it within {timeout_s:g} s, found it still busy; "
                "the file is damaged or the machine overloaded, export the model again"
            ) from None
        log.seek(0)
        text = log.read(1 << 20).decode("utf-8", "replace")
        if code != 0 or not result.is_file() or not result.stat().st_size:
            raise _failure(model, opset, code, text)
        out.write_bytes(result.read_bytes())


def _failure(model: Path, opset: int, code: int, log: str) -> ModelError | UsageError:
    """What the child's log and end say, and what to do."""
    if "ModuleNotFoundError" in log:
        return UsageError("expected paddle2onnx, found it not installed; install it: pip install '.[train,onnx]'")
    needed = [int(version) for version in re.findall(r"requires opset_version >= (\d+)", log)]
    if needed:
        return UsageError(f"{model}: expected --opset {max(needed)} or later for its ops, found {opset}; give it")
    unknown = re.search(r"operators not supported yet, including (\S+?),?$", log, re.MULTILINE)
    if unknown:
        return ModelError(
            f"{model}: expected ops that paddle2onnx converts, found {unknown[1].replace(',', ', ')}; "
            "replace these ops in the network and export it again"
        )
    how = f"exit code {code}"
    if code < 0:
        with contextlib.suppress(ValueError):
            how = signal.Signals(-code).name
    lines = [line for line in log.splitlines() if line.strip() and "Traceback" not in line]
    said = one_line(lines[-1].replace("[Paddle2ONNX]", "").replace("[ERROR]", "")).rstrip(". ")[:200] if lines else ""
    return ModelError(
        f"{model}: expected a model that paddle2onnx converts, found that it ended with {how}"
        f"{': ' + said if said else ''}; export the model again with export/to_inference.py"
    )


def _child() -> None:
    """The child: everything here may die."""
    import importlib.util

    memory_bytes, model, params, out, opset = sys.argv[1:]
    limit_process(int(memory_bytes))
    package = importlib.util.find_spec("paddle2onnx")
    if package is None or package.submodule_search_locations is None:
        raise ModuleNotFoundError("paddle2onnx")
    file = next(Path(package.submodule_search_locations[0]).glob(f"{MODULE}*.so"))
    spec = importlib.util.spec_from_file_location(MODULE, file)
    assert spec is not None and spec.loader is not None
    native = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(native)
    upgrade_opset, verbose, check, experimental, optimize, fp16 = False, True, True, True, True, False
    content = native.export(
        model,
        params,
        int(opset),
        upgrade_opset,
        verbose,
        check,
        experimental,
        optimize,
        {},
        "onnxruntime",
        "",
        "",
        fp16,
    )
    Path(out).write_bytes(content)
