"""The main job, end to end, on the default models: prune, quantize, export, prove, read, measure.

    python benchmarks/demo.py --out out/demo

Leaves bundle (arm, slim) and bundle-x86 of the shipped models, results.json and report.html in OUT. A second run keeps
what is still valid. The few training steps here show that the chain works; the `shipped` models come from a long run of
the same commands.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import artifact
import command
from benchmarks import results
from benchmarks.layout import PRETRAINED, SYSTEMS, TASKS, Layout, export_options
from benchmarks.steps import ROOT, Runner, Step, StepError

SAMPLES = ROOT / "samples"
# A few steps are watched on a few training samples; the test split is read once, at the end.
VAL_SAMPLES = "24"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="demo.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for everything (default out/demo)")
    parser.add_argument("--steps", type=int, default=20, help="training steps of each model (default 20)")
    parser.add_argument("--scenes", type=int, default=0, help="test images a task; 0 takes the whole test split")
    parser.add_argument("--rounds", type=int, default=20, help="latency rounds (default 20)")
    parser.add_argument(
        "--publish", action="store_true", help="write the shipped models' figures into the package and the README"
    )
    command.add_common(parser)
    return parser


class Demo:
    """The steps of the main job, in the order of the README's chapters."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.layout = Layout(args.out.resolve())
        self.out = self.layout.out
        self.out.mkdir(parents=True, exist_ok=True)
        self.runner = Runner(self.out)

    def read_first_photo(self) -> None:
        photo = sorted(SAMPLES.glob("*.jpg"))[0]
        out = self.out / "first"
        self.runner.run(
            self._step("first text", ("lite_runtime/recognize.py", photo), out, (photo, PRETRAINED / "x86"), show=True)
        )

    def make_data(self) -> None:
        """The test split, checked by its hash, and a little training data in faces that come with matplotlib."""
        faces = "configs/fonts_demo.yaml"
        fetch = ("slim/fetch_fonts.py", "--fonts", faces)
        self.runner.run(Step("fonts", fetch, ROOT / "data" / "fonts_demo", (Path(faces),)))
        self.runner.run(
            self._synthesize("test split", "configs/synth_test.yaml", self.layout.test_data),
            self._synthesize("training data", "configs/synth_demo.yaml", self.layout.train_data),
        )

    def slim(self) -> None:
        """FPGM on the detector, PACT on all three, each with a few steps of training."""
        shipped = json.loads((self.layout.checkpoint("shipped/det-pruned") / artifact.MANIFEST).read_text())
        ratio = str(shipped["extra"]["pruning"]["ratio"])
        self.runner.run(
            self._train("prune det", "slim/prune.py", "float/det", "demo/det-pruned", "--ratio", ratio),
            self._train("quantize cls", "slim/quantize.py", "float/cls", "demo/cls"),
        )
        self.runner.run(
            self._train("quantize det", "slim/quantize.py", "demo/det-pruned", "demo/det"),
            self._train("quantize rec", "slim/quantize.py", "float/rec", "demo/rec"),
        )

    def export(self) -> None:
        """Inference models of everything; `.nb` for arm, and for x86 where the weights are floats."""
        checkpoints = self.layout.checkpoints()
        self.runner.run(
            *[
                self._step(f"export {name}", self._export(name, folder), self.layout.inference(name), (folder,))
                for name, folder in checkpoints.items()
            ]
        )
        conversions = []
        for name in checkpoints:
            slim = name.split("/")[0] != "float" and not name.endswith("-pruned")
            conversions += [(name, target) for target in (("arm",) if slim else ("arm", "x86"))]
        self.runner.run(
            *[
                self._step(
                    f"convert {name} {target}",
                    ("export/to_nb.py", self.layout.inference(name), "--target", target),
                    self.layout.nb(name, target),
                    (self.layout.inference(name),),
                )
                for name, target in conversions
            ]
        )

    @staticmethod
    def _export(name: str, checkpoint: Path) -> tuple[str | Path, ...]:
        system, _, model = name.partition("/")
        return ("export/to_inference.py", checkpoint, *export_options(model, int8=system != "float"))

    def prove(self) -> None:
        """Trainable network = paddle.inference = Paddle-Lite, and int8 by structure."""
        checks = []
        for name, checkpoint in self.layout.checkpoints().items():
            files = [self.layout.nb(name, target) for target in ("x86", "arm") if self.layout.nb(name, target).exists()]
            folders = (checkpoint, self.layout.inference(name), *files)
            report = self.out / "parity" / f"{name.replace('/', '-')}.json"
            report.parent.mkdir(parents=True, exist_ok=True)
            argv = ("export/check_parity.py", *folders, "--data", self.layout.test_data)
            checks.append(self._step(f"parity {name}", argv, report, folders, may_fall_short=True))
        self.runner.run(*checks)

    def bundle(self) -> None:
        """Bundles of the shipped models: a detector that was pruned and trained for a few steps finds little."""
        slim = {task: f"shipped/{task}" for task in TASKS}
        host = {**{task: f"float/{task}" for task in TASKS}, "det": "shipped/det-pruned"}
        self.runner.run(
            *[
                self._bundle_step(name, target, models)
                for name, target, models in (("bundle", "arm", slim), ("bundle-x86", "x86", host))
            ]
        )

    def _bundle_step(self, name: str, target: str, models: dict[str, str]) -> Step:
        parts = {task: self.layout.nb(model, target) for task, model in models.items()}
        sources = tuple(self.layout.inference(model) for model in models.values())
        argv = ("export/bundle.py", *(part for task in TASKS for part in (f"--{task}", parts[task])))
        return self._step(name, (*argv, "--inference", *sources), self.out / name, (*parts.values(), *sources))

    def read_photos(self) -> None:
        bundle = self.out / "bundle-x86"
        argv = ("lite_runtime/recognize.py", SAMPLES, "--models", bundle)
        self.runner.run(self._step("read photos", argv, self.layout.photos, (bundle, SAMPLES)))

    def evaluate(self) -> None:
        """Every system on the test split, through the runtime's own pipeline on Paddle's inference engine."""
        steps = []
        for name in SYSTEMS:
            folders = tuple(self.layout.inference(f"{name}/{task}") for task in TASKS)
            argv: tuple[Any, ...] = ("slim/evaluate.py", *folders, "--data", self.layout.test_data)
            if self.args.scenes:
                argv += ("--limit", str(self.args.scenes))
            out = self.layout.metrics(name)
            out.parent.mkdir(parents=True, exist_ok=True)
            steps.append(self._step(f"evaluate {name}", argv, out, (*folders, self.layout.test_data / "dataset.json")))
        self.runner.run(*steps)

    def measure(self) -> None:
        """Host latency of what may run on x86: the float models and the pruned detectors."""
        names = ("float/det", "shipped/det-pruned", "demo/det-pruned", "float/cls", "float/rec")
        folders = tuple(self.layout.nb(name, "x86") for name in names)
        argv = ("benchmarks/run_host.py", *folders, "--rounds", str(self.args.rounds))
        self.runner.run(self._step("latency", argv, self.layout.latency, folders, show=True))

    def _synthesize(self, name: str, recipe: str, out: Path) -> Step:
        argv = ("slim/synthesize.py", "--recipe", recipe)
        return self._step(name, argv, out, (Path(recipe),))

    def _train(self, name: str, verb: str, source: str, made: str, *options: str) -> Step:
        checkpoint, data = self.layout.checkpoint(source), self.layout.train_data
        steps = ("--steps", str(self.args.steps), "--val-samples", VAL_SAMPLES)
        argv = (verb, checkpoint, "--data", data, *steps, *options)
        return self._step(name, argv, self.layout.checkpoint(made), (checkpoint, data / "dataset.json"))

    def _step(self, name: str, argv: tuple[Any, ...], output: Path, inputs: tuple[Path, ...], **kw: Any) -> Step:
        full = (*(str(part) for part in argv), "--out", str(output))
        return Step(name, full, output, tuple(inputs), **kw)


