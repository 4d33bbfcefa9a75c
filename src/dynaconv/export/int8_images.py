"""Reads the images for int8 export and checks them before any computation."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from dynaconv.errors import ExportError, with_article

Shape = tuple[int | None, ...]
"""Shape of an input; a free axis is None."""


def calibration_images(loader: Iterable[Any], subset_size: int) -> list[Tensor]:
    """Return the first images of a loader, in its batches; the last batch is cut to ``subset_size`` images in total.

    Args:
        loader: Batches ``(B, C, H, W)`` of images, normalised as the network expects them, or pairs of such a batch and
            its labels, which are ignored.
        subset_size: Largest number of images.

    Raises:
        ExportError: The loader gives no images, or a batch is not a tensor of finite floating-point numbers.
    """
    images: list[Tensor] = []
    count = 0
    for batch in loader:
        tensor = batch[0] if isinstance(batch, list | tuple) and batch else batch
        images.append(_checked(tensor, "calibration")[: subset_size - count])
        count += len(images[-1])
        if count >= subset_size:
            break
    if not images:
        raise ExportError("the calibration loader gives no images; pass a few hundred images of the training set.")
    return images


def labelled_images(loader: Iterable[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of images and their labels.

    Raises:
        ExportError: The loader gives no images, or something other than pairs of images and integer labels, one per
            image.
    """
    empty = True
    for batch in loader:
        if not isinstance(batch, list | tuple) or len(batch) != 2:
            raise ExportError(f"the loader in `evaluate` must give (images, labels); got {_described(batch)}.")
        images, labels = _checked(batch[0], "evaluation"), batch[1]
        if not isinstance(labels, Tensor) or labels.shape != images.shape[:1] or labels.is_floating_point():
            raise ExportError(
                f"the labels in `evaluate` must be an integer tensor ({len(images)},), one class per image; got "
                f"{_described(labels)}."
            )
        empty = False
        yield images, labels.cpu()
    if empty:
        raise ExportError("the loader in `evaluate` gives no images.")


def check_shapes(images: Iterable[Tensor], shape: Shape, purpose: str) -> None:
    """Raise ExportError if the images of a batch do not have the shape of the network's input."""
    for batch in images:
        actual = tuple(batch.shape)
        if len(actual) != len(shape) or any(
            want not in (None, got) for want, got in zip(shape[1:], actual[1:], strict=True)
        ):
            expected = " x ".join("any" if axis is None else str(axis) for axis in shape[1:])
            raise ExportError(
                f"the {purpose} loader gives images of {' x '.join(map(str, actual[1:]))}, but the network takes "
                f"{expected}; prepare the images as for training."
            )


def in_batches(images: Sequence[Tensor], shape: Shape) -> Iterator[Tensor]:
    """Yield the batches or, if the graph's batch size is fixed, batches of that size; the remaining images are dropped.

    Raises:
        ExportError: The batch size is fixed, and the images are fewer than one batch or have several sizes.
    """
    fixed = shape[0]
    if fixed is None:
        yield from images
        return
    if len({image.shape[1:] for image in images}) > 1:
        raise ExportError(
            f"the network's batch size is fixed to {fixed}, so all calibration images must have one size."
        )
    joined = torch.cat(list(images))
    if len(joined) < fixed:
        raise ExportError(
            f"the network's batch size is fixed to {fixed}; {len(joined)} calibration images are too few."
        )
    for start in range(0, len(joined) - fixed + 1, fixed):
        yield joined[start : start + fixed]


def _checked(images: Any, purpose: str) -> Tensor:
    if not isinstance(images, Tensor) or images.dim() < 2 or not images.is_floating_point() or not images.numel():
        raise ExportError(
            f"the {purpose} loader must give batches of images, floating-point tensors (B, C, H, W); got "
            f"{_described(images)}."
        )
    checked: Tensor = images.detach().cpu().float()
    if not bool(checked.isfinite().all()):
        raise ExportError(f"the {purpose} loader gives images with NaN or infinite values; repair the data.")
    return checked


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {value.dtype}"
    return with_article(type(value).__name__) + (f" of {len(value)}" if isinstance(value, list | tuple) else "")
