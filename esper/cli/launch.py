"""Has Hydra run the jobs of a plan, with the configuration that was composed and checked."""

from __future__ import annotations

from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.types import TaskFunction

from esper.cli.composer import JOB_NAME
from esper.cli.plan import Plan


def launch(plan: Plan, task: TaskFunction) -> None:
    """Call `task` for each job of `plan`, through Hydra's callbacks, sweeper and launcher.

    Raises:
        CompactHydraException: A plug-in of Hydra's cannot be made or used.
        OSError: Hydra cannot write its first files.
        SystemExit: A job was ended by a signal.
    """
    loader, name = plan.composer.loader, plan.composer.config_name
    loader.kept = plan.master
    hydra = Hydra(JOB_NAME, loader)
    GlobalHydra.instance().initialize(hydra)
    try:
        # the overrides are in the configuration already
        (hydra.multirun if plan.sweep else hydra.run)(config_name=name, task_function=task, overrides=[])
    finally:
        loader.kept = None
        GlobalHydra.instance().clear()
