"""The best model so far, kept in memory: weights, topology and what they scored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from esper.kasmina import MorphableModel
from esper.tolaria.checkpoint import Checkpoint
from esper.tolaria.loss.loss_state import LossState
from esper.tolaria.train_state import Best


def best_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """State dict of the best model that a checkpoint holds; the saved one where none was best yet."""
    prefix = "weights/"
    best = checkpoint.tensors.get("best", {})
    found = {name.removeprefix(prefix): t for name, t in best.items() if name.startswith(prefix)}
    return found or checkpoint.tensors["model"]


class BestModel:
    """A copy of the model as it was when it was best, and of what a loss with parameters had learnt by then.

    It is copied right after validation, before the seeds are decided on, so that the copy is the model
    that was measured. Where the decisions then left its forward as it was (a seed fossilised), `refresh`
    brings its topology up to date.
    """

    def __init__(
        self, model: MorphableModel, loss: LossState | None = None, *, higher_is_better: bool = True
    ) -> None:
        self.model = model
        self.loss = loss or LossState(lambda output, targets: output)
        self.mark = Best(higher_is_better=higher_is_better)
        self.weights: dict[str, Tensor] = {}
        self.loss_weights: dict[str, Any] = {}
        self._current = False

    def consider(self, epoch: int, loss: float, accuracy: float | None) -> bool:
        """Copy the model where this epoch is the best so far."""
        self._current = self.mark.update(epoch, loss, accuracy)
        if self._current:
            self.weights = {name: t.detach().clone() for name, t in self.model.state_dict().items()}
            self.loss_weights = self.loss.copy()
        return self._current

    def topology_changed(self) -> None:
        self._current = False

    def refresh(self) -> None:
        """After the decisions of the same epoch: take their stages, unless the forward is another one now."""
        if self._current:
            self.weights["_extra_state"] = self.model.get_extra_state()

    def restore(self) -> None:
        """Make the model the best one; without one, it stays as it is."""
        if self.weights:
            self.model.load_state_dict(self.weights)
        if self.loss_weights:
            self.loss.load_state_dict(self.loss_weights)

    def state_dict(self) -> dict[str, Any]:
        kept = {"loss": self.loss_weights} if self.loss_weights else {}
        return {"mark": self.mark.to_json(), "weights": self.weights, **kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.mark.load(state["mark"])
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        self.weights = {name: tensor.to(device) for name, tensor in state["weights"].items()}
        self.loss_weights = dict(state.get("loss", {}))  # loading them moves them to where the loss is
