"""A network and data of your own, passed to the trainer as objects, and a network that grows while it trains.

    python custom_model.py

By name, on built-in data: start it in this folder, or add this folder to PYTHONPATH.

    esper-train model._target_=custom_model.Net +model.inputs=64 'model.target_layers=[hidden]' \
        'morphogenetic.blueprints=[mlp]' optimization.max_epochs=5 'allowed_targets=[custom_model]'
"""

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import esper


class Net(nn.Module):
    """A small multilayer perceptron. `num_classes` is passed by Esper where the class is given by name."""

    def __init__(self, num_classes: int, inputs: int = 2, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Linear(inputs, width)
        self.hidden = nn.Linear(width, width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x.flatten(1)))
        return self.head(torch.relu(self.hidden(x)))


def spirals(samples: int, seed: int) -> TensorDataset:
    """Points on two interleaved spirals, with their class 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(samples) % 2
    radius = torch.rand(samples, generator=generator)
    angle = 6 * radius + torch.pi * targets
    points = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
    return TensorDataset(points + 0.02 * torch.randn(samples, 2, generator=generator), targets)


class Report(esper.Callback):
    """Prints each change of the network."""

    def on_topology_change(self, loop, change) -> None:
        print(f"epoch {loop.progress.epoch}: {loop.model.total_params()} parameters")


def main() -> None:
    config = esper.TolariaConfig.from_dict(
        {
            "model": {"target_layers": ["hidden"]},  # seeds may be planted at this layer
            "dataset": {"batch_size": 32, "num_workers": 0},  # small samples: no worker processes
            "optimization": {"learning_rate": 0.02, "max_epochs": 10},
            "morphogenetic": {"blueprints": ["mlp"], "max_params_ratio": 4.0, "adaptation_cooldown": 0.0},
        }
    )
    torch.manual_seed(0)  # for the weights of Net, which are drawn before the run sets its own seed
    trainer = esper.TolariaTrainer(
        config,
        model=Net(num_classes=2),
        train_data=spirals(800, seed=0),
        val_data=spirals(200, seed=1),
        test_data=spirals(200, seed=2),
        callbacks=[Report()],
    )
    summary = trainer.run_training()
    print(f"test accuracy {summary['test_accuracy']:.3f}")
    print(f"parameters {summary['params_host']} -> {summary['params_final']}")
    print(trainer.model.summary())


if __name__ == "__main__":
    main()
