"""Parameters of the loss, and those that become trainable late, are trained, saved and resumed."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.grown import Host, adam, batch, make_host
from helpers.runs import CPU, PlannedPolicy, checkpoints, germinate, make_run, notes_of, restored, same
from helpers.scenarios import alike, path_of
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from esper.config import TolariaConfig
from esper.data import MapStyleLoader
from esper.data.in_memory import LoaderOptions
from esper.errors import ConfigError
from esper.runs import build_loss
from esper.tolaria.checkpoint import load_checkpoint
from esper.tolaria.loop import TrainingLoop
from esper.tolaria.loss.loss_state import LossState
from esper.tolaria.optimization.optimizer_manager import BaseRates, OptimizerManager
from esper.tolaria.optimization.trainable import check_tensors
from esper.tolaria.recovery import DivergenceError


class Temperature(nn.Module):
    """A learned temperature and class centres; counts its training batches in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.log_t = nn.Parameter(torch.zeros(()))
        self.centers = nn.Parameter(torch.full((3, 3), 0.1))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, output: Tensor, targets: Tensor) -> Tensor:
        if self.training:
            self.batches += 1
        pull = (output - self.centers[targets]).square().mean()
        return nn.functional.cross_entropy(output * self.log_t.exp(), targets) + 0.1 * pull


class Thaws(Host):
    """Its first layer is frozen until train() is called for the third time."""

    def __init__(self) -> None:
        super().__init__()
        self.a.requires_grad_(False)
        self.register_buffer("epochs", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.epochs += 1
            if self.epochs == 4:  # in the midst of the second epoch
                self.a.requires_grad_(True)
            if self.epochs == 8:  # in the midst of the third
                self.head.requires_grad_(False)
        return super().forward(x)


def loader(*, training: bool) -> MapStyleLoader:
    data = TensorDataset(*batch(30, seed=1 if training else 2))
    options = LoaderOptions(batch_size=10, seed=0, shuffle=training, training=training)
    return MapStyleLoader(data, torch.arange(30), options, device=CPU)


def run_of(folder: Path, *, loss: Any = None, model: nn.Module | None = None, **options: Any) -> TrainingLoop:
    torch.manual_seed(3)
    given = {
        "model__target_layers": ["a", "b"],
        "model__seeds_per_layer": 1,
        "trainer__limit_train_batches": None,
        "optimization__max_epochs": 4,
        "optimization__scheduler": "none",
        "checkpoint__save_checkpoints": True,
        "checkpoint__checkpoint_frequency": 1,
        "checkpoint__max_checkpoints": 99,
    }
    parts = {
        "train": loader(training=True),
        "validation": loader(training=False),
        "test": loader(training=False),
        "loss": loss or Temperature(),
    }
    return make_run(folder, model=model or Host(), parts=parts, **given | options)


def loss_state(run: TrainingLoop) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in run.loss_state.state_dict().items()}


# -- the loss ------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_a_loss_is_trained_as_by_a_plain_loop(
    tmp_path: Path, optimizer: str, clip_norm: float | None
) -> None:
    """Twelve steps, bit for bit; the norm that is clipped and logged counts the loss's gradients."""
    run = run_of(
        tmp_path,
        optimization__optimizer=optimizer,
        optimization__weight_decay=0.01,
        optimization__gradient_clip_norm=clip_norm,
        logging__step_interval=1,
    )
    model, loss = copy.deepcopy(run.model.host), copy.deepcopy(run.components.loss)
    run.train()
    groups = [{"params": list(model.parameters())}, {"params": list(loss.parameters())}]
    made = (
        torch.optim.Adam(groups, lr=0.01, weight_decay=0.01)
        if optimizer == "adam"
        else torch.optim.SGD(groups, lr=0.01, momentum=run.config.optimization.momentum)
    )
    every, norms = [*model.parameters(), *loss.parameters()], []
    for epoch in range(1, 5):
        for x, y in run.components.train.batches(epoch):
            loss(model.train()(x), y).backward()
            grads = [p.grad for p in every]
            norms.append(nn.utils.get_total_norm(grads).item())
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(every, clip_norm)
            made.step()
            made.zero_grad()
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), run.model.host.parameters(), strict=True)
    )
    assert same(loss_state(run), {name: t.detach() for name, t in loss.state_dict().items()})
    assert loss_state(run)["batches"] == 12, "evaluation and measurements update nothing of the loss"
    assert not torch.equal(loss_state(run)["log_t"], torch.zeros(()))
    logged = [line["grad_norm"] for line in notes_of(run).steps]
    assert logged == pytest.approx(norms, rel=1e-5)


def test_a_killed_run_resumes_with_the_same_loss_bit_for_bit(tmp_path: Path) -> None:
    whole = run_of(tmp_path / "whole")
    whole.train()
    for name in list(checkpoints(whole))[:3]:
        resumed = restored(run_of(tmp_path / name), path_of(tmp_path / "whole", name))
        resumed.train()
        assert alike(resumed, whole)
        assert same(loss_state(resumed), loss_state(whole))
        assert same(resumed.best.loss_weights, whole.best.loss_weights)


