"""Family descriptor of ODConv."""

from dynaconv.families.family import Coefficient, Family, PublishedKeys
from dynaconv.families.odconv.layer import ODConv1d, ODConv2d, ODConv3d
from dynaconv.families.odconv.published import published_odconv_layer, published_odconv_name

ODCONV = Family(
    name="odconv",
    title="omni-dimensional dynamic convolution (ODConv)",
    equation="W(x) = Σₖ πₖ(x) Wₖ, scaled for each channel out, channel in and position",
    arxiv="2209.07947",
    citation="""@inproceedings{li2022omni,
  title     = {Omni-Dimensional Dynamic Convolution},
  author    = {Li, Chao and Zhou, Aojun and Yao, Anbang},
  booktitle = {International Conference on Learning Representations},
  year      = {2022},
  url       = {https://arxiv.org/abs/2209.07947}
}""",
    layer=ODConv2d,
    others=(ODConv1d, ODConv3d),
    coefficients={
        "channel": Coefficient(symbol="channels in", role="gate", element="input channel", limit=1.0),
        "filter": Coefficient(symbol="channels out", role="gate", limit=1.0),
        "spatial": Coefficient(symbol="positions", role="gate", limit=1.0),
        "kernel": Coefficient(symbol="π", role="mixing", act="weights each kernel", element="kernel"),
    },
    published_keys=PublishedKeys(
        kind="ODConv",
        marker=".attention.channel_fc.weight",
        name=lambda layer, key, network: published_odconv_name(key),
        optional=("temperature",),
    ),
    published_layer=published_odconv_layer,
)
