"""Scores of a moment: exact where the answer is known, bounded elsewhere, and without a trace."""

from __future__ import annotations

import pytest
import torch
from scores import Scores, score
from torch import Tensor, nn

from esper.kasmina import MorphableModel, wrap
from esper.leyline import AdaptationCommand, CommandKind
from esper.models import build
from esper.tolaria.growth import copy_with_seed


def command(layer: str, blueprint: str, placement: str = "series", **options: int) -> AdaptationCommand:
    kind = CommandKind.GERMINATE
    return AdaptationCommand("1", kind, 1.0, 1.0, "test", layer, 0, blueprint, placement, options)


CANDIDATES = [
    command("block2", "conv_heavy", hidden=4),
    command("block2", "depthwise", hidden=8),
    command("block2", "low_rank", "parallel", rank=2),
    command("block1", "squeeze_excite", hidden=4),
    command(".", "conv_branch", "parallel", hidden=4, depth=2),
    command(".", "mlp", "parallel", hidden=8),
    command("block1", "no_op"),
]


def model() -> tuple[MorphableModel, Tensor, Tensor]:
    torch.manual_seed(0)
    host = build("convnet", num_classes=10, channels=1, image_size=(8, 8), widths=[4, 8])
    wrapped = wrap(host, [".", "block?"])
    x, y = torch.randn(32, 1, 8, 8), torch.randint(0, 10, (32,))
    wrapped.observe(x[:2])
    return wrapped, x, y


@pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda c: f"{c.layer} {c.blueprint}")
def test_scores_are_bounded_and_leave_the_trial_as_it_was(candidate: AdaptationCommand) -> None:
    wrapped, x, y = model()
    trial = copy_with_seed(wrapped, candidate, 7).eval()
    before = {name: tensor.clone() for name, tensor in trial.state_dict().items()}
    found = score(trial, candidate, lambda: nn.functional.cross_entropy(trial.forward(x), y))
    assert 0.0 <= found.explained_share <= 1.0 and 0.0 < found.activation_rank <= 1.0
    assert found.first_order_decrease >= 0.0 and found.line_search_decrease >= 0.0
    assert (found.gradient_norm > 0.0) is (candidate.blueprint != "no_op")
    assert all(torch.equal(t, before[n]) for n, t in trial.state_dict().items())
    assert not wrapped.alive_records()


def linear_answer(rank: int) -> Scores:
    """A host whose answer is wrong by a linear map, which a seed in parallel can take back exactly."""
    torch.manual_seed(0)
    wrapped = wrap(nn.Sequential(nn.Linear(6, 6)), ["0"])
    x = torch.randn(64, 6)
    wrapped.observe(x[:2])
    target = x @ torch.randn(6, 6)
    candidate = command("0", "low_rank", "parallel", rank=rank)
    trial = copy_with_seed(wrapped, candidate, 0)
    return score(trial, candidate, lambda: nn.functional.mse_loss(trial.forward(x), target))


def test_what_a_seed_can_explain_is_found_exactly() -> None:
    """The gradient is linear in the input but for the host's bias: with full rank hardly anything is left."""
    full, poor = linear_answer(6), linear_answer(1)
    assert full.explained_share > 0.97 and poor.explained_share < 0.6
    assert full.line_search_decrease > poor.line_search_decrease > 0.0
    assert full.activation_rank == 1.0
