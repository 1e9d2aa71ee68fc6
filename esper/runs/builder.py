"""The parts of a run from its configuration: model, data, optimiser, schedule, loss, policy, batch form.

Everything here raises `ConfigError` naming the option.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from esper.config import TolariaConfig, aliases
from esper.config.messages import error_message
from esper.config.targets import TARGET, is_dotted
from esper.data import DataBundle, DataInfo, Datasets, build_data
from esper.errors import AggregationError, ConfigError
from esper.kasmina import name_blueprint
from esper.runs.input_checks import dtype_problems
from esper.runs.instantiate import arguments, call, make, refuse, resolve
from esper.runs.pretrained import load_weights
from esper.runs.resolver import Resolver
from esper.runs.signatures import Target, check_arguments, leading_arguments, takes
from esper.tolaria.gradients import Aggregator, MatrixAggregator
from esper.tolaria.loss.criterion import Metric
from esper.tolaria.loss.objectives import LossFunction
from esper.tolaria.optimization.lr_schedule import Horizon, LearningRate, ScheduleFactory, with_warmup
from esper.tolaria.optimization.optimizer_manager import OptimizerFactory
from esper.tolaria.optimization.trainable import check_tensors
from esper.tolaria.task import BatchAdapter, pair_adapter

_TENSORS = ("weight", "pos_weight")  # arguments of torch's losses that have to be tensors
_METRIC_METHODS = ("update", "compute", "reset")
_POLICY_METHODS = ("decide", "report", "state_dict", "load_state_dict")


def build_model(config: TolariaConfig, data_info: DataInfo) -> nn.Module:
    """The host, its weights drawn from torch's global generator, or read from `model.pretrained`.

    The shipped architectures get classes, channels and image size from the dataset. Any other target gets
    `model_params`, and `num_classes` where it takes that.
    """
    model = make_model(config, data_info)
    if isinstance(config.model.pretrained, str):
        load_weights(model, Path(config.model.pretrained))
    return model


def make_model(config: TolariaConfig, data_info: DataInfo) -> nn.Module:
    """The same with the weights that its class gives it, on torch's default device."""
    m, key = config.model, "model.model_params"
    target = resolve(config, "model.architecture", m.architecture)
    facts = {name: value for name, value in _facts(config, data_info).items() if takes(target, name)}
    clash = [name for name in facts if m.model_params.get(name, facts[name]) != facts[name]]
    refuse(
        [
            error_message(f"{key}.{name}", m.model_params[name], f"{facts[name]}, as the data has")
            for name in clash
        ]
    )
    if m.architecture in (*aliases.MODELS, *aliases.MODELS.values()):
        refuse(list(dtype_problems(data_info, m.architecture)))
    model = make(config, key, target, m.model_params, facts)
    if not isinstance(model, nn.Module):
        expected = "a target that makes a torch.nn.Module"
        raise ConfigError(error_message("model.architecture", m.architecture, expected))
    return model


def _facts(config: TolariaConfig, data_info: DataInfo) -> dict[str, Any]:
    """What the data say of a model: of a shipped one everything, of any other the number of classes."""
    architecture, classes = config.model.architecture, class_count(config, data_info)
    if architecture not in (*aliases.MODELS, *aliases.MODELS.values()):
        return {} if classes is None else {"num_classes": classes}
    if classes is None:
        expected = f"the number of outputs: {data_info.name} does not tell its classes"
        raise ConfigError(error_message("model.num_classes", None, expected))
    target = resolve(config, "model.architecture", architecture)
    return {"num_classes": classes} | _input_facts(architecture, target, data_info)


def _input_facts(architecture: str, target: Target, data_info: DataInfo) -> dict[str, Any]:
    """What a shipped architecture has to know of its inputs: channels and size of images, or any shape."""
    shape, size = data_info.input_shape, data_info.image_size
    if takes(target, "input_shape") and shape is not None:
        return {"input_shape": list(shape)}
    if data_info.channels is not None and size is not None:
        return {"channels": data_info.channels, "image_size": size}
    key, others = "model.architecture", "a dotted target"
    if shape is None:
        has = f"the first input of {data_info.name} is no tensor or array, so that its shape is not known"
        raise ConfigError(error_message(key, architecture, f"{others}: {has}"))
    has = f"{architecture} needs images (channels, height, width), and the first input of {data_info.name}"
    raise ConfigError(
        error_message(key, architecture, f"mlp, or {others}: {has} has the shape {tuple(shape)}")
    )


