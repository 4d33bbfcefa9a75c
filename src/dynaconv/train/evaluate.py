"""Evaluates the accuracy of a network on a set of images."""

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
    """Result of an evaluation on one split.

    Attributes:
        images: Number of evaluated images.
        loss: Mean cross-entropy.
        accuracy, top5: Top-1 and top-5 accuracy, in [0, 1].
        per_class: Accuracy of each class, by class name; ``None`` for a class without images.
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
    """Evaluate a classifier in eval mode; its previous mode is restored.

    Args:
        model: A network that returns logits ``(B, num_classes)``.
        loader: Batches of normalised images and classes; images of class `PADDING` are ignored.
        class_names: One name per class.
        device: Device of ``model``.
        report: Called after each batch with the number of images evaluated so far.
        combine: Sums a tensor of counts over the processes, if each evaluates a part of the images.

    Raises:
        DataError: There are no images, or the model lacks one of their classes.
    """
    classes = len(class_names)
    counts = torch.zeros(2 * classes + 2, dtype=torch.float64)
    seen, correct = counts[:classes], counts[classes : 2 * classes]
    training = model.training
    # Weights that were trained in half or double precision keep that dtype.
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    model.eval()
    try:
        for images, targets in _short_errors(loader):
            if int(targets.max()) >= classes:
                raise DataError(
                    f"the data has the class index {int(targets.max())}, but the model has {classes} classes."
                )
            logits = model(images.to(device, dtype)).float().cpu()
            logits, targets = logits[targets != PADDING], targets[targets != PADDING]
            counts[-2] += float(F.cross_entropy(logits, targets, reduction="sum"))
            hits = logits.topk(min(5, classes)).indices == targets[:, None]
            counts[-1] += int(hits.any(1).sum())
            seen += torch.bincount(targets, minlength=classes)
            correct += torch.bincount(targets[hits[:, 0]], minlength=classes)
            if report is not None:
                report(int(seen.sum()))
    finally:
        model.train(training)
    if combine is not None:
        counts = combine(counts)
        seen, correct = counts[:classes], counts[classes : 2 * classes]
    loss, top5, total = float(counts[-2]), int(counts[-1]), int(seen.sum())
    if total == 0:
        raise DataError("there are no images to evaluate on.")
    accuracies = [int(correct[i]) / int(seen[i]) if seen[i] else None for i in range(classes)]
    return Evaluation(
        images=total,
        loss=loss / total,
        accuracy=float(correct.sum()) / total,
        top5=top5 / total,
        per_class=dict(zip(class_names, accuracies, strict=True)),
    )
