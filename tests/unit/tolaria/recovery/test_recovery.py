"""An unhealthy run goes back to a good state and on, or halts and says why."""

from __future__ import annotations

import copy
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.faults import FaultyGradient, FaultyLoss, FaultyWeight
from helpers.runs import (
    Notes,
    PlannedPolicy,
    checkpoints,
    germinate,
    make_run,
    notes_of,
    restored,
    same,
    seed_command,
)
from helpers.scenarios import LONG, SCENARIOS, alike, path_of

from esper.leyline import CommandKind, Refusal, SeedStage
from esper.tolaria.checkpoint import load_checkpoint
from esper.tolaria.loop import TrainingLoop
from esper.tolaria.run_control import RunControl

ROLLBACK, HALT = "tolaria.rollback.restored", "tolaria.emergency.halt"


class Compares(Notes):
    """At every rollback, compares the run's state with the snapshot's, to the bit."""

    def __init__(self) -> None:
        super().__init__()
        self.run: TrainingLoop | None = None
        self.verdicts: list[bool] = []
        self.kept: dict[int, tuple[Any, Any]] = {}
        self.unchanged: list[bool] = []

    def attach(self, run: TrainingLoop) -> None:
        self.run = run
        back, settled = run.recovery.rollback.restore, run.guard.rolled_back

        def went_back(*args: Any, **options: Any) -> Any:
            result = back(*args, **options)
            self.verdicts.append(self._stands_at(run, result.step))
            return result

        def keep() -> None:
            settled()
            self._keep(run)

        run.recovery.rollback.restore = went_back  # type: ignore[method-assign]
        run.guard.rolled_back = keep  # type: ignore[method-assign]

    def _stands_at(self, run: TrainingLoop, step: int) -> bool:
        snapshot = run.guard.snapshots.nearest(step)
        assert snapshot is not None
        tensors, owners = run.state.capture()
        return (
            owners == snapshot.state["owners"]
            and tensors.keys() == snapshot.tensors.keys()
            and all(same(tensors[name], snapshot.tensors[name]) for name in tensors)
        )

    def _keep(self, run: TrainingLoop) -> None:
        snapshot = run.guard.snapshots.nearest(run.progress.step)
        assert snapshot is not None
        copies = {n: {k: t.clone() for k, t in g.items()} for n, g in snapshot.tensors.items()}
        self.kept[snapshot.step] = snapshot, (copies, copy.deepcopy(snapshot.state))

    def progress(self, step_in_epoch: int, loss: float | None) -> None:
        super().progress(step_in_epoch, loss)
        assert self.run is not None
        for snapshot, (tensors, state) in self.kept.values():
            if self.run.progress.step == snapshot.step + 10:
                whole = all(same(snapshot.tensors[n], tensors[n]) for n in tensors)
                self.unchanged.append(whole and snapshot.state == state)


def orphans(run: TrainingLoop) -> list[str]:
    """Optimiser groups and state of parameters that are not the model's, and the other way round."""
    own = {id(p) for p in run.model.parameters() if p.requires_grad}
    held = [id(p) for p in run.optimizers.parameters()]
    state = {id(p) for o in (run.optimizers.main, *run.optimizers.isolated.values()) for p in o.state}
    found = ["a parameter is held twice"] if len(held) != len(set(held)) else []
    found += ["a foreign parameter is optimised"] if set(held) - own else []
    found += ["a parameter is not optimised"] if own - set(held) else []
    found += ["state of a foreign parameter"] if state - own else []
    seeds = {record.key for record in run.model.alive_records()}
    found += ["a module without a record"] if set(run.model.seeds) != seeds else []
    return found


def ran(run_dir: Path, name: str, notes: Notes | None = None, **components: Any) -> TrainingLoop:
    commands, options = SCENARIOS[name]
    notes = notes or Compares()
    given = LONG | {"optimization__max_epochs": 6} | options
    run = make_run(run_dir, tamiyo=PlannedPolicy(commands), notes=notes, parts=components, **given)
    if isinstance(notes, Compares):
        notes.attach(run)
    if isinstance(notes, FaultyWeight):
        notes.run = run
    return run


