"""What a user may ask of a pruning, and how many filters of each group stay for it.

Without a sensitivity record the same share of every group goes. With one, groups that the metric depends on keep more:
slim/allocation.py finds the choice that reaches the target and is predicted to lose least.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from command import ModelError, UsageError
from slim.sensitivity_record import Sensitivity, weights_digest

if TYPE_CHECKING:
    from artifact import Manifest
    from slim.allocation import Choices
    from slim.plan_cost import PlanCost
    from slim.plan_latency import PlanLatency
    from slim.pruning import Group

OPTIONS = {"params": "--params-ratio", "macs": "--flops-ratio", "latency": "--latency-ratio"}
NAMES = {"params": "params ratio", "macs": "FLOPs ratio", "latency": "predicted latency ratio"}
# A group whose loss reaches the whole metric is never worth its filters; the logarithm needs a number.
ALL_LOST = 0.9999

Shares = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Targets:
    """limits: {"params", "macs" or "latency": share that stays}. ratio: share of filters that goes for want of them.

    max_loss: prune as much as is predicted to lose so much of the metric, instead of either. deepest: no more than this
    share of any one group's filters goes, whatever the data says that it was measured on.
    """

    ratio: float
    limits: dict[str, float] = field(default_factory=dict)
    max_loss: float | None = None
    deepest: float = 1.0


@dataclass(frozen=True)
class Chosen:
    """kept: {group: filters that stay}. ratio: share of all groups' filters that goes."""

    kept: dict[str, int]
    ratio: float
    predicted_loss: float | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ratio", type=float, metavar="R", help="share of each layer's filters that goes, e.g. 0.3")
    parser.add_argument("--params-ratio", type=float, metavar="R", help="share of the parameters that stays, e.g. 0.54")
    parser.add_argument("--flops-ratio", type=float, metavar="R", help="share of the MACs that stays, e.g. 0.6")
    parser.add_argument("--latency-ratio", type=float, metavar="R", help="share of the predicted fp32 time that stays")
    parser.add_argument("--profile", type=Path, metavar="JSON", help="layer times, of benchmarks/op_profile.py")
    parser.add_argument("--device", metavar="NAME", help="whose times, where the profile has several")
    parser.add_argument("--max-loss", type=float, metavar="X", help="prune until X of the metric is predicted to go")
    parser.add_argument(
        "--sensitivity", type=Path, metavar="PATH", help="what slim/sensitivity.py wrote: prune what matters least"
    )
    parser.add_argument(
        "--max-ratio", type=float, metavar="R", help="with --sensitivity: share that may go of any one layer's filters"
    )


def parse(args: argparse.Namespace, default_ratio: float) -> Targets:
    """Raises UsageError for values out of range and for options that exclude one another."""
    for option in ("ratio", "params_ratio", "flops_ratio", "max_loss", "max_ratio"):
        check_share(f"--{option.replace('_', '-')}", getattr(args, option))
    if (args.latency_ratio is None) != (args.profile is None):
        raise UsageError("expected --latency-ratio and --profile together, found one of them; give both")
    limits = {"params": args.params_ratio, "macs": args.flops_ratio, "latency": args.latency_ratio}
    limits = {kind: limit for kind, limit in limits.items() if limit is not None}
    given = [name for name, there in (("--ratio", args.ratio is not None), ("a target", limits)) if there]
    given += ["--max-loss"] if args.max_loss is not None else []
    if len(given) > 1:
        raise UsageError(f"expected one of --ratio, a target and --max-loss, found {' and '.join(given)}; give one")
    if args.max_loss is not None and args.sensitivity is None:
        raise UsageError("expected --sensitivity with --max-loss, found none; make one with slim/sensitivity.py")
    if args.ratio is not None and args.sensitivity is not None:
        raise UsageError("expected a target with --sensitivity, found --ratio; give --params-ratio, say")
    if args.sensitivity is not None and not limits and args.max_loss is None:
        raise UsageError(f"expected {', '.join(OPTIONS.values())} or --max-loss with --sensitivity, found none")
    if args.max_ratio is not None and args.sensitivity is None:
        raise UsageError("expected --sensitivity with --max-ratio, found none; otherwise give --ratio")
    deepest = 1.0 if args.max_ratio is None else args.max_ratio
    return Targets(default_ratio if args.ratio is None else args.ratio, limits, args.max_loss, deepest)


def check_share(name: str, value: Any) -> None:
    if value is not None and (not isinstance(value, float) or not 0 < value < 1):
        raise UsageError(f"expected {name} between 0 and 1, found {value!r}")


def load_sensitivity(path: Path, manifest: Manifest) -> Sensitivity:
    """The record of this very checkpoint. Raises ModelError for another one's."""
    record = Sensitivity.load(path)
    if (record.task, record.weights) != (manifest.task, weights_digest(manifest)):
        raise ModelError(
            f"{path}: expected the sensitivity of these weights, found that of other ones ({record.name}); "
            "measure this checkpoint with slim/sensitivity.py"
        )
    return record


