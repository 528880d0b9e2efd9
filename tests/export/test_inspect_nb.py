"""What the inspector says of hand-made, fresh, shipped and published files."""

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_nb
from tiny_nb import TinyOp

from command import UsageError
from export import inspect_nb, nb_diff, nb_file, nb_report

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "ocr_models" / "pretrained" / "arm-slim"


def parsed(spec: dict, **changes) -> nb_file.NbFile:
    return nb_file.parse(tiny_nb.build(**{**spec, **changes}))


def ask(*arguments) -> tuple[int, str]:
    """Exit code and text of the whole command."""
    done = subprocess.run(
        [sys.executable, "export/inspect_nb.py", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def answer(capsys, *arguments) -> tuple[int, dict]:
    code = inspect_nb.run(inspect_nb.build_parser().parse_args([*map(str, arguments), "--json"]))
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def tiny(tmp_path) -> Path:
    (tmp_path / "tiny.nb").write_bytes(tiny_nb.build(**tiny_nb.convolutions()))
    return tmp_path / "tiny.nb"


def test_report_of_a_file_counted_by_hand(tiny, capsys):
    code, data = answer(capsys, tiny, "--weights", 1)
    (file,) = data["files"]
    # Of 3 params each: 8 framing, and a flatbuffer with 16 bytes of floats in it; then header 26 and params' header 12.
    framing = tiny.stat().st_size - int.from_bytes(tiny.read_bytes()[18:26], "little") - 3 * 16
    assert code == 0
    assert file == {
        "file": str(tiny),
        "format": 2,
        "opt_version": "v2.13-rc",
        "targets": ["arm"],
        "size_bytes": tiny.stat().st_size,
        "inputs": [{"name": "x", "dtype": "float32", "shape": [-1, 1, 4, 4]}],
        "outputs": [{"name": "out", "dtype": "float32", "shape": [-1, 1, 2, 2]}],
        "counts": {"ops": 7, "attributes": 15, "variables": 2, "weights": 3},
        "kernels": {"conv2d": {"fp32": 3}, "relu": {"fp32": 1}, "elementwise_add": {"fp32": 1}},
        "variants": {"conv2d": {"def": 3}, "relu": {"def": 1}, "elementwise_add": {"def": 1}},
        "weights": {"float32": {"count": 3, "bytes": 48}},
        "bytes": {
            "weights": 48,
            "scales": 0,
            "topology": tiny.stat().st_size - 48 - framing,
            "framing": framing,
        },
        "largest_weights": [{"name": "w0", "dtype": "float32", "shape": [1, 1, 2, 2], "bytes": 16}],
    }


def test_text_of_the_ops(tiny):
    code, text = ask(tiny, "--ops", "--weights")
    assert code == 0
    assert "   3  conv2d  [arm fp32 NCHW def]  b, w1 → c  attributes: 2\n" in text
    assert text.startswith(f"{tiny}: ") and "opt v2.13-rc (format 2), for arm\n" in text
    assert "largest weights     type         shape  bytes\n" in text


def test_ops_in_json_are_the_files(stages, capsys):
    path = stages("rec") / "arm"
    _, data = answer(capsys, path, "--ops", "--weights", 5)
    nb, file = nb_file.read(path / "model.nb"), data["files"][0]
    assert [op["type"] for op in file["ops"]] == [op.type for op in nb.ops]
    assert [op["attributes"] for op in file["ops"]] == [op.attributes for op in nb.ops]
    assert file["ops"][5]["kernel"]["target"] in ("arm", "host")
    assert file["inputs"] == [{"name": "x", "dtype": "float32", "shape": [-1, 3, 32, -1]}]
    assert sum(file["bytes"].values()) == file["size_bytes"] == (path / "model.nb").stat().st_size
    sizes = [weight["bytes"] for weight in file["largest_weights"]]
    assert sizes == sorted((len(p.data) for p in nb.params.values()), reverse=True)[:5]


def test_a_bundle_is_its_three_files(capsys):
    _, data = answer(capsys, SHIPPED)
    assert sorted(Path(file["file"]).parent.name for file in data["files"]) == ["cls", "det", "rec"]
    assert all(file["targets"] == ["arm"] and "int8" in file["weights"] for file in data["files"])


def test_folders_and_what_is_wrong_with_them(tiny, tmp_path, capsys):
    shutil.copy(tiny, tmp_path / "second.nb")
    assert list(inspect_nb.find(tmp_path)) == ["second.nb", "tiny.nb"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"empty: expected \.nb files, found none; give"):
        inspect_nb.find(tmp_path / "empty")
    shutil.copytree(SHIPPED / "cls", tmp_path / "damaged")
    with (tmp_path / "damaged" / "model.nb").open("r+b") as file:
        file.seek(1000)
        file.write(b"!")
    code, text = ask(tmp_path / "damaged")
    assert code == 2 and "expected sha256" in text and text.count("\n") == 1
    os.mkfifo(tmp_path / "pipe.nb")
    code, text = ask(tmp_path / "pipe.nb")
    assert code == 2 and "found a device or a pipe" in text


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["none.nb"], "none.nb: expected an .nb file, found No such file"),
        ([__file__], "expected .nb format version 2"),
        ([SHIPPED, "--diff"], "expected --diff with two files"),
        ([SHIPPED, SHIPPED / "det", "--diff"], "expected two folders with the same .nb files"),
        ([SHIPPED, "--weights=-1"], "expected --weights of at least 0"),
    ],
)
def test_bad_input_is_one_line(arguments, complaint):
    code, text = ask(*arguments)
    assert code == 2 and complaint in text and text.count("\n") == 1


