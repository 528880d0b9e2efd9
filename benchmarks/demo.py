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
from benchmarks.render import PHONE_ONLY, html_page, markdown_table, put_in_readme, text_table
from benchmarks.run_host import DEFAULT_SHAPES as HOST_SHAPES
from benchmarks.steps import ROOT, Runner, Step, StepError

TASKS = ("det", "cls", "rec")
PRETRAINED = ROOT / "ocr_models" / "pretrained"
SAMPLES = ROOT / "samples"
# A shipped model whose figure moves by more than this on another machine is no longer the model that was shipped.
METRIC_TOLERANCE = 0.01
# A few steps are watched on a few training samples; the test split is read once, at the end.
VAL_SAMPLES = "24"
NOTES = [
    "Accuracy: on the synthetic test split, read through the runtime's own pipeline; int8 models on the fake-quantized "
    "Paddle program, because Paddle-Lite's x86 kernels compute int8 wrongly.",
    "Weights and .nb file: bytes of the ARM file. MACs: detector at 640x640, classifier at 48x192, "
    "recognizer at 32x320.",
    "The photos were read with bundle-x86: the shipped pruned detector, float classifier and recognizer.",
    "Host latency: median of one core with Paddle-Lite x86, fp32 models only; int8 latency exists on phones only.",
]


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
        self.out: Path = args.out.resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        self.runner = Runner(self.out)
        self.test = self.out / "data" / "test"
        self.train = self.out / "data" / "train"
        # What each system is made of: task → checkpoint.
        self.float = {task: PRETRAINED / task for task in TASKS}
        self.shipped = {task: PRETRAINED / "slim" / task for task in TASKS}
        self.shipped_pruned = PRETRAINED / "slim" / "det-pruned"
        self.demo = {task: self.out / "slim" / task for task in TASKS}
        self.demo_pruned = self.out / "slim" / "det-pruned"

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
            self._synthesize("test split", "configs/synth_test.yaml", self.test),
            self._synthesize("training data", "configs/synth_demo.yaml", self.train),
        )

    def slim(self) -> None:
        """FPGM on the detector, PACT on all three, each with a few steps of training."""
        ratio = json.loads((self.shipped_pruned / artifact.MANIFEST).read_text())["extra"]["pruning"]["ratio"]
        self.runner.run(
            self._train("prune det", "slim/prune.py", self.float["det"], self.demo_pruned, "--ratio", str(ratio)),
            self._train("quantize cls", "slim/quantize.py", self.float["cls"], self.demo["cls"]),
        )
        self.runner.run(
            self._train("quantize det", "slim/quantize.py", self.demo_pruned, self.demo["det"]),
            self._train("quantize rec", "slim/quantize.py", self.float["rec"], self.demo["rec"]),
        )

    def export(self) -> None:
        """Inference models of everything; `.nb` for arm, and for x86 where the weights are floats."""
        checkpoints = self._checkpoints()
        self.runner.run(
            *[
                self._step(f"export {name}", ("export/to_inference.py", folder), self._inference(name), (folder,))
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
                    ("export/to_nb.py", self._inference(name), "--target", target),
                    self._nb(name, target),
                    (self._inference(name),),
                )
                for name, target in conversions
            ]
        )

    def prove(self) -> None:
        """Trainable network = paddle.inference = Paddle-Lite, and int8 by structure."""
        checks = []
        for name, checkpoint in self._checkpoints().items():
            files = [self._nb(name, target) for target in ("x86", "arm") if self._nb(name, target).exists()]
            folders = (checkpoint, self._inference(name), *files)
            report = self.out / "parity" / f"{name.replace('/', '-')}.json"
            report.parent.mkdir(parents=True, exist_ok=True)
            argv = ("export/check_parity.py", *folders, "--data", self.test)
            checks.append(self._step(f"parity {name}", argv, report, folders, may_fall_short=True))
        self.runner.run(*checks)

    def bundle(self) -> None:
        """Bundles of the shipped models: a detector that was pruned and trained for a few steps finds little."""
        slim = {task: self._nb(f"shipped/{task}", "arm") for task in TASKS}
        host = {task: self._nb(f"float/{task}", "x86") for task in TASKS} | {
            "det": self._nb("shipped/det-pruned", "x86")
        }
        self.runner.run(
            *[
                self._step(
                    name,
                    ("export/bundle.py", *(part for task in TASKS for part in (f"--{task}", parts[task]))),
                    self.out / name,
                    tuple(parts.values()),
                )
                for name, parts in (("bundle", slim), ("bundle-x86", host))
            ]
        )

    def read_photos(self) -> None:
        bundle = self.out / "bundle-x86"
        argv = ("lite_runtime/recognize.py", SAMPLES, "--models", bundle)
        self.runner.run(self._step("read photos", argv, self.out / "photos", (bundle, SAMPLES)))

    def evaluate(self) -> None:
        """Every system on the test split, through the runtime's own pipeline on Paddle's inference engine."""
        steps = []
        for name in ("float", "shipped", "demo"):
            folders = tuple(self._inference(f"{name}/{task}") for task in TASKS)
            argv: tuple[Any, ...] = ("slim/evaluate.py", *folders, "--data", self.test)
            if self.args.scenes:
                argv += ("--limit", str(self.args.scenes))
            out = self.out / "metrics" / f"{name}.json"
            out.parent.mkdir(parents=True, exist_ok=True)
            steps.append(self._step(f"evaluate {name}", argv, out, (*folders, self.test / "dataset.json")))
        self.runner.run(*steps)

    def measure(self) -> None:
        """Host latency of what may run on x86: the float models and the pruned detectors."""
        names = ("float/det", "shipped/det-pruned", "demo/det-pruned", "float/cls", "float/rec")
        folders = tuple(self._nb(name, "x86") for name in names)
        argv = ("benchmarks/run_host.py", *folders, "--rounds", str(self.args.rounds))
        self.runner.run(self._step("latency", argv, self.out / "latency.json", folders, show=True))

    def results(self) -> dict[str, Any]:
        """Everything the table shows, gathered from the artifacts and from what the other commands wrote."""
        from ocr_models import checkpoints, complexity

        work = {}
        for name, folder in self._checkpoints().items():
            if artifact.load(folder).quantized:
                continue
            network, manifest = checkpoints.load_network(folder)
            macs = complexity.macs(network, HOST_SHAPES[manifest.task])
            work[name] = {"params": complexity.params(network), "macs": macs}
        latency = {
            Path(row["artifact"]): {
                "median": row["median_ms"],
                "low": row["median_low_ms"],
                "high": row["median_high_ms"],
            }
            for row in json.loads((self.out / "latency.json").read_text(encoding="utf-8"))["models"]
        }
        reports = {
            name: json.loads((self.out / "metrics" / f"{name}.json").read_text(encoding="utf-8"))
            for name in ("float", "shipped", "demo")
        }
        labels = {"float": "float", "shipped": "shipped", "demo": f"demo ({self.args.steps} steps)"}
        rows = []
        for task in TASKS:
            rows.append(self._row(labels, reports, work, latency, "float", task, "fp32"))
            for name in ("shipped", "demo"):
                if task == "det":
                    rows.append(self._row(labels, {}, work, latency, name, "det-pruned", "pruned fp32"))
                form = "pruned + int8" if task == "det" else "int8"
                rows.append(self._row(labels, reports, work, latency, name, task, form))
        for name in ("float", "shipped", "demo"):
            files = [row for row in rows if row["variant"] == labels[name] and row["form"] != "pruned fp32"]
            rows.append(
                {
                    "task": "system",
                    "variant": labels[name],
                    "form": "",
                    "params": sum(row["params"] for row in files),
                    "macs": None,
                    "weight_bytes": sum(row["weight_bytes"] for row in files),
                    "nb_bytes": sum(row["nb_bytes"] for row in files),
                    "metric": metric_of(reports[name], "system"),
                    "latency_ms": None,
                }
            )
        return {"schema": 1, "complete": not self.args.scenes, "rows": rows}

    def _row(
        self,
        labels: dict[str, str],
        reports: dict[str, Any],
        work: dict[str, Any],
        latency: dict[Path, Any],
        system: str,
        model: str,
        form: str,
    ) -> dict[str, Any]:
        name = f"{system}/{model}"
        nb = artifact.load(self._nb(name, "arm"), verify=False)
        # Quantizing changes neither shapes nor work, so an int8 row shows those of the network that it was made of.
        shape = {"det": f"{system}/det-pruned", "cls": "float/cls", "rec": "float/rec"}
        measured = work[name] if name in work else work[shape[model]]
        return {
            "task": nb.task,
            "variant": labels[system],
            "form": form,
            **measured,
            "weight_bytes": nb.extra["bytes"]["weights"] + nb.extra["bytes"].get("scales", 0),
            "nb_bytes": nb.files["model.nb"]["bytes"],
            "metric": metric_of(reports[system], nb.task) if reports else self._recorded(system, model),
            "latency_ms": PHONE_ONLY if nb.quantized else latency[self._nb(name, "x86")],
        }

    def _recorded(self, system: str, model: str) -> dict[str, Any] | None:
        """The figure in a shipped checkpoint's manifest; the demo's own were measured on a handful of samples."""
        if system != "shipped":
            return None
        return {"name": "hmean", "value": artifact.load(self._checkpoints()[f"{system}/{model}"]).metrics["hmean"]}

    def publish(self, results: dict[str, Any]) -> None:
        """Make the figures of the float and the shipped models those of the package and of the README."""
        rows = [row for row in results["rows"] if row["variant"] in ("float", "shipped")]
        text = json.dumps({**results, "rows": rows}, indent=2, ensure_ascii=False) + "\n"
        command.write_text(PRETRAINED / "results.json", text)
        put_in_readme(ROOT / "README.md", rows)
        for variant, bundle in (("float", "x86"), ("shipped", "arm-slim")):
            [system] = [row for row in rows if row["task"] == "system" and row["variant"] == variant]
            manifest = artifact.load(PRETRAINED / bundle, kind="bundle")
            record = manifest.replace(metrics={"f_score": system["metric"]["value"]}).to_json()
            text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
            command.write_text(PRETRAINED / bundle / artifact.MANIFEST, text)

    def write_report(self, results: dict[str, Any]) -> str:
        """results.json, table.md and report.html in OUT; returns the table as text."""
        recorded = json.loads((self.out / "photos" / "results.json").read_text(encoding="utf-8"))["images"]
        photos = [
            {
                "title": Path(image["image"]).stem,
                "image": self.out / "photos" / image["annotated"],
                "lines": [(line["text"], line["score"]) for line in image["lines"]],
            }
            for image in recorded
        ]
        rows = results["rows"]
        command.write_text(self.out / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
        command.write_text(self.out / "table.md", markdown_table(rows) + "\n")
        command.write_text(self.out / "report.html", html_page("PP-OCR Edge: before and after", rows, photos, NOTES))
        return text_table(rows)

    def _checkpoints(self) -> dict[str, Path]:
        systems = {"float": self.float, "shipped": self.shipped, "demo": self.demo}
        found = {f"{name}/{task}": folder for name, tasks in systems.items() for task, folder in tasks.items()}
        return found | {"shipped/det-pruned": self.shipped_pruned, "demo/det-pruned": self.demo_pruned}

    def _inference(self, name: str) -> Path:
        return self.out / "inference" / name

    def _nb(self, name: str, target: str) -> Path:
        return self.out / "nb" / target / name

    def _synthesize(self, name: str, recipe: str, out: Path) -> Step:
        argv = ("slim/synthesize.py", "--recipe", recipe)
        return self._step(name, argv, out, (Path(recipe),))

    def _train(self, name: str, verb: str, source: Path, out: Path, *options: str) -> Step:
        steps = str(self.args.steps)
        argv = (verb, source, "--data", self.train, "--steps", steps, "--val-samples", VAL_SAMPLES, *options)
        return self._step(name, argv, out, (source, self.train / "dataset.json"))

    def _step(self, name: str, argv: tuple[Any, ...], output: Path, inputs: tuple[Path, ...], **kw: Any) -> Step:
        full = (*(str(part) for part in argv), "--out", str(output))
        return Step(name, full, output, tuple(inputs), **kw)


def run(args: argparse.Namespace) -> int:
    if args.steps < 1 or args.scenes < 0 or args.rounds < 1:
        raise command.UsageError(
            f"expected --steps ≥ 1, --scenes ≥ 0, --rounds ≥ 1, found {args.steps}, {args.scenes}, {args.rounds}"
        )
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
    results = demo.results()
    text = demo.write_report(results)
    if args.publish:
        if not results["complete"]:
            raise command.UsageError("expected --publish with the whole test split, found --scenes; leave one out")
        demo.publish(results)
    short = [*demo.runner.fell_short, *drift(results, demo.shipped)]
    minutes = (time.monotonic() - start) / 60
    text += f"\n\nreport: {demo.out / 'report.html'}   bundles: {demo.out / 'bundle'}, {demo.out / 'bundle-x86'}"
    text += f"   {minutes:.1f} min"
    text += "".join(f"\nfell short: {name}" for name in short)
    command.emit(args, results, text)
    return command.EXIT_CHECK_FAILED if short else command.EXIT_DONE


def metric_of(report: dict[str, Any], task: str) -> dict[str, Any]:
    """The one figure of a task that the table shows, out of what slim/evaluate.py wrote."""
    headline = {"det": "hmean", "cls": "accuracy", "rec": "accuracy", "system": "f_score"}[task]
    result = report["results"][task]
    low, high = result["intervals"][headline]
    return {
        "name": headline,
        "value": result["metrics"][headline],
        "low": low,
        "high": high,
        "samples": result["samples"],
    }


def drift(results: dict[str, Any], shipped: dict[str, Path]) -> list[str]:
    """Shipped models whose figure here is not the recorded one, each with both figures."""
    recorded = {task: artifact.load(folder).metrics for task, folder in shipped.items()}
    recorded["system"] = artifact.load(PRETRAINED / "arm-slim").metrics
    found = []
    for row in results["rows"]:
        metric = row["metric"]
        if row["variant"] != "shipped" or metric is None or metric["name"] not in recorded[row["task"]]:
            continue
        expected = recorded[row["task"]][metric["name"]]
        if results["complete"] and abs(expected - metric["value"]) > METRIC_TOLERANCE:
            found.append(
                f"{row['task']}: expected {metric['name']} {expected:.4f} as shipped, found {metric['value']:.4f}"
            )
    return found


if __name__ == "__main__":
    command.main(build_parser(), run)
