"""Make tour.ipynb, a notebook that indexes your photographs and shows what hashfaiss does with them.

    python examples/tour.py photos/

Open it with Jupyter (`pip install jupyterlab`, `jupyter lab tour.ipynb`) and run it from top to bottom.
"""

import json
import sys
from pathlib import Path

TOUR = """
# hashfaiss, a tour
Codes of 64 bits are fitted to what a network that has seen ImageNet sees in your images: no labels, no training.
---
from hashfaiss.library.progress import bar
from hashfaiss.train.unlabelled import fit_to_folders

with bar("look at images") as progress:
    encoder = fit_to_folders([PHOTOS], progress=progress)
encoder
---
# An index
Run this cell again: nothing is encoded twice.
---
index = encoder.to_index(PHOTOS, "tour.index", progress=True)
index
---
# What is like an image
Its nearest by Hamming distance, certified to be those that comparing with every code would find.
---
first = index.store.full_path(next(row for _, row in index.store.rows()))
index.query(first, k=8)
---
# What is as near as that
The radius is the greatest distance that counts; `hashfaiss radius` helps to choose it from pairs you have judged.
---
index.within(first, radius=index.bits // 4)
---
# Two images
The bits in which their codes differ.
---
last = index.query(first, k=len(index))[-1].path
index.compare(first, last)
---
# Near-duplicates
Groups of images whose codes are near each other.
---
from hashfaiss import Hits

groups = list(index.duplicates(radius=2))
print(len(groups), "groups")
Hits(groups[0][0].path, True, groups[0]) if groups else None
---
# How good are the codes?
How many of an image's 10 nearest by the network's real features are among its 10 nearest by code, and by chance.
---
from hashfaiss.evaluation.index_report import evaluate_index

report = evaluate_index(index)
neighbours = report.neighbours
(neighbours.recall, float(neighbours.chance[0])) if neighbours else "three images or more are needed"
"""


def notebook(images: str) -> dict[str, object]:
    """The tour as a notebook (nbformat 4.5), of the images in this folder."""
    cells = []
    for number, text in enumerate(TOUR.strip().split("\n---\n")):
        about = {"id": f"tour-{number}", "metadata": {}, "source": text.replace("PHOTOS", repr(images))}
        code = (
            {"cell_type": "code", "execution_count": None, "outputs": []} if number % 2 else {"cell_type": "markdown"}
        )
        cells.append(about | code)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


if __name__ == "__main__":
    Path("tour.ipynb").write_text(json.dumps(notebook(sys.argv[1]), indent=1), "utf-8")
    print("tour.ipynb")
