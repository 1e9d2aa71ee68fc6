from __future__ import annotations

from esper.leyline import CLOCK_METRICS, EPOCH_METRICS, EventName


def names(cls: type) -> list[str]:
    return [value for name, value in vars(cls).items() if not name.startswith("_")]


def test_no_event_has_the_name_of_another() -> None:
    assert len(set(names(EventName))) == len(names(EventName))


def test_epoch_metrics_are_those_of_the_spec() -> None:
    wanted = {
        *("epoch", "train_loss", "val_loss", "train_accuracy", "val_accuracy", "epoch_time"),
        *("learning_rate", "morphogenetic_active", "active_seeds", "total_seeds", "kernel_executions"),
    }
    assert wanted <= set(EPOCH_METRICS)
    assert len(set(EPOCH_METRICS)) == len(EPOCH_METRICS)


def test_what_reads_the_clock_is_listed_once() -> None:
    """The one clock metric of an epoch is left out where runs are compared."""
    assert CLOCK_METRICS & set(EPOCH_METRICS) == {"epoch_time"}
