"""What holds for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers import forkserver
from hypothesis import settings

# a busy machine makes an example slow now and then; what has to be fast is measured in benchmarks
settings.register_profile("esper", deadline=None)
settings.load_profile("esper")


@pytest.fixture(scope="session", autouse=True)
def _fork_server() -> Iterator[None]:
    """Ends the server of `helpers.forkserver` after the last test."""
    yield
    forkserver.close()
