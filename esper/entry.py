"""The commands `esper-train` and `esper-ctl`: signals are handled first, and only then is the rest imported.

Importing torch and Hydra takes seconds, in which a signal would end in a traceback.
"""

from __future__ import annotations

from esper.utils.os_signals import exit_on_signals


def train() -> int:
    """`esper-train`; returns the exit code."""
    with exit_on_signals():
        from esper.train import main

        return main()


def ctl() -> int:
    """`esper-ctl`; returns the exit code."""
    with exit_on_signals():
        from esper.ctl import main

        return main()
