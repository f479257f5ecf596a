"""What decoding JPEG files at reduced size saves, and how many bits of the codes it flips.

    python examples/benchmarks/reduced_decoding.py --model photos.pt --images cifar10/ [--count 1000] [--size 4000x3000]

Large photographs are made of the small images below --images: by turns one that is enlarged, and 192 that lie side by
side, so that there is detail, with a sensor's noise (sigma 4), as JPEG of quality 85 to 95. Times are of the processor,
in one thread. JSON on stdout.
"""

import argparse
import io
import json
import time
from contextlib import suppress
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from hashfaiss import Encoder
from hashfaiss.images.decoding import decode_image
from hashfaiss.images.finding import find_images

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--images", required=True)
parser.add_argument("--count", type=int, default=1000)
parser.add_argument("--size", default="4000x3000")
options = parser.parse_args()
torch.set_num_threads(1)
rng = np.random.default_rng(0)
width, height = map(int, options.size.split("x"))
paths = [file.path for file in find_images(options.images)]
encoder = Encoder.load(options.model, device="cpu", precision="float32")
whole = encoder.preprocessing
reduced = replace(whole, reduced=True)
noise = rng.normal(0, 4, (height + 64, width + 64, 3)).astype(np.float32)


def photograph(number: int) -> bytes:
    """One large JPEG file."""
    if number % 2:
        small = Image.open(paths[rng.integers(len(paths))]).convert("RGB")
    else:
        small = Image.new("RGB", (16 * 32, 12 * 32))
        for place in range(192):
            tile = Image.open(paths[rng.integers(len(paths))]).convert("RGB").resize((32, 32))
            small.paste(tile, (place % 16 * 32, place // 16 * 32))
    large = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    top, left = rng.integers(0, 64, 2)
    pixels = np.clip(large + noise[top : top + height, left : left + width], 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=int(rng.integers(85, 96)))
    return file.getvalue()


seconds = {"whole": [], "reduced": []}
bits = images = changed = 0
levels = largest = 0.0


def compare(data: bytes) -> None:
    """Decode one file both ways, and add to the sums."""
    global bits, images, changed, levels, largest
    seen = {}
    for name, preprocessing in (("whole", whole), ("reduced", reduced)):
        started = time.process_time()
        seen[name] = preprocessing.resize(decode_image(data, None, preprocessing.least_side))
        seconds[name].append(time.process_time() - started)
    outputs = encoder.outputs(torch.stack([seen["whole"], seen["reduced"]]))
    flipped = (outputs[0] >= 0) != (outputs[1] >= 0)
    shares = (outputs[0].abs() / outputs[0].square().mean().sqrt())[flipped]
    bits += int(flipped.sum())
    changed += bool(flipped.any())
    largest = max([largest, *shares.tolist()])
    levels += float((seen["whole"].int() - seen["reduced"].int()).abs().float().mean())
    images += 1


with suppress(KeyboardInterrupt):  # Ctrl-C: what there is so far
    for number in range(options.count):
        compare(photograph(number))
medians = {name: float(np.median(values)) for name, values in seconds.items()}
result = {
    "photographs": images,
    "size": options.size,
    "network_sees": whole.size,
    "decode_and_resize_cpu_ms": {name: round(1000 * value, 1) for name, value in medians.items()},
    "times_faster": round(medians["whole"] / medians["reduced"], 1),
    "bits_flipped_share": bits / (images * encoder.bits),
    "images_with_a_flipped_bit_share": changed / images,
    "largest_flipped_output_of_its_size": round(largest, 3),
    "mean_difference_of_pixels": round(levels / images, 3),
}
print(json.dumps(result, indent=1))
