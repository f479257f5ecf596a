"""What hashfaiss drew is no image of a collection."""

from __future__ import annotations

import os

import numpy as np

from hashfaiss.evaluation.health import code_health
from hashfaiss.evaluation.plots import plot_health
from hashfaiss.images.finding import PassedOver, find_images
from hashfaiss.library.hits import Hit, Hits
from hashfaiss.library.montage import draw_montage


def test_montages_and_plots_are_passed_over(photos):
    before = list(find_images(photos))
    hit = Hit(str(photos / "cat/0.jpg"), 0, ("cat",), 0)
    draw_montage(photos / "hits.png", [Hits(hit.path, True, (hit,))], {"cat"})
    plot_health(photos / "plots.png", code_health(np.arange(5, dtype=np.uint8)[:, None], 8))
    plot_health(photos / "plots.pdf", code_health(np.arange(5, dtype=np.uint8)[:, None], 8))
    passed = PassedOver()
    assert list(find_images(photos, passed=passed)) == before
    assert str(passed) == "2 drawn by hashfaiss, 1 .pdf"
    assert os.path.getsize(photos / "plots.pdf")
