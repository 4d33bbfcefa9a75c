"""MobileNetV2 with dynamic convolutions, on timm's own EfficientNet classes, and its static twin.

Names registered with timm: ``{family}_mobilenetv2_{035,050,075,100,140}`` and, for the published code's structure,
``{family}_mobilenetv2_{...}_published``.

The stem and the classifier are static, except in KernelWarehouse. Of the other layers, those of the family's paper are
dynamic:

- DCD: every 1x1 convolution. In the published code's structure only the expansion and projection 1x1 convolutions of
  the blocks that expand (the second block onwards), and the classifier. This was derived from the published parameter
  counts at 1000 classes (5,720,028 at x1.0 with ``fc_squeeze=16``, 3,056,616 at x0.5 with ``fc_squeeze=8``): with the
  published sizes, exactly one subset of {stem, first block, expansions, projections, head, classifier} gives both.
- CondConv: every convolution. The published counts (27.5M at x1.0, 15.5M at x0.5) include a classifier of 8 experts.
- DY-Conv: every convolution of the blocks, not the head. Of all subsets of {stem, expansions, depthwise, projections,
  head, classifier}, this one is within 1.5 % of each of the counts published for x1.0, x0.75 and x0.5 (11.1M, 7.0M,
  4.0M); a dynamic head would add 1.26M at x1.0.
- ODConv: every convolution, which gives each published count exactly.
- FDConv: every 1x1 convolution with more than 16 input and output channels. The paper has no MobileNetV2.
- SE: the last convolution of each block, as in the paper.
- KernelWarehouse: every convolution, the stem too. With a budget below 1, the 1x1 convolutions of the last stage, the
  depthwise ones, the stem and the classifier. This gives each published count exactly.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from timm.models import FeatureHooks, build_model_with_cfg
from timm.models._builder import pretrained_cfg_for_features
from timm.models._efficientnet_builder import decode_arch_def, resolve_act_layer, resolve_bn_args, round_channels
from timm.models.efficientnet import EfficientNet, EfficientNetFeatures
from torch import nn

from dynaconv.errors import received
from dynaconv.models import _families as fam
from dynaconv.models._registration import register_names

__all__ = ["DynamicMobileNetV2", "DynamicMobileNetV2Features"]

KINDS = ("pointwise", "depthwise", "classifier")
_WIDTHS = {"035": 0.35, "050": 0.5, "075": 0.75, "100": 1.0, "140": 1.4}
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, repeats and stride of each stage: Sandler et al., CVPR 2018, Table 2."""


