from __future__ import annotations

import pytest

from esper.leyline import SystemStatePacket


def packet(step: int, steps_per_epoch: int, max_epochs: int) -> SystemStatePacket:
    return SystemStatePacket(
        session_name="s",
        step=step,
        epoch=0,
        max_epochs=max_epochs,
        steps_per_epoch=steps_per_epoch,
        train_loss=0.0,
        train_loss_history=(),
        val_loss_history=(),
        train_accuracy_history=(),
        val_accuracy_history=(),
        params_host=1,
        params_now=1,
        seeds=(),
        sites=(),
    )


@pytest.mark.parametrize(
    ("step", "per_epoch", "epochs", "share"),
    [(0, 10, 3, 0.0), (15, 10, 3, 0.5), (30, 10, 3, 1.0), (31, 10, 3, 1.0), (0, 0, 3, 0.0), (5, 10, 0, 1.0)],
)
def test_progress_is_a_share_of_the_run(step: int, per_epoch: int, epochs: int, share: float) -> None:
    assert packet(step, per_epoch, epochs).progress == share
