"""BibTeX of the papers behind each family of layers."""

_DCD = """@inproceedings{li2021revisiting,
  title     = {Revisiting Dynamic Convolution via Matrix Decomposition},
  author    = {Li, Yunsheng and Chen, Yinpeng and Dai, Xiyang and Liu, Mengchen and Chen, Dongdong and Yu, Ye and
               Yuan, Lu and Liu, Zicheng and Chen, Mei and Vasconcelos, Nuno},
  booktitle = {International Conference on Learning Representations},
  year      = {2021},
  url       = {https://arxiv.org/abs/2103.08756}
}"""
_CONDCONV = """@inproceedings{yang2019condconv,
  title     = {CondConv: Conditionally Parameterized Convolutions for Efficient Inference},
  author    = {Yang, Brandon and Bender, Gabriel and Le, Quoc V. and Ngiam, Jiquan},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2019},
  url       = {https://arxiv.org/abs/1904.04971}
}"""
_DYCONV = """@inproceedings{chen2020dynamic,
  title     = {Dynamic Convolution: Attention over Convolution Kernels},
  author    = {Chen, Yinpeng and Dai, Xiyang and Liu, Mengchen and Chen, Dongdong and Yuan, Lu and Liu, Zicheng},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year      = {2020},
  url       = {https://arxiv.org/abs/1912.03458}
}"""
_ODCONV = """@inproceedings{li2022omni,
  title     = {Omni-Dimensional Dynamic Convolution},
  author    = {Li, Chao and Zhou, Aojun and Yao, Anbang},
  booktitle = {International Conference on Learning Representations},
  year      = {2022},
  url       = {https://arxiv.org/abs/2209.07947}
}"""
_SE = """@inproceedings{hu2018squeeze,
  title     = {Squeeze-and-Excitation Networks},
  author    = {Hu, Jie and Shen, Li and Sun, Gang},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year      = {2018},
  url       = {https://arxiv.org/abs/1709.01507}
}"""

CITATIONS = {"dcd": _DCD, "condconv": _CONDCONV, "dyconv": _DYCONV, "odconv": _ODCONV, "squeeze_excite": _SE}
"""By the family's stem, as in `dynaconv.layers.LAYERS`."""
ARXIV = {
    "dcd": "2103.08756",
    "condconv": "1904.04971",
    "dyconv": "1912.03458",
    "odconv": "2209.07947",
    "squeeze_excite": "1709.01507",
}
TITLES = {
    "dcd": "dynamic convolution decomposition (DCD)",
    "condconv": "conditionally parameterised convolution (CondConv)",
    "dyconv": "attention over kernels (DY-Conv)",
    "odconv": "omni-dimensional dynamic convolution (ODConv)",
    "squeeze_excite": "squeeze-and-excitation (SE)",
}
