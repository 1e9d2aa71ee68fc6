from __future__ import annotations

import copy
import gc
import json
import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from helpers.hosts import (
    HELPFUL,
    HOSTS,
    batch,
    bits,
    cull,
    fitting,
    fossil,
    fossilize,
    germinate,
    growable,
    host,
    same_bits,
    seed_command,
    stir,
    targets,
    wrapped,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from torch import Tensor, nn

from esper.config import SeedConfig
from esper.errors import GateClosedError, GrowthError
from esper.kasmina import (
    MorphableModel,
    Seed,
    SeedManager,
    SiteShape,
    TopologyChange,
    TrainingPosition,
    register_blueprint,
    wrap,
)
from esper.leyline import GATES, LEGAL_MOVES, CommandKind, Gate, SeedStage
from esper.tolaria.optimization.optimizer_manager import BaseRates, OptimizerManager

S = SeedStage
NOW = TrainingPosition(0, 0)


# -- a seed is function-preserving at birth --------------------------------------------------------


@pytest.fixture(autouse=True)
def layers_are_called() -> Iterator[None]:
    """A hook anywhere in a transformer encoder layer closes torch's fused path of inference, and that
    computes in another order (under autocast on the CPU, in another precision): compare like with like."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def answers(
    model: nn.Module, x: Tensor, context: Callable[[], AbstractContextManager[Any]]
) -> dict[str, Tensor]:
    """Outputs, and the host's gradients, in eval and training mode; running statistics are put back."""
    model.eval()
    found = {}
    with context():
        found["eval"] = model(x)
        with torch.no_grad():
            found["no grad"] = model(x)
    kept = copy.deepcopy(model.state_dict())
    torch.manual_seed(4)
    model.train()
    model.zero_grad()
    with context():
        found["train"] = model(x)
    found["train"].float().square().mean().backward()
    buffers = {f"buffer {name}": b.clone() for name, b in model.host.named_buffers()}
    gradients = {
        f"grad {name}": p.grad.clone() for name, p in model.host.named_parameters() if p.grad is not None
    }
    model.load_state_dict(kept)
    model.zero_grad()
    return {name: value.detach() for name, value in (found | buffers | gradients).items()}


PRECISIONS: dict[str, tuple[torch.dtype, Callable[[], AbstractContextManager[Any]]]] = {
    "float32": (torch.float32, nullcontext),
    "bfloat16": (torch.bfloat16, nullcontext),
    "autocast": (torch.float32, lambda: torch.autocast("cpu", torch.bfloat16)),
}


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("isolation_steps", [0, 5])
def test_germination_changes_no_bit(name: str, precision: str, isolation_steps: int) -> None:
    """Training and evaluation, batch norm and dropout in the host, all blueprints."""
    dtype, context = PRECISIONS[precision]
    model, manager = growable(name, dropout=0.3, isolation_steps=isolation_steps)
    model.to(dtype)
    x = batch(name).to(dtype)
    before = answers(model, x, context)
    seen = set()
    for number, (layer, placement, blueprint) in enumerate(fitting(model)):
        # all of them in float32; in the slower precisions half of them in isolation, the other half joined
        if precision != "float32" and (number // 2) % 2 != bool(isolation_steps):
            continue
        if blueprint == "noise" and not isolation_steps:
            # it draws at each forward, and so shifts what the host's dropout draws
            continue
        mode = ("additive", "gated")[number % 2]
        manager.config.blend_mode = mode
        change = manager.apply(germinate(layer, blueprint, placement, number % 2), NOW)
        after = answers(model, x, context)
        assert [key for key in before if not torch.equal(before[key], after[key])] == [], (layer, blueprint)
        assert after["eval"].dtype is before["eval"].dtype
        seen.add(model.record(layer, number % 2).stage)
        change.undo()
    assert seen == {S.TRAINING if isolation_steps else S.BLENDING}


@pytest.mark.parametrize("name", HOSTS)
def test_even_noise_is_silent_at_birth(name: str) -> None:
    """A blueprint whose output is not zero, just joined with alpha 0, at every site at once."""
    model, manager = growable(name)
    x = batch(name)
    before = answers(model, x, nullcontext)
    for layer, placement, blueprint in fitting(model):
        if blueprint == "noise":
            manager.apply(germinate(layer, blueprint, placement, int(placement == "parallel")), NOW)
    assert manager.blends
    after = answers(model, x, nullcontext)
    assert same_bits(before, after)


def test_a_blend_of_no_steps_is_over_at_once() -> None:
    """A stage may last zero steps; what is silent at birth still changes nothing."""
    model, manager = growable("mlp", blend_steps=0)
    before = answers(model, batch("mlp"), nullcontext)
    change = manager.apply(germinate("body.fc1", "mlp"), NOW)
    assert stages(change)[-1] == (S.BLENDING, S.PROBATIONARY)
    assert model.seeds["body/fc1#0"].alpha == 1.0
    assert same_bits(before, answers(model, batch("mlp"), nullcontext))


# -- commands --------------------------------------------------------------------------------------


def stages(change: TopologyChange) -> list[tuple[SeedStage, SeedStage]]:
    return [(move.old, move.new) for move in change.moves]


def test_a_life_from_dormant_to_fossilized() -> None:
    """The evidence of each gate."""
    model, manager = growable("mlp", isolation_steps=2, blend_steps=2)
    record = model.record("body.fc1", 0)
    born = manager.apply(germinate("body.fc1", "mlp"), TrainingPosition(10, 1))
    record = model.record("body.fc1", 0)
    assert stages(born) == [(S.DORMANT, S.GERMINATED), (S.GERMINATED, S.TRAINING)]
    assert manager.advance(TrainingPosition(11, 1)).moves == []
    step(model, manager, 11)
    step(model, manager, 12)
    joined = manager.advance(TrainingPosition(12, 1))
    assert stages(joined) == [(S.TRAINING, S.BLENDING)] and joined.activated[0][0] == record.key
    assert manager.alpha(record) == 0.0
    manager.tick()
    assert manager.advance(TrainingPosition(13, 1)).moves == []
    manager.tick()
    blended = manager.advance(TrainingPosition(14, 2))
    assert stages(blended) == [(S.BLENDING, S.PROBATIONARY)]
    assert manager.alpha(record) == model.seed_module(record).alpha.item() == 1.0
    record.impact = HELPFUL
    over = manager.apply(fossilize("body.fc1"), TrainingPosition(20, 3))
    assert stages(over) == [(S.PROBATIONARY, S.FOSSILIZED)]
    for change in (born, joined, blended, over):
        for move in change.moves:
            assert tuple(v.gate for v in move.gate_results) == GATES[move.old, move.new]
            assert all(v.passed and v.reason for v in move.gate_results)
            assert all(math.isfinite(value) for v in move.gate_results for value in v.evidence.values())
            assert move.record is record and move.reason
    assert (record.germinated_epoch, record.blended_epoch, record.fossilized_epoch) == (1, 1, 3)
    assert not (born.activated or joined.added or blended.structural or over.structural)


def step(model: MorphableModel, manager: SeedManager, at: int, name: str = "mlp") -> None:
    model.train()
    model.zero_grad()
    nn.functional.cross_entropy(model(batch(name, seed=at)), targets(seed=at)).backward()
    manager.learn(1.0, at)
    model.zero_grad()


@pytest.mark.parametrize("stage", [S.TRAINING, S.BLENDING, S.PROBATIONARY])
def test_a_seed_can_be_culled_and_its_slot_comes_back(stage: SeedStage) -> None:
    """CULLED -> EMBARGOED -> DORMANT."""
    model, manager = growable(
        "mlp", isolation_steps=9 * (stage is S.TRAINING), blend_steps=2, embargo_epochs=3
    )
    manager.apply(germinate("body.fc1", "mlp"), NOW)
    record = model.record("body.fc1", 0)
    if stage is S.PROBATIONARY:
        manager.tick()
        manager.tick()
        manager.advance(NOW)
    assert record.stage is stage
    change = manager.apply(cull("body.fc1"), TrainingPosition(5, 2))
    assert stages(change) == [(stage, S.CULLED)] and [key for key, _ in change.removed] == [record.key]
    move = manager.embargo(record, 0, TrainingPosition(5, 2))
    assert (move.old, move.new) == (S.CULLED, S.EMBARGOED)
    assert [v.gate for v in move.gate_results] == [Gate.RESET]
    assert manager.removed[0]["culled_epoch"] == 2 and manager.removed[0]["blueprint"] == "mlp"
    assert manager.advance(TrainingPosition(9, 4)).moves == []
    released = manager.advance(TrainingPosition(9, 5))
    assert stages(released) == [(S.EMBARGOED, S.DORMANT)]
    assert [v.gate for v in released.moves[0].gate_results] == [Gate.RESET]
    assert model.record("body.fc1", 0) == record.cleared()
    manager.apply(germinate("body.fc1", "mlp"), NOW)


def test_a_blend_is_reversed_and_ends_in_culled() -> None:
    """Inside BLENDING, step by step, to exactly 0."""
    model, manager = growable("mlp", blend_steps=10, blend_schedule="sigmoid")
    manager.apply(germinate("body.fc1", "mlp"), NOW)
    record, seed = model.record("body.fc1", 0), model.seeds["body/fc1#0"]
    up = [seed.alpha.item()]
    for _ in range(6):
        assert not manager.tick()
        up.append(seed.alpha.item())
    change = manager.apply(cull("body.fc1"), TrainingPosition(6, 0))
    assert stages(change) == [(S.BLENDING, S.BLENDING)] and not change.structural
    assert "blend reversed" in change.moves[0].reason
    down = [seed.alpha.item()]
    for number in range(6):
        assert manager.tick() == (number == 5)
        down.append(seed.alpha.item())
        assert manager.alpha(record) == pytest.approx(seed.alpha.item())
    assert up == sorted(up) and down == up[::-1] and (up[0], down[-1]) == (0.0, 0.0)
    assert not manager.tick()
    gone = manager.advance(TrainingPosition(12, 1))
    assert stages(gone) == [(S.BLENDING, S.CULLED)] and gone.removed[0][1] is seed
    assert record.reason == "as the test wants"


@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid"])
def test_alpha_is_monotone_from_exactly_0_to_exactly_1(schedule: str) -> None:
    model, manager = growable("mlp", blend_steps=23, blend_schedule=schedule)
    manager.apply(germinate("body.fc1", "mlp"), NOW)
    seed, found = model.seeds["body/fc1#0"], []
    for _ in range(25):
        found.append(seed.alpha.item())
        manager.tick()
    assert found == sorted(found) and found[0] == 0.0
    assert found[22] < 1.0 and found[23] == found[24] == 1.0


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (
            germinate("nowhere", "mlp"),
            "no seeds can be attached to 'nowhere'; layers: body, body.fc1, body.fc2",
        ),
        (germinate("body.fc1", "mlp", index=2), "layer 'body.fc1' has seed slots 0 to 1, not 2"),
        (germinate("body.fc1", "mpl"), "unknown blueprint: 'mpl'. Did you mean 'mlp'"),
        (germinate("body.fc1", "conv_heavy"), "blueprint 'conv_heavy' does not fit 'body.fc1': it works on"),
        (germinate("body.fc1", "mlp", "beside"), "placement is 'beside'; it must be 'series' or 'parallel'"),
        (germinate("body.fc1", "mlp", hiden=3), "'mlp' could not be built: .*'hiden'. Did you mean 'hidden'"),
        (germinate("body.fc1", "mlp", hidden=-3), "hidden is -3; it must be a positive integer"),
        (cull("body.fc1"), "slot 0 of 'body.fc1' is dormant: nothing to cull"),
        (fossilize("body.fc1"), "slot 0 of 'body.fc1' is dormant, not probationary"),
        (seed_command(CommandKind.PAUSE, "body.fc1"), "pause is not a command for a seed"),
        (seed_command(CommandKind.PAUSE, ""), "pause is not a command for a seed"),
    ],
)
def test_what_cannot_be_done_is_reported_and_changes_nothing(command: Any, problem: str) -> None:
    model, manager = growable("mlp")
    before, topology = bits(model), model.topology()
    with pytest.raises(GrowthError, match=problem):
        manager.apply(command, NOW)
    untouched(model, manager, before, topology)


