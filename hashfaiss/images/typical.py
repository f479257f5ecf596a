"""How large the pictures of a folder are, and so how large a network should see them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from itertools import islice

from hashfaiss.images.decoding import open_image
from hashfaiss.images.finding import ImageFile

LOOKED_AT = 64
SMALL_SIDE = 160  # pixels; smaller pictures have nothing to show at 224,
SMALL, LARGE = 128, 224  # and were found best at 128 (EfficientNet-Lite0's features, 5 nearest neighbours, CIFAR-10)


def typical_size(files: Iterable[ImageFile]) -> int:
    """Side in pixels for a network of 224 pixels: 128 where most of the first images are smaller than 160."""
    sides = []
    for file in islice(files, LOOKED_AT):
        try:
            with open_image(file.path) as image:  # the header alone
                sides.append(min(image.size))
        except Exception:  # whatever is wrong with it is told when it is read
            continue
    return SMALL if sides and statistics.median(sides) < SMALL_SIDE else LARGE
