"""Prune a trained checkpoint with FPGM and fine-tune it.

    python slim/prune.py out/det --data data/train --val data/val --out out/det_pruned --params-ratio 0.54
    python slim/prune.py out/rec --data data/train --val data/val --out out/rec_pruned --ratio 0.3 --steps 0

--ratio is the share of filters that GOES, the same in every prunable layer. --params-ratio and --flops-ratio are the
share that STAYS of the given model's parameters or multiply-accumulates; the uniform ratio for it is searched.
Kept channels are multiples of 8; layers that depend on one another are cut together. A pruned checkpoint can be pruned
again. OUT holds prune_plan.json, from which any room rebuilds the network; before training, that is proven.
The same command goes on where a killed run stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import artifact
import command
from slim import slimming
from slim.recipes import CONFIGS

if TYPE_CHECKING:
    from paddle import nn

    from ocr_models.prune_plan import PrunePlan
    from slim.slimming import Job, Size

# Two ways to build one network: only the order of float sums may differ.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class PruneSettings:
    """multiple: kept channels are multiples of it. ratio: share of filters that goes where no target is given."""

    multiple: int = 8
    ratio: float = 0.3

    def __post_init__(self) -> None:
        if type(self.multiple) is not int or self.multiple < 1:
            raise command.UsageError(f"expected prune.multiple to be a number from 1, found {self.multiple!r}")
        _check_share("prune.ratio", self.ratio)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prune.py", description=(__doc__ or "").splitlines()[0], epilog="Exit 0 done, 2 bad input, 130 Ctrl-C."
    )
    slimming.add_arguments(parser, "prune")
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--ratio", type=float, metavar="R", help="share of each layer's filters that goes, e.g. 0.3")
    target.add_argument("--params-ratio", type=float, metavar="R", help="share of the parameters that stays, e.g. 0.54")
    target.add_argument("--flops-ratio", type=float, metavar="R", help="share of the MACs that stays, e.g. 0.6")
    return parser


def run(args: argparse.Namespace) -> int:
    for option in ("ratio", "params_ratio", "flops_ratio"):
        _check_share(f"--{option.replace('_', '-')}", getattr(args, option))
    path = args.config or CONFIGS / "prune.yaml"
    settings, differences = slimming.read_config(path, "prune")
    try:
        config = PruneSettings(**settings)
    except TypeError:
        raise command.UsageError(f"{path}: expected multiple and ratio under prune, found {settings}") from None
    job = slimming.open_job(args, "prune.py", differences)

    from ocr_models import checkpoints
    from slim import ranks
    from slim.pruning import FilterPruner
    from slim.training import Interrupted

    original, _ = checkpoints.load_network(job.folder)
    size_before = job.size(original)
    metrics_before = slimming.metrics_before(job, original) if job.first else {}
    pruner = FilterPruner(original, _trace_shape(job))
    ratio = _ratio(args, config, job, pruner, size_before)
    later = pruner.plan(pruner.ratios(ratio, config.multiple))
    if not later:
        raise command.UsageError(
            f"expected a ratio that removes filters, found {ratio:.3f}, which rounds to none in multiples of "
            f"{config.multiple}; prune more"
        )
    plan = _earlier_plan(job).compose(later)
    ranks.agree("prune plan", _digest(plan))
    pruner.prune(pruner.ratios(ratio, config.multiple))
    network, difference = _rebuild(job, original, plan)
    size_after = job.size(network)
    pruning: dict[str, Any] = {
        "method": "fpgm",
        "ratio": round(ratio, 4),
        "multiple": config.multiple,
        "params_ratio": round(size_after.params / size_before.params, 4),
        "flops_ratio": round(size_after.macs / size_before.macs, 4),
        "rebuilt_difference": difference,
    }
    _say(
        f"{100 * ratio:.1f} % of the filters of {len(pruner.groups)} groups go; "
        f"{100 * pruning['params_ratio']:.1f} % of the params and {100 * pruning['flops_ratio']:.1f} % of the MACs stay"
    )
    _say(f"rebuilt from its plan alone the network differs from the pruned one by at most {difference:.1e}")

    compression = {**job.manifest.compression, "prune_plan": "prune_plan.json"}

    def keep(metrics: dict[str, Any], step: int) -> None:
        slimming.write(job, network, metrics, step, compression, {"pruning": pruning}, plan.save)

    identity = {"plan": _digest(plan), "validation": str(job.validation)}
    try:
        trainer = slimming.train(job, job.task, network, identity, keep)
    except Interrupted as stopped:
        _say(f"prune.py: {stopped}; state kept in {job.state_folder}, the same command goes on")
        return command.EXIT_INTERRUPTED
    if not job.first:
        return command.EXIT_DONE
    network, _ = checkpoints.load_network(job.out)
    metrics_after = job.measure(network)
    keep(metrics_after, trainer.best["step"])
    slimming.report(
        job,
        args,
        trainer.best["step"],
        (size_before, metrics_before),
        (size_after, metrics_after),
        {"pruning": pruning},
    )
    return command.EXIT_DONE


def _ratio(args: argparse.Namespace, config: PruneSettings, job: Job, pruner: Any, before: Size) -> float:
    """The uniform ratio asked for, or the one that meets the target."""
    from slim.pruning import search_ratio

    targets = {"params": args.params_ratio, "macs": args.flops_ratio}
    if not any(targets.values()):
        return config.ratio if args.ratio is None else args.ratio
    key, target = next((key, value) for key, value in targets.items() if value)
    measured: dict[str, Size] = {}

    def share(ratio: float) -> float:
        plan = pruner.plan(pruner.ratios(ratio, config.multiple))
        name = _digest(plan)
        if name not in measured:
            measured[name] = job.size(_shaped(job, _earlier_plan(job).compose(plan)))
        return getattr(measured[name], key) / getattr(before, key)

    return search_ratio(share, target, "params ratio" if key == "params" else "FLOPs ratio")


def _shaped(job: Job, plan: PrunePlan) -> nn.Layer:
    """A network of the plan's shapes with fresh weights."""
    from ocr_models import catalogue

    network = catalogue.build(job.manifest.network)
    plan.apply(network)
    return network


