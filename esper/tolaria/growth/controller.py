"""The control loop: packet -> Tamiyo -> thresholds, cap, cooldown -> Kasmina -> outcome."""

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
    """Who decides; a policy in process and a client of a service look the same."""

    def decide(self, packet: SystemStatePacket) -> Sequence[AdaptationCommand]: ...

    def report(self, outcome: Outcome) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class GrowthController:
    """Asks Tamiyo, refuses what breaks the limits, and applies the rest to seeds and optimisers as one.

    `on_structure` is called after every change of the forward. `clock` is a wall clock in seconds;
    it is read only where a cooldown in seconds is set.
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
        choose: Callable[[AdaptationCommand], AdaptationCommand] | None = None,
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
        self.choose = choose
        # why nothing is to be changed just now; empty where all is well
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
        """One round of decisions; `running_epoch` is the epoch (from 1) that the cap is counted in."""
        commands = self._ask(packet)
        now = TrainingPosition(packet.step, packet.epoch)
        if running_epoch != self._epoch_of_cap:
            self._epoch_of_cap, self._applied_in_epoch = running_epoch, 0
        cooling = self._cooling(running_epoch)
        outcomes = [self._settle(command, now, cooling) for command in commands]
        if any(outcome.applied for outcome in outcomes):
            self._last_epoch = running_epoch
            self._last_time = self.clock() if self.config.adaptation_cooldown > 0 else None
        return outcomes

    def _ask(self, packet: SystemStatePacket) -> list[AdaptationCommand]:
        began = time.perf_counter()
        try:
            commands = list(self.tamiyo.decide(packet))
            if strangers := [c for c in commands if not isinstance(c, AdaptationCommand)]:
                raise TypeError(f"decide() gave {strangers[0]!r:.80}; expected AdaptationCommands")
        except Exception as error:  # noqa: BLE001 - a policy is the user's code; its failure is not the run's
            self._tell_failure(error)
            return []
        spent_ms = 1e3 * (time.perf_counter() - began)
        self.check_budget("decision", spent_ms)
        return sorted(commands, key=lambda c: -c.urgency)

    def _report(self, what: Any, to: Callable[[Any], None]) -> None:
        try:
            to(what)
        except Exception as error:  # noqa: BLE001 - as in _ask
            self._tell_failure(error)

    def finish(self, packet: SystemStatePacket) -> None:
        """Tell Tamiyo that the run has come to its end, where it wants to know."""
        self._report(packet, getattr(self.tamiyo, "finish", lambda _: None))

    def _tell_failure(self, error: Exception) -> None:
        self.telemetry.emit(EventName.TAMIYO_ERROR, {"reason": _sentence(error)}, level=Level.ERROR)

    def check_budget(self, what: str, spent_ms: float) -> None:
        """Say so where a hook took longer than its budget; nothing else follows from it."""
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

    def _settle(self, command: AdaptationCommand, now: TrainingPosition, cooling: str) -> Outcome:
        self.counts["proposed"] += 1
        refusal, detail = self._refusal(command, now, cooling)
        if refusal is None:
            command = self._chosen(command)
            refusal, detail = self._carry_out(command, now)
        self.counts["refused" if refusal else "applied"] += 1
        outcome = Outcome(command, refusal, detail, now.step, now.epoch)
        self._tell(outcome)
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
                command.kind is CommandKind.GERMINATE and self.optimizers.rebuilds.refuses(now.step),
                Refusal.BREAKER,
                self.optimizers.rebuilds.reason,
            ),
        )
        return next(((refusal, detail) for broken, refusal, detail in checks if broken), (None, ""))

    def _chosen(self, command: AdaptationCommand) -> AdaptationCommand:
        """The command, or the best on its shortlist, where a look ahead is to tell; it is made only then.

        What an earlier command of this round has left no place for is not looked at.
        """
        if self.choose is None or not command.shortlist:
            return command
        try:
            first, *others = filter(self._has_room, (command, *command.shortlist))
            chosen = replace(first, command_id=command.command_id, shortlist=tuple(others))
            return self.choose(chosen) if others else chosen
        except Exception as error:  # noqa: BLE001 - as in _carry_out
            self._tell_undone(error)
            return command

    def _has_room(self, command: AdaptationCommand) -> bool:
        model = self.seeds.model
        free = model.record(command.layer, command.seed_index).stage is SeedStage.DORMANT
        return free and not over_budget(command, model, self.max_params, self.flops)

    def _carry_out(self, command: AdaptationCommand, now: TrainingPosition) -> tuple[Refusal | None, str]:
        if command.kind is CommandKind.PAUSE:
            self._paused_until = now.epoch + command.pause_epochs
        else:
            try:
                if detail := over_budget(command, self.seeds.model, self.max_params, self.flops):
                    return Refusal.BUDGET, detail
                change = self.seeds.apply(command, now)
                self._follow(change, now)
            except Exception as error:  # noqa: BLE001 - blueprints and optimisers may be the user's code
                gate = isinstance(error, GateClosedError)
                detail = self._tell_undone(error)
                return (Refusal.GATE if gate else Refusal.INVALID), detail
            self._announce(change, now)
        self.applied_ids.add(command.command_id)
        self._applied_in_epoch += 1
        return None, ""

    # -- changes ---------------------------------------------------------------------------------

    def advance(self, now: TrainingPosition) -> None:
        """Let the gates move every seed on whose time has come; what cannot be followed is undone."""
        try:
            change = self.seeds.advance(now)
            self._follow(change, now)
        except Exception as error:  # noqa: BLE001 - as in _carry_out
            self._tell_undone(error)
        else:
            self._announce(change, now)

    def _follow(self, change: TopologyChange, now: TrainingPosition) -> None:
        """Let the optimisers follow the seeds; where they cannot, both are as they were before."""
        try:
            self.optimizers.apply(change, now.step)
        except Exception:
            change.undo()
            raise

    def _announce(self, change: TopologyChange, now: TrainingPosition) -> None:
        """Tell everybody of a change that has been followed, and bury the seeds that it culled."""
        if change.structural:
            self.on_structure(change)
        for move in change.moves:
            self._tell_move(move)
        removed = dict(change.removed)
        for move in change.moves:
            if move.new is SeedStage.CULLED:
                left = self.optimizers.entries(list(removed[move.record.key].parameters()))
                self._tell_move(self.seeds.embargo(move.record, left, now))
        if change.structural:
            self.telemetry.emit(EventName.TOPOLOGY_CHANGED, {"params": self.seeds.model.total_params()})

    def remove_seed(self, record: SeedRecord, reason: str, now: TrainingPosition) -> None:
        """Take a seed out at once, also in the midst of a blend: it is not trusted for another step."""
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
        self._follow(change, now)
        self._announce(change, now)

    # -- telling ---------------------------------------------------------------------------------

    def _tell_undone(self, error: Exception) -> str:
        detail = str(error) if isinstance(error, GrowthError) else _sentence(error)
        self.telemetry.warn(EventName.KASMINA_ERROR, {"reason": detail})
        return detail

    def _tell(self, outcome: Outcome) -> None:
        applied = outcome.refusal is None
        name = EventName.ADAPTATION_APPLIED if applied else EventName.ADAPTATION_REFUSED
        self.telemetry.emit(name, outcome_payload(outcome))

    def _tell_move(self, move: StageMove) -> None:
        closed = move.old is move.new and move.gate_results
        self.telemetry.emit(EventName.GATE if closed else EventName.SEED_STAGE, move_payload(move))

    # -- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Limits, counts and Tamiyo's memory. Raises `CheckpointError` where Tamiyo cannot give its own."""
        return {
            "counts": dict(self.counts),
            "applied_ids": sorted(self.applied_ids),
            "epoch_of_cap": self._epoch_of_cap,
            "applied_in_epoch": self._applied_in_epoch,
            "last_epoch": self._last_epoch,
            "paused_until": self._paused_until,
            "tamiyo": self._memory(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.counts = dict(state["counts"])
        self.applied_ids = set(state["applied_ids"])
        self._epoch_of_cap, self._applied_in_epoch = state["epoch_of_cap"], state["applied_in_epoch"]
        self._last_epoch, self._paused_until = state["last_epoch"], state["paused_until"]
        try:
            self.tamiyo.load_state_dict(state["tamiyo"])
        except Exception as error:
            raise CheckpointError(f"Tamiyo cannot take up its state: {_sentence(error)}") from error

    def _memory(self) -> dict[str, Any]:
        try:
            return self.tamiyo.state_dict()
        except Exception as error:
            raise CheckpointError(f"Tamiyo cannot give its state: {_sentence(error)}") from error


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
