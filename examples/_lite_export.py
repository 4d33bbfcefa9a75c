"""Write the fine-tuned network as ONNX and run the file on test images at several batch sizes."""

from pathlib import Path

import onnxruntime
import torch
from _fine_tune import as_input
from torch import Tensor, nn

from dynaconv import deploy, export_onnx

BATCHES = (1, 2, 7)


def export_and_run(network: nn.Module, path: Path, images: Tensor) -> dict[int, float]:
    """Fold batch norms away, export, and compare ONNX Runtime with ``network`` on as many images as `BATCHES` asks for.

    Args:
        network: In eval mode.
        path: The ``.onnx`` file to write.
        images: Grey bytes ``(N, 1, H, W)``, N at least 7.

    Returns:
        By batch size: the largest difference of the logits, relative to the largest logit.

    Raises:
        ExportError: The file cannot be written, or does not compute what the network does.
    """
    # This network pads by the size of its input, which takes torch.export very long for a size that is not known.
    print(export_onnx(deploy(network), path, as_input(images[:2]), free_size=False, overwrite=True))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    differences = {}
    for batch in BATCHES:
        x = as_input(images[:batch]).contiguous()
        with torch.inference_mode():
            expected = network(x)
        logits = torch.from_numpy(session.run(None, {name: x.numpy()})[0])
        differences[batch] = ((logits - expected).abs().max() / expected.abs().max()).item()
        same = int((logits.argmax(1) == expected.argmax(1)).sum())
        print(f"ONNX Runtime, batch {batch}: {same} of {batch} same classes, difference {differences[batch]:.1e}")
    return differences
