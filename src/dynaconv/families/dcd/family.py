"""Family descriptor of DCD."""

from dynaconv.families.dcd.layer import (
    DCDConv1d,
    DCDConv2d,
    DCDConv3d,
    DCDConvTranspose1d,
    DCDConvTranspose2d,
    DCDConvTranspose3d,
    DCDLinear,
)
from dynaconv.families.dcd.published import published_dcd_layer, published_dcd_name, published_dcd_options
from dynaconv.families.family import Coefficient, Family, Published, PublishedKeys


def _limit(layer: DCDConv2d | DCDLinear) -> float | None:
    return None if layer.resolved.scale_activation == "linear" else 2.0


DCD = Family(
    name="dcd",
    title="dynamic convolution decomposition (DCD)",
    equation="W(x) = Λ(x) W₀ + P Φ(x) Qᵀ",
    arxiv="2103.08756",
    citation="""@inproceedings{li2021revisiting,
  title     = {Revisiting Dynamic Convolution via Matrix Decomposition},
  author    = {Li, Yunsheng and Chen, Yinpeng and Dai, Xiyang and Liu, Mengchen and Chen, Dongdong and Yu, Ye and
               Yuan, Lu and Liu, Zicheng and Chen, Mei and Vasconcelos, Nuno},
  booktitle = {International Conference on Learning Representations},
  year      = {2021},
  url       = {https://arxiv.org/abs/2103.08756}
}""",
    layer=DCDConv2d,
    others=(DCDConv1d, DCDConv3d, DCDConvTranspose1d, DCDConvTranspose2d, DCDConvTranspose3d),
    linear=DCDLinear,
    coefficients={
        "scale": Coefficient(symbol="Λ", role="gate", act="scales each output channel", limit=_limit),
        "fusion": Coefficient(symbol="Φ", role="matrix"),
        "input_scale": Coefficient(
            symbol="S", role="gate", act="scales each input channel", element="input channel", limit=_limit
        ),
    },
    kinds=("pointwise", "grouped", "spatial", "transposed"),
    published=Published(options=published_dcd_options, classifier=DCDLinear),
    published_keys=PublishedKeys(kind="DCD", marker=".fc.1.fc.0.weight", name=published_dcd_name, transposed=("q",)),
    published_layer=published_dcd_layer,
)
