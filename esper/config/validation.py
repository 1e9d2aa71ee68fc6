"""What each option may hold: ranges, choices, names, and what options owe each other."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from esper.config import aliases as names
from esper.config.familiar import familiar_value
from esper.config.messages import error_message, nearest_name
from esper.config.targets import PACKAGES, TARGET, is_dotted, name_problems, nested_targets

Options = Mapping[str, Any]  # dotted name to value


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition on one option's value, and what it asks for in words; null is never asked."""

    expected: str
    holds: Callable[[Any], bool]
    names: tuple[str, ...] = ()  # for the nearest one

    def problems(self, key: str, value: Any) -> Iterator[str]:
        if value is None or self.holds(value):
            return
        near = familiar_value(key, value)
        if near is None and isinstance(value, str) and self.names:
            near = nearest_name(value, self.names, 0.5 if len(self.names) > 1 else 0.0)
        yield error_message(key, value, self.expected, near)


def _number(low: float, high: float = math.inf, *, above: bool = False, below: bool = False) -> Rule:
    """Finite, from `low` to `high`; `above` and `below` leave the ends out."""
    bounds = f"{'above' if above else 'at least'} {low}"
    if high < math.inf:
        bounds += f" and {'below' if below else 'at most'} {high}"

    def holds(value: float) -> bool:
        inside_low = value > low if above else value >= low
        inside_high = value < high if below else value <= high
        return math.isfinite(value) and inside_low and inside_high

    return Rule(f"a number {bounds}", holds)


def _choice(*allowed: str) -> Rule:
    return Rule(f"one of {', '.join(allowed)}", lambda value: value in allowed, allowed)


def _name(table: Iterable[str]) -> Rule:
    known = tuple(sorted(table))
    expected = f"one of {', '.join(known)}, or a dotted target"
    return Rule(expected, lambda value: value in known or is_dotted(value), known)


def _url(*schemes: str) -> Rule:
    def holds(value: str) -> bool:
        try:
            parts = urlsplit(value)
            return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
        except ValueError:
            return False

    return Rule(f"a URL that begins with {' or '.join(f'{s}://' for s in schemes)} and names a host", holds)


_TEXT = Rule("a text that is not empty", lambda value: bool(value.strip()))
_COUNT, _NATURAL = _number(1), _number(0)
_POSITIVE, _SHARE = _number(0, above=True), _number(0, 1)
_NO_PICKLE = ".safetensors"
_POLICY = "morphogenetic.policy"
_RUN_FILES = ("config.yaml", "events.jsonl", "metrics.jsonl", "summary.json")

