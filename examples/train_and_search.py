"""Train a small DHIDA on a folder of labelled images, index it, and search it.

    python examples/train_and_search.py photos/ query.jpg

`photos/` has one folder of images for each class. Here the network is small and starts from nothing; for
photographs, use backbone="resnet18" and weights="imagenet", and more epochs.
"""

import sys

from hashfaiss import Encoder
from hashfaiss.train import TrainOptions, train

images, query = sys.argv[1:3]
options = TrainOptions(
    images=images,
    out="model.pt",
    bits=32,
    backbone="resnet-small",
    weights="none",
    size=16,
    fit="stretch",
    batch=32,
    epochs=5,
    learning_rate=3e-4,
)
result = train(options, progress=lambda at: print(f"\repoch {at.epoch}/{at.epochs}", end="", file=sys.stderr))
print(f"epoch {result.best_epoch}: validation mAP {result.validation_score:.3f}")

encoder = Encoder.load(result.out)
index = encoder.to_index(images, "photos.index")
hits = index.query(query, k=5)
print("certified exact" if hits.exact else "not certified")
for hit in hits:
    print(hit.distance, hit.path, *hit.labels)
