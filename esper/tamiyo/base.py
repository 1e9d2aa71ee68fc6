"""The policy interface, and the helper that builds a policy's commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from esper.leyline import AdaptationCommand, Candidate, CommandKind, Outcome, SystemStatePacket
from esper.tamiyo.pruning import PruningDecision


class Policy(Protocol):
    """Interface of a policy: decides when, where and with what a network grows.

    Any class with these four methods can be a policy; name it by its dotted path in
    `morphogenetic.policy`. A policy may also have `finish(packet)`, which is called once with the last packet
    when a run has finished (not when it was interrupted).

    Example:
        >>> class NeverGrow:
        ...     def decide(self, packet):
        ...         return []
        ...     def report(self, outcome):
        ...         pass
        ...     def state_dict(self):
        ...         return {}
        ...     def load_state_dict(self, state):
        ...         pass
    """

    def decide(self, packet: SystemStatePacket) -> list[AdaptationCommand]:
        """Return the commands for this moment, most important first.

        Called between two optimizer steps and at the end of an epoch. Must depend on the packet and on the
        policy's own state only, so that a resumed run decides the same.

        Args:
            packet: the state of the run.

        Returns:
            Commands; the growth controller applies them in this order, within its limits.
        """
        ...

    def report(self, outcome: Outcome) -> None:
        """Receive the outcome of one command of the last `decide`.

        Args:
            outcome: whether the command was applied, or why it was rejected.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """The state to save.

        Returns:
            Everything that later decisions depend on, as JSON types.
        """
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Args:
            state: the saved state.

        Raises:
            KeyError: an entry is missing.
        """
        ...


@dataclass(frozen=True, slots=True)
class Rationale:
    """Why a policy gives a command.

    Args:
        confidence: in [0, 1].
        urgency: in [0, 1].
        reason: a clause for people.
        evidence: the numbers behind it, by name.
    """

    confidence: float
    urgency: float
    reason: str
    evidence: Mapping[str, float]


class CommandWriter:
    """Builds commands with ids `<policy>-<step>-<n>`; n increases over the whole run, so that ids are unique.

    Args:
        policy: name of the policy, the prefix of its ids.
    """

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
        rationale: Rationale,
    ) -> AdaptationCommand:
        """Return the command that adds `candidate` at slot `slot` of `layer`."""
        return AdaptationCommand(
            self._id(packet.step),
            CommandKind.GERMINATE,
            rationale.confidence,
            rationale.urgency,
            rationale.reason,
            layer=layer,
            seed_index=slot,
            blueprint=candidate.blueprint,
            placement=candidate.placement,
            options=dict(candidate.options),
            evidence=dict(rationale.evidence),
        )

    def from_decision(self, packet: SystemStatePacket, decision: PruningDecision) -> AdaptationCommand:
        """Return the command that applies a pruning decision."""
        seed = decision.seed
        return AdaptationCommand(
            self._id(packet.step),
            decision.kind,
            decision.confidence,
            decision.urgency,
            decision.reason,
            layer=seed.layer,
            seed_index=seed.seed_index,
            blueprint=seed.blueprint,
            placement=seed.placement,
            evidence=dict(decision.evidence),
        )

    def pause(self, packet: SystemStatePacket, epochs: int, reason: str) -> AdaptationCommand:
        """Return the command that stops all germinations for `epochs` epochs."""
        return AdaptationCommand(
            self._id(packet.step), CommandKind.PAUSE, 1.0, 1.0, reason, pause_epochs=epochs
        )
