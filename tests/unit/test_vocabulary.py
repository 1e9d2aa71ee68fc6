"""The tree uses standard terms; words of its former private vocabulary are not left anywhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SEARCHED = ("esper", "conf", "scripts", "tests", "docs", "examples", "README.md", "CONTRIBUTING.md")
SUFFIXES = (".py", ".yaml", ".md", "")

# Former names of classes, functions, modules and variables, and their standard names.
NAMES = {
    "Alarm": "EmergencyNotifier",
    "Attempts": "BestEffortWriter",
    "Backlog": "BoundedQueue",
    "Broadcaster": "Worker",
    "CheckpointWish": "CheckpointRequest",
    "ControlLoop": "GrowthController",
    "DeviceLoader": "InMemoryLoader",
    "Display": "ProgressBar",
    "FlopRoom": "FlopBudget",
    "Governor": "DivergenceDetector",
    "Ground": "Budget",
    "Growing": "PendingSeed",
    "HostLoader": "MapStyleLoader",
    "Interrupted": "RunInterrupted",
    "Ledger": "OutcomeHistory",
    "Machinery": "wiring",
    "Meter": "RunningMetrics",
    "Recorder": "LoggerHub",
    "Rebuilds": "CircuitBreaker",
    "Says": "ScriptedPolicy",
    "Scout": "CandidateSearch",
    "Sink": "Logger",
    "StateManager": "StateRegistry",
    "StepLines": "StepMetrics",
    "Tally": "ConflictStats or FaultCounts",
    "Tap": "ActivationTap",
    "Unhealthy": "DivergenceError",
    "Verdict": "PruningDecision or GateResult",
    "Watcher": "ProgressCallback",
    "Wishes": "RunControl",
    "_Crew": "Worker",
    "_chosen": "select",
    "_settle": "process",
    "_tell": "emit",
    "appraisal": "scoring",
    "battery": "fault_suite",
    "bury": "remove",
    "carry_out": "run_job",
    "census": "state_walk",
    "complain": "print_errors",
    "desk": "make_controller",
    "epoch_line": "epoch_record",
    "expel": "remove_seed",
    "foresight": "lookahead",
    "habits": "options or default_augmentation",
    "implant": "load_kernel",
    "kind_worth": "prior_value",
    "load_newest": "load_latest",
    "machinery": "wiring",
    "open_door": "start_control_server",
    "soundness": "finite",
    "stray_hooks": "leaked_hooks",
    "surroundings": "process",
    "take_up": "restore_run",
    "transplant": "load_kernel",
    "trial_with": "copy_with_seed",
    "uproot": "detach",
    "vouch": "mark_good",
    "watcher": "callback",
    "wording": "event_payloads",
    "youth": "seed_hyperparameters",
}
# Words of prose, which were also names of variables.
PROSE = {
    "going on": "resuming",
    "so-manieth": "n-th",
    "stranger": "foreign",
    "tells": "returns, logs or distinguishes",
    "told": "logged",
    "said": "message",
    "what became of": "the outcome of",
    "what came out": "results",
    "whoever": "a process or a user that",
    "wish": "request",
    "wishes": "requests",
}
WORDS = NAMES | PROSE
# Keys in saved state and in messages between processes keep their names; there they are quoted strings.
KEYS = ("said", "tally", "told")


def former_words(text: str, words: dict[str, str]) -> Iterator[tuple[int, str]]:
    """Line and word of each former word in a text."""
    present = [word for word in words if word in text]  # fast, and mostly empty
    if not present:
        return
    pattern = rf"(?<![\w-])({'|'.join(map(re.escape, present))})(?![\w-])"
    for match in re.finditer(pattern, text):
        is_key = match[1] in KEYS and text[match.start() - 1] == text[match.end()] == '"'
        if not is_key:
            yield text.count("\n", 0, match.start()) + 1, match[1]


def sources() -> Iterator[Path]:
    for name in SEARCHED:
        path = ROOT / name
        files = [path] if path.is_file() else path.rglob("*")
        yield from (file for file in files if file.suffix in SUFFIXES and file.is_file())


def test_no_former_word_is_left() -> None:
    found = []
    for file in sources():
        name = str(file.relative_to(ROOT))
        if file != Path(__file__):
            hits = [*former_words(file.read_text(encoding="utf-8"), WORDS), *former_words(file.stem, NAMES)]
            found += [f"{name}:{line}: {word!r}, write {WORDS[word]!r}" for line, word in hits]
    assert not found, "\n".join(found)


def test_a_former_word_is_found_but_not_as_a_key() -> None:
    text = "class Tally:\n    told = state['told']  # the wish\n"
    assert list(former_words(text, NAMES | PROSE)) == [(1, "Tally"), (2, "told"), (2, "told"), (2, "wish")]
    assert list(former_words('{"told": state["tally"], "a": TallyOf, "b": expel-1}', NAMES | PROSE)) == []
