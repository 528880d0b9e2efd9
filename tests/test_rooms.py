"""The arrows between the rooms: who may import whom."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = {"artifact", "command"}
ALLOWED = {
    "ocr_models": SHARED,
    "lite_runtime": SHARED,
    "slim": SHARED | {"ocr_models", "lite_runtime"},
    "export": SHARED | {"slim", "ocr_models", "lite_runtime"},
    "benchmarks": SHARED | {"lite_runtime", "ocr_models"},
}
ROOMS = set(ALLOWED) | SHARED | {"android_demo"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: commands run as files, so imports are absolute"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_imports_only_what_lies_before_it(room):
    for path in sorted((ROOT / room).rglob("*.py")):
        backwards = (imports(path) & ROOMS) - ALLOWED[room] - {room}
        assert not backwards, f"{path.relative_to(ROOT)} imports {sorted(backwards)}"


@pytest.mark.parametrize("name", sorted(SHARED))
def test_the_shared_modules_need_the_standard_library_only(name):
    assert imports(ROOT / f"{name}.py") - SHARED <= set(sys.stdlib_module_names)


def test_the_runtime_never_imports_paddle():
    for path in sorted((ROOT / "lite_runtime").rglob("*.py")):
        assert not imports(path) & {"paddle", "paddleslim", "matplotlib", "PIL", "shapely"}, path


def test_no_file_shadows_a_standard_module():
    for room in ALLOWED:
        for path in (ROOT / room).glob("*.py"):
            # `python ROOM/VERB.py` puts the room first on sys.path.
            assert path.stem == "__init__" or path.stem not in sys.stdlib_module_names, path
