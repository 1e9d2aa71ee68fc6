"""Detects synchronisations with the device, on a machine without one."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class SyncDetector(TorchDispatchMode):
    """Records every operation that copies a value from the device to the program, which synchronises.

    `exempt` are the addresses of tensors that are on the CPU anyway.
    """

    HANDS_OVER = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "_unique2", "masked_select")

    def __init__(self, exempt: set[int]) -> None:
        super().__init__()
        self.exempt = exempt
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in self.HANDS_OVER and args[0].data_ptr() not in self.exempt:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))
