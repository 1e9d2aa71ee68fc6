"""What a model must not be if it is to grow: a sentence for each thing, naming the module."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from esper.errors import EsperError, GrowthError
from esper.kasmina.extra_state import pack_state
from esper.utils.safetensors import check_storable


def host_problems(model: nn.Module) -> list[str]:
    """A sentence for each reason why the model cannot be wrapped, trained and saved; nothing is changed."""
    found = [*_wrappers(model), *_without_data(model)]
    return found or [*_one_way_state(model), *_unsaved(model)]


def _named(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        kind = type(module).__name__
        yield (f"module {name!r} ({kind})" if name else f"the model ({kind})"), module


def _wrappers(model: nn.Module) -> Iterator[str]:
    """Modules that call another one by a way of their own, which a seed's hook or parameters do not take."""
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


def _without_data(model: nn.Module) -> Iterator[str]:
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


def _one_way_state(model: nn.Module) -> Iterator[str]:
    for label, module in _named(model):
        kind = type(module)
        gives = kind.get_extra_state is not nn.Module.get_extra_state
        if gives and kind.set_extra_state is nn.Module.set_extra_state:
            yield f"{label} has get_extra_state and no set_extra_state; expected both, or neither"


def _unsaved(model: nn.Module) -> Iterator[str]:
    """What a checkpoint could not hold."""
    try:
        state = model.state_dict()
        pack_state(state)
        for name, tensor in state.items():
            if not is_lazy(tensor):
                check_storable(name, tensor)
    except EsperError as error:
        yield str(error)


def parameter_names(model: nn.Module) -> set[str]:
    """Names of all parameters, those without data included."""
    return {name for name, _ in model.named_parameters()}


def check_observed(model: nn.Module, before: set[str]) -> None:
    """Raise `GrowthError` where the first batch left a module without parameters, or made one that is new."""
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
    """The innermost module of the model in whose code an exception was raised, for a sentence."""
    labels = {id(module): label for label, module in _named(model)}
    found, trace = labels[id(model)], error.__traceback__
    while trace is not None:
        found = labels.get(id(trace.tb_frame.f_locals.get("self")), found)
        trace = trace.tb_next
    return found
