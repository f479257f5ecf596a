"""What a method, a backbone and a kind of index must do, as pytest classes to subclass:

from hashfaiss.testing import MethodTests

class TestMine(MethodTests):
    name = "mine"
"""

from __future__ import annotations

from hashfaiss.testing.backbones import BackboneTests
from hashfaiss.testing.kinds import KindTests
from hashfaiss.testing.methods import MethodTests, ShallowTests

__all__ = ["BackboneTests", "KindTests", "MethodTests", "ShallowTests"]
