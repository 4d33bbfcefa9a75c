"""What every figure is checked for."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.image import imread

from dynaconv.explain.figures import save


def assert_drawn(figure: Figure, path: Path) -> None:
    """It is written, wide and not blank, and no title, label or legend sticks out of the page."""
    pixels = imread(save(figure, path))
    assert pixels.shape[1] >= 1000
    assert pixels[..., :3].std() > 0.05
    figure.draw_without_rendering()
    width, height = figure.bbox.size
    shown = [*(axes.get_tightbbox() for axes in figure.axes), *(box.get_window_extent() for box in figure.legends)]
    for box in shown:
        assert box is not None
        assert min(box.x0, box.y0) >= -1
        assert box.x1 <= width + 1
        assert box.y1 <= height + 1
    # A picture that was cut off, or an empty panel over half the page, leaves long runs of blank rows.
    assert (pixels[..., :3].min(axis=(1, 2)) > 0.99).mean() < 0.3
