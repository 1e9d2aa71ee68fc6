"""The parts of a run from their names, targets and arguments."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.usermodule import write_module
from safetensors.torch import save_file
from torch import nn

from esper.config import TolariaConfig
from esper.data import DataInfo, inspect_data
from esper.errors import ConfigError
from esper.runs import (
    build_batch_form,
    build_dataset,
    build_loss,
    build_model,
    build_policy,
    optimizer_factory,
    schedule_factory,
)
from esper.tamiyo import HeuristicPolicy, RandomPolicy, ScheduledPolicy
from esper.tolaria.optimization.lr_schedule import Horizon

UNKNOWN = DataInfo("own.Data", None, None, None, None, official_test=False)
GROUPS: list[dict[str, Any]] = [{"params": [nn.Parameter(torch.zeros(2, 2))]}]


def digits(**model: Any) -> TolariaConfig:
    config = TolariaConfig()
    config.dataset.name = "digits"
    config.model.architecture = "convnet"
    config.model.num_classes = None
    for name, value in model.items():
        setattr(config.model, name, value)
    return config


# -- models ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "architecture", ["convnet", "mlp", "resnet18", "vit", "esper.models.convnet.ConvNet"]
)
def test_a_shipped_model_takes_its_form_from_the_data(architecture: str) -> None:
    """Classes, channels and image size come from the dataset."""
    config = digits(architecture=architecture)
    model = build_model(config, inspect_data(config.dataset)).eval()
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_model_params_reach_the_model() -> None:
    config = digits(model_params={"widths": [3, 5]})
    model = build_model(config, inspect_data(config.dataset))
    assert model.fc.in_features == 5


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ({"num_classes": 7}, "model.num_classes: given 7, expected null or 10"),
        ({"model_params": {"num_classes": 7}}, "model.model_params.num_classes: given 7"),
        ({"model_params": {"channels": 3}}, "model.model_params.channels: given 3"),
        ({"model_params": {"width": 3}}, "model.model_params.width: given 3"),
        ({"model_params": {"widths": [0]}}, "model.model_params.widths"),
        ({"model_params": {"_target_": "torch.nn.Linear"}}, "model.model_params._target_"),
        (
            {"architecture": "torch.nn.Linear", "model_params": {"in_features": 2}},
            "model.model_params.out_features",
        ),
        ({"architecture": "torch.optim.Adam", "model_params": {"params": []}}, "model.model_params: given"),
        ({"architecture": "resnet19"}, "model.architecture: given 'resnet19'"),
        ({"pretrained": "no.safetensors"}, "model.pretrained: given 'no.safetensors'"),
    ],
)
def test_a_model_that_cannot_be(model: dict[str, Any], key: str) -> None:
    config = digits(**model)
    with pytest.raises(ConfigError) as caught:
        build_model(config, inspect_data(config.dataset))
    assert caught.value.problems[0].startswith(key)


def test_any_other_target_gets_its_arguments_alone() -> None:
    config = digits(architecture="torch.nn.Linear", model_params={"in_features": 2, "out_features": 3})
    model = build_model(config, UNKNOWN)
    assert isinstance(model, nn.Linear)
    assert model.out_features == 3


OWN_MODEL = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes, act):
        super().__init__(nn.Flatten(), nn.Linear(64, num_classes), act)

def no_model():
    return 3

def broken():
    raise ZeroDivisionError('oops')
"""


def test_a_model_of_the_users_own_gets_the_classes_that_it_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_module(tmp_path, "own_net", OWN_MODEL, monkeypatch)
    config = digits(architecture="own_net.Net", model_params={"act": {"_target_": "torch.nn.GELU"}})
    config.allowed_targets = ["own_net"]
    model = build_model(config, inspect_data(config.dataset))
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert isinstance(list(model.children())[-1], nn.GELU)


@pytest.mark.parametrize(
    ("name", "message"), [("no_model", "torch.nn.Module"), ("broken", "ZeroDivisionError: oops")]
)
def test_a_target_that_makes_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    write_module(tmp_path, "own_net", OWN_MODEL, monkeypatch)
    config = digits(architecture=f"own_net.{name}")
    config.allowed_targets = ["own_net"]
    with pytest.raises(ConfigError, match=message):
        build_model(config, UNKNOWN)


