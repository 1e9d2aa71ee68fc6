"""What is best, and when it is time to stop."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.tolaria.train_state import Best, EarlyStopping, Progress

losses = st.floats(allow_nan=True, allow_infinity=True)


def test_progress_goes_through_json() -> None:
    progress = Progress(step=7, epoch=2, batch=3, train_flops=1.5e9, stopped_by="sigterm")
    other = Progress()
    other.load(json.loads(json.dumps(progress.to_json())))
    assert other == progress


@given(st.lists(st.tuples(losses, st.floats(0.0, 1.0))))
def test_the_best_is_the_highest_accuracy_then_the_least_loss(epochs: list[tuple[float, float]]) -> None:
    best = Best()
    for number, (loss, accuracy) in enumerate(epochs, 1):
        best.update(number, loss, accuracy)
    sound = [(-accuracy, loss, n) for n, (loss, accuracy) in enumerate(epochs, 1) if math.isfinite(loss)]
    assert best.epoch == (min(sound)[2] if sound else -1)  # the first of equals


@given(st.lists(losses))
def test_without_accuracy_the_least_loss_is_best(values: list[float]) -> None:
    best = Best()
    for number, loss in enumerate(values, 1):
        best.update(number, loss, None)
    finite = [loss for loss in values if math.isfinite(loss)]
    assert best.loss == min(finite, default=math.inf)
    assert best.accuracy is None


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_never_best(loss: float) -> None:
    """Not even with the best accuracy."""
    best = Best()
    assert not best.update(1, loss, 1.0)
    assert best.update(2, 5.0, 0.1)
    assert not best.update(3, loss, 1.0)
    assert best.epoch == 2


@given(st.lists(st.tuples(losses, st.none() | st.floats(0.0, 1.0))), st.floats(0.0, 9.0))
def test_best_goes_through_json(epochs: list[tuple[float, float | None]], after: float) -> None:
    best, other = Best(), Best()
    for number, (loss, accuracy) in enumerate(epochs, 1):
        best.update(number, loss, accuracy)
    other.load(json.loads(json.dumps(best.to_json(), allow_nan=False)))
    assert other.to_json() == best.to_json()
    assert other.update(99, after, 0.5) == best.update(99, after, 0.5)


def stops_after(stopping: EarlyStopping, values: list[float]) -> int | None:
    """The how-manieth value it stops at."""
    return next((number for number, loss in enumerate(values, 1) if stopping.update(loss)), None)


def test_it_stops_after_patience_epochs_without_a_fall() -> None:
    assert stops_after(EarlyStopping(3, 0.0), [1.0, 0.9, 0.95, 0.91, 0.9]) == 5
    assert stops_after(EarlyStopping(3, 0.0), [1.0, 1.1, 1.1, 0.9, 1.0, 1.0]) is None


def test_a_fall_has_to_be_larger_than_the_minimum() -> None:
    assert stops_after(EarlyStopping(2, 0.1), [1.0, 0.95, 0.91]) == 3
    assert stops_after(EarlyStopping(2, 0.1), [1.0, 0.95, 0.89, 0.8]) is None  # 0.1 below the least so far


@given(st.lists(losses))
def test_without_patience_it_never_stops(values: list[float]) -> None:
    assert stops_after(EarlyStopping(0, 0.0), values) is None


@given(st.integers(1, 5))
def test_a_loss_that_is_nan_is_no_fall(patience: int) -> None:
    assert stops_after(EarlyStopping(patience, 0.0), [math.nan] * 9) == patience


@given(st.integers(1, 5), st.lists(st.booleans(), max_size=20))
def test_patience_is_counted_from_the_last_structural_event(patience: int, events: list[bool]) -> None:
    stopping = EarlyStopping(patience, 0.0)
    stopping.update(1.0)
    quiet = 0
    for event in events:
        if event:
            stopping.restart()
            quiet = 0
        quiet += 1
        assert stopping.update(1.0) == (quiet >= patience)
        assert stopping.over == (quiet >= patience)


def test_the_least_loss_outlives_a_structural_event() -> None:
    stopping = EarlyStopping(2, 0.0)
    stopping.update(0.5)
    stopping.restart()
    assert stops_after(stopping, [0.9, 0.8]) == 2  # falling, but from above what there was


@given(st.lists(losses), st.integers(1, 4))
def test_early_stopping_goes_through_json(values: list[float], patience: int) -> None:
    stopping, other = EarlyStopping(patience, 0.01), EarlyStopping(patience, 0.01)
    for loss in values:
        stopping.update(loss)
    other.load(json.loads(json.dumps(stopping.to_json(), allow_nan=False)))
    assert (other.least, other.waited, other.over) == (stopping.least, stopping.waited, stopping.over)
