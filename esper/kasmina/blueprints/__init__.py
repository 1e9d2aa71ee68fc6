"""Blueprints: the kinds of module that seeds are built from, with the shapes they fit and their cost.

Add one with `register_blueprint`, or as an entry point in the group `esper.blueprints`.
"""

from esper.kasmina.blueprints import attention, conv_branch, convolution, features, simple
from esper.kasmina.blueprints.cost import Cost, SiteShape
from esper.kasmina.blueprints.measure import measured_cost
from esper.kasmina.blueprints.registry import (
    Blueprint,
    blueprint_names,
    get_blueprint,
    name_blueprint,
    register_blueprint,
)

# Importing these modules registers their blueprints.
BUILT_IN = (attention, conv_branch, convolution, features, simple)

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