RULES: dict[str, Rule] = {
    "mode": _choice("train", "test"),
    "seed": _number(0, 2**32 - 1),
    "session_name": _TEXT,
    "device": Rule(
        "auto, cpu, cuda, cuda:<number> or mps",
        lambda value: re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value) is not None,
        ("auto", "cpu", "cuda", "mps"),
    ),
    "mixed_precision": Rule(
        "false, true, bf16 or fp16", lambda value: value in (False, True, "bf16", "fp16"), ("bf16", "fp16")
    ),
    "run_dir": _TEXT,
    "allowed_targets": Rule(
        "names of modules or packages", lambda value: all(is_dotted(f"{name}._") for name in value)
    ),
    "urza_url": _url("http", "https"),
    "tamiyo_url": _url("http", "https"),
    "oona_redis_url": _url("redis", "rediss"),
    "model.architecture": _name(names.MODELS),
    "model.num_classes": _COUNT,
    "model.pretrained": Rule(
        f"false or the path of a {_NO_PICKLE} file", lambda value: value is False or _is_safe(value)
    ),
    "model.target_layers": Rule("at least one type, type name or path pattern", bool),
    "model.seeds_per_layer": _COUNT,
    "model.cache_size_mb": _COUNT,
    "dataset.name": _name(names.DATASETS),
    "dataset.data_root": _TEXT,
    "dataset.batch_size": _COUNT,
    "dataset.num_workers": _NATURAL,
    "dataset.validation_split": _number(0, 1, below=True),
    "dataset.test_split": _number(0, 1, below=True),
    "dataset.batch_form": Rule("a dotted target", is_dotted),
    "optimization.optimizer": _name(names.OPTIMIZERS),
    "optimization.learning_rate": _POSITIVE,
    "optimization.weight_decay": _NATURAL,
    "optimization.momentum": _number(0, 1, below=True),
    "optimization.scheduler": _name(names.SCHEDULERS),
    "optimization.max_epochs": _COUNT,
    "optimization.early_stopping_patience": _NATURAL,
    "optimization.early_stopping_min_delta": _NATURAL,
    "optimization.loss_function": _name(names.LOSSES),
    "optimization.metric": _name(names.METRICS),
    "optimization.gradient_clip_norm": _POSITIVE,
    "optimization.gradient_clip_scope": _choice("all", "group"),
    "optimization.accumulation_steps": _COUNT,
    "morphogenetic.tamiyo_url": _url("http", "https"),
    "morphogenetic.max_params_ratio": _number(1),
    "morphogenetic.max_flops_ratio": _number(1),
    "morphogenetic.decision_frequency": _COUNT,
    "morphogenetic.decision_interval_steps": _COUNT,
    "morphogenetic.decision_interval_epochs": _number(0, 1, above=True),
    "morphogenetic.max_adaptations_per_epoch": _NATURAL,
    "morphogenetic.adaptation_cooldown": _NATURAL,
    "morphogenetic.adaptation_cooldown_epochs": _NATURAL,
    "morphogenetic.confidence_threshold": _SHARE,
    "morphogenetic.urgency_threshold": _SHARE,
    "morphogenetic.lookahead_steps": _NATURAL,
    "morphogenetic.health_signal_interval": _COUNT,
    "morphogenetic.performance_window": _COUNT,
    "morphogenetic.enable_blueprint_generation": Rule(
        "false: blueprint generation is not available in this version", lambda value: value is False
    ),
    "morphogenetic.blueprint_generation_frequency": _COUNT,
    "morphogenetic.seed.isolation_steps": _NATURAL,
    "morphogenetic.seed.isolation_learning_rate": _POSITIVE,
    "morphogenetic.seed.blend_steps": _NATURAL,
    "morphogenetic.seed.blend_schedule": _choice("linear", "cosine", "sigmoid"),
    "morphogenetic.seed.blend_mode": _choice("additive", "gated"),
    "morphogenetic.seed.learning_rate_scale": _POSITIVE,
    "morphogenetic.seed.warmup_steps": _NATURAL,
    "morphogenetic.seed.probation_epochs": _NATURAL,
    "morphogenetic.seed.embargo_epochs": _NATURAL,
    "morphogenetic.seed.probe_samples": _COUNT,
    "morphogenetic.seed.impact_samples": _NATURAL,
    "checkpoint.checkpoint_dir": _TEXT,
    "checkpoint.checkpoint_frequency": _COUNT,
    "checkpoint.max_checkpoints": _COUNT,
    "checkpoint.keep_every": _NATURAL,
    "checkpoint.model_save_path": Rule(f"a path that ends in {_NO_PICKLE}", lambda value: _is_safe(value)),
    "checkpoint.resume_from_checkpoint": _TEXT,
    "checkpoint.snapshot_limit_mb": _COUNT,
    "checkpoint.snapshot_interval_steps": _COUNT,
    "logging.log_level": _choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
    "logging.log_format": _choice("structured", "json", "plain"),
    "logging.log_file": _TEXT,
    "logging.metrics_interval": _COUNT,
    "logging.step_interval": _NATURAL,
    "logging.metrics_file": _TEXT,
    "logging.wandb_project": _TEXT,
    "logging.tensorboard_log_dir": _TEXT,
    "trainer.num_threads": _COUNT,
    "trainer.compile_backend": _choice(*names.COMPILE_BACKENDS),
    "trainer.profiler_dir": _TEXT,
    "trainer.profiler_active_steps": _COUNT,
    "trainer.hook_budget_ms": _POSITIVE,
    "trainer.seed_weighting": _choice("none", "report", "apply"),
    "trainer.tolaria_seed_layer_topk": _COUNT,
    "trainer.limit_train_batches": _COUNT,
    "trainer.limit_val_batches": _COUNT,
    "trainer.governor_interval_steps": _COUNT,
    "trainer.governor_loss_factor": _number(1, above=True),
    "trainer.max_rollbacks": _NATURAL,
    "trainer.rollback_lr_factor": _number(0, 1, above=True),
    "trainer.rollback_deadline_ms": _POSITIVE,
    "trainer.aggregation": _name((names.PLAIN_SUM, *names.AGGREGATORS)),
    "trainer.grad_conflict_threshold": _SHARE,
    "services.tamiyo": Rule(
        "local: http is not available in this version", lambda v: v == "local", ("local",)
    ),
    "services.probe_timeout_s": _POSITIVE,
    "services.probe_interval_s": _POSITIVE,
}


