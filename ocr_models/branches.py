"""Picks one network's weights out of a training checkpoint that holds more.

Distillation saves several networks in one file, each under a name of its own: `Student.backbone.…`, `Student2.…`,
`Teacher.…`. A network trained with a second head has weights that inference does not need.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from command import ModelError, UsageError

Arrays = dict[str, np.ndarray]

# The parts that PaddleOCR builds every network of; what stands before them is a branch.
_PARTS = re.compile(r"(?:(\w+)\.)?(?:transform|backbone|neck|head)\.")
DEFAULT = "Student"


def names(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """The branches of a checkpoint, in the file's order; "" where weights stand under no branch."""
    found = {match[1] or "": None for name in arrays if (match := _PARTS.match(name))}
    return list(found)


def choose(arrays: Arrays, branch: str | None, source: Path) -> tuple[Arrays, str]:
    """Weights of one branch under the names that they have in a file of their own, and the branch's name.

    branch: None takes Student, or the only one there is; the name is "" for a file without branches. Raises UsageError
    where it is unclear which one is wanted.
    """
    there = names(arrays)
    listed = " | ".join(name for name in there if name)
    if branch is None:
        branch = DEFAULT if DEFAULT in there else there[0] if len(there) == 1 else ""
        if branch not in there and there:
            raise UsageError(f"{source}: expected --branch {listed}, found none; say which network is wanted")
    elif branch not in there:
        if not listed:
            raise UsageError(f"{source}: expected no --branch for one network, found {branch!r}; leave it out")
        raise UsageError(f"{source}: expected --branch {listed}, found {branch!r}; give one of these")
    if not branch:
        return arrays, ""
    prefix = f"{branch}."
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}, branch


def leave_out(arrays: Arrays, prefixes: Sequence[str], source: Path) -> tuple[Arrays, list[str]]:
    """The weights without those under one of `prefixes` (whole parts of a name: "head.sar_head"), and these names.

    Raises UsageError for a prefix that no name begins with.
    """
    left_out: dict[str, None] = {}
    for prefix in prefixes:
        stem = prefix.rstrip("*").rstrip(".")
        matching = [name for name in arrays if name == stem or name.startswith(f"{stem}.")]
        if not stem or not matching:
            raise UsageError(
                f"{source}: expected --ignore with the beginning of a weight's name, found {prefix!r}, which none has; "
                f"they begin with {', '.join(_beginnings(arrays))}"
            )
        left_out.update(dict.fromkeys(matching))
    return {name: array for name, array in arrays.items() if name not in left_out}, list(left_out)


def refuse_extra(arrays: Arrays, wanted: Iterable[str], aliases: Mapping[str, str], source: Path) -> None:
    """Raise ModelError for a checkpoint that holds all `wanted` names and others beside: what they are, what to do.

    aliases: second names of wanted tensors. Where some are missing it is another network, and `checkpoints.assign`
    names them.
    """
    known = set(wanted)
    extra = [name for name in arrays if aliases.get(name, name) not in known]
    if extra and known <= {aliases.get(name, name) for name in arrays}:
        options = _beginnings(extra, among=[*known, *aliases])
        raise ModelError(
            f"{source}: expected the {len(known)} tensors of this network, found {len(extra)} more under "
            f"{', '.join(options)}; leave them out with {' '.join(f'--ignore {option}' for option in options)} "
            "if inference does not need them"
        )


def _beginnings(names: Iterable[str], among: Iterable[str] = ()) -> list[str]:
    """The shortest whole-part beginnings of `names` that no name in `among` has, at most six."""
    taken = {".".join(name.split(".")[:n]) for name in among for n in range(1, name.count(".") + 2)}
    found: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        stems = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
        found[next((stem for stem in stems if stem not in taken), name)] = None
    return list(found)[:6]
