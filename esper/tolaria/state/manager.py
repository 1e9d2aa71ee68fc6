"""What the state of a run is, in one place: every owner registers itself, and nothing is saved besides."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from torch import Tensor

from esper.core.runtime import restore_rng_state, rng_state
from esper.errors import CheckpointError, EsperError

# The only key of a mapping that stands for a tensor.
REFERENCE = "$tensor"


class Stateful(Protocol):
    """An owner of state: nested dicts and lists of JSON values and tensors."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Any) -> Any: ...


class StateManager:
    """Collects the state of all registered owners and gives it back to them.

    Order matters and is that of registration: the model first (it plants its seeds), then what follows it.
    """

    def __init__(self) -> None:
        self.owners: dict[str, Stateful] = {}

    def register(self, name: str, owner: Stateful) -> None:
        assert name not in self.owners, f"two owners of state are called {name}"
        self.owners[name] = owner

    def capture(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Copies of all state: tensors by owner and path, and the rest as JSON with references to them.

        Raises `CheckpointError` for state whose names would not lead back to it.
        """
        tensors: dict[str, dict[str, Tensor]] = {}
        state: dict[str, Any] = {}
        for name, owner in self.owners.items():
            found: dict[str, Tensor] = {}
            state[name] = _split(owner.state_dict(), "", found)
            if found:
                tensors[name] = found
        return tensors, state

    def restore(
        self,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        *,
        optional: Collection[str] = (),
        on_misfit: Callable[[str], None] | None = None,
    ) -> None:
        """Give every owner its state back.

        Owners in `optional` may have none and then keep what they have. Raises `CheckpointError` for any
        other that is missing or does not fit, unless `on_misfit` is there to be told of it instead; what
        fits is loaded all the same.
        """
        for name, owner in self.owners.items():
            if name not in state and name in optional:
                continue
            try:
                if name not in state:
                    raise CheckpointError(f"the checkpoint holds no state of {name}")
                owner.load_state_dict(_join(state[name], tensors.get(name, {})))
            except (EsperError, KeyError, TypeError, ValueError, RuntimeError) as error:
                problem = f"the saved state of {name} does not fit: {error}"
                if on_misfit is None:
                    raise CheckpointError(problem) from error
                on_misfit(problem)


def _split(value: Any, path: str, found: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        if path in found:
            raise CheckpointError(f"two tensors would be saved as {path!r}")
        found[path] = value.detach().clone()
        return {REFERENCE: path}
    if isinstance(value, Mapping):
        if REFERENCE in value:
            raise CheckpointError(f"{path} has the key {REFERENCE!r}, which stands for tensors")
        return {
            key: _split(item, f"{path}/{key}" if path else str(key), found) for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_split(item, f"{path}/{i}", found) for i, item in enumerate(value)]
    return value


def _join(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, Mapping):
        if value.keys() == {REFERENCE}:
            path = value[REFERENCE]
            if path not in tensors:
                raise CheckpointError(f"the checkpoint lacks the tensor {path!r}")
            return tensors[path]
        return {key: _join(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [_join(item, tensors) for item in value]
    return value


class Generators:
    """Every random generator of the process, as an owner of state."""

    def __init__(self) -> None:
        self.inexact: list[str] = []

    def state_dict(self) -> dict[str, Any]:
        tensors, meta = rng_state()
        return {"tensors": tensors, "meta": meta}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put the generators back; `inexact` then says which could not be."""
        self.inexact = restore_rng_state(state["tensors"], state["meta"])