def test_starts_without_the_heavy_packages():
    heavy = "{'numpy', 'paddle', 'paddlelite', 'cv2'}"
    script = f"import sys, export.inspect_nb as i; i.build_parser(); print({heavy} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


# What differs.


def test_a_file_equals_itself_and_its_copy_with_other_names(tmp_path, tiny):
    code, text = ask(tiny, tiny, "--diff")
    assert code == 0 and text.endswith("equal: the same bytes\n")
    spec = tiny_nb.convolutions()
    names = {"a": "t0", "b": "t1", "c": "t2", "d": "t3", "w0": "p0", "w1": "p1", "w2": "p2"}
    for op in spec["ops"]:
        op.inputs = {slot: [names.get(name, name) for name in values] for slot, values in op.inputs.items()}
        op.outputs = {slot: [names.get(name, name) for name in values] for slot, values in op.outputs.items()}
    spec["weights"] = {names[name]: weight for name, weight in spec["weights"].items()}
    (tmp_path / "renamed.nb").write_bytes(tiny_nb.build(**spec))
    code, text = ask(tiny, tmp_path / "renamed.nb", "--diff")
    assert code == 0
    assert text.endswith(
        "equal: 7 ops and 3 weights matched, 7 variables renamed; only names and the layout of the bytes differ\n"
    )


def test_names_that_are_used_twice():
    """opt lets values share a variable: here c lies where a was, and nothing else changes."""
    other = tiny_nb.convolutions()
    other["ops"][3].outputs = {"Output": ["a"]}
    other["ops"][4].inputs = {"Input": ["a"], "Filter": ["w2"]}
    assert nb_diff.compare(parsed(tiny_nb.convolutions()), parsed(other)).equal


def kernel(spec):
    spec["ops"][2].kernel = "def/4/2/1"
    return {"kernels": 1}


def attribute(spec):
    spec["ops"][1].attributes = {"groups": 2, "strides": [2, 2], "more": True}
    return {"attributes": 2}


def attribute_type(spec):
    spec["ops"][1].attributes["groups"] = 1.0
    return {"attributes": 1}


def dropped_attribute(spec):
    del spec["ops"][5].attributes["note"]
    return {"attributes": 1}


def weight(spec):
    spec["weights"]["w1"] = ("float32", (1, 1, 2, 2), [1.0, 1.0, 2.0, 3.5])
    return {"weights": 1}


def renamed_and_changed_weight(spec):
    spec["weights"]["other"] = ("float32", (1, 1, 2, 2), [9.0, 1.0, 2.0, 3.0])
    del spec["weights"]["w1"]
    spec["ops"][3].inputs["Filter"] = ["other"]
    return {"weights": 1}


def swapped_weights(spec):
    spec["ops"][3].inputs["Filter"], spec["ops"][4].inputs["Filter"] = ["w2"], ["w1"]
    return {"weights": 2}


