"""Family descriptor of FDConv."""

from dynaconv.families.family import Coefficient, Family, PublishedKeys
from dynaconv.families.fdconv.layer import KERNEL_SIZES, FDConv2d
from dynaconv.families.fdconv.published import published_fdconv_layer, published_fdconv_name


def _limit(layer: FDConv2d) -> float:
    return 2.0 if layer.config.gate == "tanh" else layer.config.gate_limit


FDCONV = Family(
    name="fdconv",
    title="frequency dynamic convolution (FDConv)",
    equation="W(x) = gates(x) · inverse Fourier transform of gains(x) · spectra",
    arxiv="2503.18783",
    citation="""@inproceedings{chen2025frequency,
  title     = {Frequency Dynamic Convolution for Dense Image Prediction},
  author    = {Chen, Linwei and Gu, Lin and Li, Liang and Yan, Chenggang and Fu, Ying},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year      = {2025},
  url       = {https://arxiv.org/abs/2503.18783}
}""",
    layer=FDConv2d,
    coefficients={
        "channel": Coefficient(symbol="channels in", role="gate", element="input channel", limit=_limit),
        "filter": Coefficient(symbol="channels out", role="gate", limit=_limit),
        "spatial": Coefficient(symbol="positions", role="gate", limit=_limit),
        "kernel": Coefficient(symbol="gains", role="gate", element="group of frequencies", limit=2.0),
    },
    kinds=("pointwise", "spatial"),
    kernel_sizes=KERNEL_SIZES,
    min_channels=17,
    grouped=False,
    published_layer=published_fdconv_layer,
    published_keys=PublishedKeys(
        kind="FDConv",
        marker=".KSM_Global.channel_fc.weight",
        name=lambda layer, key, network: published_fdconv_name(key),
        optional=("frequency_group",),
    ),
)
