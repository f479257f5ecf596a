"""An index that the tests of builds begin with."""

from __future__ import annotations

import pytest
from builds import counts

from hashfaiss.library.image_index import ImageIndex


@pytest.fixture
def index(encoder, photos):
    """Of the 12 `photos`, in a folder beside them."""
    index = ImageIndex.create(encoder, photos.parent / "x.index")
    assert counts(index.build(photos)) == (12, 0, 0, 0)
    return index
