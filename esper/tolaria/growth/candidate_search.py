"""Chooses from a shortlist by looking ahead, with successive halving."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from esper.leyline import AdaptationCommand
from esper.tolaria.growth.lookahead import DataPosition, Lookahead
from esper.tolaria.train_state import Progress


class CandidateSearch:
    """Compares a germination with its shortlist and says which one is to be planted.

    The last two are trained for `steps` steps; every round before that halves the field in half as many
    (successive halving: Jamieson and Talwalkar, 2016). `rate` gives the run's learning rate.
    """

    def __init__(
        self, lookahead: Lookahead, progress: Progress, steps: int, rate: Callable[[], float]
    ) -> None:
        self.lookahead = lookahead
        self.progress = progress
        self.steps = steps
        self.rate = rate

    def choose(self, command: AdaptationCommand) -> AdaptationCommand:
        """The best one, under the command's own id, with the losses that speak for it as evidence."""
        left = [command, *command.shortlist]
        compared, losses = len(left), [0.0]
        while len(left) > 1:
            losses = self._losses(left, self._steps_for(len(left)))
            order = sorted(range(len(left)), key=lambda i: _sortable(losses[i]))
            left = [left[i] for i in order[: math.ceil(len(left) / 2)]]
            losses = [losses[i] for i in order]
        best = left[0]
        told = (
            f"; a look {self.steps} steps ahead at {compared} candidates: held-out loss {losses[0]:.4f}, "
            f"the next one's {losses[1]:.4f}"
        )
        found = {"lookahead_loss": losses[0], "lookahead_next": losses[1], "lookahead_steps": self.steps}
        return replace(
            best,
            command_id=command.command_id,
            reason=best.reason + told,
            evidence={**best.evidence, **found},
            shortlist=(),
        )

    def _steps_for(self, candidates: int) -> int:
        return max(1, self.steps >> (math.ceil(math.log2(candidates)) - 1))

    def _losses(self, commands: Sequence[AdaptationCommand], steps: int) -> list[float]:
        p = self.progress
        place = DataPosition(p.epoch, p.batch, p.step)
        return [self.lookahead.loss_after(c, place, steps, self.rate()) for c in commands]


def _sortable(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf
