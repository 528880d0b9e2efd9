"""What prune.py and quantize.py share: their arguments, their training run, and the table from before to after.

Both take a trained checkpoint, change it, train it on, and write a checkpoint. They differ in the change.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import artifact
import command
from artifact import ArtifactError, Manifest
from ocr_models.reference import REFERENCE_SHAPES
from slim.recipes import CONFIGS, TASKS, Recipe, load_recipe
from slim.yaml_file import read_yaml

if TYPE_CHECKING:
    from paddle import nn

    from slim.training import Task, Trainer

REFERENCE_PX = {task: shape[2:] for task, shape in REFERENCE_SHAPES.items()}


@dataclass(frozen=True)
class Size:
    """What a model costs: params and weight_bytes of its export, macs of one image of the reference size."""

    params: int
    macs: int
    weight_bytes: int


@dataclass
class Job:
    """One run of a slimming command. folder, manifest: the checkpoint to begin with. task: its data and metric.

    state_folder: keeps the run's state. validation: label file that the metric is measured on; limit: on so many of
    its samples for the numbers before and after, None for all.
    """

    command: str
    folder: Path
    manifest: Manifest
    out: Path
    state_folder: Path
    recipe: Recipe
    task: Task
    validation: Path
    limit: int | None

    @property
    def reference_shape(self) -> tuple[int, int, int, int]:
        return REFERENCE_SHAPES[self.manifest.task]

    @property
    def first(self) -> bool:
        """Whether this process is the one that validates and writes."""
        from slim import ranks

        return ranks.first()

    def measure(self, network: nn.Layer) -> dict[str, Any]:
        """The metrics of a network, as they stand before and after."""
        from slim.cpu_training import fast_convolutions

        with fast_convolutions():
            return self.task.validate(network, self.limit)

    def size(self, network: nn.Layer, int8_weights: int = 0) -> Size:
        """network: float, as trained. int8_weights: how many of its exported weights take one byte instead of four."""
        from ocr_models import complexity

        params = complexity.params(network)
        return Size(params, complexity.macs(network, self.reference_shape), 4 * params - 3 * int8_weights)


def add_arguments(parser: argparse.ArgumentParser, config: str) -> None:
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="float checkpoint of a detector, … recognizer")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="training data: DIR/<task>/label.txt")
    parser.add_argument("--val", type=Path, metavar="DIR", help="validation data (default: --data)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="checkpoint to write; state in DIR.run")
    parser.add_argument("--config", type=Path, metavar="YAML", help=f"recipe (default: configs/{config}.yaml)")
    parser.add_argument("--steps", type=int, help="training steps; 0 leaves training out")
    parser.add_argument("--lr", type=float, help="peak learning rate")
    parser.add_argument("--batch", type=int, help="samples in a step, over all processes")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--val-samples", type=int, metavar="N", help="validate on N samples (default: all at the end)")
    parser.add_argument("--threads", type=int, default=1, help="threads of one process (default: 1)")
    command.add_common(parser)


def add_teacher_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--distill-weight", type=float, default=1.0, metavar="W", help="of the float model's answers in the loss"
    )
    parser.add_argument("--no-distill", action="store_true", help="learn from the labels alone")


def check_max_loss(value: float | None) -> None:
    """Raises UsageError for an impossible --max-loss."""
    if value is not None and not 0 <= value < 1:
        raise command.UsageError(f"expected --max-loss from 0 to below 1, found {value}")


def taught(job: Job, args: argparse.Namespace) -> tuple[Task, float]:
    """(the job's task, with the given checkpoint as the teacher unless the user wants none; the teacher's weight)."""
    if args.no_distill or not job.recipe.steps:
        return job.task, 0.0
    from ocr_models import checkpoints
    from slim.distill import with_teacher

    return with_teacher(job.task, checkpoints.load_network(job.folder)[0], args.distill_weight), args.distill_weight


def read_config(path: Path, settings: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """(the mapping under the key `settings`, {task: what differs from configs/<task>.yaml})."""
    record = read_yaml(path, "a recipe", "check --config")
    known = (settings, *TASKS)
    if not isinstance(record, dict) or not all(isinstance(record.get(key, {}), dict) for key in known):
        raise command.UsageError(f"{path}: expected mappings under {', '.join(known)}; correct the file")
    unknown = sorted(set(map(str, record)) - set(known))
    if unknown:
        raise command.UsageError(f"{path}: expected only {', '.join(known)}, found {', '.join(unknown)}; remove it")
    return record.get(settings, {}), {task: record.get(task, {}) for task in TASKS}


def open_job(args: argparse.Namespace, name: str, differences: dict[str, dict[str, Any]]) -> Job:
    """Check all that the user gave before anything is computed. Raises ArtifactError, ModelError or UsageError."""
    for option in ("threads", "val_samples"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise command.UsageError(f"expected --{option.replace('_', '-')} of at least 1, found {value}")
    manifest = artifact.load(args.artifact, kind="checkpoint")
    if manifest.quantized:
        raise command.ModelError(
            f"{args.artifact}: expected a float checkpoint, found a quantized one; give its parent"
        )
    recipe = _recipe(args, manifest.task, differences[manifest.task])
    state_folder = args.out.with_name(args.out.name + ".run")
    from slim.run_state import STATE

    if args.out.exists() and not (state_folder / STATE).is_file():
        raise ArtifactError(f"{args.out}: expected a folder that does not exist yet, found one; give another --out")

    from slim.cpu_environment import prepare

    prepare(args.threads)
    import cv2
    import paddle

    from slim import ranks
    from slim.scoring import find_labels
    from slim.tasks import open_task

    # Said by paddle at every batch norm of every network.
    warnings.filterwarnings("ignore", message="When training, we now always track global mean and variance")
    cv2.setNumThreads(1)  # the reading thread must not take the training's cores
    ranks.begin()
    paddle.seed(recipe.seed)
    charset = artifact.read_charset(args.artifact, manifest) if manifest.charset else []
    task = open_task(manifest, recipe, args.data, args.val or args.data, charset)
    validation = find_labels(args.val or args.data, manifest.task)
    if not args.val:
        print("validation: on the training data, because --val was not given", file=sys.stderr)
    return Job(name, args.artifact, manifest, args.out, state_folder, recipe, task, validation, args.val_samples)


def _recipe(args: argparse.Namespace, task: str, difference: dict[str, Any]) -> Recipe:
    """configs/<task>.yaml with what differs, then the command line."""
    given = {"steps": args.steps, "lr": args.lr, "batch": args.batch, "seed": args.seed}
    given = {key: value for key, value in given.items() if value is not None}
    if args.val_samples:
        given["validate_samples"] = args.val_samples
    recipe = load_recipe(CONFIGS / f"{task}.yaml", **{**difference, **given})
    return shortened(recipe, recipe.steps)


def shortened(recipe: Recipe, steps: int) -> Recipe:
    """The recipe for so many steps: a short run warms up and validates in time, too."""
    return dataclasses.replace(
        recipe,
        steps=steps,
        warmup_steps=min(recipe.warmup_steps, steps // 10),
        validate_every=min(recipe.validate_every, max(-(-steps // 3), 1)),
    )


def write(
    job: Job,
    network: nn.Layer,
    metrics: dict[str, Any],
    step: int,
    compression: dict[str, str],
    extra: dict[str, Any],
    files: Callable[[Path], None] | None = None,
) -> None:
    """Write, or replace, the job's artifact. files(folder): adds what `compression` names and the parent lacks."""
    from ocr_models import checkpoints
    from slim.scoring import measured_on

    manifest = job.manifest.replace(
        compression=compression,
        metrics={name: metrics[name] for name in job.task.metric_names},
        measured_on=measured_on(job.validation, metrics["samples"], metrics["of"]),
        parent=artifact.digest(job.folder),
        files={},
        made_by={},
        extra={
            "recipe": job.recipe.to_json(),
            "seed": job.recipe.seed,
            "steps": step,
            **extra,
        },
    )
    with artifact.create(job.out, replace=True) as temporary:
        checkpoints.save_network(network, temporary)
        if job.manifest.charset:
            shutil.copyfile(job.folder / job.manifest.charset.file, temporary / job.manifest.charset.file)
        if files:
            files(temporary)
        artifact.write(temporary, manifest, " ".join([f"slim/{job.command}", *sys.argv[1:]]))


