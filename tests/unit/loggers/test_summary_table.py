from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from esper.loggers import build_summary_table, print_summary_table

_SUMMARY: dict[str, Any] = {
    "session_name": "esper_training",
    "epochs_run": 30,
    "stopped_by": "max_epochs",
    "params_host": 5994,
    "params_final": 12746,
    "best_epoch": 27,
    "val_accuracy": 0.9651,
    "val_loss": 0.1312,
    "test_accuracy": 0.9722,
    "test_loss": 0.102,
    "wall_s": 21.4,
    "adaptations": {"proposed": 4, "applied": 2, "refused": 2},
    "seeds": [
        {
            "layer": "stages.2.blocks.0.conv2",
            "seed": 1,
            "blueprint": "depthwise",
            "stage": "fossilized",
            "params": 2112,
            "germinated_epoch": 4,
            "blended_epoch": 6,
            "fossilized_epoch": 12,
            "impact": {"loss_gain": 0.0321, "loss_gain_error": 0.004, "accuracy_gain": 0.012, "samples": 500},
            "reason": "impact is above twice its error [on 500 held-out samples]",
        },
        {
            "layer": "f.8",
            "seed": 0,
            "blueprint": "noise",
            "stage": "culled",
            "params": 900,
            "germinated_epoch": 10,
            "blended_epoch": 12,
            "fossilized_epoch": None,
            "impact": {"loss_gain": -0.02, "loss_gain_error": 0.002, "accuracy_gain": -0.03, "samples": 500},
            "reason": "it does not help",
        },
    ],
}


def _print(summary: dict[str, Any], width: int) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width).print(build_summary_table(summary))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_it_says_what_came_out_and_what_each_seed_did_and_why() -> None:
    """Issue 2: accuracy, parameters before and after, what each seed did and why."""
    assert _print(_SUMMARY, 100) == [
        "esper_training",
        "test         accuracy 97.2%, loss 0.1020",
        "validation   accuracy 96.5%, loss 0.1312",
        "parameters   5,994 before, 12,746 after (x2.13)",
        "epochs       30, the best is 27; ended by max_epochs after 0:21",
        "adaptations  4 proposed, 2 applied, 2 refused",
        "seed         stages.2.blocks.0.conv2[1]: depthwise, 2,112 parameters, fossilized",
        "             epochs: germinated in 4, joined in 6, fossilized in 12",
        "             loss 0.0321 +- 0.0040 lower with it, accuracy +1.2 points",
        "             why: impact is above twice its error [on 500 held-out samples]",
        "seed         f.8[0]: noise, 900 parameters, culled",
        "             epochs: germinated in 10, joined in 12",
        "             loss 0.0200 +- 0.0020 higher with it, accuracy -3.0 points",
        "             why: it does not help",
    ]


@pytest.mark.parametrize("width", [40, 60])
def test_it_loses_no_word_on_a_narrow_terminal_or_in_a_file(width: int) -> None:
    lines = _print(_SUMMARY, width)
    assert all(len(line) <= width for line in lines)
    assert " ".join(" ".join(lines).split()) == " ".join(" ".join(_print(_SUMMARY, 200)).split())
    assert "\n".join(lines).isascii()


def test_a_task_without_accuracy_and_a_run_without_seeds() -> None:
    summary = {**_SUMMARY, "test_accuracy": None, "val_accuracy": None, "seeds": []}
    text = "\n".join(_print(summary, 80))
    assert "test         loss 0.1020" in text
    assert "seeds        none grew" in text
    assert "accuracy" not in text


def test_a_run_that_was_stopped_before_its_first_epoch() -> None:
    nothing = dict.fromkeys(
        ("val_accuracy", "val_loss", "test_accuracy", "test_loss", "best_epoch", "stopped_by")
    )
    lines = _print({**_SUMMARY, **nothing, "epochs_run": 0, "wall_s": 0.2, "seeds": []}, 80)
    assert "epochs       0 after 0:00" in lines
    assert not any(line.startswith(("test", "validation")) for line in lines)


def test_a_run_that_was_halted_says_why() -> None:
    halted = _SUMMARY | {"stopped_by": "emergency", "reason": "the loss is nan at step 9"}
    lines = _print(halted, 100)
    assert any("ended by emergency" in line for line in lines)
    assert any(line.startswith("halted") and "the loss is nan at step 9" in line for line in lines)
    assert not any(line.startswith("halted") for line in _print(_SUMMARY, 100))


@pytest.mark.parametrize("width", [40, 60, 200])
def test_a_table_in_a_file_has_no_blanks_at_the_ends_of_its_lines(width: int) -> None:
    shown = io.StringIO()
    print_summary_table(Console(file=shown, width=width), _SUMMARY)
    lines = shown.getvalue().splitlines()
    assert lines == [line.rstrip() for line in lines] and len(lines) > 5
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as captured:
        console.print(build_summary_table(_SUMMARY))
    assert lines == [line.rstrip() for line in captured.get().splitlines()], "all else is as it was"
