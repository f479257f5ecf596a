"""Every kind does what `hashfaiss.testing` asks of one."""

from __future__ import annotations

import pytest

from hashfaiss.testing import KindTests

KINDS = ["flat", "hash:b=10,flips=1", "multihash:tables=3,b=8,flips=0", "ivf:lists=8,probes=2", "hnsw:m=8,ef=16"]


class TestKinds(KindTests):
    @pytest.fixture(autouse=True, params=KINDS)
    def of(self, request: pytest.FixtureRequest) -> None:
        self.kind = request.param