def rule_violations(options: Options) -> list[str]:
    """A sentence for every option out of its range and every pair that contradicts itself."""
    single = [text for key, rule in RULES.items() for text in rule.problems(key, options[key])]
    return single + [text for check in _TOGETHER for text in check(options)]


def _is_safe(value: Any) -> bool:
    return isinstance(value, str) and value.endswith(_NO_PICKLE) and value != _NO_PICKLE


def _splits(options: Options) -> Iterator[str]:
    validation, test = options["dataset.validation_split"], options["dataset.test_split"]
    if validation < 1 and test < 1 and not validation + test < 1:
        given = f"{validation:g} + {test:g}"
        yield error_message("dataset.validation_split + dataset.test_split", given, "a sum below 1")


def _policy(options: Options) -> Iterator[str]:
    key, rule = f"{_POLICY}.{TARGET}", _name(names.POLICIES)
    target = options[_POLICY].get(TARGET)
    if isinstance(target, str):
        yield from rule.problems(key, target)
    else:
        yield error_message(key, target, rule.expected)


def _targets(options: Options) -> Iterator[str]:
    packages = (*PACKAGES, *options["allowed_targets"])
    named = {key: options[key] for key in names.SHORT_NAMES} | {
        f"{_POLICY}.{TARGET}": options[_POLICY].get(TARGET)
    }
    for key, value in named.items():
        if isinstance(value, str) and is_dotted(value):
            near = nearest_name(value.rpartition(".")[2], names.SHORT_NAMES.get(key, names.POLICIES))
            yield from name_problems(key, value, packages, near)
    for key, value in options.items():
        for place, target in nested_targets(value, key):
            if place not in named:
                yield from name_problems(place, target, packages)


def _own_files(options: Options) -> Iterator[str]:
    """A file that a run writes anyway must not be overwritten by another of its files."""
    for key in ("logging.metrics_file", "logging.log_file"):
        if options[key] in _RUN_FILES:
            yield error_message(
                key, options[key], f"another name than those of a run: {', '.join(_RUN_FILES)}"
            )


def _profiler(options: Options) -> Iterator[str]:
    if options["profile_training"] and options["trainer.profiler_dir"] is None:
        yield error_message(
            "trainer.profiler_dir",
            None,
            "a folder for the traces, because profile_training is true",
            "profiler",
        )


def _test_mode(options: Options) -> Iterator[str]:
    if options["mode"] == "test" and options["checkpoint.resume_from_checkpoint"] is None:
        yield error_message(
            "checkpoint.resume_from_checkpoint", None, "a checkpoint or a run folder, because mode is test"
        )


_TOGETHER = (_splits, _policy, _targets, _own_files, _profiler, _test_mode)