def unused_weight(spec):
    spec["weights"]["spare"] = ("int8", (2,), [1, 2])
    return {"weights": 1}


def input_from_elsewhere(spec):
    spec["ops"][5].inputs["Y"] = ["a"]
    return {"wiring": 1}


def lost_input(spec):
    del spec["ops"][5].inputs["Y"]
    return {"wiring": 1}


def version(spec):
    spec["version"] = b"v2.10"
    return {"header": 1}


def input_shape(spec):
    spec["variables"]["x"] = (1, 1, 4, 4)
    return {"header": 1}


def target(spec):
    for op in spec["ops"]:
        op.kernel = op.kernel.replace("/4/", "/2/")
    return {"header": 1, "kernels": 7}


def added_op(spec):
    spec["ops"].insert(6, TinyOp("relu", {"X": ["out"]}, {"Out": ["last"]}))
    spec["ops"][7].inputs["X"] = ["last"]
    return {"header": 1, "ops added": 1, "wiring": 1}


def removed_convolution(spec):
    del spec["ops"][3], spec["weights"]["w1"]
    spec["ops"][3].inputs["Input"] = ["b"]
    return {"ops removed": 1, "wiring": 1, "weights": 1}


CHANGES = [
    kernel, attribute, attribute_type, dropped_attribute, weight, renamed_and_changed_weight, swapped_weights,
    unused_weight, input_from_elsewhere, lost_input, version, input_shape, target, added_op, removed_convolution,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_each_change_is_found_and_nothing_else(change, tiny, tmp_path, capsys):
    spec = tiny_nb.convolutions()
    expected = change(spec)
    assert nb_diff.compare(nb_file.read(tiny), parsed(spec)).counts() == expected
    (tmp_path / "changed.nb").write_bytes(tiny_nb.build(**spec))
    code, data = answer(capsys, tiny, tmp_path / "changed.nb", "--diff")
    assert (code, data["equal"], data["files"][0]["differs"]) == (1, False, expected)
    code, back = answer(capsys, tmp_path / "changed.nb", tiny, "--diff")
    turned = {"ops removed": "ops added", "ops added": "ops removed"}
    assert (code, back["files"][0]["differs"]) == (1, {turned.get(what, what): n for what, n in expected.items()})


def test_the_removed_convolution_is_the_one_that_is_missing():
    """Three convolutions are alike but for their weights; the second is gone."""
    spec = tiny_nb.convolutions()
    removed_convolution(spec)
    found = nb_diff.compare(parsed(tiny_nb.convolutions()), parsed(spec))
    assert found.removed == [(3, "conv2d")]
    assert found.wiring == [(4, 3, "conv2d", "Input", "#3 conv2d", "#2 relu")]
    assert found.weights == [("w1", "", "only in A, float32 [1, 1, 2, 2]")]
    assert found.same_weights == 2


def test_how_far_weights_are_apart():
    spec = tiny_nb.convolutions()
    weight(spec)
    found = nb_diff.compare(parsed(tiny_nb.convolutions()), parsed(spec))
    assert found.weights == [("w1", "w1", "float32 [1, 1, 2, 2]: 1 of 4 differ, by at most 0.5")]


def test_numbers_that_are_none_are_equal_and_valid_json(tmp_path, capsys):
    spec = tiny_nb.convolutions()
    spec["ops"][1].attributes["odd"] = [math.nan, math.inf, 0.5]
    assert nb_diff.compare(parsed(spec), parsed(spec)).equal
    (tmp_path / "odd.nb").write_bytes(tiny_nb.build(**spec))
    _, data = answer(capsys, tmp_path / "odd.nb", "--ops")
    assert data["files"][0]["ops"][1]["attributes"]["odd"] == ["nan", "inf", 0.5]


def test_two_builds_of_one_network(stages, capsys):
    """The same program for two machines: the same float weights, other kernels."""
    folder = stages("det")
    code, data = answer(capsys, folder / "arm", folder / "x86", "--diff")
    found = data["files"][0]
    assert code == 1 and not data["equal"]
    assert "kernels" in found["differs"] and "header" in found["differs"]
    assert found["weights"]["same"] > 50
    assert {h["what"] for h in found["header"]} == {"targets"}


def test_a_slim_file_differs_in_attributes_alone(tmp_path, capsys):
    """The diet drops attributes, renames variables and lays the bytes out anew."""
    from export import diet

    slim = tmp_path / "slim.nb"
    shutil.copy(SHIPPED / "cls" / "model.nb", slim)
    diet.after_opt(slim)
    nb, old = nb_file.read(slim), nb_file.read(SHIPPED / "cls" / "model.nb")
    found = nb_diff.compare(old, nb)
    assert set(found.counts()) <= {"attributes"}
    assert (found.matched, found.same_weights) == (len(old.ops), len(old.params))
    assert all(new is None for *_, new in found.attributes)


def test_wide_programs_are_compared_in_bounded_time():
    """2,000 ops against 2,000 others would be 4,000,000 steps: they count as replaced."""
    many = [TinyOp("relu", {"X": ["x"]}, {"Out": ["x"]}, {"n": n}) for n in range(2000)]
    others = [replace(op, attributes={"n": -op.attributes["n"] - 1}) for op in many]
    a, b = (parsed({"ops": ops, "variables": {}, "weights": {}}) for ops in (many, others))
    assert nb_diff.compare(a, b).counts() == {"ops removed": 2000, "ops added": 2000}


# Names from the file never steer the terminal.

EVIL = "\x1b[2J\x9b31m\u202egnp\r\n\x07\\"


def test_control_characters_are_shown_escaped(tmp_path):
    spec = tiny_nb.convolutions()
    spec["ops"][1].type = spec["ops"][1].kernel = EVIL
    spec["ops"][1].kernel = f"{EVIL}/4/{EVIL}/1"
    spec["ops"][0].outputs = {EVIL: [EVIL]}
    spec["ops"][1].attributes = {EVIL: EVIL, "list": [EVIL]}
    spec["weights"][EVIL] = ("int8", (1,), [1])
    spec["variables"][EVIL] = (1,)
    (tmp_path / "evil.nb").write_bytes(tiny_nb.build(**spec))
    (tmp_path / "tiny.nb").write_bytes(tiny_nb.build(**tiny_nb.convolutions()))
    for code, arguments in ((0, ["--ops", "--weights"]), (1, [tmp_path / "tiny.nb", "--diff"])):
        for form in ([], ["--json"]):
            found, text = ask(tmp_path / "evil.nb", *arguments, *form)
            assert found == code, text
            assert all(c == "\n" or c.isprintable() for c in text), arguments
            assert "\\x1b[2J" in text or "\\u001b[2J" in text


def test_shown():
    assert nb_report.shown(EVIL) == "\\x1b[2J\\x9b31m\\u202egnp\\r\\n\\x07\\\\"
    assert nb_report.shown("a" * 60, 10) == "a" * 9 + "…"
    assert nb_report.shown("中文 ok") == "中文 ok"


# Published files.


def test_published_files(published, capsys):
    code, data = answer(capsys, published / "nb" / "ch_PP-OCRv2_slim", "--ops")
    files = {Path(file["file"]).stem: file for file in data["files"]}
    assert code == 0 and set(files) == {"cls", "det_db", "rec_crnn"}
    assert all(file["opt_version"] == "v2.10" and file["targets"] == ["arm"] for file in files.values())
    assert files["det_db"]["kernels"]["conv2d"] == {"int8": 41}
    assert files["det_db"]["variants"]["conv2d"] == {"fp32_out": 35, "int8_out": 6}
    assert files["rec_crnn"]["outputs"][0]["shape"] == [-1, 25, 6625]
    assert files["cls"]["weights"] == {"float32": {"count": 54, "bytes": 12592}, "int8": {"count": 54, "bytes": 124072}}


def test_published_file_against_the_shipped(published, capsys):
    pair = published / "nb" / "ch_PP-OCRv2_slim" / "cls.nb", SHIPPED / "cls"
    code, data = answer(capsys, *pair, "--diff")
    found = data["files"][0]
    assert code == 1 and {"header", "attributes", "weights"} <= set(found["differs"])
    assert found["header"][0] == {"what": "opt", "a": "v2.10", "b": "v2.13-rc"}
    assert found["ops"]["matched"] > 100