def test_a_shipped_model_needs_data_that_tell_their_form() -> None:
    with pytest.raises(
        ConfigError, match=r"model\.num_classes: given null, .* own\.Data does not tell its cl"
    ):
        build_model(digits(), UNKNOWN)
    with pytest.raises(ConfigError, match=r"first input of own\.Data is no tensor or array"):
        build_model(digits(), replace(UNKNOWN, num_classes=3))


@pytest.mark.parametrize("shape", [(), (5,), (4, 6), (1, 8, 8), (2, 3, 4, 5)])
def test_an_mlp_takes_data_of_any_shape(shape: tuple[int, ...]) -> None:
    model = build_model(digits(architecture="mlp"), replace(UNKNOWN, num_classes=3, input_shape=shape))
    assert model.body.fc1.in_features == math.prod(shape)
    for inputs in (torch.randn(2, *shape), torch.ones(2, *shape, dtype=torch.float64)):
        output = model(inputs)
        assert output.shape == (2, 3)
        assert output.dtype == torch.float32
    assert model(torch.ones(2, *shape, dtype=torch.uint8)).equal(model(torch.ones(2, *shape)))


@pytest.mark.parametrize("architecture", ["convnet", "resnet18", "vit"])
@pytest.mark.parametrize("shape", [(5,), (4, 6)])
def test_a_model_of_images_says_what_takes_other_shapes(architecture: str, shape: tuple[int, ...]) -> None:
    message = rf"expected mlp, or a dotted target: {architecture} needs images .* has the shape \({shape[0]},"
    with pytest.raises(ConfigError, match=message):
        build_model(digits(architecture=architecture), replace(UNKNOWN, num_classes=3, input_shape=shape))


def test_pretrained_weights_are_loaded(tmp_path: Path) -> None:
    config = digits()
    info = inspect_data(config.dataset)
    model = build_model(config, info)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    config.model.pretrained = str(tmp_path / "w.safetensors")
    again = build_model(config, info)
    assert torch.equal(model.fc.weight, again.fc.weight)


def test_an_interpolation_is_not_read_a_second_time() -> None:
    """Text that OmegaConf would turn into a target when it reads it once more stays text."""
    hidden = "${oc.create:{_target_: os.getcwd}}"
    config = TolariaConfig()
    config.optimization.loss_function = "torch.nn.functional.cross_entropy"
    config.optimization.loss_params = {"reduction": hidden}
    loss: Any = build_loss(config)
    assert loss.keywords == {"reduction": hidden}
    config.optimization.loss_params = {"reduction": [hidden], "weight": {"_target_": "torch.nn.GELU"}}
    with pytest.raises(ConfigError, match=r"optimization\.loss_params\.reduction\[0\]: given"):
        build_loss(config)


# -- data ------------------------------------------------------------------------------------------

OWN_DATA = """
import torch

class Pairs(torch.utils.data.Dataset):
    def __init__(self, scale):
        self.scale = scale

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return torch.full((3,), self.scale(torch.tensor(float(index)))), index % 2

def form(batch):
    inputs, targets = batch
    return (inputs,), {}, targets.float()

class Form:
    def __call__(self, batch):
        return (batch["x"],), {"mask": batch["m"]}, batch["y"]
"""


def test_a_named_dataset() -> None:
    config = digits()
    bundle = build_dataset(config, seed=0, device=torch.device("cpu"))
    assert bundle.info.num_classes == 10


