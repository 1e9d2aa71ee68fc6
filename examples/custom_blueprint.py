"""A blueprint of your own: the kind of module that the network may grow by.

    python custom_blueprint.py

By its path: start it in this folder, or add this folder to PYTHONPATH.

    esper-train model=mlp 'morphogenetic.blueprints=[custom_blueprint.Gated]' optimization.max_epochs=3 \
        'allowed_targets=[custom_blueprint]'
"""

import torch
from torch import Tensor, nn

import esper
from esper.kasmina import SiteShape, register_blueprint


def only_features(shape: SiteShape) -> str | None:
    """Why a layer cannot have this blueprint; None where it can."""
    return None if shape.layout == "features" and not shape.flattens else "it needs vectors of features"


def widths(shape: SiteShape) -> list[dict[str, int]]:
    """The sizes on offer, of which the policy takes one that fits the limits on parameters."""
    return [{"hidden": hidden} for hidden in (4, 8, 16)]


@register_blueprint("gated", fits=only_features, offers=widths)
class Gated(nn.Module):
    """A gated linear unit. Its output is added to the layer's, and is zero at first."""

    def __init__(self, shape: SiteShape, *, hidden: int = 8) -> None:
        super().__init__()
        self.value = nn.Linear(shape.channels_in, hidden)
        self.gate = nn.Linear(shape.channels_in, hidden)
        self.out = nn.Linear(hidden, shape.channels_out)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.value(x) * torch.sigmoid(self.gate(x)))


def main() -> None:
    config = esper.TolariaConfig.from_dict(
        {
            "model": {"architecture": "mlp", "model_params": {"hidden": [16, 16]}},
            "dataset": {"name": "digits"},
            "optimization": {"learning_rate": 0.01, "max_epochs": 5},
            "morphogenetic": {
                "blueprints": ["gated"],
                "max_params_ratio": 2.0,
                "seed": {"blend_steps": 40},  # optimiser steps until a seed has its full weight
                "decision_frequency": 1,  # decide after each epoch
                "adaptation_cooldown": 0.0,
            },
        }
    )
    trainer = esper.TolariaTrainer(config)
    summary = trainer.run_training()
    for seed in summary["seeds"]:
        print(f"{seed['layer']}[{seed['seed']}] {seed['blueprint']}: {seed['stage']}")
    print(f"parameters {summary['params_host']} -> {summary['params_final']}")


if __name__ == "__main__":
    main()