def untouched(model: MorphableModel, manager: SeedManager, before: dict[str, Tensor], topology: Any) -> None:
    assert same_bits(before, bits(model)) and model.topology() == topology
    assert not any(m._forward_hooks for m in model.modules())
    assert manager.blends == {} and manager.isolated == []


def test_a_taken_slot_and_a_seed_on_its_way_are_named() -> None:
    _, manager = growable("mlp", blend_steps=4)
    manager.apply(germinate("body.fc1", "mlp"), NOW)
    with pytest.raises(GrowthError, match=r"slot 0 of 'body.fc1' is blending, not dormant"):
        manager.apply(germinate("body.fc1", "low_rank"), NOW)
    with pytest.raises(GrowthError, match="is blending, not probationary"):
        manager.apply(fossilize("body.fc1"), NOW)
    manager.tick()
    manager.apply(cull("body.fc1"), NOW)
    with pytest.raises(GrowthError, match=r"slot 0 of 'body.fc1' is being removed already"):
        manager.apply(cull("body.fc1"), NOW)
    fossil(manager, germinate("body.fc2", "mlp"))
    with pytest.raises(GrowthError, match=r"slot 0 of 'body.fc2' is fossilized: nothing to cull"):
        manager.apply(cull("body.fc2"), NOW)


