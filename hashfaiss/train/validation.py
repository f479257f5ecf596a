"""How well a network's codes retrieve images that were held out of its training."""

from __future__ import annotations

import numpy as np
import torch

from hashfaiss.codes import Codes
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.evaluation.metrics import average_precision
from hashfaiss.evaluation.ranking import Database
from hashfaiss.train.data import ImageSet


def encode_set(encoder: Encoder, images: ImageSet, batch: int) -> Codes:
    """Codes (n, ceil(K/8)) of decoded images, `batch` at a time."""
    batches = torch.split(images.images, batch)
    return np.concatenate([encoder.no_codes(), *(encoder.encode_resized(part) for part in batches)])


def leave_one_out_map(encoder: Encoder, held_out: ImageSet, batch: int) -> float:
    """Tie-aware mAP from 0 to 1 of the held-out images, each a query for all the others.

    Args:
        encoder: its preprocessing is that of the decoded images.
        held_out: 2 images or more.
        batch: images encoded at a time.
    """
    codes = encode_set(encoder, held_out, batch)
    database = Database(codes, encoder.bits, held_out.names)
    counts = database.level_counts(codes, held_out.names, leave_out=np.arange(len(codes)))
    return float(average_precision(*counts).mean())
