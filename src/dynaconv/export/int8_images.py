"""The images that int8 export takes: checked before anything is computed with them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from dynaconv.errors import ExportError, with_article

Shape = tuple[int | None, ...]
"""Shape of an input; a free axis is None."""


def calibration_images(loader: Iterable[Any], subset_size: int) -> list[Tensor]:
    """The first images of a loader, in its batches; the last batch is cut to reach ``subset_size`` exactly.

    Args:
        loader: Batches ``(B, C, H, W)`` of images, normalised as the network expects them, or pairs of such a batch and
            its labels, which are not looked at.
        subset_size: How many images to take at most.

    Raises:
        ExportError: There are none, or a batch is no tensor of finite floating-point numbers.
    """
    images: list[Tensor] = []
    count = 0
    for batch in loader:
        found = batch[0] if isinstance(batch, list | tuple) and batch else batch
        images.append(_checked(found, "calibration")[: subset_size - count])
        count += len(images[-1])
        if count >= subset_size:
            break
    if not images:
        raise ExportError("the calibration loader gives no images; give a few hundred of the training set.")
    return images


def labelled_images(loader: Iterable[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images and their classes.

    Raises:
        ExportError: There are none, or something else than pairs of images and one class number each.
    """
    empty = True
    for batch in loader:
        if not isinstance(batch, list | tuple) or len(batch) != 2:
            raise ExportError(f"the loader in `evaluate` gives (images, labels); got {_described(batch)}.")
        images, labels = _checked(batch[0], "evaluation"), batch[1]
        if not isinstance(labels, Tensor) or labels.shape != images.shape[:1] or labels.is_floating_point():
            raise ExportError(
                f"the labels in `evaluate` are one class number an image, a tensor ({len(images)},) of integers; got "
                f"{_described(labels)}."
            )
        empty = False
        yield images, labels.cpu()
    if empty:
        raise ExportError("the loader in `evaluate` gives no images.")


def check_shapes(images: Iterable[Tensor], shape: Shape, what: str) -> None:
    """Raise ExportError unless every batch can be fed to an input of that shape."""
    for batch in images:
        came = tuple(batch.shape)
        if len(came) != len(shape) or any(
            want not in (None, got) for want, got in zip(shape[1:], came[1:], strict=True)
        ):
            wanted = " x ".join("any" if axis is None else str(axis) for axis in shape[1:])
            raise ExportError(
                f"the {what} loader gives images of {' x '.join(map(str, came[1:]))}, the network takes {wanted}; "
                f"prepare them as for training."
            )


def in_batches(images: Sequence[Tensor], shape: Shape) -> Iterator[Tensor]:
    """The same batches or, where the graph's batch is fixed, batches of that size; what is left over is dropped.

    Raises:
        ExportError: There are fewer images than the fixed batch takes, or of several sizes.
    """
    fixed = shape[0]
    if fixed is None:
        yield from images
        return
    if len({image.shape[1:] for image in images}) > 1:
        raise ExportError(f"the network's batch is fixed to {fixed}, so the calibration images must be of one size.")
    joined = torch.cat(list(images))
    if len(joined) < fixed:
        raise ExportError(f"the network's batch is fixed to {fixed}, and there are only {len(joined)} images for it.")
    for start in range(0, len(joined) - fixed + 1, fixed):
        yield joined[start : start + fixed]


def _checked(images: Any, what: str) -> Tensor:
    if not isinstance(images, Tensor) or images.dim() < 2 or not images.is_floating_point() or not images.numel():
        raise ExportError(
            f"the {what} loader gives batches of images, tensors (B, C, H, W) of floating-point numbers; got "
            f"{_described(images)}."
        )
    checked: Tensor = images.detach().cpu().float()
    if not bool(checked.isfinite().all()):
        raise ExportError(f"the {what} loader gives images with NaN or infinite values; repair the data.")
    return checked


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {value.dtype}"
    return with_article(type(value).__name__) + (f" of {len(value)}" if isinstance(value, list | tuple) else "")