def sound(run: TrainingLoop) -> bool:
    tensors = [*run.model.parameters(), *run.model.buffers(), *run.best.weights.values()]
    return all(bool(torch.isfinite(t).all()) for t in tensors if t.is_floating_point())


def staged(run_dir: Path, stage: SeedStage, loss: FaultyLoss | None = None) -> TrainingLoop:
    """A run whose seed is in `stage` when two epochs, twelve steps, are over."""
    plans = {
        SeedStage.TRAINING: ({2: [germinate()]}, {"morphogenetic__seed__isolation_steps": 30}),
        SeedStage.BLENDING: ({1: [germinate()]}, {"morphogenetic__seed__blend_steps": 30}),
        SeedStage.PROBATIONARY: ({1: [germinate()]}, {"morphogenetic__seed__probation_epochs": 9}),
        SeedStage.EMBARGOED: (
            {1: [germinate()], 2: [seed_command(CommandKind.CULL, number=2)]},
            {"morphogenetic__seed__embargo_epochs": 9},
        ),
        SeedStage.FOSSILIZED: (
            {1: [germinate()], 2: [seed_command(CommandKind.FOSSILIZE, number=2)]},
            {"morphogenetic__seed__probation_epochs": 0},
        ),
    }
    commands, options = plans.get(stage, ({}, {}))
    notes, components = Compares(), {} if loss is None else {"loss": loss}
    given = LONG | {"optimization__max_epochs": 5, "trainer__max_rollbacks": 2} | options
    run = make_run(run_dir, tamiyo=PlannedPolicy(commands), notes=notes, parts=components, **given)
    notes.attach(run)
    return run


@pytest.mark.parametrize(
    ("stage", "factor"),
    [
        ("dormant", math.nan),
        ("training", math.nan),
        ("blending", math.nan),
        ("blending", math.inf),
        ("probationary", math.nan),
        ("fossilized", math.nan),
        ("embargoed", math.nan),
    ],
)
def test_after_a_loss_that_is_no_number_the_run_is_where_it_was_and_goes_on(
    tmp_path: Path, stage: str, factor: float
) -> None:
    """Twice running, in every stage of a seed: equal to the bit, snapshot unchanged, no orphans."""
    staged(tmp_path / "before", SeedStage(stage)).train()
    loss = FaultyLoss(2, 5, factor=factor)
    run = restored(staged(tmp_path, SeedStage(stage), loss), path_of(tmp_path / "before", "epoch-0002"))
    assert run.model.record("block1", 0).stage == stage
    run.train()
    notes = notes_of(run)
    assert isinstance(notes, Compares)
    assert loss.fired == 2
    assert notes.verdicts == [True, True]
    assert notes.unchanged == [True]  # both went back to the same step: that is one snapshot
    assert orphans(run) == []
    assert (run.progress.epoch, run.progress.stopped_by) == (5, "max_epochs")
    assert [line["epoch"] for line in notes.epochs] == [3, 4, 5]
    assert sound(run)
    assert run.schedule.scale == 0.25
    # part of the host by then: it is not blamed, and stays
    assert (run.model.record("block1", 0).stage == "fossilized") == (stage == "fossilized")


