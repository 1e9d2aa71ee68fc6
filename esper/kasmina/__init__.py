"""Kasmina: seeds in a host network: target layers, blueprints, and the lifecycle of each seed.

`wrap` makes a model growable, `SeedManager` applies commands to it.
"""

from esper.kasmina.blueprints import (
    Blueprint,
    Cost,
    SiteShape,
    blueprint_names,
    get_blueprint,
    name_blueprint,
    register_blueprint,
)
from esper.kasmina.export import fold, fold_with_names
from esper.kasmina.health import HealthMonitor
from esper.kasmina.host_checks import host_problems
from esper.kasmina.kernels import KernelCache, KernelStore
from esper.kasmina.load_kernel import extract
from esper.kasmina.model import MorphableModel
from esper.kasmina.record import SeedRecord
from esper.kasmina.seed import Seed
from esper.kasmina.seed_manager import SeedManager
from esper.kasmina.target_layers import match_layers
from esper.kasmina.topology import StageMove, TopologyChange, TrainingPosition
from esper.kasmina.wrapping import wrap

__all__ = [
    "Blueprint",
    "Cost",
    "HealthMonitor",
    "KernelCache",
    "KernelStore",
    "MorphableModel",
    "Seed",
    "SeedManager",
    "SeedRecord",
    "SiteShape",
    "StageMove",
    "TopologyChange",
    "TrainingPosition",
    "blueprint_names",
    "extract",
    "fold",
    "fold_with_names",
    "get_blueprint",
    "host_problems",
    "match_layers",
    "name_blueprint",
    "register_blueprint",
    "wrap",
]
