"""What every figure is checked for."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imread

from dynaconv.explain.figures import save


def assert_drawn(figure: Figure, path: Path, *, width: int = 1000) -> None:
    """It is written, wide and not blank, and no title, label or legend sticks out of the page."""
    pixels = imread(save(figure, path))
    assert pixels.shape[1] >= width
    assert pixels[..., :3].std() > 0.05
    figure.draw_without_rendering()
    right, top = figure.bbox.size
    shown = [*(axes.get_tightbbox() for axes in figure.axes), *(box.get_window_extent() for box in figure.legends)]
    for box in shown:
        assert box is not None
        assert min(box.x0, box.y0) >= -1
        assert box.x1 <= right + 1
        assert box.y1 <= top + 1
    frame = np.concatenate([pixels[[0, 1, -2, -1], :, :3].ravel(), pixels[:, [0, 1, -2, -1], :3].ravel()])
    assert frame.min() > 0.99
    # A picture that was cut off, or an empty panel over half the page, leaves long runs of blank rows.
    assert (pixels[..., :3].min(axis=(1, 2)) > 0.99).mean() < 0.3
