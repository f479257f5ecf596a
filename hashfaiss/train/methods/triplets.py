"""The triplet likelihood that DTSH and DATH have in common, and the draws of triplets."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus
from torch.utils.checkpoint import checkpoint

Reduction = Literal["mean", "anchor", "sum"]

VALUES = 2**22  # triplets at a time, 16 MB a tensor of float32


def triplet_likelihood(
    theta: Tensor, similar: Tensor, margin: float, reduction: Reduction = "mean", self_positives: bool = False
) -> Tensor:
    """Negative log likelihood of all triplets (a, p, n) of a batch, log(1 + e^(margin - (theta_ap - theta_an))).

    Args:
        theta: (n, n), how alike two images' outputs are.
        similar: (n, n) bool; s_ap and not s_an make a triplet.
        margin: by which theta_ap should exceed theta_an.
        reduction: as for `reduce_triplets`.
        self_positives: whether p may be a.

    Returns:
        A scalar, 0 where the batch has no triplet.
    """
    positive = similar
    if not self_positives:
        positive = similar & ~torch.eye(len(similar), dtype=torch.bool, device=similar.device)
    return reduce_triplets(*anchor_losses(theta, positive, theta, ~similar, margin), reduction)


def anchor_losses(
    positives: Tensor, positive: Tensor, negatives: Tensor, negative: Tensor, margin: float
) -> tuple[Tensor, Tensor]:
    """Of each anchor, the losses of all its triplets.

    The tensors over triplets have no more than `VALUES` elements (or one anchor's), and none is kept for the gradient:
    they are computed again.

    Args:
        positives: theta_ap (n, P) of n anchors.
        positive: bool (n, P), which of these are there.
        negatives, negative: theta_an (n, M), and which.
        margin: by which theta_ap should exceed theta_an.

    Returns:
        The sum of an anchor's losses (n,), and how many they are (n,).
    """
    counts = positive.sum(dim=1) * negative.sum(dim=1)
    anchors = max(1, VALUES // max(1, positives.shape[1] * negatives.shape[1]))
    chunks = zip(*(torch.split(each, anchors) for each in (positives, positive, negatives, negative)), strict=True)
    sums = [checkpoint(_sum_losses, *chunk, margin, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
    return torch.cat(sums), counts


def _sum_losses(positives: Tensor, positive: Tensor, negatives: Tensor, negative: Tensor, margin: float) -> Tensor:
    losses = softplus((negatives + margin)[:, None, :] - positives[:, :, None])
    return losses.where(positive[:, :, None] & negative[:, None, :], 0).sum(dim=(1, 2))


def reduce_triplets(sums: Tensor, counts: Tensor, reduction: Reduction) -> Tensor:
    """Sums of each anchor's losses (n,) and their counts (n,) → a scalar, 0 where there are none.

    "mean" is over triplets, "sum" their sum, "anchor" the mean over anchors that have any of their own means.
    """
    if reduction == "sum":
        return sums.sum()
    if reduction == "mean":
        return sums.sum() / counts.sum().clamp(min=1)
    return (sums / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)


def pack_rows(values: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The wanted values of each row (n, m), bool (n, m), moved to its front: (n, most in a row), and a bool of them."""
    present, places = wanted.sort(dim=1, descending=True, stable=True)
    width = int(wanted.sum(dim=1).max()) if wanted.numel() else 0
    return values.gather(1, places[:, :width]), present[:, :width]


def draw(values: Tensor, wanted: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Of the wanted values of each row (n, m), bool (n, m), `count` at random, or all where there are fewer.

    Each at most once, and each with the same chance. The random numbers are of torch's generator on the device.

    Returns:
        Values (n, k) with k <= count or m, and which of them were drawn, bool (n, k).
    """
    if values.shape[1] <= count:
        return values, wanted
    keys, places = torch.rand(wanted.shape, device=wanted.device).masked_fill(~wanted, -1).topk(count, dim=1)
    return values.gather(1, places), keys >= 0