def test_a_layer_without_an_input_of_features_has_no_parallel_seeds() -> None:
    model = wrap(nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4)), ["0"])
    model.observe(torch.arange(6).view(2, 3))
    manager = SeedManager(model, SeedConfig())
    with pytest.raises(GrowthError, match="the input of layer '0' holds no features for a seed in parallel"):
        manager.apply(germinate("0", "low_rank", "parallel"), NOW)
    manager.apply(germinate("0", "low_rank"), NOW)
    model(torch.arange(6).view(2, 3))


class Broken(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.weight = nn.Parameter(torch.full((1,), torch.nan if how == "nan" else 1.0))

    def forward(self, x: Tensor) -> Any:
        if self.how == "key":
            raise KeyError("lost")
        return {"shape": x[..., :1], "text": "no tensor", "nan": x}[self.how]


@register_blueprint("test_broken", fits=lambda shape: None)
def broken(shape: SiteShape, *, how: str = "build") -> nn.Module:
    """Goes wrong in the way that `how` says."""
    if how == "build":
        raise ZeroDivisionError("by zero")
    return Broken(how)


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("build", "blueprint 'test_broken' could not be built: by zero"),
        ("key", "gate interface is closed for seed 0 at 'body.fc1': its module fails on shape .*lost"),
        ("text", "gate interface is closed .*its module fails"),
        ("shape", r"gate interface is closed .*output shape \(1,\) is not the layer's \(8,\)"),
        ("nan", "gate sanity is closed for seed 0 at 'body.fc1': 1 values are NaN or infinite"),
    ],
)
def test_whatever_a_users_blueprint_does_only_its_command_fails(how: str, problem: str) -> None:
    """Interface and sanity."""
    model, manager = growable("mlp")
    before, topology = bits(model), model.topology()
    error = GrowthError if how == "build" else GateClosedError
    with pytest.raises(error, match=problem):
        manager.apply(germinate("body.fc1", "test_broken", how=how), NOW)
    untouched(model, manager, before, topology)


def test_without_measured_impact_nothing_is_fossilized() -> None:
    """Does the seed help on held-out data with it on against off?"""
    model, manager = growable("mlp", blend_steps=0)
    manager.apply(germinate("body.fc1", "mlp"), NOW)
    manager.advance(NOW)
    record = model.record("body.fc1", 0)
    with pytest.raises(GateClosedError, match=r"gate impact is closed .*its impact has not been measured"):
        manager.apply(fossilize("body.fc1"), NOW)
    assert record.stage is S.PROBATIONARY


@pytest.mark.parametrize("stage", [S.TRAINING, S.BLENDING])
def test_a_closed_gate_holds_a_seed_and_is_reported(stage: SeedStage) -> None:
    model, manager = growable("mlp", isolation_steps=int(stage is S.TRAINING), blend_steps=1)
    manager.apply(germinate("body.fc1", "mlp"), NOW)
    record = model.record("body.fc1", 0)
    manager.tick()
    with torch.no_grad():
        model.seed_module(record).body[1].weight[0, 0] = torch.nan
    change = manager.advance(TrainingPosition(5, 1))
    assert stages(change) == [(stage, stage)] and not change.structural
    assert "gate sanity closed: 1 values are NaN" in change.moves[0].reason
    assert record.stage is stage and record.error_count == 1
    change.undo()
    assert record.error_count == 0


def test_a_command_that_is_not_known_moves_no_other_seed() -> None:
    model, manager = growable("mlp", isolation_steps=9)
    manager.apply(germinate("body.fc1", "mlp"), NOW)
    manager.apply(germinate("body.fc1", "low_rank", index=1), NOW)
    assert [r.stage for r in model.records["body.fc1"]] == [S.TRAINING, S.TRAINING]
    manager.apply(cull("body.fc1", 1), NOW)
    assert [r.stage for r in model.records["body.fc1"]] == [S.TRAINING, S.CULLED]
    assert list(model.seeds) == ["body/fc1#0"]


# -- undo ----------------------------------------------------------------------------------------


def at(stage: SeedStage) -> tuple[MorphableModel, SeedManager]:
    """A seed in `stage` at one layer, with weights that do something."""
    model, manager = growable("mlp", isolation_steps=3 * (stage is S.TRAINING), blend_steps=4)
    manager.apply(germinate("body.fc1", "mlp"), NOW)
    stir(model.seeds)
    if stage is S.BLENDING:
        manager.tick()
    if stage in (S.PROBATIONARY, S.EMBARGOED):
        for _ in range(4):
            manager.tick()
        manager.advance(NOW)
    record = model.record("body.fc1", 0)
    record.impact = HELPFUL
    if stage is S.EMBARGOED:
        manager.apply(cull("body.fc1"), NOW)
        manager.embargo(record, 0, NOW)
    assert record.stage is stage
    return model, manager


def everything(model: MorphableModel, manager: SeedManager) -> tuple[Any, ...]:
    model.eval()
    facts = [
        model.topology(),
        manager.state_dict(),
        [sorted(m._forward_hooks.keys()) != [] for m in model.modules()],
    ]
    flags = [(seed.joined, seed.isolated) for seed in model.seeds.values() if isinstance(seed, Seed)]
    return json.dumps(facts, sort_keys=True), flags, bits(model), model(batch("mlp"))


@pytest.mark.parametrize(
    ("stage", "act"),
    [
        (S.TRAINING, lambda manager: manager.apply(cull("body.fc1"), TrainingPosition(1, 1))),
        (S.BLENDING, lambda manager: manager.apply(cull("body.fc1"), TrainingPosition(1, 1))),
        (S.PROBATIONARY, lambda manager: manager.apply(cull("body.fc1"), TrainingPosition(1, 1))),
        (S.PROBATIONARY, lambda manager: manager.apply(fossilize("body.fc1"), TrainingPosition(1, 1))),
        (S.TRAINING, lambda manager: manager.apply(germinate("body.fc2", "mlp"), TrainingPosition(1, 1))),
        (
            S.TRAINING,
            lambda manager: manager.apply(germinate("body.fc1", "mlp", index=1), TrainingPosition(1, 1)),
        ),
        (S.TRAINING, lambda manager: manager.advance(TrainingPosition(100, 9))),
        (S.EMBARGOED, lambda manager: manager.advance(TrainingPosition(100, 9))),
    ],
)
def test_undoing_restores_outputs_and_topology_exactly(
    stage: SeedStage, act: Callable[[SeedManager], TopologyChange]
) -> None:
    """If the optimiser cannot follow, both are undone."""
    model, manager = at(stage)
    before = everything(model, manager)
    change = act(manager)
    assert change.moves and everything(model, manager)[0] != before[0]
    change.undo()
    after = everything(model, manager)
    assert before[:2] == after[:2] and same_bits(before[2], after[2]) and torch.equal(before[3], after[3])
    # and life goes on as if nothing had been
    assert stages(act(manager)) == stages(change)


@pytest.mark.parametrize("ticks", [2, 4])
def test_undoing_the_end_of_a_blend(ticks: int) -> None:
    """Into PROBATIONARY, and into CULLED where it was reversed."""
    model, manager = at(S.BLENDING)
    if ticks == 2:
        manager.apply(cull("body.fc1"), NOW)
    for _ in range(ticks):
        manager.tick()
    before = everything(model, manager)
    change = manager.advance(TrainingPosition(8, 1))
    assert stages(change) == [(S.BLENDING, S.CULLED if ticks == 2 else S.PROBATIONARY)]
    change.undo()
    assert everything(model, manager)[:2] == before[:2]
    assert stages(manager.advance(TrainingPosition(8, 1))) == stages(change)


def test_a_reversal_that_was_undone_blends_on() -> None:
    _, manager = at(S.BLENDING)
    manager.apply(cull("body.fc1"), NOW).undo()
    for _ in range(3):
        manager.tick()
    assert stages(manager.advance(NOW)) == [(S.BLENDING, S.PROBATIONARY)]


def test_one_failing_seed_undoes_the_moves_of_all() -> None:
    """An error inside advance leaves no seed half moved."""
    model, manager = growable("mlp")
    manager.apply(germinate("body.fc2", "mlp"), NOW)
    manager.config.isolation_steps = 1
    manager.apply(germinate("body.fc1", "mlp"), NOW)
    manager.blends.clear()
    before = everything(model, manager)
    with pytest.raises(KeyError, match="fc2"):
        manager.advance(TrainingPosition(5, 1))
    assert everything(model, manager)[:2] == before[:2]


# -- optimisers ----------------------------------------------------------------------------------


def optimizers_of(model: MorphableModel) -> OptimizerManager:
    return OptimizerManager(
        model,
        lambda groups: torch.optim.AdamW(groups, lr=1e-3),
        rates=BaseRates(1e-3, 1e-3, 1e-3, 0),
    )


def follows(optimizers: OptimizerManager) -> bool:
    """Row 17: what is optimised is what is trainable, each once."""
    held = [id(p) for p in optimizers.parameters()]
    return len(held) == len(set(held)) and set(held) == {
        id(p) for p in optimizers.model.parameters() if p.requires_grad
    }


def train_step(model: MorphableModel, manager: SeedManager, optimizers: OptimizerManager, at: int) -> None:
    model.train()
    nn.functional.cross_entropy(model(batch("mlp", seed=at)), targets(seed=at)).backward()
    manager.learn(1.0, at)
    for optimizer in (optimizers.main, *optimizers.isolated.values()):
        optimizer.step()
        optimizer.zero_grad()
    manager.tick()


def host_state(model: MorphableModel, optimizers: OptimizerManager) -> list[dict[str, Tensor]]:
    return [{k: v.clone() for k, v in optimizers.main.state[p].items()} for p in model.host.parameters()]


@pytest.mark.parametrize("isolation_steps", [0, 2])
def test_the_optimiser_follows_every_event(isolation_steps: int) -> None:
    """Row 17, the bar: after each lifecycle event; the host's state is unchanged."""
    model, manager = growable("mlp", isolation_steps=isolation_steps, blend_steps=2, embargo_epochs=0)
    optimizers = optimizers_of(model)
    train_step(model, manager, optimizers, 0)
    host, moved = host_state(model, optimizers), set()

    def follow(change: TopologyChange, step: int) -> None:
        optimizers.apply(change, step)
        assert follows(optimizers)
        assert all(same_bits(a, b) for a, b in zip(host, host_state(model, optimizers), strict=True))
        moved.update(stages(change))

    follow(manager.apply(germinate("body.fc1", "mlp"), TrainingPosition(1, 0)), 1)
    follow(manager.apply(germinate("body.fc1", "no_op", index=1), TrainingPosition(1, 0)), 1)
    for number in range(1, 7):
        train_step(model, manager, optimizers, number)
        host = host_state(model, optimizers)
        follow(manager.advance(TrainingPosition(number + 1, number)), number + 1)
    model.record("body.fc1", 0).impact = HELPFUL
    follow(manager.apply(fossilize("body.fc1"), TrainingPosition(8, 8)), 8)
    record = model.record("body.fc1", 1)
    follow(manager.apply(cull("body.fc1", 1), TrainingPosition(8, 8)), 8)
    manager.embargo(record, 0, TrainingPosition(8, 8))
    follow(manager.advance(TrainingPosition(9, 9)), 9)
    assert {new for _, new in moved} == set(S) - {S.EMBARGOED}


@pytest.mark.parametrize("stage", [S.TRAINING, S.BLENDING, S.PROBATIONARY])
def test_a_culled_seed_leaves_nothing(stage: SeedStage) -> None:
    """Parameters, hooks, optimiser state and memory."""
    model, manager = growable("mlp", isolation_steps=9 * (stage is S.TRAINING), blend_steps=2)
    bare = wrapped("mlp")
    optimizers = optimizers_of(model)
    optimizers.apply(manager.apply(germinate("body.fc1", "mlp"), NOW), 0)
    for number in range(1 + (stage is S.PROBATIONARY)):
        train_step(model, manager, optimizers, number)
    optimizers.apply(manager.advance(TrainingPosition(2, 1)), 2)
    record, seed = model.record("body.fc1", 0), weakref.ref(model.seeds["body/fc1#0"])
    weight = weakref.ref(model.seeds["body/fc1#0"].body[1].weight)
    assert record.stage is stage
    change = manager.apply(cull("body.fc1"), TrainingPosition(2, 1))
    while stage is S.BLENDING and not change.removed:
        train_step(model, manager, optimizers, 3)
        change = manager.advance(TrainingPosition(3, 1))
    optimizers.apply(change, 3)
    manager.embargo(
        record, optimizers.entries(list(change.removed[0][1].parameters())), TrainingPosition(3, 1)
    )
    model.zero_grad()
    del change
    gc.collect()
    assert seed() is None and weight() is None
    assert [m._forward_hooks for m in model.modules()] == [m._forward_hooks for m in bare.modules()]
    assert list(model.state_dict()) == list(bare.state_dict())
    assert len(optimizers.main.param_groups) == 1 and optimizers.isolated == {} and manager.blends == {}
    assert len(optimizers.main.state) == len(list(model.host.parameters()))
    assert model.seeds.training and not model.get_model_stats()["morphogenetic_active"]


@pytest.mark.parametrize("left", ["optimiser", "parameters", "hooks"])
def test_the_reset_gate_finds_what_was_left_behind(left: str) -> None:
    """No parameter, hook or optimiser state."""
    model, manager = growable("mlp", isolation_steps=9)
    manager.apply(germinate("body.fc1", "mlp"), NOW)
    record, seed = model.record("body.fc1", 0), model.seeds["body/fc1#0"]
    hooks = model.host.get_submodule("body.fc1")._forward_hooks
    graft = next(iter(hooks.values()))
    manager.apply(cull("body.fc1"), NOW)
    if left == "parameters":
        model.seeds["body/fc1#0"] = seed
    if left == "hooks":
        hooks[12345] = graft
    with pytest.raises(GateClosedError, match=f"gate reset is closed .*left behind: .*'{left}"):
        manager.embargo(record, 2 * (left == "optimiser"), NOW)
    assert record.stage is S.CULLED and manager.removed == []


def test_an_embargo_does_not_end_while_something_is_left() -> None:
    model, manager = at(S.EMBARGOED)
    other, _ = at(S.TRAINING)
    graft = next(iter(other.host.get_submodule("body.fc1")._forward_hooks.values()))
    handle = model.host.get_submodule("body.fc1").register_forward_hook(graft, with_kwargs=True)
    change = manager.advance(TrainingPosition(9, 9))
    assert stages(change) == [(S.EMBARGOED, S.EMBARGOED)]
    assert "gate reset closed: left behind: {'parameters': 0.0, 'hooks': 1.0}" in change.moves[0].reason
    handle.remove()
    assert stages(manager.advance(TrainingPosition(9, 9))) == [(S.EMBARGOED, S.DORMANT)]


# -- state ---------------------------------------------------------------------------------------


def test_a_manager_goes_on_where_another_stopped() -> None:
    """Blends and the buried are part of the state, and plain JSON."""
    model, manager = growable("mlp", blend_steps=5, embargo_epochs=2)
    manager.apply(germinate("body.fc1", "mlp"), NOW)
    manager.apply(germinate("body.fc2", "mlp"), NOW)
    manager.apply(cull("body.fc2"), NOW)
    manager.embargo(model.record("body.fc2", 0), 0, NOW)
    for _ in range(3):
        manager.tick()
    saved = json.loads(json.dumps(manager.state_dict()))
    twin = wrapped("mlp")
    twin.load_state_dict(model.state_dict())
    other = SeedManager(twin, SeedConfig(blend_steps=99, blend_schedule="cosine"))
    other.load_state_dict(saved)
    for number in range(3):
        assert manager.tick() == other.tick()
        assert torch.equal(model.seeds["body/fc1#0"].alpha, twin.seeds["body/fc1#0"].alpha)
        assert stages(manager.advance(TrainingPosition(number, number))) == stages(
            other.advance(TrainingPosition(number, number))
        )
        assert model.topology() == twin.topology()
    assert manager.state_dict() == other.state_dict()


# -- any sequence of events ----------------------------------------------------------------------

LAYERS = ("body", "body.fc1")


SLOTS: dict[str, Any] = {
    "layer": st.sampled_from(LAYERS),
    "index": st.integers(0, 1),
    "fails": st.booleans(),
}


class SeedLifecycles(RuleBasedStateMachine):
    """Commands, steps, epochs, saves and failures in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.model = wrap(host("mlp"), LAYERS, seeds_per_layer=2)
        self.model.observe(batch("mlp"))
        self.manager = SeedManager(self.model, SeedConfig(isolation_steps=2, blend_steps=2, embargo_epochs=1))
        self.optimizers = optimizers_of(self.model)
        self.step = self.epoch = 0
        self.last = self.stages()

    @property
    def clock(self) -> TrainingPosition:
        return TrainingPosition(self.step, self.epoch)

    def stages(self) -> dict[str, SeedStage]:
        return {r.key: r.stage for row in self.model.records.values() for r in row}

    def follow(self, change: TopologyChange) -> None:
        self.optimizers.apply(change, self.step)
        for move in change.moves:
            assert move.new in LEGAL_MOVES[move.old] or move.new is move.old
            assert self.last[move.record.key] is move.old
            self.last[move.record.key] = move.new
        removed = dict(change.removed)
        for move in list(change.moves):
            if move.new is S.CULLED:
                entries = self.optimizers.entries(list(removed[move.record.key].parameters()))
                self.manager.embargo(move.record, entries, self.clock)
                self.last[move.record.key] = S.EMBARGOED

    def apply_command(self, command: Any, fails: bool) -> None:
        before, topology = self.outputs(), self.facts()
        try:
            change = self.manager.apply(command, self.clock)
        except GrowthError:
            change = None
        if change is not None and not fails:
            self.follow(change)
            return
        if change is not None:
            change.undo()
        assert self.facts() == topology
        assert torch.equal(before, self.outputs())

    def facts(self) -> str:
        return json.dumps([self.model.topology(), self.manager.state_dict()], sort_keys=True)

    def outputs(self) -> Tensor:
        mode = self.model.training
        self.model.eval()
        with torch.no_grad():
            answer = self.model(batch("mlp"))
        self.model.train(mode)
        return answer

    @rule(
        blueprint=st.sampled_from(["mlp", "low_rank", "norm", "no_op", "squeeze_excite"]),
        placement=st.sampled_from(["series", "parallel"]),
        **SLOTS,
    )
    def germinate(self, layer: str, index: int, blueprint: str, placement: str, fails: bool) -> None:
        self.apply_command(germinate(layer, blueprint, placement, index), fails)

    @rule(**SLOTS)
    def cull(self, layer: str, index: int, fails: bool) -> None:
        self.apply_command(cull(layer, index), fails)

    @rule(**SLOTS)
    def fossilize(self, layer: str, index: int, fails: bool) -> None:
        self.model.record(layer, index).impact = HELPFUL
        self.apply_command(fossilize(layer, index), fails)

    @rule(steps=st.integers(1, 3))
    def train(self, steps: int) -> None:
        for _ in range(steps):
            train_step(self.model, self.manager, self.optimizers, self.step)
            self.step += 1

    @rule(fails=st.booleans())
    def end_epoch(self, fails: bool) -> None:
        self.epoch += 1
        if fails:
            before = self.facts()
            self.manager.advance(self.clock).undo()
            assert self.facts() == before
        else:
            self.follow(self.manager.advance(self.clock))

    @precondition(lambda self: self.model.alive_records())
    @rule()
    def save_and_load(self) -> None:
        fresh = wrap(host("mlp"), LAYERS, seeds_per_layer=2, seed=5)
        fresh.load_state_dict(self.model.state_dict())
        assert same_bits(bits(self.model), bits(fresh)) and fresh.topology() == self.model.topology()
        manager = SeedManager(fresh, self.manager.config)
        manager.load_state_dict(json.loads(json.dumps(self.manager.state_dict())))
        optimizers = optimizers_of(fresh)
        optimizers.load_state_dict(self.optimizers.state_dict())
        answer = self.outputs()
        self.model, self.manager, self.optimizers = fresh, manager, optimizers
        assert torch.equal(answer, self.outputs())

    @precondition(lambda self: self.model.alive_records())
    @rule()
    def a_copy_dies(self) -> None:
        answer, topology = self.outputs(), self.model.topology()
        twin = copy.deepcopy(self.model)
        for record in twin.alive_records():
            twin.records[record.layer][record.index] = record.cleared()
            twin.detach(record)
        assert not any(m._forward_hooks for m in twin.modules())
        assert torch.equal(answer, self.outputs()) and topology == self.model.topology()

    @invariant()
    def stages_obey_the_table(self) -> None:
        assert self.last == self.stages()

    @invariant()
    def modules_and_hooks_agree_with_the_records(self) -> None:
        living = {r.key: r for r in self.model.alive_records()}
        assert set(self.model.seeds) == set(living)
        bearing = {r.layer for r in living.values()}
        hooked = {name for name, m in self.model.host.named_modules() if m._forward_hooks}
        assert hooked == bearing
        assert all(len(self.model.host.get_submodule(name)._forward_hooks) == 1 for name in hooked)
        for key, record in living.items():
            seed = self.model.seed_module(record)
            assert seed.joined == record.joined
            assert seed.isolated == (record.stage is S.TRAINING and seed.trainable)
            assert (key in self.manager.blends) == (record.stage is S.BLENDING)
            assert seed.alpha.item() == pytest.approx(self.manager.alpha(record))
            assert 0.0 <= seed.alpha.item() <= 1.0

    @invariant()
    def the_optimiser_holds_what_is_trainable(self) -> None:
        """Row 17."""
        assert follows(self.optimizers)

    @invariant()
    def all_is_finite(self) -> None:
        assert torch.isfinite(self.outputs()).all()


SeedLifecycles.TestCase.settings = settings(max_examples=40, stateful_step_count=25)
TestSeedLifecycles = SeedLifecycles.TestCase


def test_a_barred_layer_offers_no_slot_until_its_time_is_over() -> None:
    """Free slots are embargoed, seeds that live are left alone, a longer embargo is not cut short."""
    model, manager = growable("mlp", embargo_epochs=9)
    layer = next(iter(model.records))
    placement, blueprint = next(found[1:] for found in fitting(model) if found[0] == layer)
    manager.apply(germinate(layer, blueprint, placement), NOW)
    manager.embargo_layer(layer, 4, "why", TrainingPosition(7, 2))
    first, *free = model.records[layer]
    assert first.alive
    assert free
    assert all((r.stage, r.embargo_until_epoch, r.reason) == (S.EMBARGOED, 4, "why") for r in free)
    manager.embargo_layer(layer, 3, "again", TrainingPosition(8, 2))
    assert all(r.embargo_until_epoch == 4 for r in free)
    manager.advance(TrainingPosition(20, 3))
    assert all(r.stage is S.EMBARGOED for r in free)
    manager.advance(TrainingPosition(30, 4))
    assert all(r.stage is S.DORMANT for r in model.records[layer][1:])
