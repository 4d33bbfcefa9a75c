"""Accuracy of a network on a set of images."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv.errors import DataError
from dynaconv.train.data.batches import one_sentence
from dynaconv.train.data.shares import PADDING


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What one pass over a split measured.

    Attributes:
        images: How many images were seen.
        loss: Mean cross-entropy.
        accuracy, top5: Shares in [0, 1]; ``top5`` counts the true class among the five likeliest.
        per_class: Share of each class that was recognised, by class name; ``None`` for a class without images.
    """

    images: int
    loss: float
    accuracy: float
    top5: float
    per_class: dict[str, float | None]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def _short_errors(loader: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    with one_sentence():
        yield from loader


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    class_names: Sequence[str],
    *,
    device: torch.device | str = "cpu",
    report: Callable[[int], None] | None = None,
    combine: Callable[[Tensor], Tensor] | None = None,
) -> Evaluation:
    """Evaluate a classifier, in eval mode; the mode it had is restored.

    Args:
        model: Gives logits ``(B, num_classes)``.
        loader: Batches of normalised images and classes.
        class_names: One name a class.
        device: Where ``model`` lies.
        report: Called with the number of images done after each batch.
        combine: Sums counts over processes that each evaluate a part.

    Raises:
        DataError: There are no images, or their classes are not the model's.
    """
    classes = len(class_names)
    counts = torch.zeros(2 * classes + 2, dtype=torch.float64)
    seen, right = counts[:classes], counts[classes : 2 * classes]
    training = model.training
    # A run in half or double precision leaves weights of that type.
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    model.eval()
    try:
        for images, targets in _short_errors(loader):
            if int(targets.max()) >= classes:
                raise DataError(f"the data has the class index {int(targets.max())}, the model has {classes} classes.")
            logits = model(images.to(device, dtype)).float().cpu()
            logits, targets = logits[targets != PADDING], targets[targets != PADDING]
            counts[-2] += float(F.cross_entropy(logits, targets, reduction="sum"))
            hit = logits.topk(min(5, classes)).indices == targets[:, None]
            counts[-1] += int(hit.any(1).sum())
            seen += torch.bincount(targets, minlength=classes)
            right += torch.bincount(targets[hit[:, 0]], minlength=classes)
            if report is not None:
                report(int(seen.sum()))
    finally:
        model.train(training)
    if combine is not None:
        counts = combine(counts)
        seen, right = counts[:classes], counts[classes : 2 * classes]
    loss, top5, total = float(counts[-2]), int(counts[-1]), int(seen.sum())
    if total == 0:
        raise DataError("there are no images to evaluate on.")
    shares = [int(right[i]) / int(seen[i]) if seen[i] else None for i in range(classes)]
    return Evaluation(
        images=total,
        loss=loss / total,
        accuracy=float(right.sum()) / total,
        top5=top5 / total,
        per_class=dict(zip(class_names, shares, strict=True)),
    )
