"""The summary is about one model, the best one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from helpers.runs import PlannedPolicy, germinate, make_run, seed_command

from esper.leyline import CommandKind
from esper.runs.summary import summarize
from esper.tolaria.loop import TrainingLoop

NAMES = (
    *("session_name", "seed", "device", "epochs_run", "stopped_by", "params_host", "params_final"),
    *("train_flops", "param_epochs", "best_epoch", "val_accuracy", "val_loss", "test_accuracy", "test_loss"),
    *("wall_s", "cpu_s", "adaptations", "seeds", "config_hash", "versions", "threads"),
)
SEED_NAMES = (
    *("layer", "seed", "blueprint", "stage", "params"),
    *("germinated_epoch", "blended_epoch", "fossilized_epoch", "impact"),
)


def finished(run: TrainingLoop) -> dict[str, Any]:
    run.train()
    last = run.model.total_params()
    test = run.test()
    return json.loads(json.dumps(summarize(run, test, last), allow_nan=False))  # type: ignore[no-any-return]


def growing(tmp_path: Path, commands: dict[int, Any], **options: Any) -> TrainingLoop:
    given = {"morphogenetic__max_params_ratio": 99.0, "optimization__max_epochs": 4}
    return make_run(tmp_path, tamiyo=PlannedPolicy(commands), **given | options)


def test_every_name_of_the_specification_is_there(tmp_path: Path) -> None:
    summary = finished(growing(tmp_path, {}, session_name="mine", seed=3))
    assert set(NAMES) <= summary.keys()
    assert (summary["session_name"], summary["seed"], summary["epochs_run"]) == ("mine", 3, 4)
    assert (summary["stopped_by"], summary["device"]) == ("max_epochs", "cpu")
    assert summary["adaptations"] == {"proposed": 0, "applied": 0, "refused": 0}
    assert summary["seeds"] == []
    assert summary["param_epochs"] == 4 * summary["params_host"]
    assert summary["wall_s"] > 0 < summary["cpu_s"]
    assert summary["versions"]["torch"] == torch.__version__
    assert "params_last" not in summary


def test_without_growth_there_is_nothing_to_count(tmp_path: Path) -> None:
    assert finished(make_run(tmp_path))["adaptations"] == {"proposed": 0, "applied": 0, "refused": 0}


def test_params_seeds_and_scores_are_the_best_models(tmp_path: Path) -> None:
    run = growing(tmp_path, {3: [germinate()]})
    # no later epoch counts: the network that was best had no seed yet
    run.best.consider = lambda *args, consider=run.best.consider: args[0] == 1 and consider(*args)  # type: ignore[method-assign, misc]
    summary = finished(run)
    assert summary["best_epoch"] == 1
    assert summary["params_final"] == summary["params_host"] == run.model.total_params()
    assert summary["params_last"] > summary["params_final"]
    assert summary["seeds"] == []
    assert summary["adaptations"] == {"proposed": 1, "applied": 1, "refused": 0}


def test_a_seed_tells_its_life(tmp_path: Path) -> None:
    commands = {
        1: [germinate(options={"hidden": 8})],
        3: [seed_command(CommandKind.FOSSILIZE, number=2)],
    }
    run = growing(tmp_path, commands, morphogenetic__seed__blend_steps=2)
    run.best.consider = lambda *args, consider=run.best.consider: args[0] == 4 and consider(*args)  # type: ignore[method-assign, misc]
    (seed,) = finished(run)["seeds"]
    assert set(SEED_NAMES) <= seed.keys()
    assert (seed["layer"], seed["seed"], seed["blueprint"]) == ("block1", 0, "conv_light")
    assert (seed["germinated_epoch"], seed["blended_epoch"]) == (1, 1)
    assert seed["options"] == {"hidden": 8}
    assert seed["impact"]["samples"] == 64
    fossilised = run.model.record("block1", 0).impact is not None and seed["impact"]["loss_gain"] > 0
    assert seed["stage"] == ("fossilized" if fossilised else "probationary")
    assert seed["fossilized_epoch"] == (3 if fossilised else None)
    assert seed["params"] == run.model.total_params() - run.model.host_params()


def test_a_culled_seed_is_told_too(tmp_path: Path) -> None:
    commands = {1: [germinate()], 2: [seed_command(CommandKind.CULL, number=2, reason="it was in the way")]}
    run = growing(tmp_path, commands, morphogenetic__seed__blend_steps=0)
    (seed,) = [s for s in finished(run)["seeds"] if s["stage"] == "culled"]
    assert (seed["culled_epoch"], seed["reason"]) == (2, "it was in the way")


def test_where_no_epoch_was_sound_there_is_no_best_loss(tmp_path: Path) -> None:
    run = growing(tmp_path, {})
    summary = summarize(run, None, run.model.total_params())
    assert (summary["best_epoch"], summary["val_loss"], summary["test_loss"]) == (None, None, None)
