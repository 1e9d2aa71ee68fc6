"""A model that already bears seeds when its optimiser is made."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from esper.config import SeedConfig
from esper.kasmina import KernelStore, SeedManager, TrainingPosition, extract, wrap
from esper.leyline import AdaptationCommand, CommandKind
from esper.tolaria.optimization.optimizer_manager import BaseRates, OptimizerManager


def test_a_loaded_kernel_is_optimised_like_any_joined_seed(tmp_path: Path) -> None:
    """The optimiser's parameters are the trainable ones, whatever the model came with."""
    host = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    donor = wrap(host, ["0"])
    donor.observe(torch.randn(4, 8))
    command = AdaptationCommand(
        "a", CommandKind.GERMINATE, 1.0, 1.0, "test", "0", 0, "mlp", options={"hidden": 8}
    )
    SeedManager(donor, SeedConfig(blend_steps=0)).apply(command, TrainingPosition(0, 0))
    store = KernelStore(tmp_path)
    artifact = store.put(*extract(donor, "0", 0))

    model = wrap(host, ["0"], kernels=store)
    model.observe(torch.randn(4, 8))
    model.load_kernel("0", 1, artifact)
    optimizers = OptimizerManager(
        model,
        lambda groups: torch.optim.Adam(groups, lr=1e-3),
        rates=BaseRates(1e-3, 1e-3, 1e-3, 10),
    )
    held = [id(p) for p in optimizers.shared_parameters()]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    # a trained kernel has had its warm-up
    late = optimizers.main.param_groups[1]
    assert 0 - late["born_step"] >= late["warmup_steps"]
