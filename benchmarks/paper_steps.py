"""The steps that make, export, measure and time the models of benchmarks/paper_models.py, each as a child process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import command
from benchmarks.paper_models import EXPORTED, FLOAT_FORMS, PARAMS_RATIO, TASKS, VARIANTS, Key, Places, systems
from benchmarks.steps import ROOT, Runner, Step

SAMPLES = ROOT / "samples"
TRAIN, VAL, TEST = "train", "val", "test"
RECIPES = {TRAIN: "configs/synth_train.yaml", VAL: "configs/synth_val.yaml", TEST: "configs/synth_test.yaml"}
FACES = {False: "configs/fonts_train.yaml", True: "configs/fonts_demo.yaml"}
# What a run on tiny data trains and validates on: faces that come with matplotlib, no sensitivity, few samples.
QUICK_RECIPE, QUICK_SAMPLES = "configs/synth_demo.yaml", "24"


@dataclass(frozen=True)
class Options:
    """scale: of every training's steps. limit: test samples a task, None for all. quick: little data, no sensitivity.

    data: folder with train/, val/ and test/; a split that it lacks is drawn into the command's own folder.
    """

    scale: float = 1.0
    limit: int | None = None
    quick: bool = False
    rounds: int = 30
    data: Path | None = None


@dataclass
class Steps:
    """models: (task, variant) → checkpoint, of those that exist; failed: why the others do not."""

    places: Places
    runner: Runner
    options: Options
    models: dict[Key, Path]
    failed: dict[Key, str] = field(default_factory=dict)
    data: dict[str, Path] = field(default_factory=dict)

    def make_data(self, training: bool) -> None:
        """Find or draw the splits that are needed; the test split is checked by its hash when it is drawn."""
        needed = [TEST, *([TRAIN, VAL] if training else [])]
        own = self.places.out / "data"
        drawn = []
        for split in needed:
            given = self.options.data / split if self.options.data else None
            if given is not None and _labelled(given):
                self.data[split] = given.resolve()
            elif split == VAL and self.options.quick:
                self.data[split] = self.data[TRAIN]
            else:
                recipe = QUICK_RECIPE if split == TRAIN and self.options.quick else RECIPES[split]
                self.data[split] = own / split
                argv = ("slim/synthesize.py", "--recipe", recipe, "--out", str(own / split))
                drawn.append(Step(f"{split} data", argv, own / split, (ROOT / recipe,)))
        if any(step.name != f"{TEST} data" for step in drawn):
            faces = FACES[self.options.quick]
            folder = ROOT / "data" / ("fonts_demo" if self.options.quick else "fonts")
            fetch = ("slim/fetch_fonts.py", "--fonts", faces)
            self.runner.run(Step("fonts", fetch, folder, (ROOT / faces,), shared=True))
        self.runner.run(*drawn)

    def train(self, wanted: Iterable[Key]) -> None:
        """Make what is wanted, and what it is made of; what fails is noted, and what depends on it left out."""
        missing = {key for key in wanted if key not in self.models}
        missing |= {(task, VARIANTS[variant].of) for task, variant in missing} - set(self.models)
        first = [key for key in sorted(missing) if VARIANTS[key[1]].of == "float"]
        if not self.options.quick:
            pruned = [task for task, variant in first if variant == "fpgm"]
            self.runner.run(*(self._sensitivity(task) for task in pruned))
        self._made(first)
        later = [key for key in sorted(missing - set(first)) if (key[0], VARIANTS[key[1]].of) in self.models]
        for key in sorted(missing - set(first) - set(later)):
            self.failed[key] = "what it is made of could not be made"
        self._made(later)

    def _made(self, keys: list[Key]) -> None:
        made = {key: self._training(key) for key in keys}
        self.runner.run(*made.values())
        for key, step in made.items():
            if step.name in self.runner.failed:
                self.failed[key] = self.runner.failed[step.name]
            else:
                self.models[key] = step.output

    def _sensitivity(self, task: str) -> Step:
        checkpoint, data = self.models[task, "float"], self.data[VAL]
        argv = ("slim/sensitivity.py", checkpoint, "--data", data)
        return step(f"sensitivity {task}", argv, self.places.sensitivity(task), (checkpoint, data / task / "label.txt"))

    def _training(self, key: Key) -> Step:
        task, variant = key
        made = VARIANTS[variant]
        source, train, val = self.models[task, made.of], self.data[TRAIN], self.data[VAL]
        argv: tuple[Any, ...] = (made.by, source, "--data", train, "--val", val, *made.options)
        inputs = [source, train / task / "label.txt", val / task / "label.txt"]
        if "ptq" not in variant:
            argv += ("--steps", self._steps(made.by, task))
        if self.options.quick:
            argv += ("--val-samples", QUICK_SAMPLES)
        if variant == "fpgm":
            # Timed with all others by `measure`, not on a machine that trains two models.
            argv += ("--params-ratio", PARAMS_RATIO[task], "--no-latency")
            if not self.options.quick:
                argv += ("--sensitivity", self.places.sensitivity(task))
                inputs.append(self.places.sensitivity(task) / "sensitivity.json")
        return step(f"{task} {variant}", argv, self.places.checkpoint(key), inputs, may_fail=True)

    def _steps(self, verb: str, task: str) -> int:
        """The recipe's own number, scaled."""
        recipe = ROOT / "configs" / f"{Path(verb).stem}.yaml"
        steps = yaml.safe_load(recipe.read_text(encoding="utf-8"))[task]["steps"]
        return max(1, round(steps * self.options.scale))

    def export(self) -> None:
        """Inference models of all; `.nb` for arm of all, for x86 of those in floats."""
        for variant, (of, _) in EXPORTED.items():
            if ("rec", of) in self.models:
                self.models["rec", variant] = self.models["rec", of]
        self.runner.run(*(self._inference(key) for key in self.models))
        self.runner.run(*(self._nb(key, "arm") for key in self.models))
        self.runner.run(*(self._nb(key, "x86") for key in self.models if key[1] in FLOAT_FORMS))

    def _inference(self, key: Key) -> Step:
        checkpoint = self.models[key]
        argv = ("export/to_inference.py", checkpoint, *EXPORTED.get(key[1], ("", ()))[1])
        return step(f"export {' '.join(key)}", argv, self.places.inference(key), (checkpoint,))

    def _nb(self, key: Key, target: str) -> Step:
        inference = self.places.inference(key)
        argv = ("export/to_nb.py", inference, "--target", target)
        return step(f"convert {' '.join(key)} {target}", argv, self.places.nb(key, target), (inference,))

    def evaluate(self, finished: Mapping[Key, Path]) -> dict[str, dict[str, str]]:
        """Every model, then every system, on the test split, on Paddle's inference engine; see paper_models.systems."""
        found = systems(self.models, finished)
        self.places.metrics(("det", "float")).parent.mkdir(parents=True, exist_ok=True)
        self.runner.run(*(self._evaluation(key, [self.places.inference(key)]) for key in self.models))
        self.runner.run(
            *(
                self._evaluation(("system", name), [self.places.inference((task, parts[task])) for task in TASKS])
                for name, parts in found.items()
            )
        )
        return found

    def _evaluation(self, key: Key, folders: list[Path]) -> Step:
        data = self.data[TEST]
        argv: tuple[Any, ...] = ("slim/evaluate.py", *folders, "--data", data, "--per-image", self.places.images(key))
        if key[0] == "system":
            argv += ("--end-to-end",)
        if self.options.limit:
            argv += ("--limit", self.options.limit)
        labels = data / ("det" if key[0] == "system" else key[0]) / "label.txt"
        return step(f"evaluate {' '.join(key)}", argv, self.places.metrics(key), (*folders, labels))

    def measure(self, found: Mapping[str, Mapping[str, str]]) -> None:
        """Host latency of the models, then of the systems, that may run on x86; drift hits all of a run alike."""
        folders = [self.places.nb(key, "x86") for key in self.models if key[1] in FLOAT_FORMS]
        argv = ("benchmarks/run_host.py", *folders, "--rounds", self.options.rounds)
        self.runner.run(step("latency", argv, self.places.latency, folders, show=True))
        parts = [
            self.places.nb((task, system[task]), "x86")
            for system in found.values()
            if set(system.values()) <= set(FLOAT_FORMS)
            for task in TASKS
        ]
        argv = ("benchmarks/run_photos.py", *parts, "--photos", SAMPLES, "--rounds", max(1, self.options.rounds // 5))
        inputs = (*dict.fromkeys(parts), SAMPLES)
        self.runner.run(step("latency of systems", argv, self.places.photo_latency, inputs, show=True))


def step(name: str, argv: Iterable[Any], output: Path, inputs: Iterable[Path], **more: Any) -> Step:
    """A step whose command takes --out."""
    return Step(name, (*(str(part) for part in argv), "--out", str(output)), output, tuple(inputs), **more)


def _labelled(folder: Path) -> bool:
    found = [task for task in TASKS if (folder / task / "label.txt").is_file()]
    if found and len(found) < len(TASKS):
        raise command.UsageError(
            f"{folder}: expected {', '.join(f'{task}/label.txt' for task in TASKS)}, found only that of "
            f"{', '.join(found)}; draw it again with slim/synthesize.py"
        )
    return bool(found)
