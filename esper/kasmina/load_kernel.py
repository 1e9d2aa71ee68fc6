"""Extraction of a trained seed from a model as a kernel, and loading of a kernel into a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from esper.errors import GrowthError
from esper.kasmina.kernels import Kernel
from esper.kasmina.record import SeedRecord
from esper.leyline import SeedStage

if TYPE_CHECKING:
    from esper.kasmina.model import MorphableModel

DESCRIPTION = ("blueprint", "placement", "options", "blend_mode", "layout", "in_shape", "out_shape")


def extract(model: MorphableModel, layer: str, index: int) -> Kernel:
    """Copy a seed's weights and the description that is needed to build it in another model.

    Args:
        model: a growable model.
        layer: name of the layer.
        index: slot at that layer.

    Returns:
        Tensors by name, on the CPU, and the description as JSON types.

    Raises:
        GrowthError: the slot holds no seed, or does not exist.

    Example:
        >>> tensors, description = extract(model, "fc1", 0)  # doctest: +SKIP
    """
    record = model.record(layer, index)
    if not record.alive:
        raise GrowthError(f"slot {index} of {layer!r} is {record.stage}: there is no kernel to take")
    tensors = {
        name: t.detach().to("cpu", copy=True) for name, t in model.seed_module(record).state_dict().items()
    }
    saved = record.to_json()
    return tensors, {name: saved[name] for name in DESCRIPTION}


def load_kernel(model: MorphableModel, layer: str, index: int, kernel: Kernel) -> None:
    """Load a kernel into a dormant slot, fossilised and with alpha 1.

    A load sets the stage directly, without `LEGAL_MOVES` and gates.

    Args:
        model: a growable model that has seen one batch.
        layer: name of the layer.
        index: slot at that layer.
        kernel: tensors and description, as `extract` returns them.

    Raises:
        GrowthError: the slot is not dormant, the kernel is incomplete, or it does not fit the layer.
    """
    record = model.record(layer, index)
    if record.stage is not SeedStage.DORMANT:
        raise GrowthError(f"slot {index} of {layer!r} is {record.stage}, not dormant")
    tensors, description = kernel
    grown = _record_for(record, description)
    shape = model.site_shape(layer, grown.placement)
    if (shape.layout, shape.in_shape, shape.out_shape) != (grown.layout, grown.in_shape, grown.out_shape):
        raise GrowthError(
            f"the kernel was grown for {grown.layout} {grown.in_shape} -> {grown.out_shape}; "
            f"{layer!r} has {shape.layout} {shape.in_shape} -> {shape.out_shape}"
        )
    model.records[layer][index] = grown
    try:
        _fill(model, grown, tensors)
    except Exception as error:
        # a blueprint may be the user's own code
        model.records[layer][index] = record
        if grown.key in model.seeds:
            model.detach(grown)
        raise GrowthError(f"the kernel does not fit blueprint {grown.blueprint!r}: {error}") from error


def _record_for(record: SeedRecord, description: Mapping[str, Any]) -> SeedRecord:
    missing = [name for name in DESCRIPTION if name not in description]
    if missing:
        raise GrowthError(f"the kernel's description lacks {', '.join(missing)}")
    wanted = {name: description[name] for name in DESCRIPTION}
    try:
        return SeedRecord.from_json(record.to_json() | wanted | {"stage": SeedStage.FOSSILIZED.value})
    except (TypeError, ValueError) as error:
        raise GrowthError(f"the kernel's description is damaged: {error}") from error


def _fill(model: MorphableModel, record: SeedRecord, tensors: Mapping[str, Tensor]) -> None:
    seed = model.attach(record)
    seed.load_state_dict(dict(tensors))
    seed.set_alpha(1.0)
