"""What every policy is to the control loop, and how policies write their commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from esper.leyline import AdaptationCommand, Candidate, CommandKind, Outcome, SystemStatePacket
from esper.tamiyo.pruning import PruningDecision


class Policy(Protocol):
    """Decides how a network grows.

    `decide` is called between two steps and again at the end of an epoch; it must be a function of the
    packet and of the policy's own state. `report` tells what became of each command. The state is JSON.
    A policy may also have `finish(packet)`, which is called once a run has come to its end (not where it
    was stopped), with its last packet.
    """

    def decide(self, packet: SystemStatePacket) -> list[AdaptationCommand]: ...

    def report(self, outcome: Outcome) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class CommandWriter:
    """Writes commands with ids `<policy>-<step>-<n>`; n counts on over the run, so that no id comes twice."""

    def __init__(self, policy: str) -> None:
        self.policy = policy
        self.count = 0

    def _id(self, step: int) -> str:
        self.count += 1
        return f"{self.policy}-{step}-{self.count}"

    def germinate(
        self,
        packet: SystemStatePacket,
        layer: str,
        slot: int,
        candidate: Candidate,
        *,
        confidence: float,
        urgency: float,
        reason: str,
        evidence: Mapping[str, float],
    ) -> AdaptationCommand:
        return AdaptationCommand(
            self._id(packet.step),
            CommandKind.GERMINATE,
            confidence,
            urgency,
            reason,
            layer=layer,
            seed_index=slot,
            blueprint=candidate.blueprint,
            placement=candidate.placement,
            options=dict(candidate.options),
            evidence=dict(evidence),
        )

    def judged(self, packet: SystemStatePacket, verdict: PruningDecision) -> AdaptationCommand:
        """The command that carries a judge's verdict out."""
        seed = verdict.seed
        return AdaptationCommand(
            self._id(packet.step),
            verdict.kind,
            verdict.confidence,
            verdict.urgency,
            verdict.reason,
            layer=seed.layer,
            seed_index=seed.seed_index,
            blueprint=seed.blueprint,
            placement=seed.placement,
            evidence=dict(verdict.evidence),
        )

    def pause(self, packet: SystemStatePacket, epochs: int, reason: str) -> AdaptationCommand:
        return AdaptationCommand(
            self._id(packet.step), CommandKind.PAUSE, 1.0, 1.0, reason, pause_epochs=epochs
        )
