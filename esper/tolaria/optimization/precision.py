"""Mixed precision: one autocast setting and one loss scaler for the whole run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from esper.config.messages import error_message
from esper.errors import ConfigError
from esper.leyline import EventName
from esper.tolaria.events import Telemetry

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """Autocast and gradient scaling.

    Only fp16 needs a scaler: bf16 has the exponents of float32. If fp16 overflows, the step is skipped and
    counted. `torch.amp.GradScaler` reads the overflow on the CPU, which is the only synchronisation of an
    fp16 step; a fused optimiser (`optimizer_params.fused=true`) avoids it.

    Args:
        mode: false, true (fp16 on cuda, bf16 elsewhere), "bf16" or "fp16".
        device: the device of the model.

    Raises:
        ConfigError: another mode.
    """

    def __init__(self, mode: bool | str, device: torch.device) -> None:
        if mode is True:
            mode = "fp16" if device.type == "cuda" else "bf16"
        if mode not in (False, *_DTYPES):
            raise ConfigError(error_message("mixed_precision", mode, "false, true, bf16 or fp16"))
        self.dtype = _DTYPES[str(mode)] if mode else None
        self.device_type = device.type
        self.scaler = torch.amp.GradScaler(device.type) if self.dtype is torch.float16 else None
        # on the device where the overflow is found, so that counting does not synchronise
        home = device if self.scaler is not None else torch.device("cpu")
        self._skipped = torch.zeros((), device=home, dtype=torch.int64)
        self._reported = 0

    def autocast(self) -> AbstractContextManager[Any]:
        """A new context for one forward; does nothing in full precision."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device_type, dtype=self.dtype)

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to differentiate: times the scale in fp16, else unchanged."""
        return loss if self.scaler is None else self.scaler.scale(loss)

    def backward(self, loss: Tensor) -> None:
        """Backward of the (scaled) loss."""
        self.scaled(loss).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Unscale the gradients; once per step, before clipping."""
        if self.scaler is None:
            return
        self.scaler.unscale_(optimizer)
        found = self.scaler._found_inf_per_device(optimizer).values()
        overflows = [each.to(self._skipped.device, non_blocking=True) for each in found]
        if overflows:
            self._skipped += torch.stack(overflows).any()

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Step, or skip the step after an fp16 overflow."""
        if self.scaler is None:
            optimizer.step()
        elif self.scaler._found_inf_per_device(optimizer):  # empty if no parameter had a gradient
            self.scaler.step(optimizer)
            self.scaler.update()

    def skipped_steps(self) -> int:
        """The number of steps skipped in this run; synchronises with the device."""
        return int(self._skipped.item())

    def report(self, telemetry: Telemetry) -> None:
        """Emit the number of steps skipped since the last report, if any."""
        skipped = self.skipped_steps()
        if skipped > self._reported and self.scaler is not None:
            facts = {"skipped": skipped - self._reported, "total": skipped, "scale": self.scaler.get_scale()}
            telemetry.emit(EventName.STEPS_SKIPPED, facts)
        self._reported = skipped

    def state_dict(self) -> dict[str, Any]:
        if self.scaler is None:
            return {}
        skipped = {"skipped_steps": self.skipped_steps(), "told": self._reported}
        return {"scaler": self.scaler.state_dict(), **skipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore scaler and counts; ignored in full precision, or if the saved run had no scaler."""
        if self.scaler is not None and state:
            self.scaler.load_state_dict(dict(state["scaler"]))
            self._skipped.fill_(state["skipped_steps"])
            self._reported = state["told"]