@pytest.mark.parametrize("name", ["gated", "accumulation", "dropout", "sgd", "inside"])
def test_every_kind_of_run_goes_on_after_a_rollback(tmp_path: Path, name: str) -> None:
    per_step = SCENARIOS[name][1].get("optimization__accumulation_steps", 1)
    loss = FaultyLoss(8 * per_step, 8 * per_step + 3)
    run = ran(tmp_path, name, loss=loss)
    run.train()
    notes = notes_of(run)
    assert isinstance(notes, Compares)
    assert loss.fired == 2
    assert notes.verdicts == [True, True]
    assert orphans(run) == []
    assert sound(run)
    assert [line["epoch"] for line in notes.epochs] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("no growth", math.nan),
        ("blend", math.nan),
        ("blend", math.inf),
        ("blend", 1e30),
        ("isolation", math.nan),
        ("isolation", 1e30),
    ],
)
def test_a_gradient_that_is_none_or_far_too_long_is_undone(tmp_path: Path, name: str, value: float) -> None:
    """NaN, Inf, exploding; the optimiser's moments are not left with it either."""
    run = ran(tmp_path, name)
    fault = FaultyGradient(run, 20, factor=value)
    run.train()
    notes = notes_of(run)
    assert isinstance(notes, Compares)
    assert fault.fired == 1
    assert notes.verdicts == [True]
    (event,) = notes.named(ROLLBACK)
    assert "gradient" in event.data["reason"]
    assert event.data["failed_step"] == 20
    assert run.progress.stopped_by == "max_epochs"
    assert sound(run)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("name", "of_seed"), [("no growth", False), ("blend", True), ("isolation", True)])
def test_a_weight_that_is_no_number_is_undone(tmp_path: Path, name: str, of_seed: bool, value: float) -> None:
    """Also the weight of a seed that does not reach the loss."""
    notes = FaultyWeight(9, value=value, of_seed=of_seed)
    run = ran(tmp_path, name, notes)
    run.train()
    assert notes.fired == 1
    (event,) = notes.named(ROLLBACK)
    assert event.data["embargoed"] == ("block1#0" if of_seed else None)
    assert sound(run)
    assert run.progress.stopped_by == "max_epochs"


def test_an_exploding_loss_is_undone(tmp_path: Path) -> None:
    loss = FaultyLoss(19, factor=1e6)
    run = ran(tmp_path, "no growth", loss=loss)
    run.train()
    (event,) = notes_of(run).named(ROLLBACK)
    assert loss.fired == 1
    assert "exploded" in event.data["reason"]
    assert (event.data["tier"], event.step, event.data["failed_step"]) == ("fast", 18, 19)


def test_without_a_fault_nothing_is_undone_and_no_number_is_another_one(tmp_path: Path) -> None:
    """The negative control, and what watching may not do."""
    watched, blind = ran(tmp_path / "a", "blend"), ran(tmp_path / "b", "blend")
    blind.guard.after_step = lambda norm: blind.step_buffer.forget()  # type: ignore[method-assign]
    for run in (watched, blind):
        run.train()
        assert notes_of(run).named(ROLLBACK) == []
    assert notes_of(watched).comparable() == notes_of(blind).comparable()


# -- never a bad checkpoint ----------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 6, 7, 23, 24])
@pytest.mark.parametrize("where", ["loss", "gradient", "weight"])
def test_no_checkpoint_ever_holds_what_is_no_number(tmp_path: Path, step: int, where: str) -> None:
    """At the first step, in mid-epoch, at an epoch's last; the best model is never one either."""
    fault: Any
    if where == "loss":
        fault = FaultyLoss(step)
        run = make_run(tmp_path, tamiyo=PlannedPolicy({1: [germinate()]}), parts={"loss": fault}, **LONG)
    elif where == "gradient":
        run = make_run(tmp_path, tamiyo=PlannedPolicy({1: [germinate()]}), **LONG)
        fault = FaultyGradient(run, step)
    else:
        fault = FaultyWeight(step)
        run = make_run(tmp_path, tamiyo=PlannedPolicy({1: [germinate()]}), notes=fault, **LONG)
        fault.run = run
    run.train()
    assert fault.fired == 1
    assert len(notes_of(run).named(ROLLBACK)) == 1
    assert notes_of(run).named("checkpoint_failed") == []
    names = list(checkpoints(run))
    assert names[-1] == "epoch-0004"
    for name in set(names):
        checkpoint = load_checkpoint(path_of(tmp_path, name))
        groups = (checkpoint.tensors["model"], checkpoint.tensors.get("best", {}))
        assert all(torch.isfinite(t).all() for g in groups for t in g.values() if t.is_floating_point())


