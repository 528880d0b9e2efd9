"""The stages of small seeded models, made once."""

from collections.abc import Callable
from pathlib import Path

import pytest
import seeded_models


@pytest.fixture(scope="session")
def stages(tmp_path_factory) -> Callable[[str], Path]:
    """stages("det") → folder with checkpoint/, inference/, arm/ and x86/; "det-int8" has no x86/."""
    root = tmp_path_factory.mktemp("stages")

    def make(name: str) -> Path:
        folder = root / name
        if not folder.exists():
            task, _, form = name.partition("-")
            if form == "int8":
                seeded_models.save_quantized(task, folder / "checkpoint")
            else:
                seeded_models.save_checkpoint(seeded_models.network(task), task, folder / "checkpoint")
            seeded_models.export_all(folder / "checkpoint", ("arm",) if form == "int8" else ("arm", "x86"))
        return folder

    return make


@pytest.fixture(scope="session")
def convert(stages, tmp_path_factory) -> Callable[..., Path]:
    """convert(inference folder or stage, target) → file; keep: without the diet."""
    from export import diet, opt, program

    root = tmp_path_factory.mktemp("diet")

    def make(source: str | Path, target: str, *, fp16: bool = False, keep: bool = False) -> Path:
        inference = stages(source) / "inference" if isinstance(source, str) else source
        name = f"{source if isinstance(source, str) else source.name}-{target}-{fp16}-{keep}"
        path = root / f"{name}.nb"
        if not path.exists():
            (root / name).mkdir()
            model = diet.before_opt(program.read(inference), root / name, keep_attributes=keep)
            opt.convert(model.model, model.params, path, target=target, fp16=fp16)
            if not keep:
                diet.after_opt(path)
        return path

    return make
