"""Selects from a shortlist by lookahead, with successive halving."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from esper.leyline import AdaptationCommand
from esper.tolaria.growth.lookahead import DataPosition, Lookahead
from esper.tolaria.train_state import Progress


class CandidateSearch:
    """Compares a germination with its shortlist and selects the best.

    The last two are trained for `steps` steps; every round before that halves the candidates and trains them
    for half as many (successive halving: Jamieson and Talwalkar, 2016). `rate` returns the learning rate.
    """

    def __init__(
        self, lookahead: Lookahead, progress: Progress, steps: int, rate: Callable[[], float]
    ) -> None:
        self.lookahead = lookahead
        self.progress = progress
        self.steps = steps
        self.rate = rate

    def select(self, command: AdaptationCommand) -> AdaptationCommand:
        """The best candidate, with the command's id and the compared losses as evidence."""
        left = [command, *command.shortlist]
        compared, losses = len(left), [0.0]
        while len(left) > 1:
            losses = self._losses(left, self._steps_for(len(left)))
            order = sorted(range(len(left)), key=lambda i: _sortable(losses[i]))
            left = [left[i] for i in order[: math.ceil(len(left) / 2)]]
            losses = [losses[i] for i in order]
        best = left[0]
        suffix = (
            f"; a look {self.steps} steps ahead at {compared} candidates: held-out loss {losses[0]:.4f}, "
            f"the next one's {losses[1]:.4f}"
        )
        found = {"lookahead_loss": losses[0], "lookahead_next": losses[1], "lookahead_steps": self.steps}
        return replace(
            best,
            command_id=command.command_id,
            reason=best.reason + suffix,
            evidence={**best.evidence, **found},
            shortlist=(),
        )

    def _steps_for(self, candidates: int) -> int:
        return max(1, self.steps >> (math.ceil(math.log2(candidates)) - 1))

    def _losses(self, commands: Sequence[AdaptationCommand], steps: int) -> list[float]:
        p = self.progress
        position = DataPosition(p.epoch, p.batch, p.step)
        return [self.lookahead.loss_after(c, position, steps, self.rate()) for c in commands]


def _sortable(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf
