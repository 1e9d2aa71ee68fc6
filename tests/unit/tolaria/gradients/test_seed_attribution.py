"""Attribution of gradients to host and seeds, in real steps of a small host."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from helpers.grown import Grown, Host, batch, make_host, split
from helpers.runs import Notes, PlannedPolicy, germinate, make_run, notes_of, same, seed_command, weights
from helpers.synchronisation import SyncDetector
from torch import Tensor, nn

from esper.leyline import CommandKind, Event
from esper.tolaria.compiled_forward import TrainingForward
from esper.tolaria.events import Telemetry
from esper.tolaria.gradients import ConflictStats, Mean, PlainBackward, TaskBackward
from esper.tolaria.gradients.seed_attribution import SAMPLE_STEPS, SeedAttribution
from esper.tolaria.optimization.lr_schedule import Horizon, LearningRate, constant
from esper.tolaria.optimization.precision import Precision
from esper.tolaria.task import RunningMetrics, Task, pair_adapter
from esper.tolaria.training_step import Stepper

CPU = torch.device("cpu")
SEED = "tolaria.grad_agg.seed."
LOSS = nn.CrossEntropyLoss()


class Bench:
    """A small host whose steps are sampled; `mode` is a value of trainer.seed_weighting."""

    def __init__(
        self,
        grown: Grown,
        mode: str = "report",
        *,
        layers: int = 0,
        precision: bool | str = False,
        loss: Any = LOSS,
        tasks: bool = False,
        device: torch.device = CPU,
    ) -> None:
        self.grown = grown
        self.notes = Notes()
        self.meter = RunningMetrics(device)
        self.at = 0
        made = Precision(precision, device)
        self.attribution = SeedAttribution(
            grown.optimizers, grown.seeds, device, apply=mode == "apply", layers=layers
        )
        forward = TrainingForward(
            grown.model, compile_model=False, backend="eager", batch_size=8, on_fallback=pytest.fail
        )
        backward: Any = PlainBackward(made, self.attribution) if mode != "none" else None
        if tasks:
            shared = grown.optimizers.shared_parameters
            backward = TaskBackward(Mean(), made, shared, ConflictStats(device, 1.0), self.attribution)
        self.stepper = Stepper(
            forward,
            grown.optimizers,
            grown.seeds,
            LearningRate(constant(Horizon(10, 5))),
            Task(loss, pair_adapter, made, CPU),
            backward=backward,
        )

    def steps(self, count: int, sizes: Sequence[int] = (8,)) -> None:
        for _ in range(count):
            self.stepper.step(split(batch(sum(sizes), seed=self.at), list(sizes)), [self.meter], self.at)
            self.grown.seeds.tick()
            self.at += 1

    def flush(self) -> dict[str, Any]:
        """The data of the event of this epoch."""
        self.notes.events.clear()
        self.attribution.flush(Telemetry(self.notes))
        (event,) = self.notes.named("tolaria.grad_agg.seeds")
        return dict(event.data)


def two_joined(**options: Any) -> Grown:
    grown = make_host(blend_steps=0, **options)
    grown.do(germinate("a", "mlp", number=1))
    grown.do(germinate("b", "mlp", number=2))
    return grown


# -- events -------------------------------------------------------------------------------------


def test_shares_are_those_of_the_squared_norm_and_add_up_to_1() -> None:
    bench = Bench(two_joined())
    reference = copy.deepcopy(bench.grown.model)
    x, y = batch(8, seed=0)
    LOSS(reference(x), y).backward()
    squares = {
        name: sum(float(p.grad.square().sum()) for p in part.parameters() if p.grad is not None)
        for name, part in (("host", reference.host), *reference.seeds.items())
    }
    bench.steps(1)
    logged = bench.flush()
    total = sum(squares.values())
    assert logged["tolaria.grad_agg.teacher_share"] == pytest.approx(squares["host"] / total, rel=1e-5)
    for seed in logged["seeds"]:
        own = squares[f"{seed['layer']}#0"]
        assert seed[f"{SEED}share"] == pytest.approx(own / total, rel=1e-5)
        assert seed[f"{SEED}norm"] == pytest.approx(own**0.5, rel=1e-5)
    shares = [seed[f"{SEED}share"] for seed in logged["seeds"]]
    assert logged["tolaria.grad_agg.teacher_share"] + sum(shares) == pytest.approx(1.0)


def test_the_order_is_the_models_and_who_took_no_part_has_zeros() -> None:
    grown = make_host(blend_steps=0)
    grown.do(germinate("b", "mlp", number=1))
    grown.seeds.config.isolation_steps = 1000
    grown.do(germinate("a", "mlp", number=2))
    bench = Bench(grown)
    bench.steps(2)
    first, second = bench.flush()["seeds"]
    assert [(s["layer"], s["seed"]) for s in (first, second)] == [("a", 0), ("b", 0)]
    assert first["stage"] == "training"
    assert first[f"{SEED}norm"] == first[f"{SEED}share"] == first[f"{SEED}weight"] == 0.0
    assert second[f"{SEED}norm"] > 0


def test_a_graft_in_mid_epoch_is_seen_at_the_next_step_and_a_cull_too() -> None:
    bench = Bench(two_joined())
    bench.steps(2)  # the first is looked at
    bench.grown.do(germinate("a", "mlp", number=3, seed_index=1), 2)
    bench.steps(1)
    assert bench.at < SAMPLE_STEPS
    logged = bench.flush()
    assert [(s["layer"], s["seed"]) for s in logged["seeds"]] == [("a", 0), ("a", 1), ("b", 0)]
    assert logged["tolaria.grad_agg.sampled_steps"] == 2
    bench.grown.do(seed_command(CommandKind.CULL, "a", number=4), 3, 3)
    bench.steps(1)
    assert [(s["layer"], s["seed"]) for s in bench.flush()["seeds"]] == [("a", 1), ("b", 0)]


def test_without_a_joined_seed_nothing_is_sampled_or_logged() -> None:
    bench = Bench(make_host(isolation_steps=1000))
    bench.grown.do(germinate("a", "mlp"))
    bench.steps(SAMPLE_STEPS + 1)
    assert bench.attribution.flush(Telemetry(bench.notes)) == []
    assert bench.notes.events == []


def quiet_host() -> Host:
    """Only its last bias learns, so that seeds have most of the gradient."""
    host = Host().requires_grad_(False)
    host.head.bias.requires_grad_(True)
    return host


def test_a_share_that_jumps_is_reported() -> None:
    bench = Bench(two_joined(host=quiet_host))
    seeds = [bench.grown.model.seed_module(r) for r in bench.grown.model.alive_records()]
    for seed in seeds:
        seed.set_alpha(0.0)
    bench.steps(SAMPLE_STEPS)
    assert bench.flush()["seeds"][0][f"{SEED}share_delta"] is None
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for seed in seeds:
            seed.set_alpha(1.0)
            for parameter in seed.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
    bench.steps(1)
    logged = bench.flush()
    jumps: list[Event] = bench.notes.named("seed_share_jump")
    assert jumps
    by_layer = {s["layer"]: s for s in logged["seeds"]}
    for jump in jumps:
        seed = by_layer[jump.data["layer"]]
        assert jump.data["share_delta"] == seed[f"{SEED}share_delta"] == seed[f"{SEED}share"] > 0.2


def test_layers_are_reported_only_on_request() -> None:
    plain, detailed = Bench(two_joined()), Bench(two_joined(), layers=1)
    for bench in (plain, detailed):
        bench.steps(1)
    assert f"{SEED}layer_norm" not in plain.flush()["seeds"][0]
    for seed in detailed.flush()["seeds"]:
        ((name, norm),) = seed[f"{SEED}layer_norm"].items()
        assert name.startswith("body.")
        assert 0 < norm <= seed[f"{SEED}norm"]


def test_a_folded_seed_is_part_of_the_teacher() -> None:
    bench = Bench(two_joined())
    bench.grown.optimizers.main.param_groups[1]["name"] = "folded a#0"
    bench.steps(1)
    logged = bench.flush()
    shares = {s["layer"]: s[f"{SEED}share"] for s in logged["seeds"]}
    assert shares["a"] == 0.0
    assert logged["tolaria.grad_agg.teacher_share"] + shares["b"] == pytest.approx(1.0)


# -- conflicts -----------------------------------------------------------------------------------


def microbatch_gradients(grown: Grown, sizes: Sequence[int]) -> dict[str, list[Tensor]]:
    rows: dict[str, list[Tensor]] = {key: [] for key in grown.model.seeds}
    for x, y in split(batch(sum(sizes), seed=0), list(sizes)):
        model = copy.deepcopy(grown.model)
        LOSS(model(x), y).backward()
        for key, seed in model.seeds.items():
            rows[key].append(torch.cat([p.grad.flatten() for p in seed.parameters() if p.grad is not None]))
    return rows


@pytest.mark.parametrize("tasks", [False, True])
def test_conflicts_are_counted_between_micro_batches_over_a_seeds_own_parameters(tasks: bool) -> None:
    sizes = [1] * 6
    grown = two_joined()
    with torch.no_grad():
        for parameter in grown.model.seeds.parameters():
            parameter.add_(0.3)
    rows = microbatch_gradients(grown, sizes)
    expected = {
        key: sum(float(a @ b) < 0 for i, a in enumerate(own) for b in own[i + 1 :])
        for key, own in rows.items()
    }
    assert any(expected.values())
    bench = Bench(grown, tasks=tasks)
    bench.steps(1, sizes)
    for seed in bench.flush()["seeds"]:
        conflicts = expected[f"{seed['layer']}#0"]
        assert seed[f"{SEED}conflicts"] == conflicts
        assert seed[f"{SEED}conflict_ratio"] == conflicts / 15
        high = [e for e in bench.notes.named("seed_conflict_high") if e.data["layer"] == seed["layer"]]
        assert len(high) == (conflicts / 15 > 0.5)


def test_disjoint_parameters_cannot_conflict() -> None:
    """One gradient per step: host and seeds share no parameter, so there is no pair that can conflict."""
    bench = Bench(two_joined())
    bench.steps(SAMPLE_STEPS)
    for seed in bench.flush()["seeds"]:
        assert seed[f"{SEED}conflicts"] == 0
        assert seed[f"{SEED}conflict_ratio"] is None


def test_conflicts_between_objectives_that_pull_apart() -> None:
    def apart(output: Tensor, targets: Tensor) -> dict[str, Tensor]:
        loss = LOSS(output, targets)
        return {"for": loss, "against": -0.5 * loss}

    bench = Bench(two_joined(), loss=apart, tasks=True)
    with torch.no_grad():
        for parameter in bench.grown.model.seeds.parameters():
            parameter.add_(0.3)
    bench.steps(1)
    for seed in bench.flush()["seeds"]:
        assert (seed[f"{SEED}conflicts"], seed[f"{SEED}conflict_ratio"]) == (1, 1.0)


# -- what it changes -----------------------------------------------------------------------------


@pytest.mark.parametrize("precision", [False, "bf16", "fp16"])
def test_host_and_seed_steps_with_report_are_those_without(precision: bool | str) -> None:
    """Telemetry does not move a weight, to the bit; also in a blend and with micro-batches."""
    grown = [make_host(blend_steps=30) for _ in range(2)]
    for each, mode in zip(grown, ("none", "report"), strict=True):
        each.do(germinate("a", "mlp"))
        bench = Bench(each, mode, layers=3, precision=precision)
        bench.steps(2 * SAMPLE_STEPS + 1, (5, 3))
        if mode == "report":
            assert bench.flush()["tolaria.grad_agg.sampled_steps"] >= 2
    assert same(weights(grown[0].model), weights(grown[1].model))


def test_apply_scales_the_steps_of_seeds_by_their_weights_and_says_so() -> None:
    grown = make_host(blend_steps=4)
    grown.do(germinate("a", "mlp"))
    bench = Bench(grown, "apply")
    for alpha in (0.0, 0.25, 0.5, 0.75, 1.0):
        bench.steps(1)
        host, seed = grown.optimizers.main.param_groups
        assert host["lr"] == 0.1
        warm = min((bench.at) / 2, 1.0)
        assert seed["lr"] == pytest.approx(0.05 * warm * alpha)
    logged = bench.flush()
    assert logged["tolaria.grad_agg.weights_applied"] is True
    assert logged["seeds"][0][f"{SEED}weight"] == 1.0


# -- state ---------------------------------------------------------------------------------------


def test_what_was_gathered_is_saved_in_mid_epoch() -> None:
    whole = Bench(two_joined(), layers=2)
    whole.steps(3, (5, 3))
    whole.flush()
    whole.steps(SAMPLE_STEPS, (5, 3))
    other = Bench(copy.deepcopy(whole.grown), layers=2)
    state = copy.deepcopy(whole.attribution.state_dict())
    plain = {key: value for key, value in state.items() if key not in ("sums", "squares")}
    assert json.loads(json.dumps(plain)) == plain
    other.attribution.load_state_dict(state)
    other.at = whole.at
    for bench in (whole, other):
        bench.steps(SAMPLE_STEPS, (5, 3))
    assert other.flush() == whole.flush()


# -- no synchronisation --------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(8,), (5, 3)])
@pytest.mark.parametrize("mode", ["report", "apply"])
def test_a_step_that_is_looked_at_waits_for_no_value(sizes: tuple[int, ...], mode: str) -> None:
    bench = Bench(two_joined(), mode, layers=2)
    bench.steps(SAMPLE_STEPS, sizes)
    with SyncDetector(set()) as waits:
        bench.steps(1, sizes)
        assert waits.found == []
    assert bench.flush()["tolaria.grad_agg.sampled_steps"] == 2  # it was looked at


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs cuda")
@pytest.mark.parametrize("precision", [False, "bf16"])
def test_a_step_that_is_looked_at_does_not_synchronise(precision: bool | str) -> None:
    """With all options on, torch's sync debug mode reports no synchronisation."""
    device = torch.device("cuda")
    grown = two_joined()
    grown.model.to(device)
    bench = Bench(grown, layers=2, precision=precision, device=device)
    windows = [[(x.to(device), y.to(device)) for x, y in split(batch(8), [5, 3])]] * (SAMPLE_STEPS + 1)
    for at, window in enumerate(windows):
        torch.cuda.set_sync_debug_mode("error" if at == SAMPLE_STEPS else "default")
        try:
            bench.stepper.step(window, [bench.meter], at, return_norm=True)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert bench.flush()["tolaria.grad_agg.sampled_steps"] == 2


# -- in a run ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["none", "report", "apply"])
def test_a_run_tells_once_an_epoch_where_it_is_asked_to(tmp_path: Any, mode: str) -> None:
    plan = PlannedPolicy({1: [germinate("block1")]})
    run = make_run(tmp_path, tamiyo=plan, trainer__seed_weighting=mode)
    run.train()
    logged = notes_of(run).named("tolaria.grad_agg.seeds")
    assert [event.epoch for event in logged] == ([] if mode == "none" else [2, 3])
    assert all(event.data["tolaria.grad_agg.weights_applied"] == (mode == "apply") for event in logged)
