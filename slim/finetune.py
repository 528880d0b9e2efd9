"""Train a detector, classifier or recognizer: from scratch or from an artifact.

    python slim/finetune.py --model rec_mv3_crnn_en --data data/train --val data/val --out out/rec
    python slim/finetune.py --from out/rec --data data/train --val data/val --out out/rec2 --steps 2000 --lr 2e-4
    python -m paddle.distributed.launch --nproc_per_node 2 slim/finetune.py …

OUT holds the best model so far, from the first validation on. OUT.run holds the state: the same command again goes on
where a killed run stopped; with larger --steps a finished one is extended (the cosine stretches to the new horizon,
after a second warm-up). The recipe is configs/<task>.yaml unless --config gives another.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import artifact
import command
from artifact import ArtifactError, Manifest
from slim import cpu_environment

PRUNE_PLAN = "prune_plan"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="finetune.py", description=(__doc__ or "").splitlines()[0], epilog="Exit 0 done, 2 bad input, 130 Ctrl-C."
    )
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--model", metavar="NAME", help="train this model of the catalogue from scratch")
    start.add_argument("--from", dest="parent", type=Path, metavar="ARTIFACT", help="start from a checkpoint artifact")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="training data: DIR/<task>/label.txt")
    parser.add_argument("--val", type=Path, metavar="DIR", help="validation data (default: a part of --data)")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="artifact to write; its state is DIR.run"
    )
    parser.add_argument("--config", type=Path, metavar="YAML", help="recipe (default: configs/<task>.yaml)")
    parser.add_argument("--steps", type=int, help="optimizer steps in all, those of a resumed run included")
    parser.add_argument("--lr", type=float, help="peak learning rate")
    parser.add_argument("--batch", type=int, help="samples in a step, over all processes")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--threads", type=int, default=1, help="threads of one process (default: 1)")
    command.add_common(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    if args.threads < 1:
        raise command.UsageError(f"expected --threads of at least 1, found {args.threads}")
    with tempfile.TemporaryDirectory() as scratch:
        return _finetune(args, *_start(args, Path(scratch)))


def _finetune(args: argparse.Namespace, manifest: Manifest, folder: Path) -> int:
    from slim.recipes import CONFIGS, load_recipe

    config = args.config or CONFIGS / f"{manifest.task}.yaml"
    recipe = load_recipe(config, steps=args.steps, lr=args.lr, batch=args.batch, seed=args.seed)
    if recipe.box_thresh:
        manifest = manifest.replace(post={**manifest.post, "box_thresh": recipe.box_thresh})
    run_folder = args.out.with_name(args.out.name + ".run")
    from slim.run_state import STATE

    if args.out.exists() and not (run_folder / STATE).is_file():
        raise ArtifactError(f"{args.out}: expected a folder that does not exist yet, found one; give another --out")

    cpu_environment.prepare(args.threads)
    import cv2
    import paddle

    from ocr_models import catalogue, checkpoints
    from slim import ranks, scoring
    from slim.cpu_training import fast_convolutions
    from slim.tasks import open_task
    from slim.training import Interrupted, Trainer

    # paddle says at every batch norm that it does what it always does in train mode.
    warnings.filterwarnings("ignore", message="When training, we now always track global mean and variance")
    cv2.setNumThreads(1)  # the reading thread must not take the training's cores
    ranks.begin()
    first = ranks.first()
    charset = artifact.read_charset(folder, manifest) if manifest.charset else []
    validation = scoring.find_labels(args.val or args.data, manifest.task)
    task = open_task(manifest, recipe, args.data, args.val or args.data, charset)
    paddle.seed(recipe.seed)
    network = checkpoints.load_network(folder)[0] if args.parent else catalogue.build(manifest.network)

    companions = [manifest.charset.file] if manifest.charset else []
    if PRUNE_PLAN in manifest.compression:
        companions.append(manifest.compression[PRUNE_PLAN])

    def write(metrics: dict[str, Any], step: int) -> None:
        made = manifest.replace(
            metrics={name: metrics[name] for name in task.metric_names},
            measured_on=scoring.measured_on(validation, metrics["samples"], metrics["of"]),
            extra={"recipe": recipe.to_json(), "seed": recipe.seed, "steps": step},
        )
        with artifact.create(args.out, replace=True) as temporary:
            checkpoints.save_network(network, temporary)
            for name in companions:
                shutil.copyfile(folder / name, temporary / name)
            artifact.write(temporary, made, "slim/finetune.py " + " ".join(sys.argv[1:]))

    identity = {"task": manifest.task, "network": manifest.network, "parent": manifest.parent, "seed": recipe.seed}
    trainer = Trainer(network, task, recipe, run_folder, identity=identity, on_best=write)
    begun = trainer.step
    if first and not args.val:
        print("validation: on samples of the training data, because --val was not given", file=sys.stderr)
    if first and begun:
        print(f"resuming {run_folder} at step {begun}", file=sys.stderr)
    before = dict(trainer.best.get("metrics", manifest.metrics))
    with contextlib.ExitStack() as stack:
        stack.enter_context(fast_convolutions())
        try:
            trainer.run()
        except Interrupted as stopped:
            print(f"finetune.py: {stopped}; state kept in {run_folder}, the same command goes on", file=sys.stderr)
            return command.EXIT_INTERRUPTED
        if not first:
            return command.EXIT_DONE
        if begun < recipe.steps or _sampled(artifact.load(args.out)):
            # The best step was chosen on a sample; the number in the manifest is over all of the validation data.
            network.set_state_dict(checkpoints.load_network(args.out)[0].state_dict())
            write(task.validate(network, None), trainer.best["step"])
    metrics = artifact.load(args.out).metrics
    rows = [(name, _cell(before.get(name)), _cell(value)) for name, value in metrics.items()]
    text = command.table(("metric", "before", "after"), rows)
    arrows = "   ".join(f"{name} {old} → {new}" for name, old, new in rows)
    command.emit(
        args,
        {"out": str(args.out), "steps": trainer.step, "best_step": trainer.best["step"], "metrics": metrics},
        f"{text}\n{args.out}: best of {trainer.step} steps is step {trainer.best['step']}\n{arrows}",
    )
    return command.EXIT_DONE


def _start(args: argparse.Namespace, scratch: Path) -> tuple[Manifest, Path]:
    """The manifest that the run's artifacts begin with, and the folder where its charset and plan lie.

    That is the parent artifact, or `scratch`, into which a catalogue model's charset is copied.
    """
    if args.parent is None:
        from ocr_models import catalogue

        return catalogue.card(args.model).manifest(scratch), scratch
    manifest = artifact.load(args.parent, kind="checkpoint")
    if manifest.quantized:
        raise command.ModelError(
            f"{args.parent}: expected a float checkpoint, found a quantized one; train those with slim/quantize.py"
        )
    return manifest.replace(parent=artifact.digest(args.parent), extra={}, made_by={}, files={}), args.parent


def _sampled(manifest: Manifest) -> bool:
    """Whether its metrics come from a part of the data, because a run was killed during its last validation."""
    measured = manifest.measured_on or {}
    return measured.get("samples", 0) < measured.get("of", 0)


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "-"


if __name__ == "__main__":
    command.main(build_parser(), run)
