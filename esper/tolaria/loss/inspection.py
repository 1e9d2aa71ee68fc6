"""Checks a loss on the probe batch before training, and determines its divisor and its accuracy.

Among other things a loss must compare output and targets element by element, without broadcasting.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.config import TolariaConfig
from esper.config.aliases import DATASETS
from esper.config.messages import error_message
from esper.errors import ConfigError, EsperError
from esper.tolaria.components import TrainingComponents
from esper.tolaria.loss.accuracy import accuracy_for, scores_of_classes
from esper.tolaria.loss.criterion import Criterion, Metric
from esper.tolaria.loss.divisor_search import find_divisor
from esper.tolaria.loss.divisors import ELEMENTWISE, IGNORED_LABEL, known_divisor, setting, torch_loss
from esper.tolaria.loss.objectives import Losses, LossFunction, compute_loss
from esper.tolaria.probe_batch import ProbeBatch
from esper.tolaria.task import pair_adapter

_KEY = "optimization.loss_function"


def examine(config: TolariaConfig, components: TrainingComponents, probe: ProbeBatch) -> Criterion:
    """Check the loss on the probe batch and determine its properties.

    Args:
        config: the run's configuration.
        components: loss, metric and data of the run.
        probe: the probe batch with the model.

    Raises:
        ConfigError: the loss fails on the model's output or is not one number, shapes would be broadcast, or
            the metric does not fit.
    """
    o = config.optimization
    with torch.no_grad(), probe.in_eval_mode():
        loss = _eval_copy(components.loss)
        output, targets = probe.forward()
        with _as_config_error(o.loss_function, output, targets), probe.precision.autocast():
            _raise_if_any(shape_problems(loss, o.loss_function, output, targets))
            losses = compute_loss(loss, output, targets)
        _raise_if_any(_scalar_problems(o.loss_function, losses))
        ignorable = _may_ignore(config, components, loss)
        known = known_divisor(loss, ignorable=ignorable)
        divisor, notes = known, list[str]()
        if known is None or torch_loss(loss) is None:
            divisor, notes = find_divisor(loss, known, probe, (output, targets, losses), ignorable)
        classes = o.metric == "auto" and _prefers_right_classes(loss, output, targets)
        kind = "none" if components.metric is not None else o.metric
        accuracy = accuracy_for(loss, kind, classes=classes, ignorable=ignorable)
        if o.metric in ("accuracy", "binary_accuracy") and accuracy.count(output, targets) is None:
            _raise_if_any(
                [error_message("optimization.metric", o.metric, _expected_shapes(o.metric, output, targets))]
            )
        if components.metric is not None:
            _try_metric(o.metric, components.metric, output, targets)
    return Criterion(
        components.loss,
        divisor,
        batch_dependent=bool(notes),
        accuracy=accuracy,
        metric=components.metric,
        notes=notes,
    )


def _eval_copy(loss: LossFunction) -> LossFunction:
    """A copy in eval mode: a loss may have state, which must not change here."""
    try:
        copied = copy.deepcopy(loss)
    except Exception:  # noqa: BLE001 - a user's object may not support it
        return loss
    return copied.eval() if isinstance(copied, nn.Module) else copied


@contextmanager
def _as_config_error(name: str, output: Any, targets: Any) -> Iterator[None]:
    """Turn an exception of the loss into a `ConfigError`."""
    try:
        yield
    except EsperError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        given = f"{_describe(output)} and targets {_describe(targets)}"
        expected = f"a loss of the model's output {given} ({reason:.200})"
        raise ConfigError(error_message(_KEY, name, expected)) from error


def _raise_if_any(problems: list[str]) -> None:
    if problems:
        raise ConfigError(problems)


def _scalar_problems(name: str, losses: Losses) -> list[str]:
    if isinstance(losses, Mapping) or (isinstance(losses, Tensor) and losses.dim() == 0):
        return []
    return [error_message(_KEY, name, f"one number a batch, not {_describe(losses)}: a mean or a sum")]


def _describe(value: Any) -> str:
    return f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _may_ignore(config: TolariaConfig, components: TrainingComponents, loss: LossFunction) -> bool:
    """Whether a label can be the one that the loss ignores; the labels of included data sets are known."""
    shipped = config.dataset.name in DATASETS and components.batch_adapter is pair_adapter
    classes = components.data.num_classes
    ignored = setting(loss, "ignore_index", IGNORED_LABEL)
    return not (shipped and classes is not None and (ignored is None or not 0 <= ignored < classes))


# -- the metric ---------------------------------------------------------------------------------------------


def _prefers_right_classes(loss: LossFunction, output: Any, targets: Any) -> bool:
    """Whether a loss is lower for scores of the right classes; a contrastive loss on embeddings is not."""
    if not scores_of_classes(output, targets) or torch_loss(loss) is not None:
        return True
    classes = output.shape[1]
    labels = targets.clamp(min=0)
    if labels.max() >= classes:
        return False
    try:
        right, wrong = (compute_loss(loss, _scores(labels + shift, output), targets) for shift in (0, 1))
    except Exception:  # noqa: BLE001 - that it accepts the model's own output is sufficient
        return False
    if not (isinstance(right, Tensor) and isinstance(wrong, Tensor)):
        return False
    return bool(right < wrong) and not torch.allclose(right, wrong, rtol=1e-3)


def _scores(labels: Tensor, output: Tensor) -> Tensor:
    one_hot = F.one_hot(labels % output.shape[1], output.shape[1]).movedim(-1, 1)
    return one_hot.to(output.dtype) * 4.0


def _expected_shapes(kind: str, output: Any, targets: Any) -> str:
    needed = (
        "scores (N, classes, ...) and class numbers (N, ...)"
        if kind == "accuracy"
        else "an output and targets of one shape"
    )
    return f"auto or none, or {needed}; the output is {_describe(output)}, targets {_describe(targets)}"


def _try_metric(name: str, metric: Metric, output: Any, targets: Any) -> None:
    try:
        metric.reset()
        metric.update(output, targets)
        float(metric.compute())
        metric.reset()
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        expected = f"a metric of the output {_describe(output)} and targets {_describe(targets)}"
        raise ConfigError(
            error_message("optimization.metric", name, f"{expected} ({reason:.200})")
        ) from error


# -- shapes -------------------------------------------------------------------------------------------------


def shape_problems(loss: LossFunction, name: str, output: Any, targets: Any) -> list[str]:
    """A message if a loss would broadcast its arguments: (N, 1) and (N) compare all samples with all.

    torch's elementwise losses need equal shapes; a user's loss is compared with its value for equal shapes.
    Call it under `torch.no_grad`.
    """
    if not (isinstance(output, Tensor) and isinstance(targets, Tensor)) or output.shape == targets.shape:
        return []
    known = torch_loss(loss)
    if known is None and not _broadcasts(loss, output, targets):
        return []
    if known is not None and known not in ELEMENTWISE:
        return []
    return [error_message(_KEY, name, _expected(output, targets))]


def _broadcasts(loss: Callable[[Any, Any], Any], output: Tensor, targets: Tensor) -> bool:
    """Whether a user's loss compares all samples with all because of a dimension of 1.

    Then it depends on the whole batch, and is a mean over samples once the shapes are equal. A loss that
    aligns the shapes itself is such a mean already, and one that compares samples on purpose never is.
    """
    if _squeezed(output) != _squeezed(targets) or output.shape[:1] != targets.shape[:1] or output.numel() < 2:
        return False
    # sorted targets, and outputs correlated with them: then comparing all with all differs in each half
    order = targets.flatten().argsort()
    output, targets = output[order], targets[order]
    output = output + targets.reshape(output.shape)
    if _is_mean(loss, output, targets):
        return False
    return _is_mean(loss, output, targets.reshape(output.shape)) or _is_mean(
        loss, output.reshape(targets.shape), targets
    )


def _is_mean(loss: Callable[[Any, Any], Any], output: Tensor, targets: Tensor) -> bool:
    """Whether the loss of all samples is the mean, or the sum, of the losses of two halves."""
    n, half = len(output), len(output) // 2
    try:
        whole = loss(output, targets)
        first, second = loss(output[:half], targets[:half]), loss(output[half:], targets[half:])
        mean = (half * first + (n - half) * second) / n
        return any(torch.allclose(whole, made, rtol=1e-3) for made in (mean, first + second))
    except Exception:  # noqa: BLE001 - the loss may not accept these shapes
        return False


def _squeezed(tensor: Tensor) -> list[int]:
    return [size for size in tensor.shape if size != 1]


def _expected(output: Tensor, targets: Tensor) -> str:
    given = f"{tuple(output.shape)} and {tuple(targets.shape)}"
    with suppress(RuntimeError):  # the shapes cannot be broadcast
        wide = torch.broadcast_shapes(output.shape, targets.shape)
        given += f", which would be broadcast to {tuple(wide)}"
    expected = f"an output and targets of one shape (they have {given}): "
    if _squeezed(output) == _squeezed(targets):
        wanted = "squeeze(-1)" if output.dim() > targets.dim() else "unsqueeze(-1)"
        return expected + f"end the model with {wanted}, or give targets of shape {tuple(output.shape)}"
    return expected + f"give targets of shape {tuple(output.shape)}, or another loss"
