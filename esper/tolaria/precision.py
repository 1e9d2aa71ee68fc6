"""Mixed precision: one autocast setting and one loss scaler for the whole run."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


class Precision:
    """`mode` is false, true (fp16 on cuda, bf16 elsewhere), "bf16" or "fp16".

    Only fp16 needs a scaler: bf16 has the exponents of float32.
    """

    def __init__(self, mode: bool | str, device: torch.device) -> None:
        if mode is True:
            mode = "fp16" if device.type == "cuda" else "bf16"
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(str(mode))
        self.device_type = device.type
        self.scaler = torch.amp.GradScaler(device.type) if self.dtype is torch.float16 else None

    def autocast(self) -> AbstractContextManager[Any]:
        """A fresh context for one forward; costs nothing where precision is full."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device_type, dtype=self.dtype)

    def backward(self, loss: Tensor) -> None:
        """Backward of the (scaled) loss."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Bring gradients to their true size; once a step, before clipping."""
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Step, or skip the step where fp16 overflowed."""
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)
            self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return {} if self.scaler is None else self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.scaler is not None and state:
            self.scaler.load_state_dict(state)
