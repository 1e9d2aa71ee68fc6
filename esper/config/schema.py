"""Every option of Esper: a dataclass for each group, with the defaults of the library.

What `esper-train` uses unless told otherwise is composed from `conf/`; that is where the shipped
recipes differ from the defaults here. Units stand in the names or in the comments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from esper.config.hashing import config_hash
from esper.config.serialization import ConfigGroup, options, parse
from esper.config.validation import rule_violations
from esper.config.yamlfile import read_yaml, write_yaml


@dataclass
class ModelConfig(ConfigGroup):
    """The host network and where seeds may be planted in it."""

    TARGET_OPTION: ClassVar[str] = "architecture"

    _target_: str | None = None  # the dotted name of a class: takes the place of architecture
    architecture: str = "resnet18"  # a short name or a dotted target
    num_classes: int | None = 10  # null: as the dataset has
    pretrained: bool | str = False  # a path to a safetensors file with the host's weights
    target_layers: list[str] = field(
        default_factory=lambda: ["nn.Linear"]
    )  # types, type names, path patterns
    seeds_per_layer: int = 4
    cache_size_mb: int = 128  # bound of the kernel cache
    telemetry_enabled: bool = True  # health signals of seeds and sites
    preserve_original: bool = True  # grow a copy, leave the model that was passed in alone
    model_params: dict[str, Any] = field(default_factory=dict)


@dataclass
class DatasetConfig(ConfigGroup):
    """Where the data comes from and how it is split and batched."""

    TARGET_OPTION: ClassVar[str] = "name"

    _target_: str | None = None  # the dotted name of a class: takes the place of name
    name: str = "cifar10"  # a short name or a dotted target
    data_root: str = "./data"  # relative: to the folder the command is started in
    download: bool = True
    batch_size: int = 32
    num_workers: int = 4  # idle where the data lives on the device
    pin_memory: bool = True
    shuffle_train: bool = True
    use_augmentation: bool = True
    augmentation_params: dict[str, Any] = field(default_factory=dict)
    validation_split: float = 0.1
    test_split: float = 0.1  # idle where the dataset has a test set of its own
    dataset_params: dict[str, Any] = field(default_factory=dict)
    batch_form: str | None = None  # a dotted target: batch -> (args, kwargs, targets)


@dataclass
class OptimizationConfig(ConfigGroup):
    """Optimiser, learning rate, length of the run, loss."""

    optimizer: str = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    momentum: float = 0.9  # for optimisers that take it
    optimizer_params: dict[str, Any] = field(default_factory=dict)
    scheduler: str = "cosine"  # cosine, step, exponential, none
    scheduler_params: dict[str, Any] = field(default_factory=dict)
    max_epochs: int = 100
    early_stopping_patience: int = 10  # epochs; 0: never stop early
    early_stopping_min_delta: float = 1e-4  # in units of the loss: it does not follow the loss's scale
    loss_function: str = "cross_entropy"
    loss_params: dict[str, Any] = field(default_factory=dict)
    metric: str = "auto"  # auto, accuracy, binary_accuracy, none, or a target with update, compute, reset
    metric_params: dict[str, Any] = field(default_factory=dict)
    gradient_clip_norm: float | None = None
    gradient_clip_scope: str = "all"  # host and joined seeds together: all; each parameter group: group
    accumulation_steps: int = 1  # batches a step


@dataclass
class SeedConfig(ConfigGroup):
    """How a seed is brought up: isolation, blend, rates, embargo."""

    isolation_steps: int = 0  # steps in TRAINING, host untouched; 0: straight to the blend
    isolation_learning_rate: float = 1e-3
    blend_steps: int = 100
    blend_schedule: str = "linear"  # linear, cosine, sigmoid
    blend_mode: str = "additive"  # additive, gated
    learning_rate_scale: float = 1.0
    warmup_steps: int = 100
    probation_epochs: int = 1
    embargo_epochs: int = 5
    probe_samples: int = (
        32  # health, shapes and FLOPs are measured on the first so many of the validation split
    )
    impact_samples: int = 0  # on against off; 0: the whole validation split


@dataclass
class MorphogeneticConfig(ConfigGroup):
    """When and how far the host may grow."""

    tamiyo_enabled: bool = True
    tamiyo_url: str | None = None  # null: the top-level one
    policy: dict[str, Any] = field(default_factory=lambda: {"_target_": "heuristic"})
    blueprints: list[str] = field(
        default_factory=lambda: [
            "mlp",
            "low_rank",
            "conv_light",
            "conv_heavy",
            "depthwise",
            "squeeze_excite",
            "conv_branch",
        ]
    )
    max_params_ratio: float = 4.0  # bound on parameters after growth, as a multiple of the host's
    max_flops_ratio: float | None = None  # the same for the FLOPs of a forward; null: no bound
    decision_frequency: int = 5  # epochs
    decision_interval_steps: int | None = None  # decide inside an epoch, too
    decision_interval_epochs: float | None = None  # the same as a share of an epoch; steps go before it
    max_adaptations_per_epoch: int = 2
    adaptation_cooldown: float = 30.0  # seconds; > 0 makes growth depend on the machine's speed
    adaptation_cooldown_epochs: int = 0
    confidence_threshold: float = 0.7
    urgency_threshold: float = 0.5
    lookahead_steps: int = 0  # a copy's training with each candidate of a shortlist; 0: the first is taken
    health_signal_interval: int = 1  # epochs
    performance_window: int = 10  # epochs
    enable_blueprint_generation: bool = False
    blueprint_generation_frequency: int = 50  # epochs
    seed: SeedConfig = field(default_factory=SeedConfig)


@dataclass
class CheckpointConfig(ConfigGroup):
    """What is saved, where, and what a run starts from."""

    save_checkpoints: bool = True  # false: nothing is durable, a rollback's decisions included
    checkpoint_dir: str = "./checkpoints"  # relative: to the run folder
    checkpoint_frequency: int = 10  # epochs; the last and the best are always kept
    keep_best_only: bool = False
    max_checkpoints: int = 5  # the last ones, and the best among them
    keep_every: int = 0  # epochs: of every so-manieth the checkpoint stays besides; 0: none
    save_final_model: bool = True
    model_save_path: str = "./models/final_model.safetensors"
    save_morphogenetic_state: bool = True
    resume_from_checkpoint: str | None = None  # a checkpoint, a run folder, or auto
    strict_loading: bool = True
    snapshot_limit_mb: int = 1024  # of states kept in memory for rollback; one that is larger is not kept
    snapshot_interval_steps: int | None = None  # states kept in memory inside an epoch, beside one at its end


@dataclass
class LoggingConfig(ConfigGroup):
    """Log lines, metric files, TensorBoard and wandb."""

    loggers: dict[str, Any] = field(default_factory=dict)  # your own, by name: a _target_ with its arguments
    log_level: str = "INFO"
    log_format: str = "structured"  # structured, json, plain
    log_file: str | None = None
    track_metrics: bool = True
    metrics_interval: int = 1  # epochs between lines in metrics.jsonl and points in the loggers
    step_interval: int = 0  # optimiser steps between lines in steps.jsonl; 0: none
    save_metrics: bool = True
    metrics_file: str = "training_metrics.json"
    use_wandb: bool = False
    wandb_project: str = "esper"
    wandb_entity: str | None = None
    wandb_config: dict[str, Any] = field(default_factory=dict)  # further arguments of wandb.init
    use_tensorboard: bool = False
    tensorboard_log_dir: str = "./tensorboard"
    progress: bool = True  # live display on a terminal, a line an epoch elsewhere


@dataclass
class TrainerConfig(ConfigGroup):
    """How the loop runs, apart from what it optimises."""

    _target_: str = "esper.TolariaTrainer"  # or the dotted name of a subclass
    num_threads: int | None = None  # null: as torch chooses
    deterministic: bool = False
    compile_backend: str = "inductor"
    profiler_dir: str | None = None  # relative: to the run folder; needed by profile_training
    profiler_active_steps: int = 5
    hook_budget_ms: float = 10_000.0  # end-of-epoch hook and each decision; over it is an event
    limit_train_batches: int | None = None
    limit_val_batches: int | None = None
    governor_interval_steps: int | None = None  # between looks at losses; null: 1 on the CPU, 16 elsewhere
    governor_loss_factor: float | None = 10.0  # times the first loss is an explosion; null: nothing is
    max_rollbacks: int = 3  # in a run; one more verdict against it halts it
    rollback_lr_factor: float = 0.5  # on all learning rates, with every rollback
    rollback_deadline_ms: float = 30_000.0  # a restore that takes longer halts the run
    seed_weighting: str = "report"  # weights of seeds: none, report, apply (scale the steps of seeds)
    tolaria_seed_layer_summaries_enabled: bool = False  # gradient norms of the layers inside each seed
    tolaria_seed_layer_topk: int = 5  # of which so many, the largest, are reported
    aggregation: str = (
        "sum"  # of micro-batches' or objectives' gradients: sum, mean, weighted, pcgrad, a target
    )
    aggregation_params: dict[str, Any] = field(default_factory=dict)  # weights by objective, epsilon, ...
    grad_conflict_threshold: float = (
        0.75  # share of pairs of tasks in conflict over which an epoch has an event
    )


@dataclass
class ServicesConfig(ConfigGroup):
    """Which services run outside the process, and how they are probed."""

    tamiyo: str = "local"
    control_socket: bool = True  # a Unix socket of this user's, for esper-ctl
    probe_timeout_s: float = 5.0
    probe_interval_s: float = 30.0


@dataclass
class TolariaConfig(ConfigGroup):
    """A whole run. `from_yaml` loads one from its file; `validate()` names everything that is wrong."""

    mode: str = "train"  # train, test
    seed: int = 0
    session_name: str = "esper_training"
    session_description: str = ""
    experiment_id: str | None = None
    device: str = "auto"
    mixed_precision: bool | str = False  # false, true, bf16, fp16
    compile_model: bool = False
    debug_mode: bool = False  # stop at the operation that first makes a NaN; slow
    dry_run: bool = False
    validate_only: bool = False
    profile_training: bool = False
    overfit_one_batch: bool = False
    run_dir: str | None = None  # null: outputs/<date>/<time>
    allowed_targets: list[str] = field(default_factory=list)
    callbacks: dict[str, Any] = field(default_factory=dict)  # by name: a _target_ with its arguments
    urza_url: str = "http://localhost:8000"
    tamiyo_url: str = "http://localhost:8001"
    oona_redis_url: str = "redis://localhost:6379"
    model: ModelConfig = field(default_factory=ModelConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    morphogenetic: MorphogeneticConfig = field(default_factory=MorphogeneticConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    services: ServicesConfig = field(default_factory=ServicesConfig)

    def validate(self) -> list[str]:
        """A sentence for each thing that is wrong, with key, given and expected; empty where all is well.

        What needs the machine (files, devices, the model itself) is looked at by `esper.runs.check_run`.
        """
        config, problems = parse(TolariaConfig, self.to_dict())
        return problems + rule_violations(options(config))

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """The configuration in a file; raises `ConfigError` for all that `from_dict` refuses."""
        return cls.from_dict(read_yaml(Path(path)))

    def to_yaml(self, path: str | Path) -> None:
        """Write every option to one file, from which `from_yaml` makes an equal configuration."""
        write_yaml(Path(path), self.to_dict())

    @classmethod
    def from_checkpoint(cls, data: Mapping[str, Any], allowed_targets: Sequence[str] = ()) -> Self:
        """A configuration that came with a checkpoint: it cannot itself extend the allowed targets."""
        return cls.from_dict({**data, "allowed_targets": list(allowed_targets)})

    def hash(self) -> str:
        """A short name for what the run computes; see `esper.config.hashing`."""
        return config_hash(self.to_dict())
