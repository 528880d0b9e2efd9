"""A run that breaks goes back to its last good state and on at a lower rate, a few times."""

from __future__ import annotations

import sys

from slim.training import Broken, Trainer


def run(trainer: Trainer, most: int, factor: float) -> None:
    """Train to the end. Raises Broken, which names the layer, when the run breaks for the `most` + 1st time.

    factor: what the learning rate is multiplied by each time. Both counts survive a kill, in the run's state.
    """
    while True:
        try:
            trainer.run()
            return
        except Broken as error:
            broken = error
        if trainer.rollbacks >= most or not trainer.roll_back(factor):
            tried = f", after {trainer.rollbacks} times back to a good state" if trainer.rollbacks else ""
            raise Broken(f"{broken}{tried}") from None
        if trainer.rank == 0:
            print(
                f"{broken}\nback to step {trainer.step}, from here at {trainer.rate_factor:.3g} of the learning rate "
                f"(time {trainer.rollbacks} of at most {most})",
                file=sys.stderr,
                flush=True,
            )
