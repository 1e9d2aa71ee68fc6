"""The configuration: a dataclass for every group, its rules, and its YAML file."""

from esper.config.schema import (
    CheckpointConfig,
    DatasetConfig,
    LoggingConfig,
    ModelConfig,
    MorphogeneticConfig,
    OptimizationConfig,
    SeedConfig,
    ServicesConfig,
    TolariaConfig,
    TrainerConfig,
)

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
