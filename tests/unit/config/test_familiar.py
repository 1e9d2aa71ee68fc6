"""Names from Lightning, Hugging Face, timm and Hydra templates are answered with Esper's own option."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from esper.cli.composer import Composer
from esper.cli.flags import Flags
from esper.config import TolariaConfig
from esper.config.familiar import familiar_names, familiar_value, translate, translate_choice
from esper.config.familiar_names import CHOICES, OPTIONS, QUALIFIED, WORDS
from esper.config.serialization import enclosing_dict, option_names, option_type
from esper.config.unknown import unknown_key
from esper.errors import ConfigError

GROUPS = Composer(Flags()).groups(())
VALID = list(option_names(TolariaConfig))
NO_OPTION = "expected no such option ("

# A name, its value in the other library, and what can be pasted instead.
OPTION_CASES: list[tuple[str, Any, str]] = [
    ("lr", 0.1, "optimization.learning_rate=0.1"),
    ("lr", "1e-3", "optimization.learning_rate=1e-3"),
    ("learning_rate", 5e-5, "optimization.learning_rate=5e-05"),
    ("batch_size", 64, "dataset.batch_size=64"),
    ("per_device_train_batch_size", 8, "dataset.batch_size=8"),
    ("per_device_eval_batch_size", 8, "dataset.batch_size"),
    ("epochs", 5, "optimization.max_epochs=5"),
    ("max_epochs", 5, "optimization.max_epochs=5"),
    ("num_epochs", 5, "optimization.max_epochs=5"),
    ("num_train_epochs", 3.0, "optimization.max_epochs=3"),
    ("max_epochs", -1, "optimization.max_epochs"),
    ("max_steps", 1000, "optimization.max_epochs"),
    ("precision", 16, "mixed_precision=fp16"),
    ("precision", "16-mixed", "mixed_precision=fp16"),
    ("precision", "bf16-mixed", "mixed_precision=bf16"),
    ("precision", 32, "mixed_precision=false"),
    ("precision", "32-true", "mixed_precision=false"),
    ("precision", 64, "mixed_precision"),
    ("fp16", True, "mixed_precision=fp16"),
    ("fp16", False, "mixed_precision=false"),
    ("bf16", True, "mixed_precision=bf16"),
    ("amp", True, "mixed_precision=true"),
    ("amp_dtype", "bfloat16", "mixed_precision=bf16"),
    ("accumulate_grad_batches", 4, "optimization.accumulation_steps=4"),
    ("gradient_accumulation_steps", 4, "optimization.accumulation_steps=4"),
    ("gradient_clip_val", 0.5, "optimization.gradient_clip_norm=0.5"),
    ("gradient_clip_val", 0, "optimization.gradient_clip_norm=null"),
    ("max_grad_norm", 1.0, "optimization.gradient_clip_norm=1.0"),
    ("clip_grad", 1, "optimization.gradient_clip_norm=1"),
    ("logger", "wandb", "logging.use_wandb=true"),
    ("logger", "tensorboard", "logging.use_tensorboard=true"),
    ("wandb", True, "logging.use_wandb=true"),
    ("tensorboard", True, "logging.use_tensorboard=true"),
    ("report_to", "wandb", "logging.use_wandb=true"),
    ("report_to", ["tensorboard"], "logging.use_tensorboard=true"),
    ("devices", 1, "device=auto"),
    ("devices", [0], "device=cuda:0"),
    ("devices", 4, "device"),
    ("accelerator", "gpu", "device=cuda"),
    ("accelerator", "cpu", "device=cpu"),
    ("accelerator", "tpu", "device"),
    ("gpus", 1, "device=cuda"),
    ("gpus", 0, "device=cpu"),
    ("gpus", 8, "device"),
    ("gpu", 3, "device=cuda:3"),
    ("no_cuda", True, "device=cpu"),
    ("num_workers", 8, "dataset.num_workers=8"),
    ("dataloader_num_workers", 0, "dataset.num_workers=0"),
    ("workers", 8, "dataset.num_workers=8"),
    ("weight_decay", 0.05, "optimization.weight_decay=0.05"),
    ("wd", 0, "optimization.weight_decay=0"),
    ("momentum", 0.9, "optimization.momentum=0.9"),
    ("opt", "adamw", "optimization.optimizer=adamw"),
    ("optim", "adamw_torch", "optimization.optimizer=adamw"),
    ("optimizer", "SGD", "optimization.optimizer=sgd"),
    ("optimizer", "torch.optim.SGD", "optimization.optimizer=torch.optim.SGD"),
    ("optimizer", "lion", "optimization.optimizer"),
    ("sched", "cosine", "optimization.scheduler=cosine"),
    ("lr_scheduler", "StepLR", "optimization.scheduler=step"),
    ("lr_scheduler_type", "constant", "optimization.scheduler=none"),
    ("scheduler", "linear", "optimization.scheduler"),
    ("warmup_steps", 500, "optimization.scheduler_params.warmup_steps=500"),
    ("warmup_epochs", 5, "optimization.scheduler_params.warmup_steps"),
    ("warmup_ratio", 0.1, "optimization.scheduler_params.warmup_steps"),
    ("resume", "outputs/x", "checkpoint.resume_from_checkpoint=outputs/x"),
    ("resume", True, "checkpoint.resume_from_checkpoint=auto"),
    ("resume_from", "last", "checkpoint.resume_from_checkpoint=auto"),
    ("ckpt_path", "a b/last", "'checkpoint.resume_from_checkpoint=\"a b/last\"'"),
    ("ckpt_path", None, "checkpoint.resume_from_checkpoint=null"),
    ("output_dir", "runs/1", "run_dir=runs/1"),
    ("default_root_dir", "runs", "run_dir=runs"),
    ("run_name", "first", "session_name=first"),
    ("name", "first", "session_name=first"),
    ("seed_everything", 42, "seed=42"),
    ("seed_everything", True, "seed"),
    ("random_seed", 1, "seed=1"),
    ("deterministic", True, "trainer.deterministic=true"),
    ("patience", 3, "optimization.early_stopping_patience=3"),
    ("early_stopping", False, "optimization.early_stopping_patience=0"),
    ("early_stopping", True, "optimization.early_stopping_patience"),
    ("limit_train_batches", 10, "trainer.limit_train_batches=10"),
    ("limit_train_batches", 0.1, "trainer.limit_train_batches"),
    ("limit_val_batches", 5, "trainer.limit_val_batches=5"),
    ("overfit_batches", 1, "overfit_one_batch=true"),
    ("overfit_batches", 10, "overfit_one_batch"),
    ("fast_dev_run", True, "dry_run=true"),
    ("compile", True, "compile_model=true"),
    ("torch_compile", False, "compile_model=false"),
    ("torchcompile", "inductor", "compile_model=true trainer.compile_backend=inductor"),
    ("data_dir", "/data", "dataset.data_root=/data"),
    ("data_root", "./data", "dataset.data_root=./data"),
    ("num_classes", 10, "model.num_classes=10"),
    ("pretrained", True, "model.pretrained"),
    ("pretrained", False, "model.pretrained=false"),
    ("arch", "resnet18", "model.architecture=resnet18"),
    ("arch", "resnet152", "model.architecture"),
    ("smoothing", 0.1, "optimization.loss_params.label_smoothing=0.1"),
    ("label_smoothing", 0.1, "optimization.loss_params.label_smoothing=0.1"),
    ("val_split", 0.2, "dataset.validation_split=0.2"),
    ("validation_split_percentage", 5, "dataset.validation_split=0.05"),
    ("loss", "mse", "optimization.loss_function=mse"),
    ("criterion", "CrossEntropyLoss", "optimization.loss_function=cross_entropy"),
    ("do_train", True, "mode=train"),
    ("do_eval", True, "mode=test"),
    ("log_level", "info", "logging.log_level=INFO"),
    ("logging_steps", 50, "logging.step_interval=50"),
    ("log_every_n_steps", 50, "logging.step_interval=50"),
    ("save_steps", 500, "checkpoint.checkpoint_frequency"),
    ("save_total_limit", 2, "checkpoint.max_checkpoints=2"),
    ("save_top_k", 3, "checkpoint.max_checkpoints=3"),
    ("save_top_k", -1, "checkpoint.keep_every=1"),
    ("save_top_k", 1, "checkpoint.keep_best_only=true"),
    ("monitor", "val/acc", "optimization.metric"),
    ("profiler", "simple", "profile_training=true trainer.profiler_dir=profiler"),
    ("disable_tqdm", True, "logging.progress=false"),
    ("detect_anomaly", True, "debug_mode=true"),
    # inside of groups, foreign ones and our own
    ("trainer.max_epochs", 5, "optimization.max_epochs=5"),
    ("trainer.precision", 16, "mixed_precision=fp16"),
    ("trainer.accumulate_grad_batches", 4, "optimization.accumulation_steps=4"),
    ("trainer.devices", 1, "device=auto"),
    ("optimization.lr", 0.1, "optimization.learning_rate=0.1"),
    ("optimizer.lr", 0.1, "optimization.learning_rate=0.1"),
    ("optimizer._target_", "torch.optim.AdamW", "optimization.optimizer=torch.optim.AdamW"),
    ("optim.name", "sgd", "optimization.optimizer=sgd"),
    ("scheduler.gamma", 0.9, "optimization.scheduler_params.gamma=0.9"),
    ("data.batch_size", 32, "dataset.batch_size=32"),
    ("data.name", "mnist", "dataset.name=mnist"),
    ("model.lr", 0.1, "optimization.learning_rate=0.1"),
    ("model.name", "resnet18", "model.architecture=resnet18"),
    ("logging.wandb", True, "logging.use_wandb=true"),
    ("logging.level", "debug", "logging.log_level=DEBUG"),
    # an option of another group
    ("trainer.seeds_per_layer", 2, "model.seeds_per_layer=2"),
    (
        "optimizer",
        {"lr": 0.1, "weight_decay": 0},
        "optimization.learning_rate=0.1 optimization.weight_decay=0",
    ),
    ("data", {"batch_size": 32, "download": False}, "dataset.batch_size=32 dataset.download=false"),
]

# A name, its value, and what the sentence says where there is no such option.
NOTE_CASES: list[tuple[str, Any, str]] = [
    ("strategy", "ddp", "Esper trains in one process on one device"),
    ("num_nodes", 2, "Esper trains in one process on one device"),
    ("local_rank", 0, "Esper trains in one process on one device"),
    ("swa", True, "Esper does not average weights"),
    ("ema", True, "Esper does not average weights"),
    ("model_ema", True, "Esper does not average weights"),
    ("check_val_every_n_epoch", 1, "Esper validates after every epoch"),
    ("eval_steps", 500, "Esper validates after every epoch"),
    ("logger", "csv", "metrics.jsonl is always written"),
    ("report_to", "none", "metrics.jsonl is always written"),
    ("mlflow", True, "logging.use_tensorboard and logging.use_wandb"),
    ("benchmark", True, "cuDNN is left as PyTorch has it"),
    ("load_best_model_at_end", True, "esper.load returns the model of the best epoch"),
    ("limit_test_batches", 5, "the test set is read to its end"),
    ("mixup", 0.2, "crop_padding, horizontal_flip and cutout"),
    ("img_size", 32, "as the dataset's images are"),
    ("gradient_checkpointing", True, "activations are kept"),
    ("overwrite_output_dir", True, "never overwritten"),
    ("min_epochs", 3, "optimization.max_epochs"),
]


@pytest.mark.parametrize(("key", "given", "words"), OPTION_CASES)
def test_the_option_that_can_be_pasted(key: str, given: Any, words: str) -> None:
    text = unknown_key(key, given, VALID)
    assert text.startswith(f"{key}: given an unknown key (value ")
    assert text.endswith(f"; nearest: {words}")


@pytest.mark.parametrize(("key", "given", "note"), NOTE_CASES)
def test_without_such_an_option_the_sentence_says_what_esper_does(key: str, given: Any, note: str) -> None:
    text = unknown_key(key, given, VALID)
    assert NO_OPTION in text
    assert note in text
    assert "nearest" not in text


@pytest.mark.parametrize(("key", "given", "words"), OPTION_CASES)
def test_what_is_suggested_is_accepted(key: str, given: Any, words: str) -> None:
    """Every word with a value makes a configuration without a problem."""
    from omegaconf import OmegaConf

    data: dict[str, Any] = {}
    for word in words.strip("'").replace('"', "").split(" "):
        option, has_value, value = word.partition("=")
        if has_value:
            data |= {option: OmegaConf.create(f"x: {value}")["x"]}
    nested: Any = OmegaConf.create({})
    for option, value in data.items():
        OmegaConf.update(nested, option, value)
    config = TolariaConfig.from_dict(OmegaConf.to_container(nested))  # type: ignore[arg-type]
    named = [text for text in config.validate() if any(text.startswith(option) for option in data)]
    # which checkpoint mode=test reads is for the user to say
    assert [text for text in named if "mode is test" not in text] == []


def test_every_option_that_is_named_exists() -> None:
    words = [word for table in WORDS.values() for words in table.values() for word in words.split()]
    named = {option for option, _, _ in OPTIONS} | {word.partition("=")[0] for word in words}
    for option in sorted(named):
        assert option_type(TolariaConfig, option) or enclosing_dict(TolariaConfig, option), option
    for choice in filter(None, CHOICES.values()):
        group, _, name = choice.partition("=")
        assert option_type(TolariaConfig, group) or name in GROUPS[group], choice


def test_every_name_is_known_once_and_is_no_option() -> None:
    names = [name for _, _, names in OPTIONS for name in names.split()]
    assert len(names) == len(set(names))
    top_level = {name for name in VALID if "." not in name}
    assert {"mixed_precision"} >= top_level & set(names)
    assert len(familiar_names()) > 250
    assert set(QUALIFIED.values()) <= set(names)


@pytest.mark.parametrize(("key", "given", "words"), [*OPTION_CASES[:6], OPTION_CASES[13]])
def test_from_dict_answers_the_same(key: str, given: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TolariaConfig.from_dict({key: given})
    [text] = caught.value.problems
    assert text.endswith(f"; nearest: {words}")


def test_a_file_in_the_way_of_lightning(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        "seed_everything: 42\n"
        "trainer: {max_epochs: 5, precision: 16-mixed, devices: 1, strategy: ddp}\n"
        "data: {batch_size: 32}\n"
        "optimizer: {name: adamw, lr: 0.1}\n"
    )
    with pytest.raises(ConfigError) as caught:
        TolariaConfig.from_yaml(tmp_path / "run.yaml")
    found = [text.partition("; nearest: ")[2] for text in caught.value.problems]
    assert found == [
        "seed=42",
        "dataset.batch_size=32",
        "optimization.optimizer=adamw optimization.learning_rate=0.1",
        "optimization.max_epochs=5",
        "mixed_precision=fp16",
        "device=auto",
        "",
    ]


def test_a_group_read_alone_gets_its_own_names() -> None:
    from esper.config import OptimizationConfig

    with pytest.raises(ConfigError) as caught:
        OptimizationConfig.from_dict({"lr": 0.1})
    assert caught.value.problems[0].endswith("; nearest: learning_rate=0.1")


@pytest.mark.parametrize("key", ["morphogenetic.seed.lr", "services.name", "hydra.job.epochs", "frobnicate"])
def test_other_names_are_left_to_their_neighbours(key: str) -> None:
    assert translate(key, 1, VALID) is None


@pytest.mark.parametrize(
    ("key", "given", "value"),
    [
        ("device", "gpu", "cuda"),
        ("mixed_precision", 16, "fp16"),
        ("mixed_precision", "bf16-mixed", "bf16"),
        ("logging.log_level", "warning", "WARNING"),
        ("device", "tpu", None),
        ("seed", 1, None),
    ],
)
def test_a_value_from_elsewhere(key: str, given: Any, value: str | None) -> None:
    assert familiar_value(key, given) == value


@pytest.mark.parametrize(("data", "near"), [({"device": "gpu"}, "cuda"), ({"mixed_precision": 16}, "fp16")])
def test_the_value_stands_in_the_sentence(data: dict[str, Any], near: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config = TolariaConfig.from_dict(data)
        raise ConfigError(config.validate())
    [text] = caught.value.problems
    assert text.endswith(f"; nearest: {near}")


@pytest.mark.parametrize(
    ("group", "given", "words"),
    [
        ("optimization", "AdamW", "optimization.optimizer=adamw"),
        ("optimization", "cosine", "optimization.scheduler=cosine"),
        ("trainer", "gpu", "device=cuda"),
        ("trainer", "pcgrad", "trainer.aggregation=pcgrad"),
        ("debug", "fdr", "debug=few_batches"),
        (
            "model",
            "torchvision.models.resnet18",
            "model=custom model.architecture=torchvision.models.resnet18",
        ),
    ],
)
def test_a_choice_of_another_template(group: str, given: str, words: str) -> None:
    found = translate_choice(group, given)
    assert found is not None and found.words == words


def test_a_choice_that_is_not_there() -> None:
    found = translate_choice("trainer", "ddp")
    assert found is not None and found.words == "" and "one process on one device" in found.note
    assert translate_choice("model", "resnet19") is None
