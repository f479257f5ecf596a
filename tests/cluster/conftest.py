"""A cluster for the tests of those who work on one."""

from __future__ import annotations

import pytest

from hashfaiss.cluster.joining import joined


@pytest.fixture(scope="module")
def ray():
    """A cluster of this machine alone."""
    ray = joined()
    yield ray
    ray.shutdown()
