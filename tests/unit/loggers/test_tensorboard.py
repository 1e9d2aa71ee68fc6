from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from esper.leyline import EPOCH_METRICS, Event, EventName, SeedStage
from esper.loggers import TensorBoardLogger


def _read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def _text(events: EventAccumulator, tag: str) -> list[str]:
    return [event.tensor_proto.string_val[0].decode() for event in events.Tensors(f"{tag}/text_summary")]


def test_scalars_config_seeds_and_summary(
    make_info: Any, make_epoch: Any, make_move: Any, tmp_path: Path
) -> None:
    """Every scalar, the config, the seed timeline and the final summary."""
    before = set(threading.enumerate())
    logger = TensorBoardLogger("./tensorboard")
    logger.start(make_info())
    logger.step({"step": 1, "loss": 2.0, "accuracy": None, "grad_norm": 0.5})
    logger.event(make_move("dormant", "germinated", step=5))
    logger.epoch(make_epoch(1))
    logger.event(make_move("germinated", "culled", step=10))
    logger.finish(
        {
            "test_accuracy": 0.75,
            "params_final": 164,
            "stopped_by": "max_epochs",
            "adaptations": {"applied": 2},
        }
    )
    logger.close()
    assert set(threading.enumerate()) <= before

    events = _read(tmp_path / "tensorboard")
    tags = set(events.Tags()["scalars"])
    assert {f"epoch/{name}" for name in EPOCH_METRICS} <= tags
    assert {"step/loss", "step/grad_norm", "epoch/seeds/f.1.0/alpha", "summary/adaptations/applied"} <= tags
    stages = [(event.step, event.value) for event in events.Scalars("seeds/f.1.0/stage")]
    order = list(SeedStage)
    assert stages == [(5, order.index(SeedStage.GERMINATED)), (10, order.index(SeedStage.CULLED))]
    assert [event.value for event in events.Scalars("summary/test_accuracy")] == [0.75]
    assert '"learning_rate": 0.01' in _text(events, "config")[0]
    assert '"stopped_by": "max_epochs"' in _text(events, "summary")[0]
    first, second = _text(events, "seeds/timeline")
    assert "f.1.0" in first and "dormant → germinated (the gate was open)" in first
    assert "germinated → culled" in second


def test_events_with_numbers_of_their_own_are_curves(make_info: Any, tmp_path: Path) -> None:
    """What seeds do to gradients, under the names of the list."""
    seed = {"layer": "f.1", "seed": 0, "stage": "blending", "tolaria.grad_agg.seed.share": 0.25}
    data = {"tolaria.grad_agg.teacher_share": 0.75, "seeds": [seed]}
    logger = TensorBoardLogger("./tensorboard")
    logger.start(make_info())
    logger.event(Event(0.0, EventName.SEED_GRADIENTS, "debug", 7, 1, data))
    logger.close()
    events = _read(tmp_path / "tensorboard")
    for tag, value in (
        ("tolaria.grad_agg.teacher_share", 0.75),
        ("seeds/f.1.0/tolaria.grad_agg.seed.share", 0.25),
    ):
        assert [(event.step, event.value) for event in events.Scalars(tag)] == [(7, value)]


def test_runs_can_be_compared_by_their_options(make_info: Any, tmp_path: Path) -> None:
    """The configuration is in the HParams tab too, in one file with the rest."""
    logger = TensorBoardLogger("tb")
    logger.start(make_info())
    logger.finish({"test_accuracy": 0.5})
    logger.close()
    (file,) = (tmp_path / "tb").iterdir()
    content = file.read_bytes()
    for part in (b"_hparams_/experiment", b"_hparams_/session_start_info", b"_hparams_/session_end_info"):
        assert part in content
    assert b"optimization.learning_rate" in content


def test_a_continued_run_shows_no_point_twice(make_info: Any, make_epoch: Any, tmp_path: Path) -> None:
    first = TensorBoardLogger()
    first.start(make_info())
    for epoch in (1, 2):
        first.epoch(make_epoch(epoch, val_loss=1.0))
    first.close()
    second = TensorBoardLogger()
    second.start(make_info(resumed=True, start_step=10))
    for epoch in (2, 3):
        second.epoch(make_epoch(epoch, val_loss=0.5))
    second.close()
    points = [(p.step, p.value) for p in _read(tmp_path / "tensorboard").Scalars("epoch/val_loss")]
    assert points == [(10, 1.0), (20, 0.5), (30, 0.5)]


def test_values_that_are_not_finite_stay_what_they_are(
    make_info: Any, make_epoch: Any, tmp_path: Path
) -> None:
    logger = TensorBoardLogger()
    logger.start(make_info())
    logger.epoch(make_epoch(1, val_loss=float("inf")))
    logger.close()
    (point,) = _read(tmp_path / "tensorboard").Scalars("epoch/val_loss")
    assert point.value == float("inf")


@pytest.mark.parametrize("relative", [True, False])
def test_the_folder_is_inside_the_run_unless_it_is_absolute(
    make_info: Any, tmp_path: Path, relative: bool
) -> None:
    """`tensorboard_log_dir` is inside the run folder."""
    run_dir, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run_dir.mkdir()
    logger = TensorBoardLogger("logs/tb" if relative else str(elsewhere))
    logger.start(make_info(run_dir=run_dir))
    logger.close()
    assert any((run_dir / "logs" / "tb" if relative else elsewhere).iterdir())


def test_close_before_start_is_quiet() -> None:
    TensorBoardLogger().close()
