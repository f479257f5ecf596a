"""How well a network's codes retrieve images that were held out of its training."""

from __future__ import annotations

import numpy as np
import torch

from hashfaiss.codes import Codes
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.evaluation.metrics import average_precision
from hashfaiss.evaluation.ranking import Database, Labels
from hashfaiss.train.data import ImageSet


def encode_set(encoder: Encoder, images: ImageSet, batch: int) -> Codes:
    """Codes (n, ceil(K/8)) of decoded images, `batch` at a time."""
    batches = torch.split(images.images, batch)
    return np.concatenate([encoder.no_codes(), *(encoder.encode_resized(part) for part in batches)])


def leave_one_out_map(codes: Codes, bits: int, names: Labels) -> float:
    """Tie-aware mAP from 0 to 1 of held-out images, each a query for all the others.

    Args:
        codes: uint8 (n, ceil(bits/8)), of 2 images or more.
        names: the label names of each.
    """
    counts = Database(codes, bits, names).level_counts(codes, names, leave_out=np.arange(len(codes)))
    return float(average_precision(*counts).mean())