def choose(
    targets: Targets,
    groups: Sequence[Group],
    cost: PlanCost,
    multiple: int,
    sensitivity: Sensitivity | None = None,
    latency: PlanLatency | None = None,
) -> Chosen:
    """Filters that stay, group by group. Raises UsageError for a target that cannot be reached.

    latency: where the targets have one.
    """

    def shares(kept: np.ndarray) -> np.ndarray:
        """(…, groups) filters → (…, kinds) shares, in the order of OPTIONS."""
        found = cost.shares(kept)
        return np.concatenate([found, latency.shares(kept)], axis=-1) if latency else found

    if sensitivity is None:
        kept = _uniform(targets, groups, shares, multiple)
        loss = None
    else:
        kept = _by_sensitivity(targets, groups, shares, multiple, sensitivity)
        loss = predicted_loss(sensitivity, groups, kept)
    filters = sum(group.filters for group in groups)
    names = [group.name for group in groups]
    return Chosen(dict(zip(names, map(int, kept), strict=True)), 1 - float(sum(kept)) / filters, loss)


def predicted_loss(sensitivity: Sensitivity, groups: Sequence[Group], kept: Sequence[int]) -> float:
    """Loss of the metric when every group damages what the others have left of it: 1 - Π (1 - loss / metric)."""
    base = sensitivity.baseline[sensitivity.metric]
    paid = sum(price(sensitivity, group, int(stay)) for group, stay in zip(groups, kept, strict=True))
    return base * -math.expm1(-paid / base)


def price(sensitivity: Sensitivity, group: Group, kept: int) -> float:
    """A loss that adds up over groups: -metric · log(1 - loss / metric), for small losses the loss itself."""
    base = sensitivity.baseline[sensitivity.metric]
    loss = sensitivity.predicted_loss(group.name, 1 - kept / group.filters)
    return -base * math.log1p(-min(loss / base, ALL_LOST))


def _uniform(targets: Targets, groups: Sequence[Group], shares: Shares, multiple: int) -> list[int]:
    from slim.pruning import kept_filters, search_ratio

    def kept(ratio: float) -> list[int]:
        return [kept_filters(group.filters, ratio, multiple) for group in groups]

    def share(kind: str) -> Callable[[float], float]:
        column = list(OPTIONS).index(kind)
        return lambda ratio: float(shares(np.array(kept(ratio)))[column])

    ratios = [search_ratio(share(kind), limit, NAMES[kind]) for kind, limit in targets.limits.items()]
    return kept(max(ratios, default=targets.ratio))


def _by_sensitivity(
    targets: Targets, groups: Sequence[Group], shares: Shares, multiple: int, sensitivity: Sensitivity
) -> list[int]:
    from slim import allocation

    choices = [_choices(sensitivity, group, multiple, targets.deepest) for group in groups]
    if targets.max_loss is not None:
        base = sensitivity.baseline[sensitivity.metric]
        budget = -base * math.log1p(-min(targets.max_loss / base, ALL_LOST))
        return [int(kept) for kept in allocation.deepest(choices, shares, budget)]
    columns = [list(OPTIONS).index(kind) for kind in targets.limits]
    limits = list(targets.limits.values())
    try:
        # Adding up layer times takes a hundred times as long as counting: then one start of the search has to do.
        thorough = "latency" not in targets.limits
        found = allocation.cheapest(choices, lambda kept: shares(kept)[..., columns], limits, thorough)
    except allocation.OutOfReach as error:
        for kind, limit, least in zip(targets.limits, limits, error.least, strict=True):
            if least > limit:
                raise UsageError(
                    f"expected a {NAMES[kind]} that pruning can reach, {least:.3f} or more for this model with this "
                    f"sensitivity, found {limit}; raise it"
                ) from None
        raise
    return [int(kept) for kept in found]


def _choices(sensitivity: Sensitivity, group: Group, multiple: int, limit: float) -> Choices:
    """Levels that the record knows: no deeper than the last measured ratio."""
    from slim.allocation import Choices
    from slim.pruning import MAX_RATIO, levels

    found = sensitivity.group(group.name)
    if found.filters != group.filters:
        raise ModelError(
            f"expected {group.filters} filters of {group.name} in the sensitivity record, found {found.filters}; "
            "measure this checkpoint with slim/sensitivity.py"
        )
    measured = [removed for removed, there in zip(found.removed, found.measured, strict=True) if there]
    deepest = min(max(measured, default=0) / group.filters, MAX_RATIO, limit)
    kept = levels(group.filters, multiple, deepest)
    return Choices(kept, tuple(price(sensitivity, group, stay) for stay in kept))