def test_the_test_loss_of_a_checkpoint_is_by_the_loss_of_its_best_model(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    run.train()
    found = run.test()
    name = list(checkpoints(run))[-1]
    other = run_of(tmp_path / "other")
    other.load_model(load_checkpoint(path_of(tmp_path, name)))
    again = other.test()
    assert found is not None and again is not None
    assert again.loss == found.loss
    assert same(loss_state(other), loss_state(run))


def test_the_best_model_takes_its_loss_back(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    run.train()
    best = {name: t.clone() for name, t in run.best.loss_weights.items()}
    with torch.no_grad():
        run.components.loss.log_t.fill_(9.0)
    run.best.restore()
    assert same(loss_state(run), best)


def test_a_rollback_takes_the_loss_back(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    run.train()
    before = loss_state(run)
    tensors, state = run.state.capture()
    with torch.no_grad():
        run.components.loss.log_t.fill_(9.0)
    run.components.loss.batches.zero_()
    run.state.restore(tensors, state, copy=True)
    assert same(loss_state(run), before)


def test_a_loss_that_is_not_finite_is_found_by_name(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    with torch.no_grad():
        run.components.loss.centers[0, 0] = float("nan")
    with pytest.raises(DivergenceError, match=r"loss\.centers not finite"):
        run.guard.inspect()


def test_a_look_ahead_trains_a_copy_of_the_loss(tmp_path: Path) -> None:
    run = run_of(tmp_path, tamiyo=PlannedPolicy(), morphogenetic__lookahead_steps=2)
    before = loss_state(run)
    run._build_candidate_search().lookahead.loss_after(germinate("a", "mlp"), _start(), 3, 0.1)
    assert same(loss_state(run), before)
    assert all(p.grad is None for p in run.components.loss.parameters())


def _start() -> Any:
    from esper.tolaria.growth import DataPosition

    return DataPosition(0, 0, 0)


def test_parameters_of_a_loss_are_not_the_models(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    assert run.model.total_params() == sum(p.numel() for p in Host().parameters())
    assert [g["name"] for g in run.optimizers.main.param_groups] == ["host", "loss"]
    assert run.optimizers.main.param_groups[1]["params"] == list(run.components.loss.parameters())


def test_torchs_own_losses_have_no_state(tmp_path: Path) -> None:
    assert LossState(nn.CrossEntropyLoss(weight=torch.ones(3))).empty
    run = run_of(tmp_path, loss=nn.CrossEntropyLoss())
    assert "loss" not in run.state.owners
    assert [g["name"] for g in run.optimizers.main.param_groups] == ["host"]


def test_a_buffer_takes_the_shape_that_was_saved() -> None:
    loss, other = Temperature(), Temperature()
    loss.register_buffer("queue", torch.arange(5.0))
    other.register_buffer("queue", torch.zeros(0))
    LossState(other).load_state_dict(LossState(loss).copy())
    assert other.queue.tolist() == [0, 1, 2, 3, 4]


# -- late parameters -----------------------------------------------------------------------------


def test_layers_that_thaw_and_freeze_in_training_are_resumed_from_anywhere(tmp_path: Path) -> None:
    """`a` thaws in the second epoch and is optimised from the third on; `head` freezes in the third."""
    whole = run_of(tmp_path / "whole", model=Thaws())
    began = {n: p.detach().clone() for n, p in whole.model.host.named_parameters()}
    whole.train()
    now = dict(whole.model.host.named_parameters())
    assert not torch.equal(now["a.weight"], began["a.weight"])
    held = {id(p) for p in whole.optimizers.parameters()}
    assert held == {id(p) for p in (*whole.model.parameters(), *whole.components.loss.parameters())}
    state = whole.optimizers.main.state
    assert state[now["a.weight"]]["step"] == 6  # epochs three and four
    assert state[now["head.weight"]]["step"] == 7  # until the step that it froze in
    for name in list(checkpoints(whole))[:3]:
        resumed = restored(run_of(tmp_path / name, model=Thaws()), path_of(tmp_path / "whole", name))
        resumed.train()
        assert alike(resumed, whole), name


@pytest.mark.parametrize("at", [4, 5, 7, 8])
def test_a_run_stopped_within_an_epoch_picks_up_no_earlier(tmp_path: Path, at: int) -> None:
    whole = run_of(tmp_path / "whole", model=Thaws())
    whole.train()
    stopped = run_of(tmp_path / "stopped", model=Thaws())
    stopped.components.records.progress = lambda step, loss: (  # type: ignore[method-assign]
        stopped.run_control.stop("sigterm") if stopped.progress.step == at else None
    )
    stopped.train()
    assert stopped.progress.step == at
    name = list(checkpoints(stopped))[-1]
    resumed = restored(run_of(tmp_path / "again", model=Thaws()), path_of(tmp_path / "stopped", name))
    resumed.train()
    assert alike(resumed, whole)


@pytest.mark.parametrize("factory", [adam, lambda groups: torch.optim.Adagrad(groups, lr=0.1)])
def test_a_thawed_parameter_is_stepped_with_fresh_state_and_the_others_keep_theirs(factory: Any) -> None:
    grown = make_host(factory=factory)
    host = grown.model.host
    host.a.requires_grad_(False)
    grown.optimizers = OptimizerManager(grown.model, factory, rates=BaseRates(0.1, 0.05, 0.02, 2))
    grown.train_step(0)
    kept = copy.deepcopy(dict(grown.optimizers.main.state[host.b.weight]))
    host.a.requires_grad_(True)
    assert grown.optimizers.add_new_parameters(1) == ["host.a.weight", "host.a.bias"]
    assert grown.optimizers.add_new_parameters(1) == []
    assert all(torch.equal(kept[key], grown.optimizers.main.state[host.b.weight][key]) for key in kept)
    grown.train_step(1)
    steps = {n: grown.optimizers.main.state[p]["step"].item() for n, p in host.named_parameters()}
    assert steps["a.weight"] == 1 and steps["b.weight"] == 2


def test_a_change_of_topology_takes_late_parameters_in() -> None:
    grown = make_host(factory=adam)
    grown.model.host.a.requires_grad_(False)
    grown.optimizers = OptimizerManager(grown.model, adam, rates=BaseRates(0.1, 0.05, 0.02, 2))
    grown.model.host.a.requires_grad_(True)
    grown.do(germinate("b", "mlp"))
    held = {id(p) for p in grown.optimizers.main.param_groups[0]["params"]}
    assert id(grown.model.host.a.weight) in held


def test_a_frozen_parameter_is_not_stepped_by_decay_or_momentum() -> None:
    grown = make_host(factory=lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.1))
    for step in range(3):
        grown.train_step(step)
    grown.model.host.a.requires_grad_(False)
    before = grown.model.host.a.weight.detach().clone()
    grown.optimizers.add_new_parameters(3)
    grown.train_step(3)
    assert torch.equal(grown.model.host.a.weight, before)


def test_a_replaced_parameter_is_optimised_in_the_old_ones_place() -> None:
    grown = make_host(factory=adam)
    grown.train_step(0)
    old, new = grown.model.host.a.weight, nn.Parameter(torch.ones(12, 12))
    grown.model.host.a.weight = new
    assert grown.optimizers.add_new_parameters(1) == ["host.a.weight"]
    held = {id(p) for p in grown.optimizers.parameters()}
    assert id(new) in held and id(old) not in held
    assert old not in grown.optimizers.main.state


class Adds(Host):
    def forward(self, x: Tensor) -> Tensor:
        if self.training and not hasattr(self, "late"):
            self.late = nn.Linear(12, 12)
        return super().forward(x)


def test_a_layer_that_is_added_in_training_is_refused_by_name(tmp_path: Path) -> None:
    run = run_of(tmp_path, model=Adds())
    with pytest.raises(ConfigError, match=r"given 'Adds', .*late\.weight \(and 1 more\) is new"):
        run.train()


# -- what is refused before training -------------------------------------------------------------


class Hides(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.ones((), requires_grad=True)

    def forward(self, output: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output * self.scale, targets)


def _by(output: Tensor, targets: Tensor, head: nn.Module) -> Tensor:
    return nn.functional.cross_entropy(head(output), targets)


def test_trainable_tensors_that_nothing_would_find_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"given 'Hides', .*scale is a tensor that requires a gradient"):
        run_of(tmp_path, loss=Hides())
    with pytest.raises(ConfigError, match=r"head belongs to a loss that is not a torch\.nn\.Module"):
        check_tensors(functools.partial(_by, head=nn.Linear(3, 3)), "optimization.loss_function")
    config = TolariaConfig(allowed_targets=["torch"])
    assert isinstance(build_loss(config), nn.Module)


class Lazy(nn.Module):
    """Makes its parameters in the first forward."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.LazyLinear(3)
        self.register_parameter("scale", None)

    def forward(self, output: Tensor, targets: Tensor) -> Tensor:
        if self.scale is None:
            self.scale = nn.Parameter(torch.ones(output.shape[1]))
        output = output * self.scale
        return nn.functional.cross_entropy(self.head(output), targets)


def test_a_lazy_loss_is_trained(tmp_path: Path) -> None:
    run = run_of(tmp_path, loss=Lazy())
    before = loss_state(run)
    run.train()
    assert before["head.weight"].shape == (3, 3)
    assert all(not torch.equal(loss_state(run)[name], before[name]) for name in ("head.weight", "scale"))
