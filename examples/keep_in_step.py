"""Keep an index in step with a folder: what is new is encoded, what is gone leaves, the rest is not touched.

python examples/keep_in_step.py model.pt photos/ photos.index
"""

import sys

from hashfaiss import Encoder, ImageIndex

model, images, folder = sys.argv[1:4]
index = ImageIndex.create(Encoder.load(model), folder)
report = index.build(images)
print(f"{report.encoded} encoded, {report.unchanged} unchanged, {report.removed} removed")
for path, reason in report.skipped:
    print(f"skipped {path}: {reason}")

for name, trouble in index.verify():
    print(name, trouble or "sound")
