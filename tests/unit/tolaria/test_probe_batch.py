"""The probe batch: small, held out, and without a trace."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
from helpers.runs import CPU, make_components, small_config, weights
from torch import nn

from esper.config import SeedConfig
from esper.tolaria.batches import BatchSource
from esper.tolaria.optimization.precision import Precision
from esper.tolaria.probe_batch import ProbeBatch, take_samples
from esper.tolaria.task import pair_adapter

Pair = namedtuple("Pair", "inputs targets")


def make_probe(**seed_options: Any) -> ProbeBatch:
    config = small_config()
    parts = make_components(config, run_dir=None)  # type: ignore[arg-type]
    return ProbeBatch(
        parts.model,
        BatchSource(parts.validation),
        pair_adapter,
        nn.CrossEntropyLoss(),
        Precision(False, CPU),
        SeedConfig(**seed_options),
        device=CPU,
        rng_seed=0,
    )


@pytest.mark.parametrize(("asked", "given"), [(5, 5), (32, 32), (500, 32)])
def test_it_has_at_most_a_batch_of_samples(asked: int, given: int) -> None:
    assert make_probe(probe_samples=asked).samples == given


def test_it_makes_every_site_known() -> None:
    probe = make_probe()
    assert all(site.usable for site in probe.model.sites.values())


def test_its_loss_is_the_same_each_time_and_moves_no_generator() -> None:
    probe = make_probe()
    before = weights(probe.model)
    probe.model.eval()
    torch.manual_seed(3)
    first, second = probe.loss(), probe.loss()
    draw = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(draw, torch.rand(3))
    assert torch.equal(first, second)
    assert first.requires_grad
    assert all(torch.equal(t, before[n]) for n, t in weights(probe.model).items())
    assert all(p.grad is None for p in probe.model.parameters())


@pytest.mark.parametrize(("impact_samples", "batches"), [(0, 6), (1, 1), (32, 1), (33, 2), (10_000, 6)])
def test_impact_is_measured_on_as_many_batches_as_asked(impact_samples: int, batches: int) -> None:
    probe = make_probe(impact_samples=impact_samples)
    assert len(list(probe.held_out())) == batches
    assert len(list(probe.held_out())) == batches  # afresh each time


def test_the_head_of_a_batch_of_any_form() -> None:
    x = torch.arange(6)
    first = take_samples({"a": x, "b": [x, (x, "text")]}, 2)
    assert torch.equal(first["a"], x[:2])
    assert torch.equal(first["b"][1][0], x[:2])
    assert first["b"][1][1] == "text"
    pair = take_samples(Pair(x, x), 3)
    assert isinstance(pair, Pair)
    assert len(pair.targets) == 3
