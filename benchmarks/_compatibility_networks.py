"""The networks of the compatibility table, and how each is called, trained and looked at."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def identity(model: nn.Module) -> nn.Module:
    """The network as it is: images to tensors."""
    return model


def mean_loss(model: nn.Module, images: Tensor) -> Tensor:
    """Cross-entropy with arbitrary classes for logits, mean square for every other output; their mean."""
    losses = []
    for output in flat(model(images)):
        if output.dim() == 2:
            losses.append(F.cross_entropy(output, torch.arange(len(output)) % output.shape[1]))
        else:
            losses.append(output.square().mean())
    return torch.stack(losses).mean()


@dataclass(frozen=True, kw_only=True)
class Network:
    """One line of the table.

    Attributes:
        library, name: Where it is from and what it is called there.
        size: Height and width of the images, or the length of the first axis.
        sizes: Sizes of an input that is no square image.
        channels: Channels of the input.
        build: Makes it, with fresh weights.
        view: What is compared and exported, images to tensors, as a module around the network.
        loss: What a training step minimises.
        whole: For a network whose ``view`` is a part only: all of it, to try its export too.
        note: What the page has to say about it.
    """

    library: str
    name: str
    size: int
    build: Callable[[], nn.Module]
    view: Callable[[nn.Module], nn.Module] = identity
    loss: Callable[[nn.Module, Tensor], Tensor] = mean_loss
    whole: Callable[[nn.Module], nn.Module] | None = None
    note: str = ""
    sizes: tuple[int, ...] | None = None
    channels: int = 3

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return (self.channels, *(self.sizes or (self.size, self.size)))

    @property
    def key(self) -> str:
        """Its name with the library."""
        return f"{self.library}/{self.name}"


def flat(outputs: Any) -> list[Tensor]:
    """Every floating-point tensor in what a network returned, in order."""
    if isinstance(outputs, Tensor):
        return [outputs] if outputs.is_floating_point() else []
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    if isinstance(outputs, list | tuple):
        return [tensor for each in outputs for tensor in flat(each)]
    return []


class DenseHeads(nn.Module):
    """What a torchvision detector computes for every place of the image, before boxes are selected."""

    image_mean: Tensor
    image_std: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.head = model.rpn.head if hasattr(model, "rpn") else model.head
        for name in ("image_mean", "image_std"):
            values = torch.tensor(getattr(model.transform, name)).reshape(3, 1, 1)
            self.register_buffer(name, values.to(next(model.parameters()).dtype))

    def forward(self, images: Tensor) -> Any:
        """All maps of the heads."""
        features = self.backbone((images - self.image_mean) / self.image_std)
        return self.head(list(features.values()))


class FromBatch(nn.Module):
    """A torchvision detector that takes its list of images as one batch."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        """Boxes, labels and scores of every image."""
        return self.model(list(images.unbind(0)))


class Decoded(nn.Module):
    """A YOLO whose head gives decoded boxes and classes, as its own exporter sets it for a free batch."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        head = model.model[-1]
        head.export, head.dynamic, head.format = True, True, "onnx"

    def forward(self, images: Tensor) -> Any:
        """Predictions of every place; masks' coefficients and prototypes where it has them."""
        return self.model(images)


def detection_loss(model: nn.Module, images: Tensor) -> Tensor:
    """Sum of a torchvision detector's losses for one box of each size, so that the head of every scale learns."""
    half = torch.tensor([0.05, 0.1, 0.2, 0.3, 0.4, 0.48])[:, None]
    boxes = torch.cat([0.5 - half, 0.5 - half, 0.5 + half, 0.5 + half], dim=1) * images.shape[-1]
    targets = [{"boxes": boxes, "labels": torch.ones(len(boxes), dtype=torch.int64)} for _ in images]
    losses: Tensor = torch.stack(list(model(list(images), targets).values())).sum()
    return losses


def _timm(name: str, **options: Any) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(name, num_classes=10, **options)
    return model


def _timm_merged(name: str) -> nn.Module:
    from timm.utils.model import reparameterize_model

    model = _timm(name)
    # What is merged with a branch's kernel are its norm's statistics; those of a fresh norm let features explode.
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = None
    model(torch.rand(8, 3, 64, 64))
    merged: nn.Module = reparameterize_model(model.eval())
    return merged


def _torchvision(name: str, **options: Any) -> nn.Module:
    import torchvision

    model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return model


def _smp(architecture: str, encoder: str) -> nn.Module:
    import segmentation_models_pytorch as smp

    model: nn.Module = smp.create_model(architecture, encoder_name=encoder, encoder_weights=None, classes=3)
    return model


def _yolo(name: str) -> nn.Module:
    # It writes its settings at import, and to the home folder unless told otherwise.
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp())
    from ultralytics.nn.tasks import DetectionModel, SegmentationModel

    kind = SegmentationModel if name.endswith("-seg") else DetectionModel
    model: nn.Module = kind(f"{name}.yaml", nc=10, verbose=False)
    return model


def _vocoder() -> nn.Module:
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    # Its constructor applies no weight norm; a checkpoint with one is materialised by `remove_weight_norm()`.
    model: nn.Module = SpeechT5HifiGan(SpeechT5HifiGanConfig(upsample_initial_channel=64))
    return model


