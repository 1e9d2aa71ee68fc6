"""The configuration: a dataclass for every group, its rules, and its YAML file."""

from esper.config.experiment_groups import (
    DatasetConfig,
    ModelConfig,
    MorphogeneticConfig,
    OptimizationConfig,
    SeedConfig,
)
from esper.config.runtime_groups import CheckpointConfig, LoggingConfig, ServicesConfig, TrainerConfig
from esper.config.schema import TolariaConfig

__all__ = [
    "CheckpointConfig",
    "DatasetConfig",
    "LoggingConfig",
    "ModelConfig",
    "MorphogeneticConfig",
    "OptimizationConfig",
    "SeedConfig",
    "ServicesConfig",
    "TolariaConfig",
    "TrainerConfig",
]
