"""Names of options in Lightning, Hugging Face, timm and Hydra templates, and what stands for them in Esper.

`OPTIONS` says which option a name means, `NOTES` what is different or what Esper does instead, `WORDS` which
values mean another option. What is suggested can be pasted: a value that does not fit is left out.
"""

from __future__ import annotations

from esper.config import aliases
from esper.config.familiar_values import (
    Converter,
    bare,
    count,
    flag,
    inverted,
    natural,
    number,
    one_of,
    percentage,
    share,
    text,
)

_OPTIMIZERS = {"adamw_torch": "adamw", "adamw_torch_fused": "adamw", "adamw_hf": "adamw", "momentum": "sgd"}
_SCHEDULERS = {
    **dict.fromkeys(("constant", "constant_with_warmup", "null", "false"), "none"),
    **dict.fromkeys(("cosine_annealing", "cosineannealinglr"), "cosine"),
    "steplr": "step",
    "exponentiallr": "exponential",
}
_LOSSES = {
    **dict.fromkeys(("ce", "crossentropy", "crossentropyloss"), "cross_entropy"),
    **dict.fromkeys(("bce", "bcewithlogitsloss"), "bce_with_logits"),
    "mseloss": "mse",
    "mae": "l1",
}

# Option, how a value is written for it, and the names that mean it.
OPTIONS: tuple[tuple[str, Converter, str], ...] = (
    ("optimization.learning_rate", number, "lr base_lr init_lr initial_lr learning_rate"),
    ("optimization.scheduler_params.min_factor", bare, "min_lr eta_min"),
    ("optimization.optimizer", one_of(aliases.OPTIMIZERS, _OPTIMIZERS), "opt optim optimizer optimizer_name"),
    ("optimization.weight_decay", number, "weight_decay wd"),
    ("optimization.momentum", share, "momentum"),
    ("optimization.optimizer_params.nesterov", flag, "nesterov"),
    ("optimization.optimizer_params.betas", bare, "betas opt_betas adam_beta1 adam_beta2"),
    ("optimization.optimizer_params.eps", number, "opt_eps adam_epsilon"),
    (
        "optimization.scheduler",
        one_of(aliases.SCHEDULERS, _SCHEDULERS),
        "sched scheduler lr_scheduler lr_scheduler_type lr_schedule",
    ),
    ("optimization.scheduler_params.warmup_steps", natural, "warmup_steps num_warmup_steps"),
    ("optimization.scheduler_params.warmup_steps", bare, "warmup_epochs num_warmup_epochs warmup_ratio"),
    ("optimization.scheduler_params.warmup_floor", bare, "warmup_lr"),
    ("optimization.scheduler_params.gamma", share, "gamma decay_rate lr_gamma"),
    ("optimization.scheduler_params.step_size_epochs", count, "step_size lr_step_size decay_epochs"),
    ("optimization.scheduler_params.period_epochs", count, "t_max"),
    ("optimization.max_epochs", count, "epochs epoch n_epochs num_epochs max_epochs num_train_epochs"),
    ("optimization.max_epochs", bare, "max_steps num_steps total_steps train_steps num_training_steps"),
    (
        "optimization.early_stopping_patience",
        natural,
        "patience early_stopping early_stop early_stopping_patience early_stop_patience",
    ),
    ("optimization.early_stopping_min_delta", number, "min_delta early_stopping_threshold"),
    ("optimization.loss_function", one_of(aliases.LOSSES, _LOSSES), "loss criterion loss_fn loss_name"),
    (
        "optimization.loss_params.label_smoothing",
        share,
        "smoothing label_smoothing label_smoothing_factor",
    ),
    ("optimization.loss_params.weight", bare, "class_weight class_weights"),
    ("optimization.metric", bare, "metrics monitor metric_for_best_model greater_is_better eval_metric"),
    (
        "optimization.accumulation_steps",
        count,
        "accumulate_grad_batches gradient_accumulation_steps grad_accum_steps accumulation_steps accum_iter",
    ),
    (
        "optimization.gradient_clip_norm",
        number,
        "gradient_clip_val max_grad_norm clip_grad clip_grad_norm grad_clip grad_clip_norm gradient_clipping",
    ),
    ("optimization.gradient_clip_norm", bare, "gradient_clip_algorithm clip_mode clip_grad_value"),
    ("trainer.limit_train_batches", count, "limit_train_batches"),
    ("trainer.limit_val_batches", count, "limit_val_batches"),
    ("trainer.limit_train_batches", bare, "max_train_samples"),
    ("trainer.limit_val_batches", bare, "max_eval_samples max_val_samples"),
    ("trainer.deterministic", flag, "deterministic use_deterministic_algorithms full_determinism"),
    ("trainer.compile_backend", one_of(aliases.COMPILE_BACKENDS), "torch_compile_backend"),
    ("overfit_one_batch", bare, "overfit_batches overfit"),
    ("dry_run", flag, "fast_dev_run"),
    ("dry_run", bare, "num_sanity_val_steps enable_model_summary"),
    ("mixed_precision", bare, "precision amp use_amp amp_dtype autocast dtype fp16 bf16 mixed_precision"),
    ("compile_model", flag, "compile torch_compile torchcompile use_compile"),
    ("device", bare, "accelerator devices num_devices gpus num_gpus n_gpu n_gpus gpu gpu_id device_id"),
    ("device", bare, "cuda use_cuda use_gpu no_cuda use_cpu cpu"),
    ("seed", natural, "seed_everything random_seed manual_seed rng_seed random_state"),
    ("morphogenetic.tamiyo_enabled", flag, "tamiyo grow growth"),
    ("debug_mode", flag, "detect_anomaly"),
    ("profile_training", bare, "profiler profile"),
    ("mode", bare, "do_train train training do_eval do_predict evaluate eval test eval_only test_only"),
    (
        "run_dir",
        text,
        "output_dir default_root_dir out_dir outdir save_dir work_dir exp_dir log_dir results_dir root_dir",
    ),
    ("session_name", text, "run_name name exp_name experiment_name task_name"),
    ("session_description", text, "notes description"),
    ("dataset.name", one_of(aliases.DATASETS), "dataset_name data_name"),
    ("dataset.data_root", text, "data_dir data_root data_path datadir dataset_dir train_data_dir"),
    ("dataset.batch_size", count, "batch_size bs train_batch_size per_device_train_batch_size"),
    ("dataset.batch_size", bare, "eval_batch_size val_batch_size per_device_eval_batch_size test_batch_size"),
    ("dataset.num_workers", natural, "num_workers dataloader_num_workers workers n_workers"),
    ("dataset.pin_memory", flag, "pin_memory pin_mem dataloader_pin_memory"),
    ("dataset.validation_split", share, "val_split valid_split val_size val_ratio val_fraction valid_pct"),
    ("dataset.validation_split", percentage, "validation_split_percentage"),
    ("dataset.validation_split", bare, "train_val_test_split"),
    ("dataset.test_split", share, "test_size test_ratio test_fraction"),
    ("dataset.shuffle_train", flag, "shuffle"),
    ("dataset.use_augmentation", flag, "augment augmentation augmentations use_aug"),
    ("dataset.use_augmentation", inverted, "no_aug"),
    ("dataset.augmentation_params.horizontal_flip", share, "hflip"),
    ("model.architecture", one_of(aliases.MODELS), "arch model_name backbone network model_type"),
    ("model.num_classes", count, "num_classes n_classes num_labels"),
    ("model.pretrained", bare, "pretrained pretrained_weights initial_checkpoint"),
    (
        "checkpoint.resume_from_checkpoint",
        text,
        "resume resume_from resume_training ckpt_path ckpt checkpoint_path load_from resume_from_checkpoint",
    ),
    ("checkpoint.checkpoint_frequency", bare, "save_steps save_every_n_steps save_strategy"),
    (
        "checkpoint.checkpoint_frequency",
        count,
        "save_every save_freq save_interval save_every_n_epochs every_n_epochs checkpoint_interval",
    ),
    ("checkpoint.max_checkpoints", count, "save_total_limit save_top_k checkpoint_hist max_to_keep"),
    ("checkpoint.keep_best_only", flag, "save_best_only save_best"),
    ("checkpoint.save_checkpoints", flag, "enable_checkpointing save_checkpoint"),
    ("checkpoint.save_checkpoints", bare, "save_last"),
    ("checkpoint.checkpoint_dir", text, "ckpt_dir dirpath"),
    ("logging.use_wandb", flag, "wandb use_wandb log_wandb"),
    ("logging.use_tensorboard", flag, "tensorboard use_tensorboard tb"),
    ("logging.wandb_project", text, "project project_name"),
    ("logging.wandb_entity", text, "entity"),
    ("logging.wandb_config.tags", bare, "tags"),
    ("logging.tensorboard_log_dir", text, "logging_dir tensorboard_dir"),
    ("logging.log_level", bare, "log_level verbosity verbose"),
    (
        "logging.step_interval",
        natural,
        "logging_steps log_every_n_steps log_interval log_steps print_freq log_freq",
    ),
    ("logging.step_interval", bare, "logging_strategy"),
    ("logging.progress", flag, "enable_progress_bar progress_bar"),
    ("logging.progress", inverted, "disable_tqdm"),
)

