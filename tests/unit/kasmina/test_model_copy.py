"""Copies of models that `copy.deepcopy` alone does not copy, or not right."""

from __future__ import annotations

import threading

import pytest
import torch
from helpers.hosts import bits, same_bits
from helpers.zoo_layers import WIDTH, Lazy, Plain, Remembering, reparametrized, scripted
from helpers.zoo_state import Slotted
from torch import nn

from esper.errors import GrowthError
from esper.kasmina.model_copy import copy_model

X = torch.ones(2, WIDTH)


@pytest.mark.parametrize("make", [Plain, Remembering, scripted, reparametrized("weight_norm")])
def test_a_copy_is_equal_can_be_trained_and_is_its_own(make: type[nn.Module]) -> None:
    model = make()
    model(X).sum().backward()
    made = copy_model(model)
    assert same_bits(bits(made), bits(model))
    made.zero_grad()
    made(X).sum().backward()
    pairs = list(zip(model.parameters(), made.parameters(), strict=True))
    assert all(new.is_leaf and new.requires_grad == old.requires_grad for old, new in pairs)
    assert all(torch.equal(old.grad, new.grad) for old, new in pairs if old.grad is not None)
    before = bits(model)
    torch.optim.SGD(made.parameters(), lr=1.0).step()
    assert same_bits(bits(model), before) and not same_bits(bits(made), before)


def test_what_is_frozen_in_a_scripted_model_stays_so() -> None:
    model = scripted()
    model.body[0].bias.requires_grad_(False)
    assert [p.requires_grad for p in copy_model(model).parameters()] == [
        p.requires_grad for p in model.parameters()
    ]


def test_lazy_modules_and_slots_are_copied() -> None:
    lazy = copy_model(Lazy())
    assert lazy(X).shape == (2, 3)
    model = Slotted()
    made = copy_model(nn.Sequential(model))
    assert torch.equal(made(X), model(X)) and made[0].factor == 0.5


def test_what_cannot_be_copied_is_named_by_its_innermost_module() -> None:
    model = nn.Sequential(nn.Sequential(Plain()))
    model[0][0].body.lock = threading.Lock()  # type: ignore[union-attr, assignment]
    with pytest.raises(
        GrowthError, match=r"module '0.0.body' \(Linear\) cannot be copied: TypeError: .*lock"
    ):
        copy_model(model)
