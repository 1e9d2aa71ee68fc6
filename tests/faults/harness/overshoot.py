"""What the run of R21 is given: an optimiser whose updates go wrong, and a policy that grows to a plan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from esper.leyline import AdaptationCommand, CommandKind, Outcome, SystemStatePacket

# At the end of which epoch: what is to happen to which slot. Layers are asked for again after a rollback has
# barred them, so that an embargo which is forgotten shows.
PLAN: dict[int, tuple[tuple[CommandKind, str, int], ...]] = {
    1: ((CommandKind.GERMINATE, "block1", 0), (CommandKind.GERMINATE, "block2", 0)),
    3: (
        (CommandKind.FOSSILIZE, "block1", 0),
        (CommandKind.CULL, "block2", 0),
        (CommandKind.GERMINATE, "block3", 0),
    ),
    4: ((CommandKind.GERMINATE, "block2", 1),),
    5: ((CommandKind.GERMINATE, "block2", 2), (CommandKind.GERMINATE, "block1", 1)),
    6: ((CommandKind.GERMINATE, "block2", 3), (CommandKind.GERMINATE, "block1", 2)),
}


class Overshoot(torch.optim.Adam):
    """Adam that makes a weight of the host NaN in its step `at[n]` where the rate has been halved n times.

    So whether it goes wrong depends on the state of the run alone, its step and its learning rate. A run that
    is killed before a rollback is durable and then resumed meets the same fault again, as it has to.

    With `marks`, a folder that is set for the process, each fault happens only once besides, and leaves a
    file there. A run that is killed after a rollback and resumed without its decisions does not meet the
    fault a second time, and so takes another course.
    """

    marks: Path | None = None

    def __init__(self, params: Any, lr: float, at: Sequence[int] = ()) -> None:
        super().__init__(params, lr=lr)
        self.at = list(at)
        self.full_rate = lr

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        result = super().step(closure)
        host = self.param_groups[0]
        if host.get("name") == "host":
            weight = host["params"][0]
            if self._goes_wrong(int(self.state[weight]["step"]), host["lr"]):
                weight.view(-1)[0] = math.nan
        return result

    def _goes_wrong(self, step: int, rate: float) -> bool:
        halvings = round(math.log2(self.full_rate / rate))
        if step not in self.at[halvings : halvings + 1]:
            return False
        if self.marks is None:
            return True
        mark = self.marks / str(step)
        first = not mark.exists()
        mark.touch()
        return first


class Planned:
    """A policy that asks for what is in the plan."""

    def __init__(self) -> None:
        self.refused = 0

    def decide(self, packet: SystemStatePacket) -> list[AdaptationCommand]:
        return [
            AdaptationCommand(
                f"{kind.value}-{layer}-{index}@{packet.epoch}",
                *(kind, 1.0, 1.0, "it is in the plan"),
                layer=layer,
                seed_index=index,
                blueprint="conv_light",
            )
            for kind, layer, index in PLAN.get(packet.epoch, ())
        ]

    def report(self, outcome: Outcome) -> None:
        self.refused += not outcome.applied

    def state_dict(self) -> dict[str, Any]:
        return {"refused": self.refused}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.refused = state["refused"]
