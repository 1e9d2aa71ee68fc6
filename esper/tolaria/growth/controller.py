"""The growth controller: packet -> Tamiyo -> thresholds, cap, cooldown -> Kasmina -> outcome."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from esper.config import MorphogeneticConfig
from esper.errors import CheckpointError, GateClosedError, GrowthError
from esper.kasmina import SeedManager, SeedRecord, StageMove, TopologyChange, TrainingPosition
from esper.leyline import (
    AdaptationCommand,
    CommandKind,
    EventName,
    Level,
    Outcome,
    Refusal,
    SeedStage,
    SystemStatePacket,
)
from esper.tolaria.cost.budget import FlopBudget, over_budget
from esper.tolaria.event_payloads import move_payload, outcome_payload
from esper.tolaria.events import Telemetry
from esper.tolaria.optimization.optimizer_manager import OptimizerManager


class Tamiyo(Protocol):
    """Makes growth decisions: a policy in this process or the client of a service."""

    def decide(self, packet: SystemStatePacket) -> Sequence[AdaptationCommand]: ...

    def report(self, outcome: Outcome) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class GrowthController:
    """Gets commands from Tamiyo, rejects those that break limits, applies the rest to seeds and optimizers.

    Args:
        tamiyo: makes the decisions.
        seeds: the seeds' lifecycle.
        optimizers: updated together with the seeds.
        telemetry: receives events.
        config: thresholds, cap and cooldowns.
        max_params: greatest number of parameters of the grown network.
        hook_budget_ms: a slower decision or epoch hook is reported.
        on_structure: called after every change of the forward.
        clock: wall clock in seconds; read only if a cooldown in seconds is set.
        flops: budget of FLOPs.
        select: picks one of a germination's shortlist.
    """

    def __init__(
        self,
        tamiyo: Tamiyo,
        seeds: SeedManager,
        optimizers: OptimizerManager,
        telemetry: Telemetry,
        config: MorphogeneticConfig,
        *,
        max_params: int,
        hook_budget_ms: float,
        on_structure: Callable[[TopologyChange], None],
        clock: Callable[[], float] = time.monotonic,
        flops: FlopBudget | None = None,
        select: Callable[[AdaptationCommand], AdaptationCommand] | None = None,
    ) -> None:
        self.tamiyo = tamiyo
        self.seeds = seeds
        self.optimizers = optimizers
        self.telemetry = telemetry
        self.config = config
        self.max_params = max_params
        self.hook_budget_ms = hook_budget_ms
        self.on_structure = on_structure
        self.clock = clock
        self.flops = flops
        self.select = select
        # why the topology must not be changed now; empty if it may be
        self.conservative: Callable[[], str] = lambda: ""
        self.counts = {"proposed": 0, "applied": 0, "refused": 0}
        self.applied_ids: set[str] = set()
        self._epoch_of_cap = -1
        self._applied_in_epoch = 0
        self._last_epoch: int | None = None
        self._last_time: float | None = None
        self._paused_until = -1

    # -- decisions -------------------------------------------------------------------------------

    def decide(self, packet: SystemStatePacket, running_epoch: int) -> list[Outcome]:
        """Make one round of decisions and return its outcomes.

        Args:
            packet: the state to decide by.
            running_epoch: the epoch (from 1) that the cap counts.
        """
        commands = self._decide(packet)
        now = TrainingPosition(packet.step, packet.epoch)
        if running_epoch != self._epoch_of_cap:
            self._epoch_of_cap, self._applied_in_epoch = running_epoch, 0
        cooling = self._cooling(running_epoch)
        outcomes = [self._process(command, now, cooling) for command in commands]
        if any(outcome.applied for outcome in outcomes):
            self._last_epoch = running_epoch
            self._last_time = self.clock() if self.config.adaptation_cooldown > 0 else None
        return outcomes

    def _decide(self, packet: SystemStatePacket) -> list[AdaptationCommand]:
        start = time.perf_counter()
        try:
            commands = list(self.tamiyo.decide(packet))
            if foreign := [c for c in commands if not isinstance(c, AdaptationCommand)]:
                raise TypeError(f"decide() gave {foreign[0]!r:.80}; expected AdaptationCommands")
        except Exception as error:  # noqa: BLE001 - a policy is the user's code; its failure must not end the run
            self._emit_policy_error(error)
            return []
        spent_ms = 1e3 * (time.perf_counter() - start)
        self.check_budget("decision", spent_ms)
        return sorted(commands, key=lambda c: -c.urgency)

    def _report(self, what: Any, to: Callable[[Any], None]) -> None:
        try:
            to(what)
        except Exception as error:  # noqa: BLE001 - as in _decide
            self._emit_policy_error(error)

    def finish(self, packet: SystemStatePacket) -> None:
        """Notify Tamiyo of the end of the run, if it has a `finish` method."""
        self._report(packet, getattr(self.tamiyo, "finish", lambda _: None))

    def _emit_policy_error(self, error: Exception) -> None:
        self.telemetry.emit(EventName.TAMIYO_ERROR, {"reason": _describe(error)}, level=Level.ERROR)

    def check_budget(self, what: str, spent_ms: float) -> None:
        """Warn if a hook took longer than its budget."""
        if spent_ms > self.hook_budget_ms:
            facts = {"hook": what, "elapsed_ms": spent_ms, "budget_ms": self.hook_budget_ms}
            self.telemetry.warn(EventName.HOOK_BUDGET_EXCEEDED, facts)

    def _cooling(self, running_epoch: int) -> str:
        since = self.config.adaptation_cooldown_epochs
        if self._last_epoch is not None and running_epoch - self._last_epoch < since:
            return f"epoch {running_epoch} is within {since} epochs of the last adaptation"
        seconds = self.config.adaptation_cooldown
        if seconds > 0 and self._last_time is not None and self.clock() - self._last_time < seconds:
            return f"the last adaptation was less than {seconds:g} s ago"
        return ""

    def _process(self, command: AdaptationCommand, now: TrainingPosition, cooling: str) -> Outcome:
        self.counts["proposed"] += 1
        refusal, detail = self._refusal(command, now, cooling)
        if refusal is None:
            command = self._select(command)
            refusal, detail = self._apply(command, now)
        self.counts["refused" if refusal else "applied"] += 1
        outcome = Outcome(command, refusal, detail, now.step, now.epoch)
        self._emit_outcome(outcome)
        self._report(outcome, self.tamiyo.report)
        return outcome

    def _refusal(
        self, command: AdaptationCommand, now: TrainingPosition, cooling: str
    ) -> tuple[Refusal | None, str]:
        """Which limit a command breaks, if any, and by how much."""
        c = self.config
        checks = (
            (
                command.confidence < c.confidence_threshold,
                Refusal.CONFIDENCE,
                f"confidence {command.confidence:.3f} is below {c.confidence_threshold}",
            ),
            (
                command.urgency < c.urgency_threshold,
                Refusal.URGENCY,
                f"urgency {command.urgency:.3f} is below {c.urgency_threshold}",
            ),
            (bool(held := self.conservative()), Refusal.CONSERVATIVE, held),
            (
                command.command_id in self.applied_ids,
                Refusal.DUPLICATE,
                f"command {command.command_id} has been applied",
            ),
            (
                self._applied_in_epoch >= c.max_adaptations_per_epoch,
                Refusal.CAP,
                f"{self._applied_in_epoch} adaptations in this epoch, at most {c.max_adaptations_per_epoch}",
            ),
            (bool(cooling), Refusal.COOLDOWN, cooling),
            (
                command.kind is CommandKind.GERMINATE and now.epoch < self._paused_until,
                Refusal.PAUSED,
                f"growth is paused until epoch {self._paused_until}",
            ),
            (
                command.kind is CommandKind.GERMINATE and self.optimizers.rebuilds.is_open(now.step),
                Refusal.BREAKER,
                self.optimizers.rebuilds.reason,
            ),
        )
        return next(((refusal, detail) for broken, refusal, detail in checks if broken), (None, ""))

    def _select(self, command: AdaptationCommand) -> AdaptationCommand:
        """The command, or the best of its shortlist according to a lookahead, which runs only here.

        Candidates that no longer fit after an earlier command of this round are skipped.
        """
        if self.select is None or not command.shortlist:
            return command
        try:
            first, *others = filter(self._fits, (command, *command.shortlist))
            chosen = replace(first, command_id=command.command_id, shortlist=tuple(others))
            return self.select(chosen) if others else chosen
        except Exception as error:  # noqa: BLE001 - as in _apply
            self._warn_undone(error)
            return command

    def _fits(self, command: AdaptationCommand) -> bool:
        model = self.seeds.model
        free = model.record(command.layer, command.seed_index).stage is SeedStage.DORMANT
        return free and not over_budget(command, model, self.max_params, self.flops)

    def _apply(self, command: AdaptationCommand, now: TrainingPosition) -> tuple[Refusal | None, str]:
        if command.kind is CommandKind.PAUSE:
            self._paused_until = now.epoch + command.pause_epochs
        else:
            try:
                if detail := over_budget(command, self.seeds.model, self.max_params, self.flops):
                    return Refusal.BUDGET, detail
                change = self.seeds.apply(command, now)
                self._update_optimizers(change, now)
            except Exception as error:  # noqa: BLE001 - blueprints and optimisers may be the user's code
                gate = isinstance(error, GateClosedError)
                detail = self._warn_undone(error)
                return (Refusal.GATE if gate else Refusal.INVALID), detail
            self._publish(change, now)
        self.applied_ids.add(command.command_id)
        self._applied_in_epoch += 1
        return None, ""

    # -- changes ---------------------------------------------------------------------------------

    def advance(self, now: TrainingPosition) -> None:
        """Advance every seed whose gates allow it; a change that the optimizers cannot follow is undone."""
        try:
            change = self.seeds.advance(now)
            self._update_optimizers(change, now)
        except Exception as error:  # noqa: BLE001 - as in _apply
            self._warn_undone(error)
        else:
            self._publish(change, now)

    def _update_optimizers(self, change: TopologyChange, now: TrainingPosition) -> None:
        """Apply a change of the seeds to the optimizers; if that fails, undo both."""
        try:
            self.optimizers.apply(change, now.step)
        except Exception:
            change.undo()
            raise

    def _publish(self, change: TopologyChange, now: TrainingPosition) -> None:
        """Emit events for an applied change, and embargo the seeds that it culled."""
        if change.structural:
            self.on_structure(change)
        for move in change.moves:
            self._emit_move(move)
        removed = dict(change.removed)
        for move in change.moves:
            if move.new is SeedStage.CULLED:
                entries = self.optimizers.entries(list(removed[move.record.key].parameters()))
                self._emit_move(self.seeds.embargo(move.record, entries, now))
        if change.structural:
            self.telemetry.emit(EventName.TOPOLOGY_CHANGED, {"params": self.seeds.model.total_params()})

    def remove_seed(self, record: SeedRecord, reason: str, now: TrainingPosition) -> None:
        """Remove a seed at once, also during a blend: it must not be trained for another step."""
        self.seeds.blends.pop(record.key, None)
        cull = AdaptationCommand(
            f"expel-{record.key}@{now.step}",
            CommandKind.CULL,
            1.0,
            1.0,
            reason,
            layer=record.layer,
            seed_index=record.index,
        )
        change = self.seeds.apply(cull, now)
        self._update_optimizers(change, now)
        self._publish(change, now)

    # -- events ----------------------------------------------------------------------------------

    def _warn_undone(self, error: Exception) -> str:
        detail = str(error) if isinstance(error, GrowthError) else _describe(error)
        self.telemetry.warn(EventName.KASMINA_ERROR, {"reason": detail})
        return detail

    def _emit_outcome(self, outcome: Outcome) -> None:
        applied = outcome.refusal is None
        name = EventName.ADAPTATION_APPLIED if applied else EventName.ADAPTATION_REFUSED
        self.telemetry.emit(name, outcome_payload(outcome))

    def _emit_move(self, move: StageMove) -> None:
        closed = move.old is move.new and move.gate_results
        self.telemetry.emit(EventName.GATE if closed else EventName.SEED_STAGE, move_payload(move))

    # -- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Limits, counts and Tamiyo's state. Raises `CheckpointError` if Tamiyo's `state_dict` fails."""
        return {
            "counts": dict(self.counts),
            "applied_ids": sorted(self.applied_ids),
            "epoch_of_cap": self._epoch_of_cap,
            "applied_in_epoch": self._applied_in_epoch,
            "last_epoch": self._last_epoch,
            "paused_until": self._paused_until,
            "tamiyo": self._tamiyo_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.counts = dict(state["counts"])
        self.applied_ids = set(state["applied_ids"])
        self._epoch_of_cap, self._applied_in_epoch = state["epoch_of_cap"], state["applied_in_epoch"]
        self._last_epoch, self._paused_until = state["last_epoch"], state["paused_until"]
        try:
            self.tamiyo.load_state_dict(state["tamiyo"])
        except Exception as error:
            raise CheckpointError(f"Tamiyo cannot take up its state: {_describe(error)}") from error

    def _tamiyo_state(self) -> dict[str, Any]:
        try:
            return self.tamiyo.state_dict()
        except Exception as error:
            raise CheckpointError(f"Tamiyo cannot give its state: {_describe(error)}") from error


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
