"""A policy of your own: it decides when, where and by what the network grows, and which seeds stay.

    python custom_policy.py

By name: start it in this folder, or add this folder to PYTHONPATH.

    esper-train morphogenetic/policy=custom morphogenetic.policy._target_=custom_policy.GrowOnPlateau \
        +morphogenetic.policy.min_drop=0.2 'allowed_targets=[custom_policy]'
"""

from collections.abc import Iterator, Mapping
from typing import Any

import esper
from esper.leyline import AdaptationCommand, CommandKind, Outcome, SeedStage, SystemStatePacket


class GrowOnPlateau:
    """Grows when the validation loss falls by less than `min_drop`; keeps the seeds that help.

    It takes the largest candidate of the first layer that has a free slot, and waits for the outcome.
    """

    def __init__(self, min_drop: float = 0.1) -> None:
        self.min_drop = min_drop
        self.commands = 0

    def decide(self, packet: SystemStatePacket) -> list[AdaptationCommand]:
        """Called between two steps and after each epoch; depends on packet and own state only."""
        return [*self._judge(packet), *self._grow(packet)]

    def _judge(self, packet: SystemStatePacket) -> Iterator[AdaptationCommand]:
        for seed in packet.seeds:
            if seed.stage is SeedStage.PROBATIONARY and seed.impact is not None:
                gain, error = seed.impact.loss_gain, seed.impact.loss_gain_error
                kind = CommandKind.FOSSILIZE if gain > error else CommandKind.CULL
                reason = f"without it the validation loss changes by {gain:+.4f} +- {error:.4f}"
                yield self._command(packet, kind, reason, layer=seed.layer, seed_index=seed.seed_index)

    def _grow(self, packet: SystemStatePacket) -> Iterator[AdaptationCommand]:
        losses = packet.val_loss_history
        on_trial = any(seed.stage is not SeedStage.FOSSILIZED for seed in packet.seeds)
        if on_trial or len(losses) < 2 or losses[-1] < (1 - self.min_drop) * losses[-2]:
            return
        places = [(site, each) for site in packet.sites if site.free_slots for each in site.candidates]
        if places:
            site, candidate = min(places, key=lambda place: (place[0].depth, -place[1].params))
            yield self._command(
                packet,
                CommandKind.GERMINATE,
                f"the validation loss fell by less than {self.min_drop:.0%}",
                layer=site.layer,
                seed_index=site.free_slots[0],
                blueprint=candidate.blueprint,
                placement=candidate.placement,
                options=candidate.options,
            )

    def _command(
        self, packet: SystemStatePacket, kind: CommandKind, reason: str, **given: Any
    ) -> AdaptationCommand:
        self.commands += 1
        return AdaptationCommand(f"plateau-{packet.step}-{self.commands}", kind, 1.0, 1.0, reason, **given)

    def report(self, outcome: Outcome) -> None:
        """Called with the outcome of each command."""

    def state_dict(self) -> dict[str, Any]:
        return {"commands": self.commands}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.commands = state["commands"]


def main() -> None:
    config = esper.TolariaConfig.from_dict(
        {
            "model": {"architecture": "mlp", "model_params": {"hidden": [16, 16]}},
            "dataset": {"name": "digits"},
            "optimization": {"learning_rate": 0.01, "max_epochs": 8},
            "morphogenetic": {
                "policy": {"_target_": "custom_policy.GrowOnPlateau", "min_drop": 0.2},
                "decision_frequency": 1,  # decide after each epoch
                "max_params_ratio": 3.0,
                "seed": {"blend_steps": 40},  # optimiser steps until a seed has its full weight
                "adaptation_cooldown": 0.0,
            },
            "allowed_targets": ["custom_policy"],
        }
    )
    trainer = esper.TolariaTrainer(config)
    summary = trainer.run_training()
    for seed in summary["seeds"]:
        print(f"{seed['layer']}[{seed['seed']}] {seed['blueprint']}: {seed['stage']}, {seed['reason']}")


if __name__ == "__main__":
    main()
