"""The best model so far, kept in memory: weights, topology and score."""

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
    """State dict of a checkpoint's best model, or of the saved model if there is no best one yet."""
    prefix = "weights/"
    best = checkpoint.tensors.get("best", {})
    found = {name.removeprefix(prefix): t for name, t in best.items() if name.startswith(prefix)}
    return found or checkpoint.tensors["model"]


class BestModel:
    """A copy of the best model, and of the learned state of its loss.

    It is copied right after validation, before decisions on seeds, so the copy is the model that was
    measured. If the decisions did not change its forward (a seed fossilized), `refresh` updates its topology.
    """

    def __init__(
        self, model: MorphableModel, loss: LossState | None = None, *, higher_is_better: bool = True
    ) -> None:
        self.model = model
        self.loss = loss or LossState(lambda output, targets: output)
        self.score = Best(higher_is_better=higher_is_better)
        self.weights: dict[str, Tensor] = {}
        self.loss_weights: dict[str, Any] = {}
        self._current = False

    def consider(self, epoch: int, loss: float, accuracy: float | None) -> bool:
        """Copy the model if this epoch is the best so far. Returns whether it is."""
        self._current = self.score.update(epoch, loss, accuracy)
        if self._current:
            self.weights = {name: t.detach().clone() for name, t in self.model.state_dict().items()}
            self.loss_weights = self.loss.copy()
        return self._current

    def topology_changed(self) -> None:
        """The model's forward has changed: `refresh` must not update the copy."""
        self._current = False

    def refresh(self) -> None:
        """After the decisions of the same epoch: update the copy's stages, unless its forward changed."""
        if self._current:
            self.weights["_extra_state"] = self.model.get_extra_state()

    def restore(self) -> None:
        """Load the best model into the model; without one, nothing changes."""
        if self.weights:
            self.model.load_state_dict(self.weights)
        if self.loss_weights:
            self.loss.load_state_dict(self.loss_weights)

    def state_dict(self) -> dict[str, Any]:
        kept = {"loss": self.loss_weights} if self.loss_weights else {}
        return {"mark": self.score.to_json(), "weights": self.weights, **kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.score.load(state["mark"])
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        self.weights = {name: tensor.to(device) for name, tensor in state["weights"].items()}
        self.loss_weights = dict(state.get("loss", {}))  # loading moves them to the loss's device
