"""mAP of many models that share one frozen backbone, whose features are computed once for all of them.

    python examples/benchmarks/heads.py --images cifar10 --queries split/query.csv --database split/database.csv \
        *.pt

Models are those of `hashfaiss train --freeze`, or of a method such as itq, on the same backbone, size and fit. A line
of JSON each: bits, method, and the tie-aware mAP@ALL of the queries, with the worst and the best order of ties.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import torch

from hashfaiss import Encoder
from hashfaiss.codes import pack_tensor
from hashfaiss.encoding.items import Item
from hashfaiss.encoding.pipeline import encode_stream
from hashfaiss.evaluation import evaluate_retrieval
from hashfaiss.images.labels import labelled_files


def features_of(encoder: Encoder, images: str, listed: str) -> tuple[torch.Tensor, list[tuple[str, ...]]]:
    features, labels = [], []
    items = (Item(file, names) for file, names in labelled_files(images, listed))
    for batch in encode_stream(encoder, items, features=True):
        features.append(batch.features)
        labels += [item.labels for item in batch.items]
    return torch.from_numpy(np.concatenate(features)), labels


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    for name in ("images", "queries", "database"):
        options.add_argument(f"--{name}", required=True)
    options.add_argument("models", nargs="+")
    given = options.parse_args()
    first = Encoder.load(given.models[0])
    sides = [features_of(first, given.images, listed) for listed in (given.queries, given.database)]
    for model in given.models:
        encoder = Encoder.load(model)
        network: Any = encoder.network
        backbones = [one.network.backbone.state_dict() for one in (first, encoder)]
        if encoder.preprocessing != first.preprocessing or any(
            not torch.equal(value, backbones[1][key]) for key, value in backbones[0].items()
        ):
            raise SystemExit(f"{model} has another backbone or preprocessing than {given.models[0]}")
        head = network.hash_features if hasattr(network, "hash_features") else network.head
        with torch.inference_mode():
            (queries, query_labels), (database, labels) = [
                (pack_tensor(head(features)).numpy(), names) for features, names in sides
            ]
        found = evaluate_retrieval(queries, query_labels, database, labels, encoder.bits)
        row = {
            "model": model,
            "method": encoder.method,
            "bits": encoder.bits,
            "map": round(found.mean_average_precision, 4),
            "ties": [round(found.pessimistic, 4), round(found.optimistic, 4)],
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
