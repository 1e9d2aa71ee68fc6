"""Kasmina holds the seeds: where they may be planted, what they are, and how they live."""

from esper.kasmina.blueprints import (
    Blueprint,
    Cost,
    SiteShape,
    blueprint_names,
    get_blueprint,
    name_blueprint,
    register_blueprint,
)
from esper.kasmina.change import Clock, StageMove, TopologyChange
from esper.kasmina.fold import fold, fold_with_names
from esper.kasmina.health import HealthMonitor
from esper.kasmina.hosts import host_problems
from esper.kasmina.kernels import KernelCache, KernelStore
from esper.kasmina.manager import SeedManager
from esper.kasmina.model import MorphableModel
from esper.kasmina.record import SeedRecord
from esper.kasmina.seed import Seed
from esper.kasmina.sites import match_layers
from esper.kasmina.transplant import extract
from esper.kasmina.wrapping import wrap

__all__ = [
    "Blueprint",
    "Clock",
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
