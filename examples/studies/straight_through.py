"""Why DBDH does not learn ten classes by signs with a straight-through gradient, while it learns two or three.

    hashfaiss train --method itq --images cifar10/ --labels split/train.csv --bits 16 --size 128 --fit stretch \\
        --backbone efficientnet-lite0 --out itq.pt
    python examples/studies/straight_through.py --model itq.pt --images cifar10/ --labels split/train.csv \\
        --queries split/query.csv

Each pair of unlike images pushes each bit of an image's code towards its flip, with a force that does not fade as u
does: theta is <b, B> / 2, of signs. Pairs of like images do not hold it: where they agree they pull no more. With C
classes, C - 1 of C pairs are unlike: from some C on |u| shrinks, until every step flips signs and nothing is learned.
Clamped to [-1, 1], the same loss pushes in proportion to u.

A line for each number of classes and each form: the two forces on a bit along its sign before the training (above 0:
towards the flip), the mean |u| after the first and the last epoch, the mAP of the queries among the training images.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hashfaiss import Encoder
from hashfaiss.codes import pack_tensor
from hashfaiss.encoding.items import Item
from hashfaiss.encoding.pipeline import encode_stream
from hashfaiss.evaluation import evaluate_retrieval
from hashfaiss.images.labels import labelled_files
from hashfaiss.train.methods import build_method
from hashfaiss.train.methods.method import sign, similarity

BITS, EPOCHS, BATCH, RATE = 16, 20, 64, 1e-3


def features_of(encoder: Encoder, images: str, listed: str) -> tuple[Tensor, list[tuple[str, ...]]]:
    features, names = [], []
    for batch in encode_stream(encoder, (Item(*found) for found in labelled_files(images, listed)), features=True):
        features.append(batch.features)
        names += [item.labels for item in batch.items]
    return torch.from_numpy(np.concatenate(features)), names


def forces(outputs: Tensor, labels: Tensor) -> tuple[float, float]:
    """Of unlike and of like images, on a bit along its sign: means over images and bits."""
    codes, similar = sign(outputs), similarity(labels, labels)
    pulls = torch.sigmoid(codes @ codes.T / 2)
    unlike, like = (1 - similar) * pulls, -similar * (1 - pulls)
    return tuple(float(((part @ codes / 2 / len(codes)) * codes).mean()) for part in (unlike, like))  # type: ignore[return-value]


def train(features: Tensor, labels: Tensor, options: dict[str, Any]) -> tuple[torch.nn.Linear, list[float]]:
    method: Any = build_method("dbdh", labels, BITS, options)
    head = new_head(features.shape[1])
    optimiser = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=1e-4)
    sizes = []
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(features)).split(BATCH):
            optimiser.zero_grad()
            method(head(features[rows]), rows).backward()
            optimiser.step()
        with torch.no_grad():
            sizes.append(float(head(features).abs().mean()))
    return head, sizes


def new_head(dim: int) -> torch.nn.Linear:
    torch.manual_seed(0)
    head = torch.nn.Linear(dim, BITS)
    torch.nn.init.normal_(head.weight, std=0.01)
    torch.nn.init.zeros_(head.bias)
    return head


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "images", "labels", "queries"):
        options.add_argument(f"--{name}", required=True)
    options.add_argument("--classes", type=int, nargs="+", default=[2, 3, 5, 10])
    given = options.parse_args()
    encoder = Encoder.load(given.model)
    features, names = features_of(encoder, given.images, given.labels)
    queries, query_names = features_of(encoder, given.images, given.queries)
    known = sorted({label for labels in names for label in labels})
    for count in given.classes:
        few = known[:count]
        own, asked = ([row for row, labels in enumerate(part) if labels[0] in few] for part in (names, query_names))
        labels = torch.tensor([[float(label == names[row][0]) for label in few] for row in own])
        before = forces(new_head(features.shape[1])(features[own]).detach(), labels)
        for form, how in (("signs", {}), ("clamped", {"ste": False})):
            head, sizes = train(features[own], labels, how)
            with torch.no_grad():
                codes, query_codes = (pack_tensor(head(part)).numpy() for part in (features[own], queries[asked]))
            sides = [[part[row] for row in rows] for part, rows in ((query_names, asked), (names, own))]
            found = evaluate_retrieval(query_codes, sides[0], codes, sides[1], BITS)
            print(
                f"{count} classes, {form}: unlike {before[0]:+.4f}, like {before[1]:+.4f}, "
                f"|u| {sizes[0]:.3f} to {sizes[-1]:.3f}, mAP {found.mean_average_precision:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
