"""Prune a trained checkpoint with FPGM and fine-tune it, taught by the unpruned model.

    python slim/sensitivity.py out/det --data data/val --out out/det-sensitivity
    python slim/prune.py out/det --data data/train --val data/val --out out/det_pruned --params-ratio 0.5 \\
        --flops-ratio 0.55 --sensitivity out/det-sensitivity
    python slim/prune.py out/rec --data data/train --val data/val --out out/rec_pruned --ratio 0.3 --steps 0

--params-ratio, --flops-ratio and --latency-ratio are the share that STAYS of the given model's parameters,
multiply-accumulates or predicted fp32 time (with layer times from benchmarks/op_profile.py); the smallest pruning that
reaches all that are given is searched. With --sensitivity layers that matter little lose more, and --max-loss prunes as
far as the curves allow; without it every layer loses the same share (--ratio: that GOES).
Kept channels are multiples of 8; layers that depend on one another are cut together. A pruned checkpoint can be pruned
again. OUT holds prune_plan.json, from which any room rebuilds the network; before training, that and an export are
proven. --iterations prunes a little and recovers, again and again. The same command goes on where a killed run stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import command
from slim import prune_targets, slimming
from slim.recipes import CONFIGS

if TYPE_CHECKING:
    from ocr_models.prune_plan import PrunePlan
    from slim.latency import Latency
    from slim.plan_latency import PlanLatency
    from slim.prune_targets import Chosen
    from slim.pruning import Group
    from slim.slimming import Job


@dataclass(frozen=True)
class PruneSettings:
    """multiple: kept channels are multiples of it. ratio: share of filters that goes where no target is given."""

    multiple: int = 8
    ratio: float = 0.3

    def __post_init__(self) -> None:
        if type(self.multiple) is not int or self.multiple < 1:
            raise command.UsageError(f"expected prune.multiple to be a number from 1, found {self.multiple!r}")
        prune_targets.check_share("prune.ratio", self.ratio)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prune.py", description=(__doc__ or "").splitlines()[0], epilog="Exit 0 done, 2 bad input, 130 Ctrl-C."
    )
    slimming.add_arguments(parser, "prune")
    prune_targets.add_arguments(parser)
    slimming.add_teacher_arguments(parser)
    parser.add_argument("--iterations", type=int, default=1, metavar="N", help="prune in N stages that share the steps")
    parser.add_argument("--no-latency", action="store_true", help="do not measure the latency before and after")
    return parser


def run(args: argparse.Namespace) -> int:
    path = args.config or CONFIGS / "prune.yaml"
    values, differences = slimming.read_config(path, "prune")
    try:
        settings = PruneSettings(**values)
    except TypeError:
        raise command.UsageError(f"{path}: expected multiple and ratio under prune, found {values}") from None
    targets = prune_targets.parse(args, settings.ratio)
    job = slimming.open_job(args, "prune.py", differences)
    stages = _stages(args, job)

    import numpy as np

    from ocr_models import checkpoints
    from slim import ranks
    from slim.plan_cost import PlanCost
    from slim.pruning import FilterPruner
    from slim.training import Interrupted

    sensitivity = prune_targets.load_sensitivity(args.sensitivity, job.manifest) if args.sensitivity else None
    network, _ = checkpoints.load_network(job.folder)
    size_before = job.size(network)
    metrics_before = slimming.metrics_before(job, network) if job.first else {}
    pruner = FilterPruner(network, _trace_shape(job))
    groups = pruner.groups
    cost = PlanCost(network, groups, job.reference_shape)
    predicted = _predictor(args, job, network, groups)
    chosen = prune_targets.choose(targets, groups, cost, settings.multiple, sensitivity, predicted)
    _say_chosen(chosen, len(groups), sensitivity is not None)
    if sensitivity and job.first and job.recipe.steps:
        from slim.sensitivity_picture import draw

        cut = {group.name: 1 - chosen.kept[group.name] / group.filters for group in groups}
        draw(sensitivity, job.state_folder / "sensitivity.png", cut)
    task, weight = slimming.taught(job, args)
    pruning: dict[str, Any] = {
        "method": "fpgm",
        "ratio": round(chosen.ratio, 4),
        "multiple": settings.multiple,
        "targets": {**targets.limits, **({"max_loss": targets.max_loss} if targets.max_loss else {})},
        "sensitivity": sensitivity.digest() if sensitivity else None,
        "predicted_loss": chosen.predicted_loss,
        "kept": {group.name: [chosen.kept[group.name], group.filters] for group in groups},
        "distill_weight": weight,
        "iterations": args.iterations,
    }
    if predicted:
        kept_ms = float(predicted.of(np.array([chosen.kept[group.name] for group in groups])))
        pruning["predicted_ms"] = {"before": predicted.whole_ms, "after": kept_ms, "device": predicted.device}
        _say(
            f"predicted fp32 time of the layers on {predicted.device}: {predicted.whole_ms:.2f} → {kept_ms:.2f} ms, "
            f"{100 * kept_ms / predicted.whole_ms:.1f} %"
        )
    plan = _earlier_plan(job)
    trainer = None
    for number, stage in enumerate(stages, 1):
        if number > 1:
            ranks.meet()  # the first process has written the model that all go on from
            network, _ = checkpoints.load_network(stages[number - 2].out)
            pruner = FilterPruner(network, _trace_shape(job))
        share = number / len(stages)
        kept = {g.name: _between(g.filters, chosen.kept[g.name], share, settings.multiple) for g in groups}
        later = pruner.plan(pruner.ratios_for(kept))
        if not later:
            if number < len(stages):
                raise command.UsageError(
                    f"expected iterations that each remove filters, found none to remove in iteration {number} of "
                    f"{len(stages)}; give fewer --iterations"
                )
            raise command.UsageError(
                f"expected a ratio that removes filters, found {chosen.ratio or targets.ratio:.3f}, which rounds to "
                f"none in multiples of {settings.multiple}; prune more"
            )
        plan = plan.compose(later)
        ranks.agree("prune plan", _digest(plan))
        pruner.prune(pruner.ratios_for(kept))
        network, size = _proven(stage, pruner, plan, pruning)
        pruning["params_ratio"] = round(size.params / size_before.params, 4)
        pruning["flops_ratio"] = round(size.macs / size_before.macs, 4)
        _say(
            f"{_of(number, stages)}{100 * pruning['params_ratio']:.1f} % of the params and "
            f"{100 * pruning['flops_ratio']:.1f} % of the MACs stay"
        )
        keep = _keeper(stage, network, plan, pruning)
        identity = {"plan": _digest(plan), "validation": str(job.validation), "distill_weight": weight}
        try:
            trainer = slimming.train(stage, task, network, identity, keep)
        except Interrupted as stopped:
            _say(
                f"prune.py: {_of(number, stages)}{stopped}; state kept in {job.state_folder}, the same command goes on"
            )
            return command.EXIT_INTERRUPTED
    if not job.first:
        return command.EXIT_DONE
    assert trainer is not None
    network, _ = checkpoints.load_network(job.out)
    metrics_after = job.measure(network)
    latency = None if args.no_latency else _latency(job)
    if latency:
        pruning["latency"] = dataclasses.asdict(latency)
    _keeper(job, network, plan, pruning)(metrics_after, trainer.best["step"])
    slimming.report(
        job,
        args,
        trainer.best["step"],
        (size_before, metrics_before),
        (size, metrics_after),
        {"pruning": pruning},
        [*_predicted_rows(pruning), *([latency.row()] if latency else [])],
    )
    return command.EXIT_DONE


def _predictor(args: argparse.Namespace, job: Job, network: Any, groups: Sequence[Group]) -> PlanLatency | None:
    if args.profile is None:
        return None
    from ocr_models import layer_times
    from slim.plan_latency import PlanLatency

    return PlanLatency(network, groups, job.reference_shape, layer_times.choose(args.profile, args.device))


def _stages(args: argparse.Namespace, job: Job) -> list[Job]:
    """One job an iteration; the steps are shared out. The last one writes OUT, the others into the state folder."""
    count, steps = args.iterations, job.recipe.steps
    if count < 1 or (count > 1 and steps < count):
        raise command.UsageError(
            f"expected --iterations from 1 to the number of steps, found {count} for {steps} steps"
        )
    shares = [steps // count] * (count - 1)
    shares.append(steps - sum(shares))
    jobs = []
    for number, share in enumerate(shares, 1):
        recipe = slimming.shortened(job.recipe, share)
        stage = dataclasses.replace(job, recipe=recipe)
        if number < count:
            folder = job.state_folder / f"iteration-{number}"
            stage = dataclasses.replace(stage, out=folder, state_folder=folder.with_suffix(".run"))
        jobs.append(stage)
    return jobs


def _between(filters: int, final: int, share: float, multiple: int) -> int:
    """Filters that stay when `share` of the way from all to `final` is gone; a multiple where both ends are not met."""
    if share == 1 or final == filters:
        return final
    wanted = filters - share * (filters - final)
    return min(filters, max(final, int(wanted / multiple + 0.5) * multiple))


def _proven(job: Job, pruner: Any, plan: PrunePlan, pruning: dict[str, Any]) -> tuple[Any, slimming.Size]:
    """(the network rebuilt from its plan, its size), after the proofs of slim/soundness.py."""
    from slim import soundness

    charset = job.folder / job.manifest.charset.file if job.manifest.charset else None
    proof = soundness.prove(pruner.network, plan, job.manifest, charset, _trace_shape(job), export=job.first)
    pruning["rebuilt_difference"] = proof.rebuilt
    _say(f"rebuilt from its plan alone the network differs from the pruned one by at most {proof.rebuilt:.1e}")
    if proof.exported is not None:
        pruning["exported_difference"] = proof.exported
        _say(f"exported it takes {proof.export_bytes:,} bytes and differs by at most {proof.exported:.1e}")
    return proof.network, job.size(proof.network)


def _keeper(job: Job, network: Any, plan: PrunePlan, pruning: dict[str, Any]) -> Any:
    """keep(metrics, step): write the network as it is now."""
    compression = {**job.manifest.compression, "prune_plan": "prune_plan.json"}

    def keep(metrics: dict[str, Any], step: int) -> None:
        slimming.write(job, network, metrics, step, compression, {"pruning": pruning}, plan.save)

    return keep


def _latency(job: Job) -> Latency | None:
    from slim import latency

    _say("measuring the latency before and after")
    try:
        return latency.measure(job.folder, job.out)
    except command.ModelError as error:
        _say(f"latency not measured: {error}")
        return None


def _predicted_rows(pruning: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    if "predicted_ms" not in pruning:
        return []
    device, before, after = (pruning["predicted_ms"][key] for key in ("device", "before", "after"))
    change = f"{100 * (after / before - 1):+.1f} %"
    return [(f"fp32 ms, predicted (layers on {device})", f"{before:.2f}", f"{after:.2f}", change)]


def _earlier_plan(job: Job) -> PrunePlan:
    from ocr_models.prune_plan import PrunePlan

    name = job.manifest.compression.get("prune_plan")
    return PrunePlan.load(job.folder / name) if name else PrunePlan()


def _trace_shape(job: Job) -> tuple[int, ...]:
    """A small input for tracing and comparing: no layer's choice depends on its size."""
    return {"det": (1, 3, 64, 64), "cls": (1, 3, 48, 192), "rec": (1, 3, 32, 96)}[job.manifest.task]


def _digest(plan: PrunePlan) -> str:
    record = json.dumps(dataclasses.asdict(plan), sort_keys=True)
    return hashlib.sha256(record.encode()).hexdigest()


def _of(number: int, stages: list[Job]) -> str:
    return f"iteration {number} of {len(stages)}: " if len(stages) > 1 else ""


def _say_chosen(chosen: Chosen, groups: int, by_sensitivity: bool) -> None:
    how = "as their sensitivity allows" if by_sensitivity else "the same share of each"
    loss = "" if chosen.predicted_loss is None else f"; predicted loss before recovery {chosen.predicted_loss:.4f}"
    _say(f"{100 * chosen.ratio:.1f} % of the filters of {groups} groups go, {how}{loss}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    command.main(build_parser(), run)