class Spectrograms(nn.Module):
    """A vocoder that takes spectrograms as ``(B, mel, T)``, not ``(B, T, mel)``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, spectrograms: Tensor) -> Tensor:
        """Waveforms."""
        waveforms: Tensor = self.model(spectrograms.transpose(1, 2))
        return waveforms


def _spectrogram_loss(model: nn.Module, spectrograms: Tensor) -> Tensor:
    return mean_loss(Spectrograms(model), spectrograms)


def _monai_unet(dims: int) -> nn.Module:
    from monai.networks.nets import UNet

    model: nn.Module = UNet(
        dims, in_channels=1, out_channels=2, channels=(16, 32, 64), strides=(2, 2), num_res_units=1, norm="batch"
    )
    return model


_TIMM = [
    ("test_resnet", 64),
    ("test_byobnet", 64),
    ("test_efficientnet", 64),
    ("test_convnext", 64),
    ("resnet10t", 64),
    ("resnet18", 64),
    ("mobilenetv2_035", 64),
    ("mobilenetv3_small_050", 64),
    ("lcnet_035", 64),
    ("mnasnet_small", 64),
    ("mobilenetv4_conv_small_050", 64),
    ("darknet17", 64),
    ("ese_vovnet19b_slim", 64),
    ("starnet_s1", 64),
    ("regnetx_002", 64),
    ("regnety_002", 64),
    ("fasternet_t0", 64),
    ("convnext_atto", 64),
    ("convnextv2_atto", 64),
    ("inception_next_atto", 64),
    ("dla46_c", 64),
    ("cs3darknet_s", 64),
    ("gernet_s", 64),
    ("hgnetv2_b0", 64),
    ("tinynet_e", 64),
    ("ghostnet_050", 64),
    ("efficientnet_lite0", 64),
    ("hardcorenas_a", 64),
    ("semnasnet_075", 64),
    ("spnasnet_100", 64),
    ("edgenext_xx_small", 64),
    ("mobilevit_xxs", 64),
    ("resnetv2_18d", 64),
    ("fbnetc_100", 64),
]
_MERGED = ["repvgg_a0", "mobileone_s0", "repghostnet_050"]
_TORCHVISION: list[tuple[str, int, dict[str, Any]]] = [
    ("resnet18", 64, {}),
    ("squeezenet1_1", 64, {}),
    ("mobilenet_v2", 64, {"width_mult": 0.35}),
    ("mobilenet_v3_small", 64, {}),
    ("shufflenet_v2_x0_5", 64, {}),
    ("mnasnet0_5", 64, {}),
    ("regnet_x_400mf", 64, {}),
    ("googlenet", 64, {"init_weights": False}),
    ("lraspp_mobilenet_v3_large", 64, {"weights_backbone": None}),
    ("deeplabv3_mobilenet_v3_large", 64, {"weights_backbone": None}),
]
_DETECTORS = [
    ("ssdlite320_mobilenet_v3_large", 320),
    ("fasterrcnn_mobilenet_v3_large_320_fpn", 320),
]
_SMP = [("unet", "resnet18"), ("fpn", "mobilenet_v2"), ("deeplabv3plus", "resnet18")]
_YOLO = ["yolov5n", "yolov8n", "yolo11n", "yolo11n-seg"]


def networks() -> list[Network]:
    """All of them, quick ones first within each library."""
    found = [Network(library="timm", name=name, size=size, build=partial(_timm, name)) for name, size in _TIMM]
    found += [
        Network(library="timm", name=name, size=64, build=partial(_timm_merged, name), note="kernels merged first")
        for name in _MERGED
    ]
    found += [
        Network(library="torchvision", name=name, size=size, build=partial(_torchvision, name, **options))
        for name, size, options in _TORCHVISION
    ]
    found += [
        Network(
            library="torchvision",
            name=name,
            size=size,
            build=partial(_torchvision, name, weights_backbone=None),
            view=DenseHeads,
            loss=detection_loss,
            whole=FromBatch,
            note="compared and exported: backbone and dense heads, before boxes are selected",
        )
        for name, size in _DETECTORS
    ]
    found += [
        Network(library="smp", name=f"{name} ({encoder})", size=64, build=partial(_smp, name, encoder))
        for name, encoder in _SMP
    ]
    found += [
        Network(
            library="ultralytics",
            name=name,
            size=64,
            build=partial(_yolo, name),
            view=Decoded,
            note="exported with the head set as its own exporter does",
        )
        for name in _YOLO
    ]
    found += [
        Network(
            library="torchvision",
            name="r3d_18",
            size=8,
            sizes=(8, 32, 32),
            build=partial(_torchvision, "r3d_18", num_classes=10),
            note="videos",
        ),
        Network(
            library="transformers",
            name="SpeechT5HifiGan",
            size=24,
            sizes=(24,),
            channels=80,
            build=_vocoder,
            view=Spectrograms,
            loss=_spectrogram_loss,
            note="spectrograms to waveforms, an eighth of the published width",
        ),
        *(
            Network(
                library="monai",
                name=f"UNet ({dims}-D)",
                size=16,
                sizes=(16,) * dims,
                channels=1,
                build=partial(_monai_unet, dims),
                note="transposed convolutions",
            )
            for dims in (2, 3)
        ),
    ]
    return found
