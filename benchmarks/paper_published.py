"""The same compression on models that were really trained, PaddleOCR's published v2.0 ones, and what it changed.

No labels say how well the published models read the photos, so their slim versions are compared with them: the same
boxes, the same texts. hmean on ten labelled photos is information only. The Chinese recognizer is quantized for its
byte count: calibrated on drawn lines, not trained.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import artifact
import command
from benchmarks.compare_published import CHARSET, ICDAR, PUBLISHED_MODELS
from benchmarks.paper_models import QUANTIZE, TASKS, Key, Places
from benchmarks.paper_rows import nb_bytes
from benchmarks.paper_steps import Steps, step
from benchmarks.steps import Runner, Step

CHINESE, CHINESE_CHARSET = "ch_ppocr_mobile_v2.0_rec_infer", Path("charsets") / "ppocr_keys_v1.txt"
SLIM = {"det": "both", "cls": "pact", "rec": "pact"}
# form: whose checkpoint, options of its export
CHINESE_FORMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "float": ("float", ()),
    "ptq-mse": ("ptq-mse", ()),
    "ptq-mse-lstm": ("ptq-mse", ("--lstm", "uint8")),
}
QUICK_PHOTOS = 2


class Published:
    """folder: published models, charsets and images. steps: what the same command did for our own models."""

    def __init__(self, folder: Path, steps: Steps) -> None:
        self.folder, self.out = folder, steps.places.out / "published"
        for part in (*(Path("models") / name for name in (*PUBLISHED_MODELS.values(), CHINESE)),
                     CHARSET, CHINESE_CHARSET, ICDAR):  # fmt: skip
            if not (folder / part).exists():
                raise command.UsageError(
                    f"{folder}: expected {part} in it, found none; give the folder of the published models"
                )
        self.out.mkdir(parents=True, exist_ok=True)
        runner = Runner(self.out, follow_code=steps.runner.follow_code)
        self.steps = dataclasses.replace(
            steps, places=Places(self.out), runner=runner, models={}, failed={}, data=steps.data
        )

    @property
    def places(self) -> Places:
        return self.steps.places

    def run(self) -> dict[str, Any]:
        """{"models", "agreement", "icdar2015_det", "chinese"}; see `gather`."""
        imports = [
            self._import(self.places.checkpoint((task, "float")), name, CHARSET if task == "rec" else None)
            for task, name in PUBLISHED_MODELS.items()
        ]
        self.steps.runner.run(*imports)
        self.steps.models.update({(task, "float"): self.places.checkpoint((task, "float")) for task in TASKS})
        self.steps.train(SLIM.items())
        if self.steps.failed:
            (task, variant), why = next(iter(self.steps.failed.items()))
            raise command.ModelError(f"published {task} {variant}: {why}")
        self.steps.export()
        self.steps.runner.run(*(self._hmean(key) for key in self.steps.models if key[0] == "det"))
        self.steps.runner.run(self._twins())
        self._chinese()
        return self.gather()

    def gather(self) -> dict[str, Any]:
        """models: bytes of each; agreement: see compare_twins.py; icdar2015_det: hmean by variant; chinese: bytes."""
        twins = _read_json(self.out / "agreement.json")
        return {
            "models": [
                {"task": task, "variant": variant, **nb_bytes(artifact.load(self.places.nb((task, variant), "arm")))}
                for task, variant in sorted(self.steps.models)
            ],
            "agreement": {name: twins[name] for name in ("total", "folders", "words")},
            "icdar2015_det": {
                variant: _read_json(self._hmean_file((task, variant)))["results"]["det"]["metrics"]["hmean"]
                for task, variant in self.steps.models
                if task == "det"
            },
            "chinese": [
                {
                    "task": "chinese",
                    "variant": form,
                    "differences": {},
                    **nb_bytes(artifact.load(self._chinese_place("nb", form))),
                }
                for form in CHINESE_FORMS
            ],
        }

    def _import(self, out: Path, name: str, charset: Path | None) -> Step:
        source = self.folder / "models" / name
        argv: tuple[Any, ...] = ("ocr_models/import_weights.py", source)
        if charset:
            argv += ("--charset", self.folder / charset)
        return step(f"import {name}", argv, out, (source,))

    def _hmean_file(self, key: Key) -> Path:
        return self.places.metrics(("icdar", key[1]))

    def _hmean(self, key: Key) -> Step:
        """On ten photos, whose labels are written with absolute paths, so that no photo is copied."""
        data = self.out / "icdar"
        (data / "det").mkdir(parents=True, exist_ok=True)
        photos = (self.folder / ICDAR).parent.resolve()
        rows = (self.folder / ICDAR).read_text(encoding="utf-8").splitlines()
        labels = data / "det" / "label.txt"
        command.write_text(labels, "".join(f"{photos / row}\n" for row in rows if row))
        self._hmean_file(key).parent.mkdir(parents=True, exist_ok=True)
        argv: tuple[Any, ...] = ("slim/evaluate.py", self.places.inference(key), "--data", data)
        if self.steps.options.quick:
            argv += ("--limit", QUICK_PHOTOS)
        return step(f"hmean {' '.join(key)}", argv, self._hmean_file(key), (self.places.inference(key), labels))

    def _twins(self) -> Step:
        first = [self.places.inference((task, "float")) for task in TASKS]
        second = [self.places.inference((task, SLIM[task])) for task in TASKS]
        photos = self.folder / "images"
        argv: tuple[Any, ...] = (
            "benchmarks/compare_twins.py", "--reference", *first, "--other", *second, "--photos", photos,
        )  # fmt: skip
        if self.steps.options.quick:
            argv += ("--limit", QUICK_PHOTOS)
        return step("agreement", argv, self.out / "agreement.json", (*first, *second, photos), show=True)

    def _chinese_place(self, kind: str, form: str) -> Path:
        return self.out / "chinese" / kind / form

    def _chinese(self) -> None:
        checkpoint = {form: self._chinese_place("models", form) for form, _ in CHINESE_FORMS.values()}
        self.steps.runner.run(self._import(checkpoint["float"], CHINESE, CHINESE_CHARSET))
        data = self.steps.data["train"]
        argv = (QUANTIZE, checkpoint["float"], "--data", data, "--method", "ptq", "--calibration", "mse",
                "--val-samples", "24")  # fmt: skip
        inputs = (checkpoint["float"], data / "rec" / "label.txt")
        self.steps.runner.run(step("chinese ptq-mse", argv, checkpoint["ptq-mse"], inputs))
        inference = []
        for form, (source, options) in CHINESE_FORMS.items():
            export = ("export/to_inference.py", checkpoint[source], *options)
            out = self._chinese_place("inference", form)
            inference.append(step(f"chinese export {form}", export, out, (checkpoint[source],)))
        self.steps.runner.run(*inference)
        self.steps.runner.run(
            *(
                step(
                    f"chinese convert {form}",
                    ("export/to_nb.py", self._chinese_place("inference", form), "--target", "arm"),
                    self._chinese_place("nb", form),
                    (self._chinese_place("inference", form),),
                )
                for form in CHINESE_FORMS
            )
        )


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
