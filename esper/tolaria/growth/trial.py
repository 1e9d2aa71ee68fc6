"""A copy of the model to try a seed in; the model itself never learns of it."""

from __future__ import annotations

from esper.kasmina import MorphableModel
from esper.kasmina.model_copy import copy_model
from esper.leyline import AdaptationCommand, SeedStage


def copy_with_seed(model: MorphableModel, command: AdaptationCommand | None, step: int) -> MorphableModel:
    """A deep copy, with the seed that a germination asks for planted at full strength (None: no seed).

    The seed has the weights that it would be born with after `step` steps; its output is zero all the same.
    Raises `GrowthError` where it cannot be planted.
    """
    trial = copy_model(model)
    if command is None:
        return trial
    born = trial.record(command.layer, command.seed_index).cleared()
    shape = trial.site_shape(command.layer, command.placement)
    born.blueprint, born.placement, born.options = command.blueprint, command.placement, dict(command.options)
    born.blend_mode, born.layout, born.germinated_step = "additive", shape.layout, step
    born.in_shape, born.out_shape, born.stage = shape.in_shape, shape.out_shape, SeedStage.FOSSILIZED
    trial.records[born.layer][born.index] = born
    trial.attach(born).set_alpha(1.0)
    return trial
