"""A map-style dataset of your own, by object and by name.

    python custom_dataset.py

By name: start it in this folder, or add this folder to PYTHONPATH.

    esper-train dataset._target_=custom_dataset.Waves +dataset.samples=600 dataset.num_workers=0 \
        model=mlp optimization.max_epochs=3 'allowed_targets=[custom_dataset]'
"""

from typing import Any

import torch
from torch import Tensor

import esper


class Waves:
    """Noisy sine, square and sawtooth waves of random frequency and phase.

    Called by name it is made twice, with split="train" and split="test"; the validation set is split off the
    training set. `targets` makes that split stratified.
    """

    classes = ("sine", "square", "sawtooth")

    def __init__(self, split: str = "train", samples: int = 600, length: int = 32) -> None:
        generator = torch.Generator().manual_seed(0 if split == "train" else 1)
        self.targets = torch.arange(samples) % len(self.classes)
        cycles = 1 + torch.rand(samples, 1, generator=generator)
        phase = torch.rand(samples, 1, generator=generator)
        position = (torch.linspace(0, 1, length) * cycles + phase) % 1
        shapes = [torch.sin(2 * torch.pi * position), torch.sign(position - 0.5), 2 * position - 1]
        waves = torch.stack(shapes)[self.targets, torch.arange(samples)]
        self.waves = waves + 0.1 * torch.randn(waves.shape, generator=generator)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.waves[index], int(self.targets[index])


def config(**dataset: Any) -> esper.TolariaConfig:
    return esper.TolariaConfig.from_dict(
        {
            "model": {"architecture": "mlp", "num_classes": None, "model_params": {"hidden": [16, 16]}},
            "dataset": {"num_workers": 0, **dataset},  # samples lie in memory: no worker processes
            "optimization": {"learning_rate": 0.03, "max_epochs": 4},
            "morphogenetic": {"tamiyo_enabled": False},  # the network does not grow
            "allowed_targets": ["custom_dataset"],
        }
    )


def main() -> None:
    trainer = esper.TolariaTrainer(config(), train_data=Waves("train"), test_data=Waves("test"))
    print(f"by object: test accuracy {trainer.run_training()['test_accuracy']:.3f}")

    named = config(_target_="custom_dataset.Waves", dataset_params={"samples": 600})
    print(f"by name: test accuracy {esper.TolariaTrainer(named).run_training()['test_accuracy']:.3f}")


if __name__ == "__main__":
    main()
