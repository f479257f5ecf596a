"""The script everyone writes: ImageFolder, DataLoader, PIL transforms, an eager float32 network, numpy, one npy file.

Run as a process of its own, `python -m hashfaiss.bench.plain MODEL IMAGES COUNT OUT`, because its loader forks. Prints
the images a second of the loop, without imports and loading.
"""

from __future__ import annotations

import os
import sys
import time

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from hashfaiss.bench.encoding import spread
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.images.preprocessing import CROP_SHARE

BATCH = 64


def main(model: str, images: str, count: str, out: str) -> None:
    """Encode `count` images."""
    encoder = Encoder.load(model)
    network, device, look = encoder.network, encoder.device, encoder.preprocessing
    size = look.size
    scale = [transforms.Resize((size, size))]
    if look.fit == "crop":
        scale = [transforms.Resize(round(size / CROP_SHARE)), transforms.CenterCrop(size)]
    steps = [*scale, transforms.ToTensor(), transforms.Normalize(look.mean, look.std)]
    data = ImageFolder(images, transforms.Compose(steps))
    chosen = Subset(data, spread(range(len(data)), int(count)))
    loader = DataLoader(chosen, batch_size=BATCH, num_workers=os.cpu_count() or 1, pin_memory=device.type == "cuda")
    started = time.perf_counter()
    codes = []
    with torch.no_grad():
        for batch, _ in loader:
            outputs = network(batch.to(device)).cpu().numpy()
            codes.append(np.packbits(outputs >= 0, axis=1, bitorder="little"))
    np.save(out, np.concatenate(codes))
    print(len(chosen) / (time.perf_counter() - started))


if __name__ == "__main__":
    main(*sys.argv[1:])