def test_a_dataset_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nested targets among the arguments are made before the dataset is."""
    write_module(tmp_path, "own_data", OWN_DATA, monkeypatch)
    config = TolariaConfig(allowed_targets=["own_data"])
    config.dataset.name = "own_data.Pairs"
    config.dataset.num_workers = 0
    config.dataset.dataset_params = {"scale": {"_target_": "torch.nn.ReLU"}}
    bundle = build_dataset(config, seed=0, device=torch.device("cpu"))
    inputs, targets = next(iter(bundle.train.batches(0)))
    assert inputs.shape[1:] == (3,)
    assert set(targets.tolist()) <= {0, 1}


@pytest.mark.parametrize("name", ["form", "Form"])
def test_a_batch_form_by_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write_module(tmp_path, "own_data", OWN_DATA, monkeypatch)
    config = TolariaConfig(allowed_targets=["own_data"])
    config.dataset.batch_form = f"own_data.{name}"
    batch = (torch.zeros(2), torch.ones(2)) if name == "form" else {"x": 1, "m": 2, "y": 3}
    args, _, targets = build_batch_form(config)(batch)
    assert len(args) == 1
    assert targets is not None


def test_the_usual_batch_form() -> None:
    assert build_batch_form(TolariaConfig())((1, 2)) == ((1,), {}, 2)


# -- optimiser and schedule ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adam", torch.optim.Adam), ("sgd", torch.optim.SGD), ("torch.optim.RAdam", torch.optim.RAdam)],
)
def test_an_optimiser_gets_what_it_takes(name: str, kind: type[torch.optim.Optimizer]) -> None:
    config = TolariaConfig()
    config.optimization.optimizer = name
    config.optimization.learning_rate = 0.25
    config.optimization.momentum = 0.5
    made = optimizer_factory(config)(GROUPS)
    assert isinstance(made, kind)
    assert (made.defaults["lr"], made.defaults["weight_decay"]) == (0.25, 1e-4)
    assert made.defaults.get("momentum", 0.5) == 0.5
    assert made.param_groups[0]["params"] == GROUPS[0]["params"]


def test_optimizer_params_come_on_top() -> None:
    config = TolariaConfig()
    config.optimization.optimizer_params = {"betas": [0.5, 0.6], "weight_decay": 0.0}
    made = optimizer_factory(config)(GROUPS)
    assert list(made.defaults["betas"]) == [0.5, 0.6]
    assert made.defaults["weight_decay"] == 0.0


@pytest.mark.parametrize(
    ("name", "params", "key"),
    [
        ("adam", {"beta": 1}, "optimization.optimizer_params.beta: given 1"),
        ("adam", {"lr": 1}, "optimization.optimizer_params.lr: given 1"),
        ("adam", {"x": {"_target_": "os.system"}}, "optimization.optimizer_params.x._target_"),
        ("adam", {"betas": [2, 3]}, "optimization.optimizer_params: given"),
        ("torch.nn.Linear", {}, "optimization.optimizer: given 'torch.nn.Linear'"),
        ("torch.optim.lr_scheduler.StepLR", {}, "optimization.optimizer: given"),
    ],
)
def test_an_optimiser_that_cannot_be(name: str, params: dict[str, Any], key: str) -> None:
    config = TolariaConfig()
    config.optimization.optimizer, config.optimization.optimizer_params = name, params
    with pytest.raises(ConfigError) as caught:
        optimizer_factory(config)(GROUPS)
    assert caught.value.problems[0].startswith(key)


OWN_OPTIMISER = """
import torch

class NoRate(torch.optim.SGD):
    def __init__(self, params):
        super().__init__(params, lr=0.1)

def with_rate(params, lr):
    return 3

def staircase(horizon, height=2.0):
    return lambda step: height * (step // horizon.steps_per_epoch)
"""


def test_an_optimiser_without_a_rate_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An optimiser without `lr` raises."""
    write_module(tmp_path, "own_optim", OWN_OPTIMISER, monkeypatch)
    config = TolariaConfig(allowed_targets=["own_optim"])
    config.optimization.optimizer = "own_optim.NoRate"
    with pytest.raises(ConfigError, match="an argument lr"):
        optimizer_factory(config)
    config.optimization.optimizer = "own_optim.with_rate"
    with pytest.raises(ConfigError, match=r"torch\.optim\.Optimizer"):
        optimizer_factory(config)(GROUPS)


def test_schedules_by_name() -> None:
    """Cosine ends at its floor."""
    config = TolariaConfig()
    config.optimization.scheduler_params = {"min_factor": 0.25, "warmup_steps": 2}
    made = schedule_factory(config)(Horizon(total_steps=10, steps_per_epoch=5))
    assert made.factor(10) == pytest.approx(0.25)
    assert made.factor(0) < made.factor(1)


def test_a_schedule_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_module(tmp_path, "own_optim", OWN_OPTIMISER, monkeypatch)
    config = TolariaConfig(allowed_targets=["own_optim"])
    config.optimization.scheduler = "own_optim.staircase"
    config.optimization.scheduler_params = {"height": 3.0}
    made = schedule_factory(config)(Horizon(total_steps=10, steps_per_epoch=5))
    assert [made.factor(step) for step in (0, 4, 5, 10)] == [0.0, 0.0, 3.0, 6.0]


@pytest.mark.parametrize(
    ("name", "params"), [("cosine", {"gama": 1}), ("cosin", {}), ("torch.optim.Adam", {})]
)
def test_a_schedule_that_cannot_be(name: str, params: dict[str, Any]) -> None:
    """An unknown policy raises."""
    config = TolariaConfig()
    config.optimization.scheduler, config.optimization.scheduler_params = name, params
    with pytest.raises(ConfigError, match=r"optimization\.scheduler"):
        schedule_factory(config)(Horizon(total_steps=10, steps_per_epoch=5))


# -- loss and policy -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["cross_entropy", "torch.nn.CrossEntropyLoss", "torch.nn.functional.cross_entropy"]
)
def test_a_loss_by_any_of_its_names(name: str) -> None:
    config = TolariaConfig()
    config.optimization.loss_function = name
    config.optimization.loss_params = {"label_smoothing": 0.1, "weight": [1, 2, 3]}
    scores, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    expected = nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0]), label_smoothing=0.1)(scores, targets)
    assert torch.equal(build_loss(config)(scores, targets), expected)