def run(args: argparse.Namespace) -> int:
    if args.steps < 1 or args.scenes < 0 or args.rounds < 1:
        raise command.UsageError(
            f"expected --steps ≥ 1, --scenes ≥ 0, --rounds ≥ 1, found {args.steps}, {args.scenes}, {args.rounds}"
        )
    if args.publish and args.scenes:
        raise command.UsageError("expected --publish with the whole test split, found --scenes; leave one out")
    start = time.monotonic()
    demo = Demo(args)
    try:
        for stage in (
            demo.read_first_photo,
            demo.make_data,
            demo.slim,
            demo.export,
            demo.prove,
            demo.bundle,
            demo.read_photos,
            demo.evaluate,
            demo.measure,
        ):
            stage()
    except StepError as error:
        raise command.UsageError(str(error)) from None
    found = results.gather(demo.layout, args.steps, complete=not args.scenes)
    text = results.write_report(demo.layout, found)
    if args.publish:
        results.publish(demo.layout, found)
    short = [*demo.runner.fell_short, *results.drift(found, results.shipped_metrics(demo.layout))]
    minutes = (time.monotonic() - start) / 60
    text += f"\n\nreport: {demo.out / 'report.html'}   bundles: {demo.out / 'bundle'}, {demo.out / 'bundle-x86'}"
    text += f"   {minutes:.1f} min"
    text += "".join(f"\nfell short: {name}" for name in short)
    command.emit(args, found, text)
    return command.EXIT_CHECK_FAILED if short else command.EXIT_DONE


if __name__ == "__main__":
    command.main(build_parser(), run)
