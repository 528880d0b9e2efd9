"""The version rule by its golden table, and on real files before native code sees them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from command import ModelError
from lite_runtime import versions
from lite_runtime.engine import LiteEngine

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "version_rule.json").read_text(encoding="utf-8"))["cases"]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda c: f"{c['file']} on {c['library']} {c['precision']}")
def test_golden(case):
    verdict = versions.judge(case["file"], case["library"], case["precision"])
    found = "refused" if not verdict.allowed else "warning" if verdict.warning else "fine"
    assert found == case["expected"], verdict
    if verdict.warning:
        assert case["file"] in verdict.warning and case["library"] in verdict.warning
        assert "; " in verdict.warning and len(verdict.warning.splitlines()) == 1


def test_versions_in_order():
    rising = [
        "v1.0",
        "v2.9",
        "v2.9.1",
        "v2.10-alpha",
        "v2.10-beta",
        "v2.10-beta2",
        "v2.10-rc",
        "v2.10",
        "v2.10.1",
        "v3.0",
    ]
    keys = [versions.order(version) for version in rising]
    assert None not in keys and keys == sorted(keys, key=lambda key: key or ()) and len(set(keys)) == len(keys)


def of_version(source: Path, out: Path, version: str) -> Path:
    """The same model, its header saying that another opt wrote it."""
    data = bytearray(source.read_bytes())
    data[2:18] = version.encode().ljust(16, b"\0")
    out.write_bytes(data)
    return out


def test_a_newer_file_never_reaches_the_library(colour_models, tmp_path):
    nb = of_version(colour_models / "x86" / "det" / "model.nb", tmp_path / "model.nb", "v99.1")
    with pytest.raises(
        ModelError, match=r"model\.nb: expected .* of Paddle-Lite .*, found one of v99\.1, which is newer"
    ):
        LiteEngine(nb)


def test_an_older_file_runs_with_one_warning(colour_models, tmp_path):
    for name in ("a.nb", "b.nb"):
        of_version(colour_models / "x86" / "det" / "model.nb", tmp_path / name, "v2.10")
    script = (
        "import sys, numpy as np\n"
        "from lite_runtime.engine import LiteEngine\n"
        "for path in sys.argv[1:]:\n"
        "    print(LiteEngine(path).run(np.ones((1, 3, 32, 32), np.float32)).shape)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "a.nb", tmp_path / "b.nb"], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("(1, 1, 32, 32)") == 2
    assert done.stderr.count("found one of v2.10, which is older") == 1


def test_half_precision_of_another_version_is_refused(colour_models, tmp_path):
    data = (colour_models / "arm" / "det" / "model.nb").read_bytes()
    assert b"/4/1/1\0" in data
    half = tmp_path / "half.nb"
    half.write_bytes(data.replace(b"/4/1/1\0", b"/4/5/1\0"))
    older = of_version(half, tmp_path / "older.nb", "v2.10")
    from lite_runtime.engine import check_version, read_targets

    check_version(half, read_targets(half), "v2.13-rc")
    with pytest.raises(ModelError, match="with fp16 kernels, which abort in another version"):
        check_version(older, read_targets(older), "v2.13-rc")


def test_the_pinned_library_and_its_opt_agree(colour_models):
    """Were they to differ, every model converted here would warn or be refused here."""
    from lite_runtime.engine import library_version, read_targets

    file = read_targets(colour_models / "x86" / "det" / "model.nb").opt_version
    assert versions.judge(file, library_version(), "fp16") == versions.Verdict(True)