def metrics_before(job: Job, network: nn.Layer) -> dict[str, Any]:
    """The given model's metrics on the run's validation data; remembered, so that a resumed run need not measure."""
    question = {"parent": artifact.digest(job.folder), "limit": job.limit, "data": str(job.validation)}
    path = job.state_folder / "before.json"
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["question"] == question:
            return known["metrics"]
    print("measuring the model as it is", file=sys.stderr, flush=True)
    metrics = job.measure(network)
    if job.recipe.steps:
        job.state_folder.mkdir(parents=True, exist_ok=True)
        command.write_text(path, json.dumps({"question": question, "metrics": metrics}))
    return metrics


def train(
    job: Job,
    task: Task,
    network: nn.Layer,
    identity: dict[str, Any],
    keep: Callable[[dict[str, Any], int], None],
    begin: Callable[[Trainer], None] | None = None,
    rescue: Callable[[Trainer], None] | None = None,
) -> Trainer:
    """Train `network` as the recipe says. keep(metrics, step): called while it holds the best weights so far.

    begin(trainer): called before the first step. rescue(trainer): runs the trainer, with a good state to go back to.

    The untrained start takes part in the contest: a few noisy steps may make a model worse.
    Raises Interrupted after the state is saved, ModelError for a loss that is no number.
    """
    from slim.cpu_training import fast_convolutions
    from slim.training import Trainer

    identity = {
        "command": job.command,
        "task": job.manifest.task,
        "parent": artifact.digest(job.folder),
        "seed": job.recipe.seed,
        **identity,
    }
    trainer = Trainer(
        network, task, job.recipe, job.state_folder, identity=identity, on_best=keep, keep_good=bool(rescue)
    )
    if begin:
        begin(trainer)
    with fast_convolutions():
        if trainer.step:
            print(f"resuming {job.state_folder} at step {trainer.step}", file=sys.stderr, flush=True)
        elif job.first:
            network.eval()
            metrics = task.validate(network, job.recipe.validate_samples)
            trainer.best = {"step": 0, "metrics": metrics}
            if job.recipe.steps:
                trainer.save()  # an OUT without a state to go on from would be refused by the same command
            keep(metrics, 0)
        if rescue:
            rescue(trainer)
        else:
            trainer.run()
    return trainer


