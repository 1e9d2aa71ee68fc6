"""`TolariaConfig`, the configuration of a run: the groups of options, and those that belong to no group.

The defaults here are the library's. What `esper-train` uses is composed from `conf/`, whose recipes differ.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from esper.config.experiment_groups import (
    DatasetConfig,
    ModelConfig,
    MorphogeneticConfig,
    OptimizationConfig,
)
from esper.config.hashing import config_hash
from esper.config.option import TEXT, Rule, choice, number, option, url
from esper.config.runtime_groups import CheckpointConfig, LoggingConfig, ServicesConfig, TrainerConfig
from esper.config.serialization import ConfigGroup, as_given, parse
from esper.config.targets import is_dotted
from esper.config.validation import rule_violations
from esper.config.yamlfile import read_yaml, write_yaml


@dataclass
class TolariaConfig(ConfigGroup):
    """The configuration of a run: options of no group, and the groups as attributes.

    Every option with its type, default and limits is in `docs/configuration.md`.

    Example:
        >>> config = TolariaConfig(seed=1, dataset=DatasetConfig(name="digits"))
        >>> config.optimization.learning_rate = -1.0
        >>> config.validate()
        ['optimization.learning_rate: given -1.0, expected a number above 0']
    """

    mode: str = option("train", "Train, or evaluate the checkpoint on the test set.", choice("train", "test"))
    seed: int = option(
        0, "Seed of every random generator, of the splits included.", number(ge=0, le=2**32 - 1)
    )
    session_name: str = option("esper_training", "Name of the run in summary.json and in the loggers.", TEXT)
    session_description: str = option("", "Text that is written to summary.json.")
    experiment_id: str | None = option(None, "Id of yours that is written to summary.json.")
    device: str = option(
        "auto",
        "Where the run computes; auto: an accelerator if there is one, else the CPU.",
        Rule(
            "auto, cpu, cuda, cuda:<number> or mps",
            lambda value: re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value) is not None,
            ("auto", "cpu", "cuda", "mps"),
        ),
    )
    mixed_precision: bool | str = option(
        False,
        "Autocast to bf16 or fp16; true: to what the device supports best.",
        Rule(
            "false, true, bf16 or fp16",
            lambda value: value in (False, True, "bf16", "fp16"),
            ("bf16", "fp16"),
        ),
    )
    compile_model: bool = option(False, "Compile the model with torch.compile.")
    debug_mode: bool = option(False, "Stop at the operation that first makes a NaN; slow.")
    dry_run: bool = option(False, "Build everything, run one batch forward and backward, and end.")
    validate_only: bool = option(False, "Check the configuration and end.")
    profile_training: bool = option(False, "Write profiler traces to trainer.profiler_dir.")
    overfit_one_batch: bool = option(False, "Train on one batch, over and over.")
    run_dir: str | None = option(None, "Folder of the run; null: outputs/<date>/<time>.", TEXT)
    allowed_targets: list[str] = option(
        [],
        "Modules or packages of yours that dotted paths may name.",
        Rule("names of modules or packages", lambda value: all(is_dotted(f"{name}._") for name in value)),
    )
    callbacks: dict[str, Any] = option({}, "Callbacks of your own, by name: a _target_ with its arguments.")
    urza_url: str = option(
        "http://localhost:8000", "Address of Urza; health checks only.", url("http", "https")
    )
    tamiyo_url: str = option(
        "http://localhost:8001", "Address of Tamiyo; health checks only.", url("http", "https")
    )
    oona_redis_url: str = option(
        "redis://localhost:6379", "Address of Oona's Redis; health checks only.", url("redis", "rediss")
    )
    model: ModelConfig = field(default_factory=ModelConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    morphogenetic: MorphogeneticConfig = field(default_factory=MorphogeneticConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    services: ServicesConfig = field(default_factory=ServicesConfig)

    def validate(self) -> list[str]:
        """Check types, limits, names and contradictions.

        What needs the machine (files, devices, the model itself) is checked by `TolariaTrainer`.

        Returns:
            A sentence for each thing that is wrong, with key, given and expected.
        """
        config, problems = parse(TolariaConfig, self.to_dict())
        return as_given(self, problems + rule_violations(config))

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read a configuration from a file.

        Args:
            path: A YAML file of options; those that are left out keep their defaults.

        Returns:
            The configuration, of which names and types are checked; see `validate` for the rest.

        Raises:
            ConfigError: The file cannot be read, or has an unknown key or a wrong type.
        """
        return cls.from_dict(read_yaml(Path(path)))

    def to_yaml(self, path: str | Path) -> None:
        """Write every option to one file, from which `from_yaml` makes an equal configuration.

        Args:
            path: The file.
        """
        write_yaml(Path(path), self.to_dict())

    @classmethod
    def from_checkpoint(cls, data: Mapping[str, Any], allowed_targets: Sequence[str] = ()) -> Self:
        """A configuration that came with a checkpoint: it cannot itself extend the allowed targets.

        Args:
            data: The saved configuration.
            allowed_targets: Modules or packages that dotted paths in it may name.

        Returns:
            The configuration.

        Raises:
            ConfigError: An unknown key or a wrong type.
        """
        return cls.from_dict({**data, "allowed_targets": list(allowed_targets)})

    def hash(self) -> str:
        """A short name for what the run computes; see `esper.config.hashing`.

        Returns:
            16 hexadecimal digits.
        """
        return config_hash(self.to_dict())
