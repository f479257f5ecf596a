"""What every backbone must do."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor

from hashfaiss.networks.backbone import Backbone
from hashfaiss.networks.backbones import backbone_facts, build_backbone

IMAGES = 3


class BackboneTests:
    """What a `Backbone` must do.

    Attributes:
        name: as `--backbone` takes it.
        size: side of the images it is tried with; 0 for the smallest that its facts allow.
    """

    name: str
    size: int = 0

    @pytest.fixture
    def backbone(self) -> Backbone:
        """It, with random weights that are the same each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build_backbone(self.name).eval()

    def images(self) -> Tensor:
        """Normalised ones, (IMAGES, 3, side, side)."""
        side = self.size or backbone_facts(self.name).smallest_size
        return torch.randn(IMAGES, 3, side, side, generator=torch.Generator().manual_seed(1))

    def test_its_facts_are_those_of_what_it_gives(self, backbone: Backbone) -> None:
        facts = backbone_facts(self.name)
        with torch.no_grad():
            maps = backbone.features(self.images())
            vectors = backbone.neck(maps)
            assert torch.equal(backbone(self.images()), vectors)
        assert maps.shape[0] == IMAGES
        assert maps.shape[1] == facts.channels or not facts.channels
        assert vectors.shape == (IMAGES, facts.dim)
        assert vectors.isfinite().all()
        assert facts.smallest_size <= facts.default_size <= (facts.largest_size or facts.default_size)

    def test_an_image_is_seen_alike_in_any_batch(self, backbone: Backbone) -> None:
        images = self.images()
        with torch.no_grad():
            together, alone = backbone(images), torch.cat([backbone(one[None]) for one in images])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(together[0], together[1], rtol=1e-3)

    def test_gradients_reach_all_of_it(self, backbone: Backbone) -> None:
        torch.autograd.backward(backbone(self.images()).square().sum())
        unmoved = [name for name, value in backbone.named_parameters() if value.grad is None]
        assert not unmoved

    def test_its_state_is_taken_up(self, backbone: Backbone) -> None:
        file = io.BytesIO()
        torch.save(backbone.state_dict(), file)
        other = build_backbone(self.name).eval()
        other.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
        with torch.no_grad():
            assert torch.equal(other(self.images()), backbone(self.images()))

    def test_what_half_precision_computes_is_of_it(self, backbone: Backbone) -> None:
        own = {id(module) for module in backbone.modules()}
        assert all(id(module) in own for module in backbone.halved)
