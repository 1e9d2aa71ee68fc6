"""A policy of your own: it decides when, where and by what the network grows, and which seeds stay.

    python custom_policy.py

By name: start it in this folder, or add this folder to PYTHONPATH.

    esper-train morphogenetic/policy=custom morphogenetic.policy._target_=custom_policy.GrowOnPlateau \
        morphogenetic.policy.patience=2 'allowed_targets=[custom_policy]'
"""

from collections.abc import Mapping
from typing import Any

import esper
from esper.leyline import AdaptationCommand, CommandKind, Outcome, SeedStage, SystemStatePacket


class GrowOnPlateau:
    """Adds the smallest candidate when the validation loss has not fallen; keeps the seeds that help."""

    def __init__(self, patience: int = 1) -> None:
        self.patience = patience
        self.commands = 0
        self.rejected = 0

    def decide(self, packet: SystemStatePacket) -> list[AdaptationCommand]:
        return [*self._judge(packet), *self._grow(packet)]

    def _judge(self, packet: SystemStatePacket) -> list[AdaptationCommand]:
        measured = [s for s in packet.seeds if s.stage is SeedStage.PROBATIONARY and s.impact is not None]
        return [
            self._command(
                packet,
                CommandKind.FOSSILIZE if seed.impact.loss_gain > 0 else CommandKind.CULL,
                f"the validation loss is {seed.impact.loss_gain:.4f} lower with it",
                layer=seed.layer,
                seed_index=seed.seed_index,
            )
            for seed in measured
        ]