@pytest.mark.parametrize(
    ("name", "params", "key"),
    [
        ("cross_entropy", {"smoothing": 1}, "optimization.loss_params.smoothing"),
        ("torch.nn.functional.mse_loss", {"reduce_": 1}, "optimization.loss_params.reduce_"),
        ("cross_entropy", {"weight": ["a"]}, "optimization.loss_params: given"),
        ("cross_entropy", {"weight": {"_target_": "torch.load"}}, "optimization.loss_params.weight._target_"),
        ("torch.optim.Adam", {"params": []}, "optimization.loss_params: given"),
    ],
)
def test_a_loss_that_cannot_be(name: str, params: dict[str, Any], key: str) -> None:
    config = TolariaConfig()
    config.optimization.loss_function, config.optimization.loss_params = name, params
    with pytest.raises(ConfigError) as caught:
        build_loss(config)
    assert caught.value.problems[0].startswith(key)


@pytest.mark.parametrize(
    ("policy", "kind"),
    [
        ({"_target_": "heuristic", "max_seeds": 3}, HeuristicPolicy),
        ({"_target_": "random"}, RandomPolicy),
        ({"_target_": "scheduled", "seeds": []}, ScheduledPolicy),
        ({"_target_": "esper.tamiyo.RandomPolicy"}, RandomPolicy),
    ],
)
def test_policies_by_name(policy: dict[str, Any], kind: type) -> None:
    config = TolariaConfig(seed=5)
    config.morphogenetic.policy = policy
    assert isinstance(build_policy(config), kind)
    assert config.morphogenetic.policy == policy


def test_a_policy_draws_from_the_seed_of_the_run() -> None:
    """C: `seed` fixes every generator, the policy's own included, unless it is given one."""
    config = TolariaConfig()
    config.morphogenetic.policy = {"_target_": "random"}

    def state(run_seed: int, **own: int) -> Any:
        config.seed = run_seed
        config.morphogenetic.policy = {"_target_": "random", **own}
        return build_policy(config).state_dict()

    assert state(1) == state(1)
    assert state(1) != state(2)
    assert state(1, seed=3) == state(2, seed=3)


@pytest.mark.parametrize(
    ("policy", "key"),
    [
        ({"_target_": "heuristic", "max_seed": 1}, "morphogenetic.policy.max_seed: given 1"),
        ({"_target_": "heuristic", "prior": 3}, "morphogenetic.policy: prior is 3"),
        ({"_target_": "scheduled"}, "morphogenetic.policy.seeds: given no value"),
        ({"_target_": "torch.nn.GELU"}, "morphogenetic.policy._target_: given 'torch.nn.GELU'"),
        ({"_target_": "os.system"}, "morphogenetic.policy._target_: given 'os.system'"),
        ({}, "morphogenetic.policy._target_: given 'None'"),
    ],
)
def test_a_policy_that_cannot_be(policy: dict[str, Any], key: str) -> None:
    config = TolariaConfig()
    config.morphogenetic.policy = policy
    with pytest.raises(ConfigError) as caught:
        build_policy(config)
    assert caught.value.problems[0].startswith(key)
