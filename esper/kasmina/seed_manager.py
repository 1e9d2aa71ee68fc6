"""Applies commands to seeds, checks the gates, and returns what the optimizer must apply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from esper.config import SeedConfig
from esper.errors import GrowthError
from esper.kasmina import gates
from esper.kasmina.blending import Blend
from esper.kasmina.blueprints import get_blueprint
from esper.kasmina.gates import GateResult, require_passed
from esper.kasmina.isolation import guard_gradients, learn
from esper.kasmina.model import MorphableModel
from esper.kasmina.record import SeedRecord
from esper.kasmina.seed import Seed
from esper.kasmina.topology import StageMove, TopologyChange, TrainingPosition
from esper.leyline import GATES, AdaptationCommand, CommandKind, Gate, SeedStage

S = SeedStage

# The gates that need only the seed itself.
_SEED_GATES = {Gate.SANITY: gates.sanity, Gate.GRADIENT: gates.gradient, Gate.STABILITY: gates.stability}


class SeedManager:
    """The lifecycle of a model's seeds.

    `apply` executes a command and `advance` makes the transitions that only gates decide; both return a
    `TopologyChange` that the optimizer must apply before the next step. Call `tick` once per optimizer step.

    Args:
        model: the growable model.
        config: the seed options (blending, isolation, embargo).

    Example:
        >>> manager = SeedManager(model, SeedConfig())  # doctest: +SKIP
        >>> change = manager.apply(command, TrainingPosition(step=10, epoch=0))  # doctest: +SKIP
    """

    def __init__(self, model: MorphableModel, config: SeedConfig) -> None:
        self.model = model
        self.config = config
        self.blends: dict[str, Blend] = {}
        self.removed: list[dict[str, Any]] = []

    # -- commands --------------------------------------------------------------------------------

    def apply(self, command: AdaptationCommand, position: TrainingPosition) -> TopologyChange:
        """Execute one command.

        Raises:
            GrowthError: the command is not possible; nothing has changed.
        """
        change = TopologyChange()
        if command.kind is CommandKind.PAUSE:
            raise GrowthError("pause is not a command for a seed: it stops all growth")
        record = self.model.record(command.layer, command.seed_index)
        try:
            if command.kind is CommandKind.GERMINATE:
                self._germinate(record, command, position, change)
            elif command.kind is CommandKind.CULL:
                self._cull(record, command.reason, position, change)
            else:
                self._fossilize(record, command.reason, position, change)
        except Exception:
            change.undo()
            raise
        return change

    def _germinate(
        self,
        record: SeedRecord,
        command: AdaptationCommand,
        position: TrainingPosition,
        change: TopologyChange,
    ) -> None:
        if record.stage is not S.DORMANT:
            raise GrowthError(f"slot {record.index} of {record.layer!r} is {record.stage}, not dormant")
        shape = self.model.site_shape(record.layer, command.placement)
        if not shape.in_shape:
            raise GrowthError(f"the input of layer {record.layer!r} holds no features for a seed in parallel")
        problem = get_blueprint(command.blueprint).unsupported(shape)
        if problem:
            raise GrowthError(f"blueprint {command.blueprint!r} does not fit {record.layer!r}: {problem}")
        new = record.cleared()
        new.blueprint, new.placement = command.blueprint, command.placement
        new.options, new.blend_mode = dict(command.options), self.config.blend_mode
        new.layout, new.in_shape, new.out_shape = shape.layout, shape.in_shape, shape.out_shape
        new.germinated_step = position.step
        change.undo_steps.append(lambda: self._undo_germination(new, record))
        try:
            seed = self.model.attach(new)
        except Exception as error:
            # a blueprint may be the user's own code: whatever it raises, the command fails, not the run
            raise GrowthError(f"blueprint {new.blueprint!r} could not be built: {error}") from error
        gate_results = [gates.interface(seed, shape.in_shape, shape.out_shape), gates.sanity(seed)]
        require_passed(gate_results, new)
        self._store_record(new)
        self._move(new, S.GERMINATED, command.reason, position, change, gate_results)
        change.added.append((new.key, seed))
        self._advance_one(new, position, change)

    def _undo_germination(self, new: SeedRecord, old: SeedRecord) -> None:
        self._store_record(old)
        self.blends.pop(new.key, None)
        if new.key in self.model.seeds:
            self.model.detach(new)

    def _cull(
        self, record: SeedRecord, reason: str, position: TrainingPosition, change: TopologyChange
    ) -> None:
        if not record.alive or record.stage is S.FOSSILIZED:
            raise GrowthError(f"slot {record.index} of {record.layer!r} is {record.stage}: nothing to cull")
        blend = self.blends.get(record.key)
        if record.stage is S.BLENDING and blend is not None and blend.alpha > 0.0:
            if blend.reversed:
                raise GrowthError(f"slot {record.index} of {record.layer!r} is being removed already")
            self._save_for_undo(record, change)
            forward = blend.state_dict()
            change.undo_steps.append(lambda: blend.load_state_dict(forward))
            # removed as gradually as it was added; ends in CULLED when alpha is 0
            blend.reverse()
            record.reason = reason
            change.moves.append(StageMove(record, S.BLENDING, S.BLENDING, f"blend reversed: {reason}"))
            return
        self._remove(record, reason, position, change)

    def _remove(
        self, record: SeedRecord, reason: str, position: TrainingPosition, change: TopologyChange
    ) -> None:
        seed, blends = self.model.seed_module(record), dict(self.blends)
        self.blends.pop(record.key, None)

        def undo() -> None:
            self.model.reattach(record, seed)
            self.blends = blends

        self._move(record, S.CULLED, reason, position, change)
        change.undo_steps.append(undo)
        self.model.detach(record)
        change.removed.append((record.key, seed))

    def embargo(self, record: SeedRecord, optimiser_entries: int, position: TrainingPosition) -> StageMove:
        """CULLED -> EMBARGOED after the optimizer has applied the change; checks that nothing is left."""
        gate_result = self._reset(record, optimiser_entries)
        require_passed([gate_result], record)
        self.removed.append(record.to_json())
        old, reason = record.stage, record.reason
        record.move(S.EMBARGOED, step=position.step, epoch=position.epoch, reason=reason)
        record.embargo_until_epoch = position.epoch + self.config.embargo_epochs
        return StageMove(record, old, S.EMBARGOED, reason, [gate_result])

    def embargo_layer(self, layer: str, until_epoch: int, reason: str, position: TrainingPosition) -> None:
        """Keep every free slot of a layer empty until so many epochs are over, without `LEGAL_MOVES`."""
        for record in self.model.records[layer]:
            if record.stage is S.DORMANT:
                record.stage, record.reason = S.EMBARGOED, reason
                record.stage_step, record.stage_epoch = position.step, position.epoch
            if record.stage is S.EMBARGOED:
                record.embargo_until_epoch = max(record.embargo_until_epoch, until_epoch)

    def _reset(self, record: SeedRecord, optimiser_entries: int | None = None) -> GateResult:
        named = self.model.seeds.named_parameters()
        parameters = sum(1 for name, _ in named if name.split(".")[0] == record.key)
        return gates.reset(parameters, self.model.leaked_hooks(record.layer), optimiser_entries)

    def _fossilize(
        self, record: SeedRecord, reason: str, position: TrainingPosition, change: TopologyChange
    ) -> None:
        if record.stage is not S.PROBATIONARY:
            raise GrowthError(f"slot {record.index} of {record.layer!r} is {record.stage}, not probationary")
        gate_results = [gates.sanity(self.model.seed_module(record)), gates.impact(record.impact)]
        require_passed(gate_results, record)
        self._move(record, S.FOSSILIZED, reason, position, change, gate_results)

    # -- moves that gates decide -----------------------------------------------------------------

    def advance(self, position: TrainingPosition) -> TopologyChange:
        """Advance every seed whose stage is over and whose gates pass; blocked seeds are reported, too."""
        change = TopologyChange()
        try:
            for row in self.model.records.values():
                for record in row:
                    self._advance_one(record, position, change)
        except Exception:
            change.undo()
            raise
        return change

    def _advance_one(self, record: SeedRecord, position: TrainingPosition, change: TopologyChange) -> None:
        while (target := self._next_stage(record, position)) is not None:
            if record.stage is S.EMBARGOED:
                self._end_embargo(record, position, change)
                return
            seed = self.model.seed_module(record)
            if target is S.CULLED:
                self._remove(record, record.reason, position, change)
                return
            gate_results = [_SEED_GATES[gate](seed) for gate in GATES[record.stage, target]]
            if not all(v.passed for v in gate_results):
                self._report_blocked(record, gate_results, change)
                return
            self._enter_stage(record, target, seed, position, change, gate_results)

    def _next_stage(self, record: SeedRecord, position: TrainingPosition) -> SeedStage | None:
        """Return the stage that the seed must enter now, if any."""
        if record.stage is S.GERMINATED:
            return S.TRAINING
        if record.stage is S.TRAINING:
            waited = position.step - record.stage_step >= self.config.isolation_steps
            return S.BLENDING if waited else None
        if record.stage is S.BLENDING:
            blend = self.blends[record.key]
            if not blend.done:
                return None
            return S.CULLED if blend.reversed else S.PROBATIONARY
        if record.stage is S.EMBARGOED and position.epoch >= record.embargo_until_epoch:
            return S.DORMANT
        return None

    def _enter_stage(
        self,
        record: SeedRecord,
        target: SeedStage,
        seed: Seed,
        position: TrainingPosition,
        change: TopologyChange,
        gate_results: Sequence[GateResult],
    ) -> None:
        reason = {
            S.TRAINING: "sound at birth",
            S.BLENDING: "isolation over",
            S.PROBATIONARY: "fully blended in",
        }[target]
        if target is S.BLENDING:
            blend = Blend(self.config.blend_schedule)
            blend.start(self.config.blend_steps)
            self.blends[record.key] = blend
            seed.set_alpha(blend.alpha)
            change.activated.append((record.key, seed))
            change.undo_steps.append(lambda: self._undo_blending(record, seed))
        if target is S.PROBATIONARY:
            blends = dict(self.blends)
            change.undo_steps.append(lambda: setattr(self, "blends", blends))
            self.blends.pop(record.key)
        self._move(record, target, reason, position, change, gate_results)

    def _undo_blending(self, record: SeedRecord, seed: Seed) -> None:
        self.blends.pop(record.key, None)
        seed.set_alpha(0.0)

    def _end_embargo(self, record: SeedRecord, position: TrainingPosition, change: TopologyChange) -> None:
        gate_result = self._reset(record)
        if not gate_result.passed:
            self._report_blocked(record, [gate_result], change)
            return
        self._move(record, S.DORMANT, "embargo over", position, change, [gate_result])
        change.undo_steps.append(lambda: self._store_record(record))
        self._store_record(record.cleared())

    def _store_record(self, record: SeedRecord) -> None:
        self.model.records[record.layer][record.index] = record

    def _move(
        self,
        record: SeedRecord,
        stage: SeedStage,
        reason: str,
        position: TrainingPosition,
        change: TopologyChange,
        gate_results: Sequence[GateResult] = (),
    ) -> None:
        self._save_for_undo(record, change)
        old = record.stage
        record.move(stage, step=position.step, epoch=position.epoch, reason=reason)
        change.moves.append(StageMove(record, old, stage, reason, gate_results))
        self.model.sync_stages()

    def _save_for_undo(self, record: SeedRecord, change: TopologyChange) -> None:
        before = replace(record)

        def undo() -> None:
            record.copy_from(before)
            self.model.sync_stages()

        change.undo_steps.append(undo)

    def _report_blocked(
        self, record: SeedRecord, gate_results: Sequence[GateResult], change: TopologyChange
    ) -> None:
        """Report the first gate that is closed; the seed stays where it is."""
        self._save_for_undo(record, change)
        record.error_count += 1
        closed = next(v for v in gate_results if not v.passed)
        reason = f"gate {closed.gate} closed: {closed.reason}"
        change.moves.append(StageMove(record, record.stage, record.stage, reason, gate_results))

    # -- once a step -----------------------------------------------------------------------------

    @property
    def isolated(self) -> list[tuple[str, Seed]]:
        """Seeds in isolated training, by slot key."""
        return [
            (r.key, self.model.seed_module(r)) for r in self.model.alive_records() if r.stage is S.TRAINING
        ]

    def learn(self, max_norm: float | None, step: int) -> None:
        """Compute the gradients of isolated seeds for this step, clipped separately."""
        for _, seed in self.isolated:
            learn(seed, step)
            guard_gradients(seed, max_norm)
            seed.record_gradients()

    def alpha(self, record: SeedRecord) -> float:
        """Return the alpha of a seed without waiting for the device."""
        blend = self.blends.get(record.key)
        return blend.alpha if blend is not None else float(record.joined)

    def tick(self) -> bool:
        """Advance every blend by a step; returns whether a reversed one has ended."""
        ended = False
        for key, blend in self.blends.items():
            if not blend.done:
                seed = self.model.seeds[key]
                assert isinstance(seed, Seed)
                seed.set_alpha(blend.tick())
                ended |= blend.done and blend.reversed
        return ended

    # -- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "blends": {key: blend.state_dict() for key, blend in self.blends.items()},
            "buried": list(self.removed),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.blends = {}
        for key, saved in state["blends"].items():
            blend = Blend(self.config.blend_schedule)
            blend.load_state_dict(saved)
            self.blends[key] = blend
        self.removed = list(state["buried"])