# The name that a name inside a foreign group is read as.
_TYPE = ("name", "type", "_target_")
QUALIFIED: dict[str, str] = {
    **{f"{group}.{leaf}": "optimizer" for group in ("optimizer", "optim", "opt") for leaf in _TYPE},
    **{f"{group}.{leaf}": "scheduler" for group in ("scheduler", "lr_scheduler", "sched") for leaf in _TYPE},
    **{f"{group}.{leaf}": "loss" for group in ("loss", "criterion", "loss_fn") for leaf in _TYPE},
    **{f"{group}.{leaf}": "dataset_name" for group in ("data", "datamodule", "dataset") for leaf in _TYPE},
    **{f"{group}.{leaf}": "model_name" for group in ("model", "net", "network") for leaf in _TYPE},
    "data.root": "data_dir",
    "dataset.root": "data_dir",
    "checkpoint.dir": "ckpt_dir",
    "checkpoint.path": "ckpt_path",
    "logging.level": "log_level",
}

# Choices that templates for Hydra have in groups of the same name; "" where there is no such thing.
CHOICES: dict[str, str] = {
    **{
        f"trainer={name}": f"device={device}"
        for name, device in (("gpu", "cuda"), ("cpu", "cpu"), ("mps", "mps"))
    },
    **{f"trainer={name}": "" for name in ("ddp", "ddp_sim", "fsdp", "deepspeed")},
    **{f"debug={name}": "debug=few_batches" for name in ("default", "fdr", "limit")},
    "debug=profiler": "debug=profile",
    "logging=csv": "logging=default",
}