def _earlier_plan(job: Job) -> PrunePlan:
    from ocr_models.prune_plan import PrunePlan

    name = job.manifest.compression.get("prune_plan")
    return PrunePlan.load(job.folder / name) if name else PrunePlan()


def _rebuild(job: Job, pruned: nn.Layer, plan: PrunePlan) -> tuple[nn.Layer, float]:
    """The pruned network as an artifact on disk gives it back, and its largest difference to PaddleSlim's own.

    Weights that do not fit their plan would load into rubbish without a word; so the way through the disk is taken
    once before any training. Raises ModelError when the two networks differ.
    """
    import paddle

    from ocr_models import checkpoints

    with tempfile.TemporaryDirectory() as folder:
        with artifact.create(Path(folder) / "pruned") as temporary:
            checkpoints.save_network(pruned, temporary)
            plan.save(temporary)
            manifest = artifact.Manifest(
                kind="checkpoint",
                task=job.manifest.task,
                name=job.manifest.name,
                network=job.manifest.network,
                compression={"prune_plan": "prune_plan.json"},
            )
            artifact.write(temporary, manifest, job.command)
        network, _ = checkpoints.load_network(Path(folder) / "pruned")
    paddle.seed(job.recipe.seed)
    x = paddle.randn(list(_trace_shape(job)))
    pruned.eval()
    with paddle.no_grad():
        difference = float((network(x) - pruned(x)).abs().max())
    if not difference <= TOLERANCE:
        raise command.ModelError(
            f"expected the network rebuilt from the prune plan to equal the pruned one, found a difference of "
            f"{difference:.2g}; do not use this plan, report the model"
        )
    return network, difference


def _trace_shape(job: Job) -> tuple[int, ...]:
    """A small input for tracing and comparing: no layer's choice depends on its size."""
    return {"det": (1, 3, 64, 64), "cls": (1, 3, 48, 192), "rec": (1, 3, 32, 96)}[job.manifest.task]


def _digest(plan: PrunePlan) -> str:
    record = json.dumps(dataclasses.asdict(plan), sort_keys=True)
    return hashlib.sha256(record.encode()).hexdigest()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _check_share(name: str, value: Any) -> None:
    if value is not None and (not isinstance(value, float) or not 0 < value < 1):
        raise command.UsageError(f"expected {name} between 0 and 1, found {value!r}")


if __name__ == "__main__":
    command.main(build_parser(), run)
