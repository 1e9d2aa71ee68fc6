"""A copy of the model to try a seed in; the model itself is unchanged."""

from __future__ import annotations

from esper.kasmina import MorphableModel
from esper.kasmina.model_copy import copy_model
from esper.leyline import AdaptationCommand, SeedStage


def copy_with_seed(model: MorphableModel, command: AdaptationCommand | None, step: int) -> MorphableModel:
    """A deep copy of the model with the germination's seed attached at full strength (None: no seed).

    The seed has the weights that it would get after `step` steps; its output is zero at first.

    Raises:
        GrowthError: the seed cannot be attached.
    """
    trial = copy_model(model)
    if command is None:
        return trial
    record = trial.record(command.layer, command.seed_index).cleared()
    shape = trial.site_shape(command.layer, command.placement)
    record.blueprint, record.placement, record.options = (
        command.blueprint,
        command.placement,
        dict(command.options),
    )
    record.blend_mode, record.layout, record.germinated_step = "additive", shape.layout, step
    record.in_shape, record.out_shape, record.stage = shape.in_shape, shape.out_shape, SeedStage.FOSSILIZED
    trial.records[record.layer][record.index] = record
    trial.attach(record).set_alpha(1.0)
    return trial