class DynamicMobileNetV2(EfficientNet):
    """MobileNetV2 with a family's dynamic layers in place of the convolutions that its paper makes dynamic.

    The static weights are initialised first, so under one seed the networks of all families start from the same ones;
    only KernelWarehouse draws its cells anew, as published.

    Args:
        width: Multiplier of all channel counts, as in the model names (1.0 is ``mobilenetv2_100``).
        family: Name of a registered family; ``"static"`` replaces nothing.
        family_options: Hyperparameters for every dynamic convolution.
        stem_stride: Downsampling before the third stage: 4 for images of about 224 pixels, 2 for 64, 1 or 2 for 28 to
            32. With 2, the second stage has stride 1; with 1, the first convolution too. No weight changes its shape.
        dynamic: Kinds of layers that are dynamic: one or more of ``"pointwise"`` (every 1x1 convolution that the family
            replaces), ``"depthwise"`` and ``"classifier"`` (DCD only). None: the family's default.
        dynamic_depthwise: Whether the depthwise convolutions are dynamic too. None: the family's default.
        latent_ratio: Factor on DCD's default L of every 1x1 convolution. None: `family_options` determines L.
        published: Build the published code's structure with a dynamic classifier; see the module's docstring.
        fc_squeeze: Reduction of the published dynamic branch. None: 16 if ``width`` is at least 1, else 8.
        **kwargs: Arguments of `timm.models.efficientnet.EfficientNet`: num_classes, in_chans, drop_rate,
            drop_path_rate, output_stride, global_pool, pad_type, norm_layer, act_layer, device, dtype, ...

    Raises:
        ValueError: If an option is unknown, or cannot be combined with the family, the layers or another option.

    Shape:
        ``(B, in_chans, H, W)`` to ``(B, num_classes)``.
    """

    def __init__(
        self,
        width: float = 1.0,
        *,
        family: str = "dcd",
        family_options: Mapping[str, Any] | None = None,
        stem_stride: int = 4,
        dynamic: str | Sequence[str] | None = None,
        dynamic_depthwise: bool | None = None,
        latent_ratio: float | None = None,
        published: bool = False,
        fc_squeeze: int | None = None,
        **kwargs: Any,
    ) -> None:
        plan = _Plan(
            width,
            family=family,
            family_options=family_options,
            stem_stride=stem_stride,
            dynamic=dynamic,
            dynamic_depthwise=dynamic_depthwise,
            latent_ratio=latent_ratio,
            published=published,
            fc_squeeze=fc_squeeze,
        )
        arguments = plan.trunk_arguments(kwargs)
        super().__init__(num_features=max(1280, arguments["round_chs_fn"](1280)), **arguments)
        self._plan = plan
        plan.apply(self)
        fam.rescale_reductions(self.feature_info, stem_stride)
        self._make_classifier_dynamic()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by one for `num_classes`, dynamic if the old one was; 0 removes the classifier."""
        super().reset_classifier(num_classes, global_pool)
        self._make_classifier_dynamic()

    def _make_classifier_dynamic(self) -> None:
        if type(self.classifier) is nn.Linear and (dynamic := self._plan.classifier(self.classifier)) is not None:
            self.classifier = dynamic.train(self.training)


class DynamicMobileNetV2Features(EfficientNetFeatures):
    """The feature pyramid of `DynamicMobileNetV2`, built by ``features_only=True``.

    Args:
        width, family, family_options, stem_stride, dynamic, dynamic_depthwise, latent_ratio, published, fc_squeeze: As
            for `DynamicMobileNetV2`.
        **kwargs: Arguments of `timm.models.efficientnet.EfficientNetFeatures`: out_indices, in_chans, ...

    Shape:
        ``(B, in_chans, H, W)`` to a list of ``(B, C_i, H / r_i, W / r_i)``, with C_i and r_i in `feature_info`.
    """

    def __init__(self, width: float = 1.0, **kwargs: Any) -> None:
        own = {field.name: kwargs.pop(field.name) for field in dataclasses.fields(_Plan) if field.name in kwargs}
        plan = _Plan(width, **own)
        arguments = plan.trunk_arguments(kwargs)
        super().__init__(**arguments)
        shares = plan.spec is not None and plan.spec.sharing is not None
        if shares:
            # In the whole network, whose state dict has to fit, the last blocks share parameters with the head.
            weight: Any = self.get_submodule("blocks.6.0.conv_pwl").weight
            width = int(max(1280, arguments["round_chs_fn"](1280)))
            self.conv_head = nn.Conv2d(len(weight), width, 1, bias=False, device=weight.device, dtype=weight.dtype)
        plan.apply(self)
        if shares:
            del self.conv_head
        fam.rescale_reductions(self.feature_info.info, plan.stem_stride)
        if self.feature_hooks is not None:  # the base class hooked modules that have been replaced since
            self.feature_hooks = FeatureHooks(
                self.feature_info.get_dicts(keys=["module", "hook_type"]), self.named_modules()
            )


def _kinds(
    family: str, dynamic: str | Sequence[str] | None, dynamic_depthwise: bool | None, published: bool
) -> frozenset[str]:
    """Return the kinds of layers that are dynamic according to the options and the family."""
    spec = fam.get_family(family)
    if dynamic is not None:
        if published or dynamic_depthwise is not None:
            other = "published=True" if published else f"dynamic_depthwise={dynamic_depthwise}"
            raise ValueError(f"`dynamic` and {other} both select the dynamic layers; pass only one of them.")
        return fam.check_dynamic_kinds(family, dynamic, KINDS)
    if published:
        fam.get_published(family)
        if dynamic_depthwise:
            raise ValueError(
                "the published structure keeps depthwise convolutions static; leave `dynamic_depthwise` out."
            )
        return frozenset({"pointwise", "classifier"})
    if spec is None and dynamic_depthwise:
        raise ValueError(f"family {family!r} has no dynamic layer; leave `dynamic_depthwise` out.")
    by_default = spec is not None and "depthwise" in spec.kinds
    depthwise = by_default if dynamic_depthwise is None else dynamic_depthwise
    return frozenset({"pointwise", "depthwise"} if depthwise else {"pointwise"})


@dataclasses.dataclass
class _Plan:
    """The options of `DynamicMobileNetV2` and their effect on timm's network."""

    width: float
    _: dataclasses.KW_ONLY
    family: str = "dcd"
    family_options: Mapping[str, Any] | None = None
    stem_stride: int = 4
    dynamic: str | Sequence[str] | None = None
    dynamic_depthwise: bool | None = None
    latent_ratio: float | None = None
    published: bool = False
    fc_squeeze: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.width < math.inf:
            raise ValueError(f"`width` must be a positive number; got {received(self.width)}.")
        self.kinds = _kinds(self.family, self.dynamic, self.dynamic_depthwise, self.published)
        fam.check_stem_stride(self.stem_stride)
        self.options = fam.check_family_options(self.family, self.family_options)
        if self.fc_squeeze is None:
            self.fc_squeeze = 16 if self.width >= 1 else 8
        elif not self.published:
            raise ValueError(
                f"`fc_squeeze` requires `published=True`; got {received(self.fc_squeeze)}. Otherwise use `reduction`."
            )
        self.spec = fam.get_family(self.family)
        self.classifier_options: Mapping[str, Any] | None = None
        self._check_latent_ratio()

    def _check_latent_ratio(self) -> None:
        if self.latent_ratio is None:
            return
        if self.family != "dcd" or self.published or self.options.get("latent_dim") is not None:
            raise ValueError(
                f"`latent_ratio` multiplies DCD's default L; it cannot be combined with family={self.family!r}, "
                f"published={self.published}, latent_dim={self.options.get('latent_dim')}."
            )
        if not 0 < self.latent_ratio < math.inf:
            raise ValueError(f"`latent_ratio` must be a positive number; got {received(self.latent_ratio)}.")

    def classifier(self, linear: nn.Linear) -> nn.Module | None:
        """Return the dynamic classifier that replaces `linear`; None if `linear` stays."""
        if self.classifier_options is not None and self.dynamic is None:
            return fam.dynamic_classifier(linear, self.family, self.classifier_options)
        if "classifier" not in self.kinds:
            return None
        if self.published:
            return fam.published_classifier(linear, fam.get_published(self.family))
        return fam.dynamic_classifier(linear, self.family, self.options)

    def trunk_arguments(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments for the base class: the architecture and the caller's `kwargs`."""
        if self.stem_stride != 4 and kwargs.get("aa_layer") is not None:
            raise ValueError(
                f"`aa_layer` applies the strides; it cannot be combined with stem_stride={self.stem_stride}."
            )
        stages = [[f"{'ds' if t == 1 else 'ir'}_r{n}_k3_s{s}_e{t}_c{c}"] for t, c, n, s in _STAGES]
        kwargs = dict(kwargs)
        norm_layer = kwargs.pop("norm_layer", None)
        bn_args = resolve_bn_args(kwargs)  # type: ignore[no-untyped-call]
        output_stride = fam.inner_output_stride(kwargs.pop("output_stride", 32), self.stem_stride)
        return {
            "block_args": decode_arch_def(stages),  # type: ignore[no-untyped-call]
            "stem_size": 32,
            "round_chs_fn": partial(round_channels, multiplier=self.width),
            "norm_layer": norm_layer or partial(nn.BatchNorm2d, **bn_args),
            "act_layer": resolve_act_layer(kwargs, "relu6"),  # type: ignore[no-untyped-call]
            "output_stride": output_stride,
            **kwargs,
        }

    def apply(self, model: nn.Module) -> None:
        """Set the strides of the stem and replace the convolutions, in place."""
        if self.stem_stride <= 2:
            model.get_submodule("blocks.1.0.conv_dw").stride = (1, 1)  # type: ignore[assignment]
        if self.stem_stride == 1:
            model.get_submodule("conv_stem").stride = (1, 1)  # type: ignore[assignment]
        if self.spec is not None:
            fam.replace_convolutions(model, self.spec, self._layers(model))

    def _layers(self, model: nn.Module) -> fam.Layers:
        """Return the options of each convolution that becomes dynamic."""
        assert self.spec is not None
        if self.spec.network is None:
            return fam.dynamic_layers(model, self._layer_options)
        found = dict(self.spec.network(model, self.options))
        self.classifier_options = found.pop("classifier", None)
        return {name: own for name, own in found.items() if self._selected(model.get_submodule(name))}

    def _selected(self, conv: nn.Module) -> bool:
        """Whether the options select the kind of a convolution that the family makes dynamic by default."""
        assert isinstance(conv, nn.Conv2d)
        if fam.is_depthwise(conv):
            return "depthwise" in self.kinds
        return self.dynamic is None or ("pointwise" in self.kinds and tuple(conv.kernel_size) == (1, 1))

    def _is_dynamic(self, name: str, conv: nn.Conv2d) -> bool:
        if name == "conv_stem" or (self.spec is not None and not fam.suits(self.spec, conv)):
            return False
        if self.published and (name == "conv_head" or name.startswith("blocks.0.")):
            return False
        if fam.is_depthwise(conv):
            return "depthwise" in self.kinds
        if "pointwise" not in self.kinds:
            return False
        if name == "conv_head":
            return self.spec is not None and self.spec.dynamic_head
        # The first block has no expansion; its projection has the name of the expansions in the other blocks.
        ends_block = name.endswith(".conv_pwl") or name.startswith("blocks.0.")
        return ends_block or self.spec is None or not self.spec.ends_only

    def _layer_options(self, name: str, conv: nn.Conv2d) -> dict[str, Any] | None:
        if not self._is_dynamic(name, conv):
            return None
        if not self.published:
            if self.latent_ratio is None or fam.is_depthwise(conv):
                return self.options
            latent = fam.relative_latent(conv, self.latent_ratio, self.options.get("blocks"))
            return self.options | {"latent_dim": latent}
        published = fam.get_published(self.family)
        sizes = published.options("mobilenet", conv.in_channels, conv.out_channels, fc_squeeze=self.fc_squeeze)
        return sizes | self.options


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    """Build the network of a registered name, as timm builds its EfficientNets."""
    if not kwargs.get("features_only") or "feature_cfg" in kwargs or "feature_cls" in kwargs:
        model: nn.Module = build_model_with_cfg(DynamicMobileNetV2, variant, pretrained, **kwargs)
        return model
    del kwargs["features_only"]
    no_head: Any = ("num_classes", "num_features", "global_pool")
    features: Any = build_model_with_cfg(
        DynamicMobileNetV2Features, variant, pretrained, pretrained_strict=False, kwargs_filter=no_head, **kwargs
    )
    features.pretrained_cfg = features.default_cfg = pretrained_cfg_for_features(features.pretrained_cfg)
    assert isinstance(features, nn.Module)
    return features


register_names(
    __name__,
    "mobilenetv2_",
    {size: {"width": width} for size, width in _WIDTHS.items()},
    _create,
    {"interpolation": "bicubic", "first_conv": "conv_stem", "classifier": "classifier"},
)
