"""Blueprints: the kinds of module that seeds are grown from, with their fit and their cost."""

from esper.kasmina.blueprints import attention, convolution, features
from esper.kasmina.blueprints import conv_branch as branch
from esper.kasmina.blueprints import simple as plain
from esper.kasmina.blueprints.cost import Cost, SiteShape
from esper.kasmina.blueprints.measure import measured_cost
from esper.kasmina.blueprints.registry import (
    Blueprint,
    blueprint_names,
    get_blueprint,
    name_blueprint,
    register_blueprint,
)

# Importing these modules registers what they hold.
BUILT_IN = (attention, branch, convolution, features, plain)

__all__ = [
    "Blueprint",
    "Cost",
    "SiteShape",
    "blueprint_names",
    "get_blueprint",
    "measured_cost",
    "name_blueprint",
    "register_blueprint",
]
