"""Family descriptor of DY-Conv."""

from dynaconv.families.dyconv.layer import (
    DYConv1d,
    DYConv2d,
    DYConv3d,
    DYConvTranspose1d,
    DYConvTranspose2d,
    DYConvTranspose3d,
)
from dynaconv.families.family import Coefficient, Family

DYCONV = Family(
    name="dyconv",
    title="attention over kernels (DY-Conv)",
    equation="W(x) = Σₖ πₖ(x) Wₖ with Σₖ πₖ = 1",
    arxiv="1912.03458",
    citation="""@inproceedings{chen2020dynamic,
  title     = {Dynamic Convolution: Attention over Convolution Kernels},
  author    = {Chen, Yinpeng and Dai, Xiyang and Liu, Mengchen and Chen, Dongdong and Yuan, Lu and Liu, Zicheng},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year      = {2020},
  url       = {https://arxiv.org/abs/1912.03458}
}""",
    layer=DYConv2d,
    others=(DYConv1d, DYConv3d, DYConvTranspose1d, DYConvTranspose2d, DYConvTranspose3d),
    coefficients={"attention": Coefficient(symbol="π", role="mixing", act="weights each kernel", element="kernel")},
    dynamic_head=False,
)