# -- not into the same hole twice ----------------------------------------------------------------


class Insists(PlannedPolicy):
    """Wants a seed at block1 whenever a slot there is free."""

    def decide(self, packet: Any) -> list[Any]:
        super().decide(packet)
        site = next(s for s in packet.sites if s.layer == "block1")
        growing = [s for s in packet.seeds if s.layer == "block1" and s.alpha]
        if growing or not site.free_slots:
            return []
        number = 100 * packet.step + len(self.outcomes)
        return [germinate(number=number, seed_index=site.free_slots[0])]


def test_the_youngest_seed_is_taken_out_and_its_layer_barred(tmp_path: Path) -> None:
    """The seed blended in the epoch that failed; its place stays empty for a while."""
    loss = FaultyLoss(9)
    options = LONG | {"optimization__max_epochs": 5, "morphogenetic__seed__embargo_epochs": 2}
    run = make_run(tmp_path, tamiyo=Insists(), parts={"loss": loss}, **options)
    run.train()
    notes = notes_of(run)
    (event,) = notes.named(ROLLBACK)
    assert event.data["embargoed"] == "block1#0"
    assert event.data["lost"] == []
    assert (event.step, event.epoch) == (6, 1)
    born = [e.epoch for e in notes.named("seed_stage") if e.data["to"] == "germinated"]
    assert born == [1, 3]  # the failed epoch was the second: barred until three are over
    assert orphans(run) == []


def test_a_seed_that_germinated_in_the_failed_epoch_is_reported(tmp_path: Path) -> None:
    """It was born after the state that the run is back at: there it has never been."""
    commands, options = SCENARIOS["inside"]
    given = LONG | options
    run = make_run(tmp_path, tamiyo=PlannedPolicy(commands), parts={"loss": FaultyLoss(6)}, **given)
    run.train()
    (event,) = notes_of(run).named(ROLLBACK)
    assert (event.step, event.data["failed_step"]) == (0, 6)
    assert event.data["lost"] == [
        {"layer": "block1", "index": 0, "blueprint": "conv_light", "germinated_step": 4}
    ]


def test_a_seed_that_blends_in_the_snapshot_is_taken_out_there(tmp_path: Path) -> None:
    """It was there before; culled at once, not blended out."""
    run = ran(tmp_path, "blend", Notes(), loss=FaultyLoss(14))  # a blend of nine steps from step 6 on
    run.train()
    moves = [(e.step, e.data["from"], e.data["to"]) for e in notes_of(run).named("seed_stage")]
    assert (12, "blending", "culled") in moves
    assert (12, "culled", "embargoed") in moves
    assert run.model.alive_records() == []
    assert run.seeds.blends == {}
    assert orphans(run) == []


def test_a_seed_long_in_probation_is_not_blamed(tmp_path: Path) -> None:
    options = LONG | {"optimization__max_epochs": 6, "morphogenetic__seed__probation_epochs": 9}
    run = make_run(
        tmp_path, tamiyo=PlannedPolicy({1: [germinate()]}), parts={"loss": FaultyLoss(27)}, **options
    )
    run.train()
    (event,) = notes_of(run).named(ROLLBACK)
    assert event.data["embargoed"] is None
    assert [r.stage for r in run.model.alive_records()] == [SeedStage.PROBATIONARY]


def test_after_a_second_rollback_the_network_is_left_alone_until_that_is_overcome(tmp_path: Path) -> None:
    """Level 3 refuses all adaptations, and ends by itself."""
    plan = PlannedPolicy({n: [germinate("block2", number=n, seed_index=n % 2)] for n in (1, 2, 3, 4)})
    run = make_run(
        tmp_path,
        tamiyo=plan,
        parts={"loss": FaultyLoss(8, 11)},
        **LONG | {"morphogenetic__seed__embargo_epochs": 0, "optimization__max_epochs": 5},
    )
    run.train()
    refusals = [(o.epoch, o.refusal) for o in plan.outcomes if o.refusal is not None]
    assert (2, Refusal.CONSERVATIVE) in refusals
    assert int(run.emergency_notifier.level) == 0
    levels = [e.data["level"] for e in notes_of(run).events if e.name == "tolaria.emergency.escalated"]
    assert levels == [2, 3]
    assert len(notes_of(run).named("tolaria.emergency.cleared")) == 1


