"""Compiled where it can be; at most one compile a structural event; the same numbers always."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.grown import Host, batch, make_host
from helpers.runs import PlannedPolicy, germinate, make_run, notes_of, same, seed_command, weights
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters

from esper.leyline import CommandKind
from esper.tolaria.compiled_forward import TrainingForward
from esper.tolaria.loop import TrainingLoop

GROWTH = {1: [germinate("block1", number=1)], 2: [germinate("block2", number=2)]}


@pytest.fixture(autouse=True)
def clean_dynamo() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


class CountingBackend:
    """Runs graphs as they are, and counts how many it was given."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


def no_backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    raise RuntimeError("no compiler on this machine")


def run(tmp_path: Path, backend: Any = None, **options: Any) -> TrainingLoop:
    """A run over a whole training split, whose last batch is partial; compiled where a backend is given."""
    compiled = {"compile_model": True, "trainer__compile_backend": backend} if backend is not None else {}
    given = {"trainer__limit_train_batches": None, "optimization__max_epochs": 5, "dataset__batch_size": 128}
    given |= {"dataset__validation_split": 0.6, "morphogenetic__seed__blend_steps": 4}
    given |= {"morphogenetic__max_params_ratio": 99.0}
    made = make_run(tmp_path, tamiyo=PlannedPolicy(GROWTH), **given | compiled | options)
    assert made.components.train.num_samples % 128 not in (0, 1)
    made.train()
    return made


def alike(a: TrainingLoop, b: TrainingLoop) -> bool:
    return notes_of(a).comparable() == notes_of(b).comparable() and same(weights(a.model), weights(b.model))


def test_one_compile_at_the_start_and_one_a_structural_event(tmp_path: Path) -> None:
    backend = CountingBackend()
    made = run(tmp_path, backend)
    events = notes_of(made).named("topology_changed")
    assert len(events) == 2
    # none for the ticks of the blends, the partial last batches, validation, health or impact
    assert backend.graphs == counters["stats"]["unique_graphs"] == 1 + len(events)
    assert notes_of(made).named("compile_fallback") == []
    assert alike(made, run(tmp_path))


def test_steps_with_an_isolated_seed_run_eagerly_and_recompile_nothing(tmp_path: Path) -> None:
    backend = CountingBackend()
    isolated = {"morphogenetic__seed__isolation_steps": 5}
    made = run(tmp_path, backend, **isolated)
    assert len(notes_of(made).named("topology_changed")) == 4  # born and joined, twice
    assert backend.graphs <= 1 + 4
    assert alike(made, run(tmp_path, **isolated))


def test_a_cull_is_one_structural_event(tmp_path: Path) -> None:
    backend = CountingBackend()
    commands = {1: [germinate()], 3: [seed_command(CommandKind.CULL, number=2)]}
    made = make_run(
        tmp_path,
        tamiyo=PlannedPolicy(commands),
        compile_model=True,
        trainer__compile_backend=backend,
        optimization__max_epochs=5,
    )
    made.train()
    assert len(notes_of(made).named("topology_changed")) == 2
    assert backend.graphs == 3


@pytest.mark.parametrize("precision", [False, "bf16"])
def test_aot_autograd_gives_the_same_numbers(tmp_path: Path, precision: bool | str) -> None:
    assert alike(
        run(tmp_path, "aot_eager", mixed_precision=precision), run(tmp_path, mixed_precision=precision)
    )


def fails_in_backward() -> Callable[..., Any]:
    def fine(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        def boxed(arguments: list[Any]) -> Any:
            return graph.forward(*arguments)

        boxed._boxed_call = True  # type: ignore[attr-defined]
        return boxed

    made: Callable[..., Any] = aot_autograd(fw_compiler=fine, bw_compiler=no_backend)
    return made


@pytest.mark.parametrize("backend", [no_backend, fails_in_backward()], ids=["forward", "backward"])
def test_a_failed_compile_is_reported_once_and_changes_no_number(tmp_path: Path, backend: Any) -> None:
    made = run(tmp_path, backend)
    (event,) = notes_of(made).named("compile_fallback")
    assert "no compiler on this machine" in event.data["reason"]
    assert event.level == "warning"
    assert alike(made, run(tmp_path))


class Branches(nn.Module):
    """A user's model that no graph can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.block1 = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.2))
        self.block2 = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.block1(x)
        return self.block2(h if h.sum().item() > 0 else h.relu())


def test_a_model_with_graph_breaks_runs_as_it_is(tmp_path: Path) -> None:
    runs = []
    for compiled in (True, False):
        torch.manual_seed(0)
        made = make_run(
            tmp_path,
            tamiyo=PlannedPolicy({1: [germinate("block1", "mlp")]}),
            model=Branches(),
            compile_model=compiled,
            trainer__compile_backend="eager",
            morphogenetic__max_params_ratio=9.0,
        )
        made.train()
        runs.append(made)
    assert len(notes_of(runs[0]).named("compile_fallback")) == 1
    assert alike(*runs)


class Ragged(nn.Module):
    """Takes inputs of any length, as models of text do."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x).mean(dim=1)


def test_too_many_shapes_end_in_the_eager_path_not_in_an_error() -> None:
    grown = make_host(host=Host)
    grown.model.host = Ragged()
    logged: list[str] = []
    forward = TrainingForward(
        grown.model, compile_model=True, backend="eager", batch_size=2, on_fallback=logged.append
    )
    for length in range(1, 30):
        x = torch.ones(2, length, 4)
        assert torch.equal(forward(2, (x,), {}), grown.model.host(x))
    assert len(logged) <= 1


def test_the_rehearsal_leaves_no_trace() -> None:
    """Of a compile: no gradient, no buffer, no random number, one forward counted."""
    grown = make_host(host=lambda: Host(dropout=0.5, norm=True))
    model = grown.model.train()
    plain = TrainingForward(
        model, compile_model=False, backend="eager", batch_size=8, on_fallback=pytest.fail
    )
    x, _ = batch(8)
    start = weights(model)
    torch.manual_seed(3)
    expected = plain(8, (x,), {})
    after, draws = weights(model), torch.rand(3)
    model.load_state_dict(start, strict=False)
    compiled = TrainingForward(
        model, compile_model=True, backend="aot_eager", batch_size=8, on_fallback=pytest.fail
    )
    count = model.counters.forwards
    torch.manual_seed(3)
    assert torch.equal(compiled(8, (x,), {}), expected)
    assert same(weights(model), after)
    assert torch.equal(torch.rand(3), draws)
    assert all(p.grad is None for p in model.parameters())
    assert model.counters.forwards == count + 1


def test_the_model_itself_stays_uncompiled() -> None:
    """What is given back to the user is a plain module, also where the compile failed."""
    grown = make_host()
    forward = TrainingForward(
        grown.model, compile_model=True, backend="eager", batch_size=8, on_fallback=pytest.fail
    )
    forward(8, (batch(8)[0],), {})
    assert grown.model._compiled_call_impl is None
