"""ResNet with dynamic convolutions, on timm's own ResNet class, and its static twin.

Names registered with timm: ``{family}_resnet{10,18,34,50,101}`` and, for the published code's structure,
``{family}_resnet{...}_published``.

All 1x1 and 3x3 convolutions of the blocks are dynamic; in the SE family, only the last one of each block. The stem, the
1x1 convolutions of the downsampling shortcuts and the classifier are static. In KernelWarehouse, the shortcuts' are
dynamic too, apart from the first stage of bottlenecks. For DCD and ODConv this was derived from
the published parameter counts at 1000 classes. With the published code's sizes, exactly one subset of {stem, each
convolution of a block, 1x1 downsampling, classifier} gives both counts of DCD (ResNet-18 14,703,332, ResNet-50
29,835,056): the blocks' convolutions and, in the published structure, the classifier. The blocks' convolutions alone
give every count of ODConv exactly, and the 3.6M parameters that FDConv adds to ResNet-50. SE gives the counts of timm's
SE networks, KernelWarehouse every published count.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from timm.models import build_model_with_cfg
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from dynaconv.errors import received
from dynaconv.models import _families as fam
from dynaconv.models._registration import register_names

__all__ = ["DynamicResNet"]

_DEPTHS: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "10": (BasicBlock, (1, 1, 1, 1)),
    "18": (BasicBlock, (2, 2, 2, 2)),
    "34": (BasicBlock, (3, 4, 6, 3)),
    "50": (Bottleneck, (3, 4, 6, 3)),
    "101": (Bottleneck, (3, 4, 23, 3)),
}


class DynamicResNet(ResNet):
    """ResNet with a family's dynamic layers as the convolutions of its blocks, or as the last one of each block.

    The static weights are initialised first, so under one seed the networks of all families start from the same ones;
    only KernelWarehouse draws its cells anew, as published.

    Args:
        block: `timm.models.resnet.BasicBlock` or `timm.models.resnet.Bottleneck`.
        layers: Number of blocks of each of the four stages.
        family: Name of a registered family; ``"static"`` replaces nothing.
        family_options: Hyperparameters for every dynamic convolution.
        stem_stride: Downsampling before the first stage: 4 (7x7 convolution of stride 2 and max pooling) for images of
            about 224 pixels, 2 for 64, 1 or 2 for 28 to 32. Below 4 the stem is a 3x3 convolution of that stride
            without max pooling.
        dynamic_downsample: Whether the 1x1 convolutions of the downsampling shortcuts are dynamic too. None: the
            family's default.
        published: Build the published code's structure with a dynamic classifier; see the module's docstring.
        **kwargs: Arguments of `timm.models.resnet.ResNet`: num_classes, in_chans, drop_rate, drop_path_rate,
            output_stride, global_pool, norm_layer, act_layer, zero_init_last, device, dtype, ...

    Raises:
        ValueError: If an option is unknown, or cannot be combined with the family, the layers or another option.

    Shape:
        ``(B, in_chans, H, W)`` to ``(B, num_classes)``.
    """

    def __init__(
        self,
        block: type[nn.Module],
        layers: Sequence[int],
        *,
        family: str = "dcd",
        family_options: Mapping[str, Any] | None = None,
        stem_stride: int = 4,
        dynamic_downsample: bool | None = None,
        published: bool = False,
        **kwargs: Any,
    ) -> None:
        if not (isinstance(block, type) and issubclass(block, nn.Module)):
            raise TypeError(f"`block` is a class of modules, such as timm's BasicBlock; got {received(block)}.")
        fam.check_stem_stride(stem_stride)
        spec = fam.get_family(family)
        options = fam.check_family_options(family, family_options)
        if published:
            fam.get_published(family)
        if dynamic_downsample and (published or spec is None):
            which = "the published structure" if published else f"family {family!r}"
            raise ValueError(f"{which} has static downsampling convolutions; leave `dynamic_downsample` out.")
        output_stride = fam.inner_output_stride(kwargs.pop("output_stride", 32), stem_stride)
        base: Any = super()  # timm annotates `block` as an instance
        base.__init__(block, tuple(layers), output_stride=output_stride, **kwargs)
        self._family = family
        self._published = published
        if stem_stride < 4:
            self._shrink_stem(stem_stride)
        fam.rescale_reductions(self.feature_info, stem_stride)
        if spec is not None:
            style, last = ("basic", "conv2") if issubclass(block, BasicBlock) else ("bottleneck", "conv3")

            def is_dynamic(name: str, conv: nn.Conv2d) -> bool:
                if not fam.suits(spec, conv):
                    return False
                if "downsample" in name:
                    return bool(dynamic_downsample)
                return name.startswith("layer") and (name.endswith(last) or not spec.ends_only)

            def layer_options(name: str, conv: nn.Conv2d) -> dict[str, Any] | None:
                if not is_dynamic(name, conv):
                    return None
                if not published:
                    return options
                return fam.get_published(family).options(style, conv.in_channels, conv.out_channels) | options

            if spec.network is None:
                layers_by_name = fam.dynamic_layers(self, layer_options)
            else:
                found = spec.network(self, options)
                layers_by_name = {
                    name: own
                    for name, own in found.items()
                    if dynamic_downsample is not False or "downsample" not in name
                }
            fam.replace_convolutions(self, spec, layers_by_name)
        self._make_classifier_dynamic()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by one for `num_classes`, dynamic if the old one was; 0 removes the classifier."""
        super().reset_classifier(num_classes, global_pool)
        self._make_classifier_dynamic()

    def _make_classifier_dynamic(self) -> None:
        if self._published and isinstance(self.fc, nn.Linear):
            self.fc = fam.published_classifier(self.fc, fam.get_published(self._family)).train(self.training)

    def _shrink_stem(self, stride: int) -> None:
        if not isinstance(self.conv1, nn.Conv2d) or not isinstance(self.maxpool, nn.MaxPool2d):
            raise ValueError(
                f"stem_stride={stride} makes the stem a 3x3 convolution; it cannot be combined with `stem_type`, "
                f"`replace_stem_pool` or `aa_layer`."
            )
        old = self.conv1
        stem = nn.Conv2d(
            old.in_channels,
            old.out_channels,
            kernel_size=3,
            stride=stride,
            padding=1,
            bias=False,
            device=old.weight.device,
            dtype=old.weight.dtype,
        )
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        network: Any = self  # timm annotates each attribute with only one of the types that it assigns
        network.conv1 = stem
        network.maxpool = nn.Identity()


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    """Build the network of a registered name, as timm builds its ResNets."""
    model: nn.Module = build_model_with_cfg(DynamicResNet, variant, pretrained, **kwargs)
    return model


register_names(
    __name__,
    "resnet",
    {depth: {"block": block, "layers": layers} for depth, (block, layers) in _DEPTHS.items()},
    _create,
    {"interpolation": "bilinear", "first_conv": "conv1", "classifier": "fc"},
)