# -- the end of it -------------------------------------------------------------------------------


def test_what_no_rollback_helps_against_halts_the_run(tmp_path: Path) -> None:
    """Level 4, the last good state saved, the reason in one sentence."""
    loss = FaultyLoss(*range(9, 1000))
    run = ran(tmp_path, "no growth", loss=loss)
    run.train()
    notes = notes_of(run)
    assert run.progress.stopped_by == "emergency"
    assert len(notes.named(ROLLBACK)) == 3
    (event,) = notes.named(HALT)
    assert event.data["reason"] == "the loss is nan at step 7, after 3 rollbacks that did not help"
    assert list(checkpoints(run))[-1] == "epoch-0001"
    assert sound(run)
    assert run.schedule.scale == 0.125
    assert [line["epoch"] for line in notes.epochs] == [1]


def test_a_halted_run_can_be_taken_up_and_has_its_rollbacks_again(tmp_path: Path) -> None:
    ran(tmp_path, "no growth", loss=FaultyLoss(*range(9, 1000))).train()
    run = restored(ran(tmp_path, "no growth"), path_of(tmp_path, "epoch-0001"))
    assert (run.recovery.rollbacks, int(run.emergency_notifier.level)) == (0, 0)
    assert run.schedule.scale == 0.125
    run.train()
    assert run.progress.stopped_by == "max_epochs"


def test_no_rollback_at_all_where_none_is_allowed(tmp_path: Path) -> None:
    run = make_run(tmp_path, parts={"loss": FaultyLoss(8)}, **LONG, trainer__max_rollbacks=0)
    run.train()
    assert run.progress.stopped_by == "emergency"
    assert notes_of(run).named(ROLLBACK) == []
    assert notes_of(run).named(HALT)[0].data["reason"] == "the loss is nan at step 8"


def test_a_model_that_is_bad_from_the_start_is_not_trained(tmp_path: Path) -> None:
    run = make_run(tmp_path, **LONG)
    with torch.no_grad():
        next(run.model.host.parameters()).view(-1)[0] = math.nan
    run.train()
    assert (run.progress.step, run.progress.stopped_by) == (0, "emergency")
    assert "not finite after step 0" in notes_of(run).named(HALT)[0].data["reason"]
    assert list(checkpoints(run)) == []


def test_where_no_snapshot_fits_the_newest_good_checkpoint_is_gone_back_to(tmp_path: Path) -> None:
    run = make_run(tmp_path, parts={"loss": FaultyLoss(14)}, **LONG)
    run.guard.snapshots.limit_bytes = 100
    run.train()
    (event,) = notes_of(run).named(ROLLBACK)
    assert (event.data["tier"], event.step) == ("full", 12)
    assert [line["epoch"] for line in notes_of(run).epochs] == [1, 2, 3, 4]
    assert run.progress.stopped_by == "max_epochs"
    logged = [e.data["message"] for e in notes_of(run).named("notice")]
    assert len([text for text in logged if "no state is kept in memory" in text]) == 1


def test_where_there_is_nothing_to_go_back_to_the_run_halts_and_saves_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path, parts={"loss": FaultyLoss(4)}, **LONG)
    run.guard.snapshots.limit_bytes = 100
    run.train()
    assert run.progress.stopped_by == "emergency"
    assert len(notes_of(run).named("tolaria.rollback.restore_failed")) == 1
    assert "no good state was brought back" in notes_of(run).named(HALT)[0].data["reason"]
    assert list(checkpoints(run)) == []


