"""FDConv layers of the published code: their options, names of their tensors, and single layers with their state."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dynaconv.families.contract.published import GEOMETRY, check_hidden, not_shown
from dynaconv.families.fdconv.layer import FDConv2d

FDCONV_STEMS = {
    "KSM_Global.fc": "branch.squeeze.",
    "KSM_Global.bn": "branch.norm.",
    "KSM_Global.relu": "branch.activation.",
    "KSM_Global.channel_fc": "branch.heads.channel.",
    "KSM_Global.filter_fc": "branch.heads.filter.",
    "KSM_Global.spatial_fc": "branch.heads.spatial.",
    "KSM_Global.kernel_fc": "branch.heads.kernel.",
    "KSM_Local.norm": "branch.local.norm.",
    "KSM_Local.conv": "branch.local.conv.",
    "FBM.freq_weight_conv_list": "bands.maps.",
}
"""Maps the published name of a layer's part to the prefix of our keys."""
_OWN = {"dft_weight": "spectrum", "weight": "static", "bias": "bias"}
_DEFAULTS: dict[str, Any] = {
    "reduction": 0.0625,
    "kernel_num": 4,
    "use_fbm_if_k_in": [3],
    "use_fbm_for_stride": False,
    "kernel_temp": 1.0,
    "temp": None,
    "att_multi": 2.0,
    "param_ratio": 1,
    "param_reduction": 1.0,
    "ksm_only_kernel_att": False,
    "use_ksm_local": True,
    "ksm_local_act": "sigmoid",
    "ksm_global_act": "sigmoid",
    "spatial_freq_decompose": False,
    "convert_param": True,
    "fbm_cfg": {},
}
"""Further arguments of the published constructor."""


def published_fdconv_name(key: str) -> str:
    """Return the published name of an FDConv layer's tensor, such as ``KSM_Global.fc.weight``."""
    for stem, prefix in FDCONV_STEMS.items():
        if key.startswith(prefix):
            return f"{stem}.{key.removeprefix(prefix)}"
    return next((published for published, own in _OWN.items() if own == key), key)


def published_fdconv_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the state of one published FDConv layer to our keys, and its linear maps to our shapes.

    The published state lacks the groups of frequencies, which the layer computes; load it with ``strict=False``.

    Args:
        state: Tensors of one layer under the published names, such as ``KSM_Global.fc.weight``, whose linear maps are
            1x1 convolutions.

    Raises:
        ValueError: a key does not belong to a published FDConv layer.
    """
    renamed = {}
    for key, tensor in state.items():
        stem = next((stem for stem in FDCONV_STEMS if key.startswith(f"{stem}.")), None)
        if stem is not None:
            name = FDCONV_STEMS[stem] + key.removeprefix(f"{stem}.")
            renamed[name] = tensor.flatten(1) if stem.startswith("KSM_Global") and tensor.dim() == 4 else tensor
        elif key in _OWN:
            renamed[_OWN[key]] = tensor
        else:
            known = ", ".join((*_OWN, *FDCONV_STEMS))
            raise ValueError(f"{key!r} is not a key of a published FDConv layer; its parts are {known}.")
    return renamed


def published_fdconv_options(arguments: Mapping[str, Any], out_channels: int) -> dict[str, Any]:
    """Return the options of `FDConv2d` for the keyword arguments of the published constructor.

    Arguments of `torch.nn.Conv2d` are not among the options. Options that are not given have the published defaults.

    Args:
        arguments: Keyword arguments of the published layer.
        out_channels: C_out, on which K depends if ``kernel_num`` is None.

    Raises:
        ValueError: an argument has a value that `FDConv2d` does not support.
    """
    given = {**_DEFAULTS, **arguments}
    for name, only in (("param_reduction", 1.0), ("ksm_only_kernel_att", False), ("spatial_freq_decompose", False)):
        if given[name] != only:
            raise ValueError(f"FDConv2d does not support {name}={given[name]!r} of the published code, only {only!r}.")
    ratio, kernels, temperature = given["param_ratio"], given["kernel_num"], given["kernel_temp"]
    if kernels is None:
        kernels = out_channels // 2
        temperature = math.sqrt(kernels * ratio)
    bands = {
        "k_list": [2, 4, 8],
        "lowfreq_att": False,
        "act": "sigmoid",
        "spatial_group": 1,
        "spatial_kernel": 3,
        **given["fbm_cfg"],
    }
    size, stride = (_side(arguments.get(name, 1)) for name in ("kernel_size", "stride"))
    banded = size in given["use_fbm_if_k_in"] or (given["use_fbm_for_stride"] and stride > 1)
    options = {
        "num_kernels": kernels,
        "reduction": round(1 / given["reduction"]),
        "spectra": ratio,
        "stored": "spectrum" if given["convert_param"] else "kernel",
        "gate": given["ksm_global_act"],
        "gate_limit": float(given["att_multi"]),
        "temperature": float(temperature if given["temp"] is None else given["temp"]),
        "kernel_temperature": float(temperature),
        "local_gate": given["ksm_local_act"] if given["use_ksm_local"] else None,
        "bands": tuple(bands["k_list"]) if banded else (),
    }
    if banded:
        options |= {
            "band_groups": bands["spatial_group"],
            "band_kernel_size": bands["spatial_kernel"],
            "band_gate": bands["act"],
            "low_band": bands["lowfreq_att"],
        }
    return options


def _side(value: Any) -> int:
    side: int = value[0] if isinstance(value, tuple | list) else value
    return side


def published_fdconv_layer(state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> FDConv2d:
    """Return the FDConv layer with the state of a published one; see `dynaconv.published_layer`."""
    ours = published_fdconv_state(state)
    squeeze, stored = ours["branch.squeeze.weight"], ours.get("spectrum", ours.get("static"))
    if stored is None:
        raise KeyError("dft_weight")
    hidden, in_channels = squeeze.shape
    taps = len(ours.get("branch.heads.spatial.weight", (None,)))
    ratio = len(stored) if "spectrum" in ours else 1
    shown: dict[str, Any] = {
        "in_channels": in_channels,
        "out_channels": len(ours["branch.heads.filter.weight"]),
        "kernel_size": math.isqrt(taps),
        "bias": "bias" in ours,
    }
    own = {name: value for name, value in metadata.items() if name in _DEFAULTS}
    rest = {name: value for name, value in metadata.items() if name not in _DEFAULTS}
    geometry = not_shown(rest, shown, GEOMETRY)
    of_state: dict[str, Any] = {
        "kernel_num": len(ours["branch.heads.kernel.weight"]) // ratio,
        "param_ratio": ratio,
        "convert_param": "spectrum" in ours,
        "use_ksm_local": any(key.startswith("branch.local.") for key in ours),
    }
    not_shown({name: own[name] for name in of_state if own.get(name) is not None}, of_state, ())
    if not any(key.startswith("bands.") for key in ours):
        of_state |= {"use_fbm_if_k_in": [], "use_fbm_for_stride": False}
    given = {**_DEFAULTS, **of_state, **own, **shown, **geometry}
    check_hidden("reduction", given["reduction"], max(int(in_channels * given["reduction"]), 16), hidden)
    options = published_fdconv_options(given, shown["out_channels"])
    layer = FDConv2d(**shown, **geometry, **options, device=stored.device, dtype=stored.dtype)
    missing, unexpected = layer.load_state_dict(ours, strict=False)
    missing.remove("frequency_group")
    if missing or unexpected:
        raise ValueError(f"its bands differ from the arguments: missing {missing}, unexpected {unexpected}")
    return layer
