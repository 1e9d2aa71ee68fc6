"""From a configuration to the parts of a run, and the checks that need the machine."""

from esper.runs.builder import (
    build_aggregator,
    build_batch_form,
    build_dataset,
    build_loss,
    build_metric,
    build_model,
    build_policy,
    optimizer_factory,
    register_blueprints,
    schedule_factory,
)
from esper.runs.checks import check_hydra, check_run

__all__ = [
    "build_aggregator",
    "build_batch_form",
    "build_dataset",
    "build_loss",
    "build_metric",
    "build_model",
    "build_policy",
    "check_hydra",
    "check_run",
    "optimizer_factory",
    "register_blueprints",
    "schedule_factory",
]
