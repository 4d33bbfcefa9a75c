"""Family descriptor of CondConv."""

from dynaconv.families.condconv.layer import (
    CondConv1d,
    CondConv2d,
    CondConv3d,
    CondConvTranspose1d,
    CondConvTranspose2d,
    CondConvTranspose3d,
)
from dynaconv.families.condconv.timm_blocks import adopt_condconv
from dynaconv.families.family import Coefficient, Family

CONDCONV = Family(
    name="condconv",
    title="conditionally parameterised convolution (CondConv)",
    equation="W(x) = Σₖ πₖ(x) Wₖ with 0 < πₖ < 1",
    arxiv="1904.04971",
    citation="""@inproceedings{yang2019condconv,
  title     = {CondConv: Conditionally Parameterized Convolutions for Efficient Inference},
  author    = {Yang, Brandon and Bender, Gabriel and Le, Quoc V. and Ngiam, Jiquan},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2019},
  url       = {https://arxiv.org/abs/1904.04971}
}""",
    layer=CondConv2d,
    others=(CondConv1d, CondConv3d, CondConvTranspose1d, CondConvTranspose2d, CondConvTranspose3d),
    coefficients={"attention": Coefficient(symbol="π", role="mixing", act="weights each kernel", element="kernel")},
    adopt=adopt_condconv,
)
