"""Family descriptor of squeeze-and-excitation."""

from dynaconv.families.family import Coefficient, Family
from dynaconv.families.se.layer import SEConv1d, SEConv2d, SEConv3d

SE = Family(
    name="se",
    title="squeeze-and-excitation (SE)",
    equation="W(x) = diag(s(x)) W₀",
    arxiv="1709.01507",
    citation="""@inproceedings{hu2018squeeze,
  title     = {Squeeze-and-Excitation Networks},
  author    = {Hu, Jie and Shen, Li and Sun, Gang},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year      = {2018},
  url       = {https://arxiv.org/abs/1709.01507}
}""",
    layer=SEConv2d,
    others=(SEConv1d, SEConv3d),
    coefficients={"scale": Coefficient(symbol="s", role="gate", act="scales each output channel", limit=1.0)},
    kinds=("pointwise", "grouped", "spatial"),
    aliases=("squeeze_excite",),
    dynamic_head=False,
    ends_only=True,
)
