"""A callback of your own, whose state is saved with the run and restored on resume.

    python custom_callback.py

By name: start it in this folder, or add this folder to PYTHONPATH.

    esper-train callbacks.stop._target_=custom_callback.StopAt callbacks.stop.accuracy=0.8 \
        'allowed_targets=[custom_callback]'
"""

from collections.abc import Mapping
from typing import Any

import esper


class StopAt(esper.Callback):
    """Stops the run when the validation accuracy was at least `accuracy` in `epochs` epochs in a row.

    Args:
        accuracy: In [0, 1].
        epochs: How many epochs in a row.
    """

    def __init__(self, accuracy: float, epochs: int = 2) -> None:
        self.accuracy, self.epochs = accuracy, epochs
        self.reached = 0

    def on_epoch_end(self, loop, metrics: Mapping[str, Any]) -> None:
        self.reached = self.reached + 1 if metrics["val_accuracy"] >= self.accuracy else 0
        print(f"epoch {metrics['epoch']}: reached {self.reached} of {self.epochs}")
        if self.reached >= self.epochs:
            loop.run_control.stop(f"accuracy {self.accuracy} reached")

    def state_dict(self) -> dict[str, Any]:
        return {"reached": self.reached}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.reached = state["reached"]


def config(max_epochs: int, resume_from: str | None = None) -> esper.TolariaConfig:
    return esper.TolariaConfig.from_dict(
        {
            "model": {"architecture": "mlp"},
            "dataset": {"name": "digits"},
            "optimization": {"max_epochs": max_epochs},
            "morphogenetic": {"tamiyo_enabled": False},
            "checkpoint": {"resume_from_checkpoint": resume_from},
        }
    )


def main() -> None:
    first = esper.TolariaTrainer(config(max_epochs=3), callbacks=[StopAt(0.8, epochs=3)])
    first.run_training()
    print("resuming: the callback continues with the count that was saved")
    resumed = config(max_epochs=20, resume_from=str(first.run_dir))
    summary = esper.TolariaTrainer(resumed, callbacks=[StopAt(0.8, epochs=3)]).run_training()
    print(f"stopped after {summary['epochs_run']} epochs: {summary['stopped_by']}")


if __name__ == "__main__":
    main()