def class_count(config: TolariaConfig, data_info: DataInfo) -> int | None:
    """The number of classes, of which the dataset has the say; None where there are none."""
    asked, known = config.model.num_classes, data_info.num_classes
    if asked is not None and known is not None and asked != known:
        expected = f"null or {known}, the classes of {data_info.name}"
        raise ConfigError(error_message("model.num_classes", asked, expected))
    return asked if known is None else known


def build_dataset(
    config: TolariaConfig, *, seed: int, device: torch.device, datasets: Datasets | None = None
) -> DataBundle:
    """Train, validation and test batches; see `esper.data.build_data`. Raises `DataError`, too."""
    d = config.dataset
    if datasets is not None:
        return build_data(d, seed=seed, device=device, datasets=datasets)
    if d.name in aliases.DATASETS:
        return build_data(d, seed=seed, device=device)
    factory = resolve(config, "dataset.name", d.name)
    params = arguments(config, "dataset.dataset_params", d.dataset_params)
    return build_data(replace(d, dataset_params=params), seed=seed, device=device, dataset_factory=factory)


def optimizer_factory(config: TolariaConfig) -> OptimizerFactory:
    """What makes an optimiser of parameter groups; options that an optimiser does not take are not passed."""
    o, key = config.optimization, "optimization.optimizer_params"
    target = resolve(config, "optimization.optimizer", o.optimizer)
    if not takes(target, "lr"):
        expected = "an optimiser with an argument lr, which the schedule sets"
        raise ConfigError(error_message("optimization.optimizer", o.optimizer, expected))
    offered = {"lr": o.learning_rate, "weight_decay": o.weight_decay, "momentum": o.momentum}
    passed = {name: value for name, value in offered.items() if takes(target, name)}
    params = arguments(config, key, o.optimizer_params)
    refuse(check_arguments(target, params, key, ("params", *passed)))
    if "lr" in params:
        raise ConfigError(error_message(f"{key}.lr", params["lr"], "the rate in optimization.learning_rate"))

    def factory(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        made = call(target, key, passed | params, groups)
        if not isinstance(made, torch.optim.Optimizer):
            expected = "a target that makes a torch.optim.Optimizer"
            raise ConfigError(error_message("optimization.optimizer", o.optimizer, expected))
        return made

    return factory


def schedule_factory(config: TolariaConfig) -> ScheduleFactory:
    """What makes the learning-rate schedule of a run of known length.

    A target of the user's own is called with a `Horizon` and `scheduler_params` and gives a function from
    step to factor; `warmup_steps` and `warmup_floor` among them are read here.
    """
    o, key = config.optimization, "optimization.scheduler_params"
    target = resolve(config, "optimization.scheduler", o.scheduler)
    params = arguments(config, key, o.scheduler_params)
    warmup = {"warmup_steps": params.pop("warmup_steps", 0), "floor": params.pop("warmup_floor", 0.0)}
    refuse(check_arguments(target, params, key, ("horizon",)))

    def factory(horizon: Horizon) -> LearningRate:
        return LearningRate(with_warmup(call(target, key, params, horizon), **warmup), horizon)

    return factory


def build_loss(config: TolariaConfig) -> LossFunction:
    """The loss of (output, targets): a class made with `loss_params`, or a function bound to them.

    Lists for `weight` and `pos_weight` become tensors, on the CPU. What is trainable in it has to be a
    parameter of a module.
    """
    loss = _make_loss(config)
    if not isinstance(loss, torch.nn.Module):
        check_tensors(loss, "optimization.loss_function")
    return loss


def _make_loss(config: TolariaConfig) -> LossFunction:
    o, key = config.optimization, "optimization.loss_params"
    target = resolve(config, "optimization.loss_function", o.loss_function)
    lists = {name: o.loss_params[name] for name in _TENSORS if isinstance(o.loss_params.get(name), list)}
    weights = {n: call(torch.tensor, key, {"dtype": torch.float32}, value) for n, value in lists.items()}
    params = {name: value for name, value in o.loss_params.items() if name not in weights}
    if isinstance(target, type):
        made = make(config, key, target, params, weights)
        if not callable(made):
            expected = "a target that makes a loss"
            raise ConfigError(error_message("optimization.loss_function", o.loss_function, expected))
        return made
    given = arguments(config, key, params)
    refuse(check_arguments(target, given, key, (*leading_arguments(target, 2), *weights)))
    return functools.partial(target, **given, **weights) if params or weights else target


def build_metric(config: TolariaConfig) -> Metric | None:
    """The user's own metric that `optimization.metric` names, made with `metric_params`; else None."""
    o, key = config.optimization, "optimization.metric_params"
    if o.metric in aliases.METRICS:
        expected = f"no parameter: {o.metric} has none"
        refuse([error_message(f"{key}.{given}", value, expected) for given, value in o.metric_params.items()])
        return None
    made = make(config, key, resolve(config, "optimization.metric", o.metric), o.metric_params, {})
    missing = [name for name in _METRIC_METHODS if not callable(getattr(made, name, None))]
    if missing:
        expected = f"a metric: {type(made).__name__} has no {', '.join(missing)}"
        raise ConfigError(error_message("optimization.metric", o.metric, expected))
    metric: Metric = made
    return metric


def build_policy(config: TolariaConfig) -> Any:
    """The policy that `morphogenetic.policy` names, with the run's seed where it takes one."""
    key = "morphogenetic.policy"
    params = dict(config.morphogenetic.policy)
    name = params.pop(TARGET, None)
    target = resolve(config, f"{key}.{TARGET}", str(name), aliases.POLICIES)
    seed = {"seed": config.seed} if takes(target, "seed") and "seed" not in params else {}
    try:
        made = make(config, key, target, params, seed)
    except ConfigError as error:
        raise ConfigError([p if p.startswith(key) else f"{key}: {p}" for p in error.problems]) from error
    missing = [method for method in _POLICY_METHODS if not callable(getattr(made, method, None))]
    if missing:
        expected = f"a policy: {type(made).__name__} has no {', '.join(missing)}"
        raise ConfigError(error_message(f"{key}.{TARGET}", name, expected))
    return made


def build_aggregator(config: TolariaConfig) -> Aggregator | None:
    """What `trainer.aggregation` names, made with `aggregation_params`; None where gradients are added up.

    A target that is no `Aggregator` of Esper's makes a function of the gradients, (tasks, length), as the
    aggregators of torchjd are. What draws gets a generator of its own, seeded by the run's seed.
    """
    t, key = config.trainer, "trainer.aggregation_params"
    name, params = t.aggregation, t.aggregation_params
    if name == aliases.PLAIN_SUM:
        expected = "no parameter: sum has none"
        refuse([error_message(f"{key}.{given}", value, expected) for given, value in params.items()])
        return None
    target = resolve(config, "trainer.aggregation", name)
    generator = torch.Generator().manual_seed(config.seed)
    facts = {"generator": generator} if takes(target, "generator") else {}
    try:
        made = make(config, key, target, params, facts)
    except AggregationError as error:
        raise ConfigError(f"{key}: {error}") from error
    if isinstance(made, Aggregator):
        return made
    if not callable(made):
        raise ConfigError(error_message("trainer.aggregation", name, "a target that makes an aggregator"))
    return MatrixAggregator(made)


def register_blueprints(config: TolariaConfig) -> None:
    """Make blueprints that are named by a dotted target known under that name."""
    key = "morphogenetic.blueprints"
    for name in config.morphogenetic.blueprints:
        if is_dotted(name):
            name_blueprint(name, Resolver(config.allowed_targets).resolve(key, name, {}))


def build_batch_form(config: TolariaConfig) -> BatchAdapter:
    """What takes a batch apart into the model's arguments and the targets; (inputs, targets) unless named."""
    name = config.dataset.batch_form
    if name is None:
        return pair_adapter
    target = resolve(config, "dataset.batch_form", name)
    batch_adapter: BatchAdapter = (
        call(target, "dataset.batch_form", {}) if isinstance(target, type) else target
    )
    return batch_adapter
