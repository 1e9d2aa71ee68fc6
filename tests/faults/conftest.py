from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from faults.harness.bench import Bench


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """What the rows share; one for each process of the test run."""
    with ExitStack() as owned:
        yield Bench(tmp_path_factory.mktemp("battery"), owned)
