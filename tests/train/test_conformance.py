"""Every method does what `hashfaiss.testing` asks of one."""

from __future__ import annotations

from typing import Any

import pytest

from hashfaiss.testing import MethodTests, ShallowTests
from hashfaiss.train.methods import METHODS, Shallow

SHALLOW = [name for name, kind in METHODS.items() if issubclass(kind, Shallow)]
# SDH places more anchors than there are points there.
FEWER: dict[str, dict[str, Any]] = {"sdh": {"anchors": 10}}


class TestDeepMethods(MethodTests):
    @pytest.fixture(autouse=True, params=[name for name in METHODS if name not in SHALLOW])
    def of(self, request: pytest.FixtureRequest) -> None:
        self.name = request.param


class TestShallowMethods(ShallowTests):
    @pytest.fixture(autouse=True, params=SHALLOW)
    def of(self, request: pytest.FixtureRequest) -> None:
        self.name = request.param
        self.fewer = FEWER.get(self.name, {})  # type: ignore[misc]