# What is different, or what Esper does where it has no such option.
NOTES: dict[str, str] = {
    "strategy num_nodes ddp fsdp deepspeed tpu_cores sync_batchnorm sync_bn num_processes world_size gpu"
    " local_rank dist_backend dist_url distributed accelerator devices num_devices gpus num_gpus n_gpu n_gpus"
    " gpu_id device_id": "Esper trains in one process on one device, which the option device names",
    "logger loggers report_to tracker log_with csv mlflow comet neptune aim clearml": "metrics.jsonl is"
    " always written; logging.use_tensorboard and logging.use_wandb are the other loggers",
    "swa use_swa ema use_ema model_ema ema_decay stochastic_weight_avg": "Esper does not average weights;"
    " esper.load returns those of the best epoch",
    "eval_steps val_check_interval check_val_every_n_epoch eval_every eval_interval eval_freq eval_strategy"
    " evaluation_strategy": "Esper validates after every epoch",
    "max_steps num_steps total_steps train_steps num_training_steps": "a run is measured in epochs;"
    " trainer.limit_train_batches shortens each of them",
    "min_epochs min_steps max_time": "a run ends by optimization.max_epochs or"
    " optimization.early_stopping_patience",
    "precision amp_dtype autocast dtype": "false, true, bf16 or fp16",
    "warmup_epochs num_warmup_epochs warmup_ratio": "the warm-up is counted in optimiser steps",
    "min_lr eta_min warmup_lr": "a factor of optimization.learning_rate",
    "monitor metric_for_best_model greater_is_better eval_metric": "the best epoch has the highest validation"
    " accuracy (or metric), or the lowest loss where there is none",
    "limit_train_batches limit_val_batches": "a whole number of batches",
    "max_train_samples max_eval_samples max_val_samples": "counted in batches",
    "limit_test_batches limit_predict_batches": "the test set is read to its end",
    "overfit_batches overfit": "one batch is repeated",
    "fast_dev_run": "it runs one batch; debug=few_batches on the command line runs two epochs of a few",
    "num_sanity_val_steps enable_model_summary": "dry_run=true runs one batch and prints the model's summary",
    "eval_batch_size val_batch_size per_device_eval_batch_size test_batch_size": "one size for all splits",
    "gradient_clip_algorithm clip_mode clip_grad_value": "gradients are clipped by their norm",
    "benchmark cudnn_benchmark": "cuDNN is left as PyTorch has it, unless trainer.deterministic=true",
    "train_val_test_split": "a share, as dataset.test_split is; the rest is for training",
    "mixup cutmix auto_augment aa color_jitter reprob random_erasing": "dataset.augmentation_params knows"
    " crop_padding, horizontal_flip and cutout",
    "img_size image_size input_size in_chans in_channels": "the model's input is as the dataset's images are",
    "pretrained pretrained_weights initial_checkpoint": "the path of a .safetensors file",
    "gradient_checkpointing grad_checkpointing": "activations are kept for the backward pass",
    "do_eval do_predict evaluate eval test eval_only test_only": "mode=train validates after every epoch and"
    " tests at its end; mode=test only tests the checkpoint that is named",
    "overwrite_output_dir": "a run folder, run_dir, is never overwritten",
    "load_best_model_at_end": "esper.load returns the model of the best epoch",
    "save_steps save_every_n_steps save_strategy": "counted in epochs",
    "save_total_limit save_top_k checkpoint_hist max_to_keep": "the last ones are kept, and the best",
    "save_last": "the last checkpoint and the best are always kept",
    "logging_steps log_every_n_steps log_interval log_steps print_freq log_freq logging_strategy": "optimiser"
    " steps between lines in steps.jsonl, 0 for none",
}

