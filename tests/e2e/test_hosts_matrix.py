"""Hosts of every kind through training, growth, saving, resuming, loading, folding and testing."""

from __future__ import annotations

import math
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import zoo, zoo_layers, zoo_state
from helpers.runs import same
from helpers.zoo import CASES, Case
from torch import Tensor, nn

import esper
from esper.errors import ConfigError
from esper.kasmina import fold
from esper.tolaria.cost.flops import count_flops

RESUME = "checkpoint__resume_from_checkpoint"

pytestmark = pytest.mark.filterwarnings(
    # hosts of this kind say so themselves
    "ignore:None of the inputs have requires_grad:UserWarning"
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the hosts are small
    yield
    torch.set_num_threads(threads)


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.double(), b.double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_a_host_is_right_through_everything(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    before = zoo.train_loss(case, case.host())
    whole = zoo.trainer(case, tmp_path / "whole")
    summary = whole.run_training()
    trained = bits(whole.model)

    assert math.isfinite(summary["val_loss"]) and math.isfinite(summary["test_loss"])
    assert bool(summary["seeds"]) is case.grows
    assert all(seed["germinated_epoch"] == 0 for seed in summary["seeds"])
    answers = zoo.outputs(case, whole.model)
    if case.learns:
        assert zoo.train_loss(case, whole.model) < before

    first, last = sorted((tmp_path / "whole/checkpoints").glob("epoch-*"))
    resumed = zoo.trainer(case, tmp_path / "resumed", **{RESUME: str(first)})
    assert resumed.run_training()["test_loss"] == summary["test_loss"]
    assert same(bits(resumed.model), trained)

    final = tmp_path / "whole/models/final_model.safetensors"
    for source in (last, final):
        loaded = esper.load(source, model=case.host(), allowed_targets=["helpers"])
        assert same(bits(loaded), trained)
    assert close(zoo.outputs(case, loaded), answers)

    zoo.fossilize_all(loaded)
    grown = zoo.outputs(case, loaded)
    assert close(zoo.outputs(case, fold(loaded)), grown)

    tested = zoo.trainer(case, tmp_path / "test", mode="test", **{RESUME: str(last)})
    assert tested.run_training()["test_loss"] == summary["test_loss"]


def test_a_layer_that_thaws_is_trained_and_a_frozen_one_is_not(tmp_path: Path) -> None:
    trained = {}
    for name in ("thawing", "partly frozen"):
        made = zoo.trainer(CASES[name], tmp_path / name)
        made.run_training()
        changed = ~bits(made.model)["host.body.weight"].eq(CASES[name].host().state_dict()["body.weight"])
        trained[name] = changed.double().mean().item()
    assert trained == {"thawing": 1.0, "partly frozen": 0.0}


# -- a process that is killed --------------------------------------------------------------------


def killed_at(case: Case, forward: int) -> nn.Module:
    """The host; in the training forward of this number the process is gone."""
    seen = [0]

    def count(module: nn.Module, args: Any) -> None:
        seen[0] += module.training
        if seen[0] == forward:
            os.kill(os.getpid(), signal.SIGKILL)

    host = case.host()
    host.register_forward_pre_hook(count)
    return host


@pytest.mark.parametrize("name", ["weight_norm", "extra state", "late buffers"])
def test_a_host_that_is_killed_goes_on_as_if_it_had_not_been(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    whole = zoo.trainer(case, tmp_path / "whole")
    summary = whole.run_training()
    with warnings.catch_warnings(action="ignore"):  # of forking beside other threads
        child = os.fork()
    if child == 0:
        try:
            doomed = Case(partial(killed_at, case, 7), case.layer, case.blueprint, case.form)
            zoo.trainer(doomed, tmp_path / "killed").run_training()
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    resumed = zoo.trainer(case, tmp_path / "killed", **{RESUME: "auto"})
    found = resumed.run_training()
    assert found["train_flops"] == summary["train_flops"] and found["test_loss"] == summary["test_loss"]
    assert same(bits(resumed.model), bits(whole.model))


# -- what it costs -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm", "old weight_norm", "plain"])
def test_a_parametrised_layer_costs_what_the_plain_one_does(name: str, tmp_path: Path) -> None:
    """The norms themselves are no matrix products, which alone are counted."""
    model = esper.wrap(CASES[name].host(), ["body"])
    x = torch.randn(4, zoo_layers.WIDTH)
    dense = 2 * zoo_layers.WIDTH * (2 * zoo_layers.WIDTH + zoo_layers.CLASSES)
    to_inputs = (
        2 * zoo_layers.WIDTH * (zoo_layers.WIDTH + zoo_layers.CLASSES)
    )  # the first layer's input needs none
    assert count_flops(model, lambda: model(x).sum(), 4) == (dense, 2 * dense + to_inputs)


# -- what is refused -----------------------------------------------------------------------------


def on_meta() -> nn.Module:
    host = zoo_layers.Plain()
    host.body = nn.Linear(zoo_layers.WIDTH, zoo_layers.WIDTH, device="meta")
    return host


def of_complex128() -> nn.Module:
    host = zoo_layers.Plain()
    host.body.register_buffer("turn", torch.zeros(2, dtype=torch.complex128))
    return host


def around(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A host with this module as its body."""
    return lambda: zoo_layers.Plain(make())


REFUSED: Mapping[str, tuple[Case, str]] = {
    "meta": (Case(on_meta), r"module 'body' \(Linear\): weight is on the meta device"),
    "lock": (
        Case(around(zoo_state.Locked)),
        r"module 'body' \(Locked\) cannot be copied: .*preserve_original",
    ),
    "one way": (Case(around(zoo_state.OneWay)), r"module 'body' \(OneWay\) has get_extra_state and no set_"),
    "opaque": (
        Case(around(zoo_state.Opaque)),
        "extra state of module 'body' cannot be saved: it holds a .*type",
    ),
    "complex128": (Case(of_complex128), "'body.turn' cannot be saved: its dtype is torch.complex128"),
    "parallel": (
        Case(lambda: nn.DataParallel(zoo_layers.Plain()), "module.body"),
        r"the model \(DataParallel\) runs copies of a model; expected the model inside it",
    ),
    "made in forward": (
        Case(around(zoo_state.MadeInForward), "head"),
        "parameter 'body.late.weight' is made by the model's first forward.*LazyLinear",
    ),
    "lazy and unused": (
        Case(zoo_state.LazyUnused),
        r"module 'spare' \(LazyLinear\) is lazy and the first batch",
    ),
    "failing": (Case(around(zoo_state.Failing), "head"), r"does not pass through module 'body' \(Failing\)"),
    "scripted": (Case(zoo_layers.scripted), r"What is scripted \('body'\) takes no hooks"),
    "inside scripted": (Case(zoo_layers.scripted, "body.0"), "pass the model before torch.jit.script"),
    "scripted whole": (Case(zoo_layers.scripted_whole, "."), r"What is scripted \(the whole model\)"),
    "sparse with adam": (
        Case(partial(zoo_layers.Embeddings, sparse=True)),
        "the sparse gradients of 'words', or sparse=False there",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_right_is_refused_by_name_before_the_first_step(name: str, tmp_path: Path) -> None:
    case, sentence = REFUSED[name]
    with pytest.raises(ConfigError, match=sentence) as refused:
        zoo.trainer(case, tmp_path / "run").run_training()
    (problem,) = refused.value.problems
    assert "\n" not in problem
    assert not (tmp_path / "run/checkpoints").exists() or not list((tmp_path / "run/checkpoints").iterdir())


def test_a_model_that_cannot_be_copied_is_grown_itself_where_that_is_asked_for(tmp_path: Path) -> None:
    case = Case(around(zoo_state.Locked))
    made = zoo.trainer(case, tmp_path, model__preserve_original=False)
    assert made.run_training()["seeds"]
    with pytest.raises(esper.errors.GrowthError, match=r"module 'host.body' \(Locked\) cannot be copied"):
        fold(made.model)
