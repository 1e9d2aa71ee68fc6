"""Losses and gradient norms are gathered without waiting for the device, and read in order."""

from __future__ import annotations

import math

import pytest
import torch

from esper.tolaria.loss.divisors import BatchWeight
from esper.tolaria.recovery.step_buffer import ACCELERATOR_STEPS, StepBuffer

CPU = torch.device("cpu")


def test_every_step_is_read_once_and_in_order() -> None:
    step_buffer = StepBuffer(CPU, 3)
    due = []
    for step in range(6):
        step_buffer.add(torch.tensor(float(step), requires_grad=True), None, None, 8)
        due.append(step_buffer.end_step(torch.tensor(10.0 + step) if step % 2 else None))
        if due[-1]:
            wanted = [(float(s), 10.0 + s if s % 2 else None) for s in range(step - 2, step + 1)]
            assert step_buffer.read() == wanted
    assert due == [False, False, True] * 2
    assert step_buffer.read() == []


def test_a_steps_loss_is_the_mean_over_its_samples() -> None:
    step_buffer = StepBuffer(CPU)
    step_buffer.add(torch.tensor(1.0), None, None, 30)
    step_buffer.add(torch.tensor(4.0), None, None, 10)
    assert step_buffer.end_step(None)
    assert step_buffer.read() == [(pytest.approx(1.75), None)]


def test_objectives_are_made_one_number_of() -> None:
    step_buffer = StepBuffer(CPU, combine_losses=lambda losses: losses["a"] * 2 + losses["b"])
    step_buffer.add({"a": torch.tensor(1.0), "b": torch.tensor(3.0)}, None, None, 4)
    step_buffer.end_step(None)
    assert step_buffer.read() == [(5.0, None)]


def test_steps_that_are_undone_are_forgotten() -> None:
    step_buffer = StepBuffer(CPU, 9)
    step_buffer.add(torch.tensor(1.0), None, None, 1)
    step_buffer.end_step(None)
    step_buffer.add(torch.tensor(1.0), None, None, 1)
    step_buffer.forget()
    assert step_buffer.read() == []


def test_an_accelerator_is_asked_less_often() -> None:
    assert StepBuffer(CPU).interval == 1
    assert StepBuffer(torch.device("cuda")).interval == ACCELERATOR_STEPS
    assert StepBuffer(torch.device("cuda"), 4).interval == 4


def test_no_graph_is_kept_alive() -> None:
    weight = torch.ones(3, requires_grad=True)
    step_buffer = StepBuffer(CPU, 9)
    step_buffer.add((weight * 2).sum(), None, None, 1)
    step_buffer.end_step(None)
    assert not any(loss.requires_grad for loss in step_buffer._losses)


def test_a_step_in_which_no_label_counts_has_no_loss() -> None:
    """It must not look like a loss that has become NaN."""
    nothing, much = BatchWeight(torch.tensor(0)), BatchWeight(torch.tensor(4.0))
    step_buffer = StepBuffer(CPU, 9)
    for parts in ([(math.nan, nothing)], [(math.nan, nothing), (2.0, much)], [(math.nan, much)]):
        for loss, weight in parts:
            step_buffer.add(torch.tensor(loss), None, None, 8, weight)
        step_buffer.end_step(None)
    first, second, third = [loss for loss, _ in step_buffer.read()]
    assert (first, second) == (None, 2.0)
    assert third is not None
    assert math.isnan(third)


def test_a_sum_is_watched_per_sample() -> None:
    step_buffer = StepBuffer(CPU)
    step_buffer.add(torch.tensor(6.0), None, None, 3, BatchWeight(3, summed=True))
    step_buffer.end_step(None)
    assert step_buffer.read() == [(2.0, None)]
