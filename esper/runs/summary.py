"""The summary of a finished run: one model, the best one, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from esper.kasmina.model_buffers import preserve_buffers
from esper.leyline import FINISHED_BY
from esper.tolaria.evaluator import Evaluation
from esper.tolaria.recovery import HALTED
from esper.utils.device_and_rng import versions

if TYPE_CHECKING:
    from esper.tolaria.loop import TrainingLoop


SEED_KEYS = (
    "layer",
    "blueprint",
    "placement",
    "options",
    "stage",
    "params",
    "germinated_epoch",
    "blended_epoch",
    "fossilized_epoch",
    "culled_epoch",
    "impact",
    "impact_at_end",
    "reason",
)


def summarize(run: TrainingLoop, test: Evaluation | None, params_last: int) -> dict[str, Any]:
    """Everything that `summary.json` holds; the run's model is the best one by now.

    `params_last` are the parameters of the last epoch's model, named only where they differ.
    """
    config, progress, mark = run.config, run.progress, run.best.score
    counts = run.growth.controller.counts if run.growth is not None else {}
    params = run.model.total_params()
    summary = {
        "session_name": config.session_name,
        "session_description": config.session_description,
        "experiment_id": config.experiment_id,
        "seed": config.seed,
        "device": str(run.components.device),
        "epochs_run": progress.epoch,
        "steps_run": progress.step,
        "stopped_by": progress.stopped_by,
        "params_host": run.model.host_params(),
        "params_final": params,
        "train_flops": progress.train_flops,
        "param_epochs": progress.param_steps / max(run.steps_per_epoch, 1),
        "best_epoch": mark.epoch if mark.epoch > 0 else None,
        "val_accuracy": mark.accuracy,
        "val_loss": mark.loss if math.isfinite(mark.loss) else None,
        "test_accuracy": test.accuracy if test else None,
        "test_loss": test.loss if test else None,
        "wall_s": progress.wall_s,
        "cpu_s": progress.cpu_s,
        "adaptations": {"proposed": 0, "applied": 0, "refused": 0} | counts,
        "seeds": seeds_of(run),
        "config_hash": config.hash(),
        "versions": versions(),
        "threads": torch.get_num_threads(),
    }
    if progress.stopped_by == HALTED:
        summary["reason"] = run.emergency_notifier.reason
    if params_last != params:
        summary["params_last"] = params_last
    return summary


def seeds_of(run: TrainingLoop) -> list[dict[str, Any]]:
    """The seeds of the model in place, and those that were culled on the way.

    `impact` is what a seed was judged by; `impact_at_end`, of seeds that are part of the model, what it is
    worth to the network as it came out: validation with it on against off, all else equal. A run that was cut
    short has none: it must end quickly, and is not finished.
    """
    at_end = _impacts_at_end(run)
    alive_records = [r.to_json() | {"impact_at_end": at_end.get(r.key)} for r in run.model.alive_records()]
    # culled after the best epoch: the best model still bears it
    here = {_life(record) for record in alive_records}
    gone = [record for record in run.seeds.removed if _life(record) not in here]
    return [_entry({"impact_at_end": None, **record}) for record in (*gone, *alive_records)]


def _impacts_at_end(run: TrainingLoop) -> dict[str, dict[str, Any]]:
    joined = [record for record in run.model.alive_records() if record.joined]
    if not joined or (run.config.mode == "train" and run.progress.stopped_by not in FINISHED_BY):
        return {}
    modules = [run.model.seed_module(record) for record in joined]
    with preserve_buffers(run.model):
        found = run.measurements.take(
            "the impact of the seeds at the end", lambda: run.evaluator.impacts(modules, run.probe.held_out)
        )
    if found is None:
        return {}
    return {record.key: asdict(impact) for record, impact in zip(joined, found, strict=True)}


def _life(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return record["layer"], record["index"], record["germinated_step"]


def _entry(record: Mapping[str, Any]) -> dict[str, Any]:
    entry = {"layer": record["layer"], "seed": record["index"]}
    for key in SEED_KEYS:
        value = record[key]
        never = key.endswith("_epoch") and value < 0
        entry[key] = None if never else value
    return entry
