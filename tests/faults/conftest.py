from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from faults.harness.bench import Bench


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """What the rows share; one for each process of the test run, its runs for all of them."""
    with ExitStack() as owned:
        base = tmp_path_factory.getbasetemp()
        # with pytest-xdist each worker has a folder of its own in one that they share
        shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
        yield Bench(tmp_path_factory.mktemp("fault-suite"), owned, shared / "fault-suite-shared")
