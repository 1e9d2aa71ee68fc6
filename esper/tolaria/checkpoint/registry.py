"""The registry of all state of a run: only registered owners are saved and restored."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor

from esper.errors import CheckpointError, EsperError
from esper.tolaria.checkpoint.buffers import BufferPool
from esper.tolaria.optimization.optimizer_state import EncodedJson
from esper.utils.device_and_rng import restore_rng_state, rng_state

# The only key of a mapping that stands for a tensor.
REFERENCE = "$tensor"

# most of a state is small tables of these; compared by exact type because that is faster than isinstance
_PLAIN = frozenset({type(None), bool, int, float, str})
_STRING = frozenset({str})
_KINDS = frozenset({dict, list, Tensor, EncodedJson})

Tensors = dict[str, dict[str, Tensor]]
State = dict[str, Any]

# What an owner does with the tensors that it loads: it keeps them as its own, it copies them into its own, or
# it only reads them (and replaces its tensors instead of changing them in place).
Use = Literal["keeps", "copies", "reads"]


# What `load_state_dict` may raise for a state that does not match: a file may contain anything.
LOAD_ERRORS = (
    EsperError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
)


class Stateful(Protocol):
    """An owner of state: nested dicts and lists of JSON values and tensors.

    `state_dict` may return the owner's own tensors: the registry copies them.
    """

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class CollectedState:
    """The state of all owners, not copied: tensors by owner and path, and the rest as JSON.

    Valid until the next change of the run; tensors of owners in `shared` stay valid.
    """

    tensors: Tensors
    state: State
    shared: frozenset[str]

    def copy(self, into: BufferPool | None = None) -> Tensors:
        """Copies of the tensors, in memory of the pool `into`; tensors of `shared` owners are not copied."""
        own = {name: group for name, group in self.tensors.items() if name not in self.shared}
        copies = (BufferPool() if into is None else into).copy(own)
        return {name: copies.get(name) or dict(group) for name, group in self.tensors.items()}


class StateRegistry:
    """Collects the state of all registered owners and restores it, in the order of registration.

    The model must be registered first: loading it attaches its seeds, to which later owners refer.
    """

    def __init__(self) -> None:
        self.owners: dict[str, Stateful] = {}
        self._use: dict[str, Use] = {}
        self._optional: set[str] = set()

    def register(self, name: str, owner: Stateful, *, use: Use = "keeps", optional: bool = False) -> None:
        """Add an owner.

        Args:
            name: the key of its state, unique.
            owner: has `state_dict` and `load_state_dict`.
            use: what the owner does with loaded tensors, which decides how often they are copied.
            optional: whether a saved state without this owner is accepted.
        """
        assert name not in self.owners, f"two owners of state are called {name}"
        self.owners[name] = owner
        self._use[name] = use
        self._optional |= {name} if optional else set()

    def collect(self) -> CollectedState:
        """The present state of all owners, without copies of tensors.

        Raises:
            CheckpointError: a value cannot be saved as JSON, or two tensors have the same path.
        """
        tensors: Tensors = {}
        state: State = {}
        for name, owner in self.owners.items():
            found: dict[str, Tensor] = {}
            state[name] = _split(owner.state_dict(), name, "", found)
            if found:
                tensors[name] = found
        return CollectedState(
            tensors, state, frozenset(name for name in tensors if self._use[name] == "reads")
        )

    def capture(self, into: BufferPool | None = None) -> tuple[Tensors, State]:
        """Copies of all state: tensors by owner and path, and the rest as JSON with references to them.

        Args:
            into: a pool for the copies; the caller must release them to it.

        Raises:
            CheckpointError: as `collect`.
        """
        collected = self.collect()
        return collected.copy(into), collected.state

    def restore(
        self,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        *,
        optional: Collection[str] = (),
        on_mismatch: Callable[[str], None] | None = None,
        copy: bool = False,
    ) -> None:
        """Load the saved state into every owner.

        Args:
            tensors: by owner and path, as `capture` returns them.
            state: the JSON part.
            optional: owners whose state may be missing; they keep what they have.
            on_mismatch: called with a message for each owner whose state is missing or does not fit, instead
                of raising; the other owners are loaded.
            copy: guarantee that the run never changes `tensors` afterwards.

        Raises:
            CheckpointError: the state of an owner is missing or does not fit.
        """
        may_lack = self._optional.union(optional)
        for name, owner in self.owners.items():
            if name not in state and name in may_lack:
                continue
            try:
                if name not in state:
                    raise CheckpointError(f"the checkpoint holds no state of {name}")
                group = tensors.get(name, {})
                if copy and self._use[name] == "keeps":
                    group = {path: tensor.clone() for path, tensor in group.items()}
                owner.load_state_dict(_join(state[name], group))
            except LOAD_ERRORS as error:
                problem = f"the saved state of {name} does not fit: {error}"
                if on_mismatch is None:
                    raise CheckpointError(problem) from error
                on_mismatch(problem)


def _split(value: Any, owner: str, path: str, found: dict[str, Tensor]) -> Any:
    """A copy of `value` as JSON, with its tensors moved to `found`."""
    kind = _kind_of(value)
    if kind in (str, EncodedJson):
        return value
    if kind is dict:
        return _split_table(value, owner, path, found)
    if kind is list:
        if _PLAIN.issuperset(map(type, value)):
            return list(value)
        return [_split(item, owner, f"{path}/{i}", found) for i, item in enumerate(value)]
    if kind is Tensor:
        return _add_reference(value, owner, path, found)
    raise CheckpointError(
        f"the state of {owner} holds a {kind.__qualname__} at {path!r}, which JSON cannot hold: {value!r:.80}"
    )


def _split_table(table: Mapping[str, Any], owner: str, path: str, found: dict[str, Tensor]) -> dict[str, Any]:
    _check_keys(table, owner, path)
    start = f"{path}/" if path else ""
    split = {}
    for key, item in table.items():
        kind = type(item)
        if kind in _PLAIN:
            split[key] = item
        else:
            split[key] = (_add_reference if kind is Tensor else _split)(item, owner, start + key, found)
    return split


def _add_reference(tensor: Tensor, owner: str, path: str, found: dict[str, Tensor]) -> dict[str, str]:
    if path in found:
        raise CheckpointError(f"two tensors of {owner} would be saved as {path!r}")
    found[path] = tensor
    return {REFERENCE: path}


def _kind_of(value: Any) -> type:
    """The type that `value` is saved as: dict, list, Tensor, str (for JSON scalars), else its own type."""
    kind = type(value)
    if kind in _KINDS:
        return kind
    for base, saved_as in ((Tensor, Tensor), (Mapping, dict), (list | tuple, list), (str | int | float, str)):
        if isinstance(value, base):
            return saved_as
    return str if value is None else kind


def _check_keys(value: Mapping[Any, Any], owner: str, path: str) -> None:
    if REFERENCE in value:
        raise CheckpointError(f"the state of {owner} has the key {REFERENCE!r} at {path!r}: it means tensors")
    if not _STRING.issuperset(map(type, value)):
        key = next((key for key in value if not isinstance(key, str)), "")
        if not isinstance(key, str):
            raise CheckpointError(
                f"the state of {owner} has the key {key!r} at {path!r}, which JSON cannot hold; "
                "expected a string"
            )


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
    """All random generators of the process, as an owner of state."""

    def __init__(self) -> None:
        self.inexact: list[str] = []

    def state_dict(self) -> dict[str, Any]:
        tensors, meta = rng_state()
        return {"tensors": tensors, "meta": meta}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the generators; `inexact` then lists those that could not be."""
        self.inexact = restore_rng_state(state["tensors"], state["meta"])


def state_of(owner: str, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Any:
    """The state dict of one owner, from the tensors and the state of all; empty if it has none."""
    return _join(state.get(owner, {}), tensors.get(owner, {}))


def references(state: Any) -> set[str]:
    """The paths of all tensors that a captured state refers to."""
    if isinstance(state, Mapping):
        if state.keys() == {REFERENCE}:
            return {str(state[REFERENCE])}
        state = list(state.values())
    return set().union(*map(references, state)) if isinstance(state, list) else set()