def report(
    job: Job,
    args: argparse.Namespace,
    best_step: int,
    before: tuple[Size, dict],
    after: tuple[Size, dict],
    extra: dict,
    rows_besides: Sequence[tuple[str, str, str, str]] = (),
) -> None:
    """Print the table and the line from before to after, or the same as JSON.

    rows_besides: more rows of name, before, after and change.
    """
    sides = [
        {**dataclasses.asdict(size), **{name: metrics[name] for name in job.task.metric_names}}
        for size, metrics in (before, after)
    ]
    names = {"params": "params", "macs": "MACs", "weight_bytes": "weight bytes"}
    rows = [(names.get(key, key), _cell(sides[0][key]), _cell(sides[1][key])) for key in sides[0]]
    changes = [_change(sides[0][key], sides[1][key]) for key in sides[0]]
    cells = [(*row, change) for row, change in zip(rows, changes, strict=True)] + list(rows_besides)
    text = command.table(("", "before", "after", "change"), cells)
    line = "   ".join(f"{name} {old} → {new}" for name, old, new, _ in cells)
    data = {
        "out": str(job.out),
        "steps": job.recipe.steps,
        "best_step": best_step,
        "samples": after[1]["samples"],
        "before": sides[0],
        "after": sides[1],
        **extra,
    }
    command.emit(args, data, f"{text}\n{line}")


def _cell(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _change(old: float, new: float) -> str:
    if isinstance(old, int):
        return f"{100 * (new - old) / old:+.1f} %" if old else ""
    return f"{new - old:+.4f}"
