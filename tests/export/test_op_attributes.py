"""Which attributes stay, and that the tables say it of every op of our networks."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from export import nb_file, op_attributes, program
from export.nb_file import NbFile
from export.program import Program


def test_library_does_not_know_what_goes():
    """opt and the runtime are one binary: a name that is not in it is read by no pass, op or kernel."""
    package = importlib.util.find_spec("paddlelite")
    assert package is not None and package.submodule_search_locations
    binary = (Path(package.submodule_search_locations[0]) / "lite.so").read_bytes()

    def named(name: str) -> bool:
        """As a literal, or as the number whose bytes are the first eight of a short text."""
        text = name.encode()
        number = rb"[\x48\x49][\xb8-\xbf]" + re.escape(text[:8])
        return text + b"\0" in binary or (8 <= len(text) <= 15 and re.search(number, binary) is not None)

    read = {name for kept in op_attributes.KEPT.values() for name in kept}
    assert {name for name in read if not named(name)} == {"moving_rate", "round_type"}  # so names are found
    # what other ops read, or these where it is true; a list of what opt itself leaves out
    others = {"fuse_brelu_threshold", "fuse_relu", "is_test", "data_format", "use_mkldnn", "use_quantizer"}
    skipped = {"op_callstack", "op_namescope", "op_role", "op_role_var", "workspace_size_MB"}
    assert {name for name in op_attributes.UNREAD if named(name)} == others | skipped


def attributes_of(model: Program) -> Iterator[tuple[str, str]]:
    for block in model.desc.blocks:
        for op in block.ops:
            yield from ((op.type, attribute.name) for attribute in op.attrs)


def unknown(model: Program, files: list[NbFile]) -> set[tuple[str, str]]:
    """Attributes about which the tables say nothing, before and after opt."""
    pairs = {*attributes_of(model), *((op.type, name) for nb in files for op in nb.ops for name in op.attributes)}
    assert len(pairs) > 80
    return {pair for pair in pairs if not op_attributes.known(*pair)}


@pytest.mark.parametrize("source", ["det", "cls", "rec", "det-int8", "cls-int8"])
def test_tables_know_every_op_of_our_networks(convert, stages, source):
    targets = ("arm",) if source.endswith("int8") else ("arm", "x86")
    files = [nb_file.read(convert(source, target, keep=True)) for target in targets]
    assert unknown(program.read(stages(source) / "inference"), files) == set()


@pytest.mark.slow
def test_tables_know_every_op_of_published_models(convert, published):
    for folder in sorted((published / "models").iterdir()):
        files = [nb_file.read(convert(folder, target, keep=True)) for target in ("arm", "x86")]
        assert unknown(program.read(folder), files) == set()


@pytest.mark.parametrize(
    ("op", "name", "value", "before", "after"),
    [
        ("conv2d", "use_cudnn", True, False, False),
        ("conv2d", "strides", [1, 1], True, True),
        ("conv2d", "out_threshold", 1.0, True, False),  # opt may derive a scale from it
        ("conv2d", "Input0_threshold", 1.0, True, False),
        ("conv2d", "Input0_scale", [0.5], True, True),
        ("conv2d", "an_attribute_of_tomorrow", 1, True, True),
        ("conv2d", "w00_fp16", "fp16", True, True),
        ("fc", "linear_0.w_0_quant_scale", [0.5], True, True),
        ("conv2d", "is_test", True, False, False),
        ("batch_norm", "is_test", True, True, True),
        ("pool2d", "use_quantizer", False, False, False),
        ("pool2d", "use_quantizer", True, True, True),  # absent would be false
        ("conv2d", "fuse_relu", True, True, True),
        ("a_new_op", "use_cudnn", False, True, True),
    ],
)
def test_what_stays(op, name, value, before, after):
    needed = (
        op_attributes.needed(op, name, value, after_opt=False),
        op_attributes.needed(op, name, value, after_opt=True),
    )
    assert needed == (before, after)