_PRECISIONS = {
    **dict.fromkeys(("16", "16-mixed", "fp16", "float16", "half"), "mixed_precision=fp16"),
    **dict.fromkeys(("bf16", "bf16-mixed", "bfloat16"), "mixed_precision=bf16"),
    **dict.fromkeys(("32", "32-true", "fp32", "float32", "no", "none", "false"), "mixed_precision=false"),
    "true": "mixed_precision=true",
}
_DEVICES = {
    **{name: f"device={name}" for name in ("auto", "cpu", "cuda", "mps")},
    **dict.fromkeys(("gpu", "gpus", "nvidia"), "device=cuda"),
    "metal": "device=mps",
}
_NUMBERED = {str(number): f"device=cuda:{number}" for number in range(16)}
_WANDB, _TENSORBOARD = "logging.use_wandb=true", "logging.use_tensorboard=true"
_LEVELS = ("debug", "info", "warning", "error", "critical")
_OFF = ("false", "none", "null")

# Names, and the words that certain values of them stand for.
WORDS: dict[str, dict[str, str]] = {
    "precision amp use_amp amp_dtype autocast dtype mixed_precision": _PRECISIONS,
    "fp16": {"true": "mixed_precision=fp16", "false": "mixed_precision=false"},
    "bf16": {"true": "mixed_precision=bf16", "false": "mixed_precision=false"},
    "accelerator device": _DEVICES,
    "devices num_devices": {
        **dict.fromkeys(("1", "auto"), "device=auto"),
        **{f"[{index}]": word for index, word in _NUMBERED.items()},
    },
    "gpus num_gpus n_gpu n_gpus": {"0": "device=cpu", "1": "device=cuda"},
    "gpu gpu_id device_id": _NUMBERED,
    "cuda use_cuda use_gpu": {"true": "device=cuda", "false": "device=cpu"},
    "no_cuda use_cpu cpu": {"true": "device=cpu", "false": "device=auto"},
    "compile torch_compile torchcompile use_compile": {
        name: f"compile_model=true trainer.compile_backend={name}" for name in aliases.COMPILE_BACKENDS
    },
    "logger loggers report_to tracker log_with": {
        **dict.fromkeys(("wandb", "['wandb']"), _WANDB),
        **dict.fromkeys(("tensorboard", "tb", "['tensorboard']"), _TENSORBOARD),
        **dict.fromkeys(("all", "many_loggers"), f"{_TENSORBOARD} {_WANDB}"),
    },
    "early_stopping early_stop": {
        **dict.fromkeys(_OFF, "optimization.early_stopping_patience=0"),
        "true": "optimization.early_stopping_patience",
    },
    "gradient_clip_val max_grad_norm clip_grad clip_grad_norm grad_clip grad_clip_norm gradient_clipping": (
        dict.fromkeys(("0", "0.0", *_OFF), "optimization.gradient_clip_norm=null")
    ),
    "overfit_batches overfit": {
        **dict.fromkeys(("1", "true"), "overfit_one_batch=true"),
        **dict.fromkeys(("0", "0.0", "false"), "overfit_one_batch=false"),
    },
    "profiler profile": {
        **dict.fromkeys(
            ("true", "simple", "advanced", "pytorch"), "profile_training=true trainer.profiler_dir=profiler"
        ),
        **dict.fromkeys(_OFF, "profile_training=false"),
    },
    "do_train train training": {"true": "mode=train", "false": "mode=test"},
    "do_eval do_predict evaluate eval test eval_only test_only": {"true": "mode=test"},
    "pretrained pretrained_weights initial_checkpoint": {"false": "model.pretrained=false"},
    "resume resume_from resume_training ckpt_path ckpt load_from resume_from_checkpoint": {
        **dict.fromkeys(("true", "last", "latest"), "checkpoint.resume_from_checkpoint=auto"),
        **dict.fromkeys(_OFF, "checkpoint.resume_from_checkpoint=null"),
    },
    "save_top_k": {
        "-1": "checkpoint.keep_every=1",
        "0": "checkpoint.save_checkpoints=false",
        "1": "checkpoint.keep_best_only=true",
    },
    "log_level verbosity": {name: f"logging.log_level={name.upper()}" for name in _LEVELS},
    "verbose": {"true": "logging.log_level=DEBUG", "false": "logging.log_level=INFO"},
}
