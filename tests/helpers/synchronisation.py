"""Finds out who waits for the device, on a machine that has none."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class SyncDetector(TorchDispatchMode):
    """Notes every operation that hands a value from the device to the program: the device is waited for.

    `exempt` are the addresses of tensors that live on the processor anyway.
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
