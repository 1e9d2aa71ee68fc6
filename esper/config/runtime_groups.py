"""The groups that say how a run is executed: checkpoints, logging, the loop, services."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from esper.config import aliases as names
from esper.config.option import (
    COUNT,
    NATURAL,
    POSITIVE,
    SHARE,
    TEXT,
    Rule,
    choice,
    name_or_target,
    number,
    option,
    weights_file,
)
from esper.config.serialization import ConfigGroup


@dataclass
class CheckpointConfig(ConfigGroup):
    """What is saved, where, and what a run starts from."""

    save_checkpoints: bool = option(
        True, "Save checkpoints; false: a run cannot be resumed, and a rollback is not recorded on disk."
    )
    checkpoint_dir: str = option(
        "./checkpoints", "Folder of the checkpoints, relative to the run folder.", TEXT
    )
    checkpoint_frequency: int = option(
        10, "Epochs between checkpoints; the end of the run is saved as well.", COUNT, unit="epochs"
    )
    keep_best_only: bool = option(False, "Save a checkpoint when the model is the best so far, and keep one.")
    max_checkpoints: int = option(5, "Checkpoints that are kept: the last ones, and the best.", COUNT)
    keep_every: int = option(
        0, "Keep the checkpoint of every n-th epoch as well; 0: none.", NATURAL, unit="epochs"
    )
    save_final_model: bool = option(True, "Write the best model to model_save_path at the end.")
    model_save_path: str = option(
        "./models/final_model.safetensors",
        "File of the best model, relative to the run folder.",
        Rule("a path that ends in .safetensors", weights_file),
    )
    save_morphogenetic_state: bool = option(
        True, "Save the state of the policy in checkpoints; false: it starts anew on resume."
    )
    resume_from_checkpoint: str | None = option(
        None, "What to resume from: a checkpoint, a run folder, or auto (the newest of run_dir).", TEXT
    )
    strict_loading: bool = option(
        True,
        "Refuse to resume with options that change what the run computes, and with parts of another kind.",
    )
    snapshot_limit_mb: int = option(
        1024,
        "Limit of a state that is kept in memory for rollback; a larger one is not kept.",
        COUNT,
        unit="MB",
    )
    snapshot_interval_steps: int | None = option(
        None,
        "Steps between states that are kept in memory for rollback; null: one at the end of an epoch.",
        COUNT,
        unit="steps",
    )


@dataclass
class LoggingConfig(ConfigGroup):
    """Log lines, metric files, TensorBoard and wandb."""

    loggers: dict[str, Any] = option({}, "Loggers of your own, by name: a _target_ with its arguments.")
    log_level: str = option(
        "INFO", "Least level of the log lines.", choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
    )
    log_format: str = option("structured", "Format of the log lines.", choice("structured", "json", "plain"))
    log_file: str | None = option(
        None, "File of the log lines, relative to the run folder; null: none.", TEXT
    )
    track_metrics: bool = option(True, "Write metrics.jsonl, steps.jsonl and run.png.")
    metrics_interval: int = option(
        1, "Epochs between lines in metrics.jsonl and points in the loggers.", COUNT, unit="epochs"
    )
    step_interval: int = option(
        0, "Optimiser steps between lines in steps.jsonl; 0: no such file.", NATURAL, unit="steps"
    )
    save_metrics: bool = option(
        True, "Write the first, last, least and greatest of each metric to metrics_file."
    )
    metrics_file: str = option("training_metrics.json", "Name of that file in the run folder.", TEXT)
    use_wandb: bool = option(False, "Log to Weights & Biases.")
    wandb_project: str = option("esper", "Project of the run in wandb.", TEXT)
    wandb_entity: str | None = option(None, "User or team of the run in wandb; null: the default one.")
    wandb_config: dict[str, Any] = option({}, "Further keyword arguments of wandb.init.")
    use_tensorboard: bool = option(False, "Log to TensorBoard.")
    tensorboard_log_dir: str = option(
        "./tensorboard", "Folder of its files, relative to the run folder.", TEXT
    )
    progress: bool = option(True, "Show the progress: live on a terminal, one line an epoch elsewhere.")


@dataclass
class TrainerConfig(ConfigGroup):
    """How the loop runs, apart from what it optimises."""

    _target_: str = option(
        "esper.TolariaTrainer", "The trainer: the dotted path of TolariaTrainer or a subclass."
    )
    num_threads: int | None = option(None, "Threads of torch on the CPU; null: as torch chooses.", COUNT)
    deterministic: bool = option(False, "Use deterministic algorithms only.")
    compile_backend: str = option(
        "inductor", "Backend of torch.compile; see compile_model.", choice(*names.COMPILE_BACKENDS)
    )
    profiler_dir: str | None = option(
        None, "Folder of profiler traces, relative to the run folder; needed by profile_training.", TEXT
    )
    profiler_active_steps: int = option(5, "Steps in a trace.", COUNT, unit="steps")
    hook_budget_ms: float = option(
        10_000.0,
        "A decision or the work at the end of an epoch that takes longer is an event.",
        POSITIVE,
        unit="ms",
    )
    limit_train_batches: int | None = option(
        None, "Train on so many batches of an epoch; null: all.", COUNT, unit="batches"
    )
    limit_val_batches: int | None = option(
        None, "Validate on so many batches; null: all.", COUNT, unit="batches"
    )
    governor_interval_steps: int | None = option(
        None,
        "Steps between checks of the losses for divergence; null: 1 on the CPU, 16 elsewhere.",
        COUNT,
        unit="steps",
    )
    governor_loss_factor: float | None = option(
        10.0,
        "A loss of more than so many times the first one counts as divergence; null: none does.",
        number(gt=1),
    )
    max_rollbacks: int = option(3, "Rollbacks of one run; after them the next divergence halts it.", NATURAL)
    rollback_lr_factor: float = option(
        0.5, "Factor on all learning rates with every rollback.", number(gt=0, le=1)
    )
    rollback_deadline_ms: float = option(
        30_000.0, "A rollback that takes longer halts the run.", POSITIVE, unit="ms"
    )
    seed_weighting: str = option(
        "report",
        "Weights of the seeds by their gradients: none, logged (report), or applied to their steps (apply).",
        choice("none", "report", "apply"),
    )
    tolaria_seed_layer_summaries_enabled: bool = option(
        False, "Log the gradient norms of the layers inside each seed."
    )
    tolaria_seed_layer_topk: int = option(5, "How many of those layers are logged, the largest first.", COUNT)
    aggregation: str = option(
        "sum",
        "How the gradients of accumulated batches or of several objectives are combined: a short name, or "
        "the dotted path of an aggregator.",
        name_or_target((names.PLAIN_SUM, *names.AGGREGATORS)),
    )
    aggregation_params: dict[str, Any] = option(
        {}, "Keyword arguments of the aggregator, such as weights by objective."
    )
    grad_conflict_threshold: float = option(
        0.75, "An epoch with a larger share of conflicting pairs of gradients has an event.", SHARE
    )


@dataclass
class ServicesConfig(ConfigGroup):
    """Which services run outside the process, and how they are probed."""

    tamiyo: str = option(
        "local",
        "Where the policy runs; http is not available in this version.",
        Rule("local: http is not available in this version", lambda v: v == "local", ("local",)),
    )
    control_socket: bool = option(True, "Open a Unix socket for esper-ctl, for this user only.")
    probe_timeout_s: float = option(5.0, "Time limit of a health check of a service.", POSITIVE, unit="s")
    probe_interval_s: float = option(
        30.0, "A health check is repeated after this time at the earliest.", POSITIVE, unit="s"
    )
