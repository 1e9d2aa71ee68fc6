"""Training batches of one sample, with batch norm in the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.grown import Host
from helpers.runs import CPU, checkpoints, make_run, notes_of, restored
from helpers.scenarios import alike, path_of
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from esper.data import InMemoryLoader, MapStyleLoader
from esper.data.in_memory import LoaderOptions
from esper.data.params import Augmentation
from esper.data.transforms import BatchTransform, Statistics
from esper.errors import ConfigError
from esper.tolaria.loop import TrainingLoop


class Frozen(Host):
    """Keeps its batch norm in eval mode, as fine-tuning does."""

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.norm.eval()
        return self


class Images(Host):
    """A batch norm over the pixels of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels = nn.BatchNorm2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.pixels(x.view(-1, 1, 3, 4)).flatten(1))


def loader(kind: str, samples: int, batch_size: int, *, shuffle: bool, training: bool) -> Any:
    generator = torch.Generator().manual_seed(0)
    options = LoaderOptions(batch_size, 0, shuffle, training)
    targets = torch.arange(samples) % 3
    if kind == "map":
        data = TensorDataset(torch.randn(samples, 12, generator=generator), targets)
        return MapStyleLoader(data, torch.arange(samples), options, device=CPU)
    images = torch.randint(0, 256, (samples, 1, 3, 4), dtype=torch.uint8, generator=generator)
    transform = BatchTransform(Statistics((128.0,), (64.0,)), Augmentation(), seed=0, device=CPU)
    return InMemoryLoader(images, targets, transform, options, device=CPU)


class Flat(Host):
    def __init__(self) -> None:
        super().__init__(norm=True)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))


def run_of(
    folder: Path,
    kind: str = "map",
    *,
    samples: int = 9,
    batch_size: int = 4,
    shuffle: bool = False,
    **given: Any,
) -> TrainingLoop:
    parts = {
        "train": loader(kind, samples, batch_size, shuffle=shuffle, training=True),
        "validation": loader(kind, 9, 4, shuffle=False, training=False),
    }
    options = {"model__target_layers": ["a"], "trainer__limit_train_batches": None, **given}
    model = options.pop("model", None) or Flat()
    return make_run(
        folder,
        model=model,
        parts=parts,
        trainer__limit_val_batches=None,
        morphogenetic__tamiyo_enabled=False,
        **options,
    )


@pytest.mark.parametrize("kind", ["map", "device"])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("accumulation", "steps"), [(1, 2), (2, 1)])
def test_a_last_batch_of_one_is_trained_with_the_one_before(
    tmp_path: Path, kind: str, shuffle: bool, accumulation: int, steps: int
) -> None:
    run = run_of(tmp_path, kind, shuffle=shuffle, optimization__accumulation_steps=accumulation)
    assert run.steps_per_epoch == steps
    run.train()
    assert (run.progress.epoch, run.progress.step) == (3, 3 * steps)
    assert run.progress.samples_seen == 3 * 9
    assert run.model.host.norm.num_batches_tracked == 3 * 2
    assert run.evaluator.run(run.val_batches.batches(0)).samples == 9
    assert [len(y) for _, y in run.val_batches.batches(0)] == [4, 4, 1], "nothing is merged in validation"


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_run_stopped_before_the_merged_batch_goes_on_with_it(tmp_path: Path, shuffle: bool) -> None:
    options = {"checkpoint__save_checkpoints": True, "checkpoint__checkpoint_frequency": 1}
    whole = run_of(tmp_path / "whole", shuffle=shuffle, **options)
    whole.train()
    stopped = run_of(tmp_path / "stopped", shuffle=shuffle, **options)
    stopped.components.records.progress = lambda step, loss: (  # type: ignore[method-assign]
        stopped.run_control.stop("sigterm") if stopped.progress.step == 3 else None
    )
    stopped.train()
    name = list(checkpoints(stopped))[-1]
    assert name == "epoch-0001-batch-000001"
    resumed = restored(
        run_of(tmp_path / "again", shuffle=shuffle, **options), path_of(tmp_path / "stopped", name)
    )
    resumed.train()
    assert resumed.progress.samples_seen == 27
    assert alike(resumed, whole)


@pytest.mark.parametrize(("samples", "batch_size"), [(9, 1), (1, 4)])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_batches_of_one_are_refused_with_the_batch_norms_name(
    tmp_path: Path, samples: int, batch_size: int, accumulation: int
) -> None:
    with pytest.raises(
        ConfigError, match=r"batch_size: given \d, .* the batch norm norm gets one value"
    ) as message:
        run_of(
            tmp_path, samples=samples, batch_size=batch_size, optimization__accumulation_steps=accumulation
        )
    assert len(message.value.problems) == 1


@pytest.mark.parametrize("host", [Host, Images, lambda: Frozen(norm=True)], ids=["none", "pixels", "frozen"])
def test_batches_of_one_are_trained_where_no_batch_norm_minds(tmp_path: Path, host: Any) -> None:
    run = run_of(tmp_path, batch_size=1, model=host())
    run.train()
    assert (run.steps_per_epoch, run.progress.step, run.progress.samples_seen) == (9, 27, 27)
    assert all(line["val_loss"] < 10 for line in notes_of(run).epochs)
