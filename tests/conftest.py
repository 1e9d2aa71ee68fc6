"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# a busy machine makes an example slow now and then; what has to be fast is measured in benchmarks
settings.register_profile("esper", deadline=None)
settings.load_profile("esper")
