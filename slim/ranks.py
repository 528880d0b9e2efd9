"""The processes of `python -m paddle.distributed.launch`: one of them validates and writes, all train.

Paddle's own barrier and broadcast give up after 30 s on CPU (gloo's limit), and one process alone measures a model for
minutes. So waiting goes through the launcher's key-value store, which has no such limit.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from typing import TypeVar

import paddle
from paddle import distributed
from paddle.base import core

from command import ModelError

T = TypeVar("T")

POLL_S = 0.1
# Every meeting needs a name of its own, the same in all processes: they meet in the same order.
_meetings = itertools.count()


def begin() -> None:
    """Join the other processes, where the launcher started several."""
    if int(os.environ.get("PADDLE_TRAINERS_NUM", "1")) > 1:
        distributed.init_parallel_env()


def first() -> bool:
    """Whether this is the process that validates, prints and writes."""
    return distributed.get_rank() == 0


def meet() -> None:
    """Wait, for as long as it takes, until all processes are here. Raises ModelError when the first one has ended."""
    if distributed.get_world_size() > 1:
        _meet(f"meeting/{next(_meetings)}")


def agree(what: str, value: str) -> None:
    """Wait for all processes; raises ModelError where one of them has another value than the first."""
    if distributed.get_world_size() == 1:
        return
    name, rank = f"meeting/{next(_meetings)}", distributed.get_rank()
    _ask(lambda: _store().set(f"{name}/{rank}", value))
    _meet(name)
    found = _ask(lambda: _store().get(f"{name}/0")).decode()
    if found != value:
        raise ModelError(
            f"expected all processes to have one {what}, found {value[:12]} in process {rank} and {found[:12]} in the "
            "first; run them on equal machines, or run a single process"
        )


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process; all get the same answer in the same step."""
    if distributed.get_world_size() == 1:
        return flag
    shared = paddle.to_tensor([float(flag)])
    distributed.all_reduce(shared, op=distributed.ReduceOp.MAX)
    return bool(shared.item())


def _meet(name: str) -> None:
    _ask(lambda: _store().add(name, 1))
    while _ask(lambda: _store().add(name, 0)) < distributed.get_world_size():
        time.sleep(POLL_S)


def _store() -> core.TCPStore:
    return core.create_or_get_global_tcp_store()


def _ask(question: Callable[[], T]) -> T:
    """The first process holds the store: when it has ended, nobody answers."""
    try:
        return question()
    except (ValueError, RuntimeError):
        raise ModelError("expected the first process to go on, found that it ended; its log says why") from None
