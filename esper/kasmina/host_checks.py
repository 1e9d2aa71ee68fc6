"""Checks of a host network before it is wrapped: one sentence per problem, naming the module."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from esper.errors import EsperError, GrowthError
from esper.kasmina.extra_state import pack_state
from esper.utils.safetensors import check_storable


def host_problems(model: nn.Module) -> list[str]:
    """Check whether a model can be wrapped, trained and saved; nothing is changed.

    Args:
        model: the host network.

    Returns:
        One sentence for each problem, which names the module; empty for a usable model.

    Example:
        >>> host_problems(torch.nn.Linear(2, 2))
        []
    """
    found = [*_wrappers(model), *_missing_data(model)]
    return found or [*_missing_setters(model), *_not_savable(model)]


def _named(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        kind = type(module).__name__
        yield (f"module {name!r} ({kind})" if name else f"the model ({kind})"), module


def _wrappers(model: nn.Module) -> Iterator[str]:
    """Modules that call a wrapped module in a way that bypasses hooks or added parameters."""
    for label, module in _named(model):
        kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(module).__mro__}
        if "torch._dynamo.eval_frame.OptimizedModule" in kinds:
            yield f"{label} is compiled; expected the model before torch.compile, and compile_model=true"
        elif kinds & _PARALLEL:
            yield f"{label} runs copies of a model; expected the model inside it (its attribute .module)"
        elif any(kind.startswith("torch.distributed.") for kind in kinds):
            yield f"{label} is sharded over processes; expected the model before it was sharded"


_PARALLEL = {
    "torch.nn.parallel.data_parallel.DataParallel",
    "torch.nn.parallel.distributed.DistributedDataParallel",
}


def _missing_data(model: nn.Module) -> Iterator[str]:
    for label, module in _named(model):
        for name, tensor in _own_tensors(module):
            if type(tensor).__name__ == "DTensor":
                yield f"{label}: {name} is sharded over processes; expected the model before it was sharded"
            elif tensor.is_meta and not is_lazy(tensor):
                yield (
                    f"{label}: {name} is on the meta device and holds no values; expected values, as from "
                    "model.to_empty(device='cpu') followed by its initialisation or load_state_dict"
                )
            else:
                continue
            break


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for table in (module._parameters, module._buffers):
        yield from ((name, tensor) for name, tensor in table.items() if tensor is not None)


def _missing_setters(model: nn.Module) -> Iterator[str]:
    for label, module in _named(model):
        kind = type(module)
        gives = kind.get_extra_state is not nn.Module.get_extra_state
        if gives and kind.set_extra_state is nn.Module.set_extra_state:
            yield f"{label} has get_extra_state and no set_extra_state; expected both, or neither"


def _not_savable(model: nn.Module) -> Iterator[str]:
    """Values that a checkpoint cannot hold."""
    try:
        state = model.state_dict()
        pack_state(state)
        for name, tensor in state.items():
            if not is_lazy(tensor):
                check_storable(name, tensor)
    except EsperError as error:
        yield str(error)


def parameter_names(model: nn.Module) -> set[str]:
    """Return the names of all parameters, including those without data."""
    return {name for name, _ in model.named_parameters()}


def check_observed(model: nn.Module, before: set[str]) -> None:
    """Check the host after its first batch.

    Args:
        model: the host network.
        before: names of its parameters before the batch.

    Raises:
        GrowthError: a lazy module is still without parameters, or the forward made a new parameter.
    """
    for label, module in _named(model):
        if any(is_lazy(tensor) for _, tensor in _own_tensors(module)):
            raise GrowthError(
                f"{label} is lazy and the first batch did not pass through it, so that its parameters have "
                "no shape; expected a module with its sizes, or a batch passed through it beforehand"
            )
    made = [name for name, _ in model.named_parameters() if name not in before]
    if made:
        raise GrowthError(
            f"parameter {made[0]!r} is made by the model's first forward, so that no checkpoint could be "
            "loaded into a fresh model; expected it to be made in __init__, a lazy module (nn.LazyLinear), "
            "or a model that one batch has been passed through"
        )


def where_raised(model: nn.Module, error: BaseException) -> str:
    """Return a label of the innermost module of the model in whose code an exception was raised."""
    labels = {id(module): label for label, module in _named(model)}
    found, trace = labels[id(model)], error.__traceback__
    while trace is not None:
        found = labels.get(id(trace.tb_frame.f_locals.get("self")), found)
        trace = trace.tb_next
    return found
