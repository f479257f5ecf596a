"""In a notebook: an index in memory, from Pillow images or a tensor batch, without a folder.

python examples/in_memory.py model.pt
"""

import sys

import torch
from PIL import Image

from hashfaiss import Encoder

encoder = Encoder.load(sys.argv[1])
colours = ["black", "white", "red", "green", "blue"]
index = encoder.to_index([Image.new("RGB", (64, 64), colour) for colour in colours], labels=[(c,) for c in colours])

index.add(torch.randint(0, 256, (10, 3, 64, 64), dtype=torch.uint8))
print(index)

for hit in index.query(Image.new("RGB", (32, 32), "red"), k=3):
    print(hit.id, hit.distance, *hit.labels)
