"""The real command with conflicts of micro-batches and of objectives."""

from __future__ import annotations

from pathlib import Path

from helpers.command import esper_train, events_of, metrics_of

SHORT = [
    *("optimization.max_epochs=2", "trainer.limit_train_batches=10", "hydra.run.dir=run"),
    "morphogenetic.tamiyo_enabled=false",
]
MODULE = """
from torch import nn

class TwoHeads(nn.Module):
    # returns its losses itself
    def __init__(self, num_classes):
        super().__init__()
        self.trunk = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU())
        self.digit, self.odd = nn.Linear(32, num_classes), nn.Linear(32, 2)

    def forward(self, x, y):
        x = self.trunk(x)
        loss = nn.functional.cross_entropy
        return {"digit": loss(self.digit(x), y), "odd": loss(self.odd(x), y % 2)}

def form(batch):
    x, y = batch
    return (x, y), {}, y
"""


def test_micro_batches_by_name(tmp_path: Path) -> None:
    done = esper_train(
        *SHORT, "trainer.aggregation=pcgrad", "optimization.accumulation_steps=4", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    logged = [line["grad_agg"] for line in metrics_of(tmp_path / "run")]
    assert logged == events_of(tmp_path / "run", "tolaria.grad_agg")
    assert logged[1]["microbatches_total"] == 2 * logged[0]["microbatches_total"] > 0
    assert sum(epoch["conflicts"] for epoch in logged) > 0


def test_a_model_that_returns_its_losses_by_an_aggregator_of_torchjd(tmp_path: Path) -> None:
    (tmp_path / "heads.py").write_text(MODULE)
    options = [
        "allowed_targets=[heads]",
        "model.architecture=heads.TwoHeads",
        "model.target_layers=[trunk.1]",
        "dataset.batch_form=heads.form",
        "optimization.loss_function=from_model",
        "trainer.aggregation=torchjd.aggregation.AlignedMTL",
    ]
    done = esper_train(*SHORT, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for line in metrics_of(tmp_path / "run"):
        assert line["val_loss"] > max(line["val_losses"].values())
        assert set(line["train_losses"]) == {"digit", "odd"}
        assert line["grad_agg"]["steps"] > 0