def test_a_missed_deadline_is_a_halt(tmp_path: Path) -> None:
    """The state is back, but too late."""
    run = make_run(tmp_path, parts={"loss": FaultyLoss(8)}, **LONG, trainer__rollback_deadline_ms=1e-6)
    run.train()
    assert run.progress.stopped_by == "emergency"
    assert "longer than" in notes_of(run).named(HALT)[0].data["reason"]
    assert list(checkpoints(run))[-1] == "epoch-0001"


# -- resuming ------------------------------------------------------------------------------------


@pytest.mark.parametrize("epoch", [2, 3, 4])
def test_a_run_that_was_rolled_back_is_resumed_exactly(tmp_path: Path, epoch: int) -> None:
    """The cut of the rates, the count of rollbacks, the embargo and the governor's history included."""
    whole = ran(tmp_path / "whole", "blend", Notes(), loss=FaultyLoss(9))
    whole.train()
    resumed = restored(
        ran(tmp_path / str(epoch), "blend", Notes()), path_of(tmp_path / "whole", f"epoch-{epoch:04d}")
    )
    resumed.train()
    assert resumed.recovery.rollbacks == 1
    assert alike(resumed, whole)


@pytest.mark.parametrize("name", ["no growth", "blend", "reversed", "inside", "dropout"])
def test_a_resumed_run_goes_back_to_where_one_that_was_never_stopped_does(tmp_path: Path, name: str) -> None:
    """The epoch's end, with what was decided there; the checkpoint is from before the fault."""
    notes, copy = Notes(), tmp_path / "copy"
    # as the folder was before the fault: the checkpoint of epoch 2 without what the rollback decided
    notes.event = keeping(  # type: ignore[method-assign]
        notes, tmp_path / "whole" / "checkpoints", copy, "epoch-0002"
    )
    whole = ran(tmp_path / "whole", name, notes, loss=FaultyLoss(15))
    whole.train()
    (event,) = notes.named(ROLLBACK)
    assert event.step == 12
    resumed = restored(ran(tmp_path / "resumed", name, Notes(), loss=FaultyLoss(3)), copy)
    assert resumed.recovery.rollbacks == 0  # the copy is from before the fault
    resumed.train()
    assert alike(resumed, whole)
    assert resumed.progress.train_flops == whole.progress.train_flops


def test_a_state_that_was_saved_on_request_is_gone_back_to(tmp_path: Path) -> None:
    """`esper-ctl RUN checkpoint`: by the run that saved it as by one that was resumed from it."""
    run_control, notes = RunControl(), Notes()
    progress = notes.progress

    def ask(step_in_epoch: int, loss: float | None) -> None:
        progress(step_in_epoch, loss)
        if len(notes.places) == 15:
            run_control.checkpoint()

    notes.progress = ask  # type: ignore[method-assign]
    commands, options = SCENARIOS["blend"]
    given = LONG | options
    whole = make_run(
        tmp_path / "whole",
        tamiyo=PlannedPolicy(commands),
        notes=notes,
        run_control=run_control,
        parts={"loss": FaultyLoss(17)},
        **given,
    )
    copy = tmp_path / "copy"
    notes.event = keeping(  # type: ignore[method-assign]
        notes, tmp_path / "whole" / "checkpoints", copy, "batch"
    )
    whole.train()
    (event,) = notes.named(ROLLBACK)
    assert (event.step, event.data["failed_step"]) == (15, 17)
    resumed = restored(
        make_run(
            tmp_path / "resumed", tamiyo=PlannedPolicy(commands), parts={"loss": FaultyLoss(2)}, **given
        ),
        copy,
    )
    assert resumed.recovery.rollbacks == 0  # the copy is from before the fault
    resumed.train()
    assert alike(resumed, whole)


def keeping(notes: Notes, folder: Path, copy: Path, part: str) -> Any:
    """Keeps a copy of the first checkpoint with `part` in its name, as it was before the rollback."""
    event = notes.event

    def kept(what: Any) -> None:
        event(what)
        if what.name == "checkpoint_saved" and part in what.data["name"] and not copy.exists():
            shutil.copytree(folder / what.data["name"], copy)

    return kept
