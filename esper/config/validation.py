"""Checks of a configuration: the rule of each option, and what several options must agree on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from esper.config import aliases as names
from esper.config.messages import error_message, nearest_name
from esper.config.option import name_or_target, option_infos
from esper.config.serialization import ConfigGroup, options
from esper.config.targets import PACKAGES, TARGET, is_dotted, name_problems, nested_targets

Options = Mapping[str, Any]  # dotted name to value


_POLICY = "morphogenetic.policy"
_RUN_FILES = ("config.yaml", "events.jsonl", "metrics.jsonl", "summary.json")


def rule_violations(group: ConfigGroup) -> list[str]:
    """A sentence for every option that breaks its rule and every pair that contradicts itself."""
    values = options(group)
    rules = {key: info.rule for key, info in option_infos(type(group)).items()}
    single = [text for key, rule in rules.items() if rule for text in rule.problems(key, values[key])]
    return single + [text for check in _TOGETHER for text in check(values)]


def _splits(options: Options) -> Iterator[str]:
    validation, test = options["dataset.validation_split"], options["dataset.test_split"]
    if validation < 1 and test < 1 and not validation + test < 1:
        given = f"{validation:g} + {test:g}"
        yield error_message("dataset.validation_split + dataset.test_split", given, "a sum below 1")


def _policy(options: Options) -> Iterator[str]:
    key, rule = f"{_POLICY}.{TARGET}", name_or_target(names.POLICIES)
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
