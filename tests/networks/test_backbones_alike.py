"""Every backbone does what `hashfaiss.testing` asks of one."""

from __future__ import annotations

import pytest

from hashfaiss.networks.backbones import BACKBONES
from hashfaiss.testing import BackboneTests


class TestBackbones(BackboneTests):
    @pytest.fixture(autouse=True, params=[*BACKBONES, "efficientnet-lite0", "timm/mobilenetv3_small_050"])
    def of(self, request: pytest.FixtureRequest) -> None:
        self.name = request.param
        self.size = 64  # of which all make more than one value a channel
