"""Constructor calls for every family and form, over which the contract tests run."""

from typing import Any

from dynaconv.families import DynamicConv, families, get_family
from dynaconv.testing import GEOMETRIES, Case
from dynaconv.testing.cases import IN_CHANNELS, cases_of, enlarge, randomise_norms

FAMILY_CASES: dict[str, dict[str, dict[str, Any]]] = {
    "condconv": {
        **GEOMETRIES,
        "three": {"kernel_size": 1, "num_experts": 3, "context_norm": "running"},
        "residual": {"kernel_size": 3, "padding": 1, "groups": 2, "num_experts": 3, "residual": True},
        "residual-pointwise": {"kernel_size": 1, "residual": True, "bias": False, "context_norm": "layer"},
    },
    "dcd": {
        "pointwise": {"kernel_size": 1},
        "pointwise-stride": {"kernel_size": 1, "stride": 2},
        "sparse": {"kernel_size": 1, "blocks": 2},
        "grouped": {"kernel_size": 3, "padding": 1, "groups": 2, "blocks": 4},
        "channel": {"kernel_size": 3, "stride": 2, "padding": 1},
        "channel-dilated": {"kernel_size": (3, 5), "padding": (1, 0), "dilation": (2, 1)},
        "channel-even": {"kernel_size": (2, 4), "padding": "same"},
        "channel-reflect": {"kernel_size": 3, "padding": 2, "padding_mode": "reflect"},
        "joint": {"kernel_size": 3, "padding": 1, "fusion": "joint"},
        "joint-sizes": {"kernel_size": 3, "fusion": "joint", "latent_dim": 3, "latent_taps": 9, "blocks": 2},
        "depthwise": {"kernel_size": 3, "padding": 1, "groups": 8, "out_channels": 8},
        "depthwise-multiplier": {"kernel_size": 5, "padding": 2, "stride": 2, "groups": 8, "out_channels": 16},
        "scale": {"kernel_size": 3, "variant": "scale"},
        "residual": {"kernel_size": 1, "variant": "residual"},
        "input": {"kernel_size": 3, "variant": "input", "padding": 1, "stride": 2, "groups": 2},
        "input-pointwise": {"kernel_size": 1, "variant": "input", "scale_activation": "linear", "context_norm": None},
        "context-2x2": {"kernel_size": 1, "context_size": 2},
        "context-layer": {"kernel_size": 1, "context_norm": "layer", "context_size": 2, "scale_activation": "linear"},
        "context-running": {"kernel_size": 3, "context_norm": "running", "context_size": 2},
        "gain": {"kernel_size": 1, "gain": 2, "blocks": 2},
        "bare": {
            "kernel_size": 1,
            "context_norm": None,
            "hidden_norm": None,
            "weight_norm": False,
            "scale_activation": "linear",
            "bias": False,
        },
        "gate": {"kernel_size": 1, "activation": "gate", "scale_activation": "hard_sigmoid"},
        "silu-tanh": {"kernel_size": 1, "activation": "silu", "scale_activation": "tanh"},
        "gelu-sigmoid": {"kernel_size": 1, "activation": "gelu", "scale_activation": "sigmoid"},
        "norm": {"kernel_size": 1, "norm": "batch"},
        "norm-channel": {"kernel_size": 3, "padding": 1, "stride": 2, "norm": "batch", "context_size": 2},
        "norm-sparse": {"kernel_size": 3, "groups": 2, "blocks": 4, "norm": "batch", "padding": 0},
    },
    "dyconv": {
        **GEOMETRIES,
        "residual": {"kernel_size": 3, "padding": 1, "stride": 2, "residual": True},
        "residual-pointwise": {"kernel_size": 1, "num_kernels": 2, "residual": True, "temperature": 2.0},
        "two-hot": {"kernel_size": 3, "num_kernels": 2, "temperature": 0.5, "context_norm": "layer"},
        "context-batch": {"kernel_size": 1, "reduction": 1, "context_norm": "batch"},
    },
    "fdconv": {
        "pointwise": {"kernel_size": 1, "num_kernels": 4},
        "pointwise-stride": {"kernel_size": 1, "stride": 2, "bias": False},
        "square": {"kernel_size": 3, "stride": 2, "padding": 1},
        "same": {"kernel_size": 3, "padding": "same", "dilation": 2, "num_kernels": 7},
        "reflect": {"kernel_size": 3, "padding": 2, "padding_mode": "reflect", "bands": (), "local_gate": None},
        "tanh": {
            "kernel_size": 3,
            "gate": "tanh",
            "local_gate": "tanh",
            "band_gate": "tanh",
            "context_norm": "running",
        },
        "two": {"kernel_size": 3, "spectra": 2, "temperature": 2.0, "kernel_temperature": 0.5, "padding": 1},
        "static": {"kernel_size": 3, "stored": "kernel", "gate_limit": 1.5, "context_norm": "layer", "band_groups": 2},
        "low": {"kernel_size": 1, "bands": (2, 3), "low_band": True, "band_groups": 4, "band_gate": "softmax"},
        "odd": {"kernel_size": 1, "out_channels": 5, "bands": (4,), "band_groups": 65, "context_norm": "batch"},
    },
    "kernel_warehouse": {
        **GEOMETRIES,
        "four": {"kernel_size": 3, "padding": 1, "budget": 4, "temperature": 0.5},
        "divided": {"kernel_size": 3, "groups": 2, "in_divisor": 2, "out_divisor": 3, "temperature": 0.25},
        "whole": {"kernel_size": (3, 2), "budget": 2, "whole_taps": True, "branch_norm": "layer", "out_divisor": 2},
        "basis": {"kernel_size": 3, "basis_reduction": 4, "in_divisor": 2, "context_norm": "running"},
        "context-layer": {"kernel_size": 1, "groups": 2, "context_norm": "layer", "out_divisor": 2},
        "context-batch": {"kernel_size": 1, "context_norm": "batch"},
    },
    "odconv": {
        **GEOMETRIES,
        "one-pointwise": {"kernel_size": 1, "num_kernels": 1},
        "one": {"kernel_size": 3, "num_kernels": 1, "padding": 1, "temperature": 2.0},
        "context-layer": {"kernel_size": 3, "groups": 2, "context_norm": "layer"},
        "context-batch": {"kernel_size": 1, "context_norm": "batch"},
        "one-depthwise": {"kernel_size": 3, "padding": 1, "groups": 8, "out_channels": 8, "num_kernels": 1},
    },
    "se": {
        **GEOMETRIES,
        "narrow": {"kernel_size": 1, "reduction": 2, "min_hidden_channels": 3, "context_norm": "batch"},
        "running": {"kernel_size": 3, "context_norm": "running", "groups": 2},
        "layer": {"kernel_size": 3, "context_norm": "layer"},
    },
}
CASES: dict[str, Case] = {
    f"{family}-{name}": Case(get_family(family), name, arguments)
    for family, cases in FAMILY_CASES.items()
    for name, arguments in cases.items()
}
"""Each case over images under the name that tests show."""
OTHER_CASES: dict[str, Case] = {
    str(case): case for family in families() for layer in family.others for case in cases_of(family, layer)
}
"""The cases of other dimensions and of transposed convolutions."""
__all__ = [
    "CASES",
    "FAMILY_CASES",
    "GEOMETRIES",
    "IN_CHANNELS",
    "OTHER_CASES",
    "algorithms",
    "enlarge",
    "make",
    "randomise_norms",
]


def make(case: str, **overrides: Any) -> DynamicConv:
    """The layer of a case, its dynamic part large enough to show in every result."""
    return CASES[case].make(**overrides)


def algorithms(case: str) -> list[str]:
    """Names that a case's `algorithm` may have, ``auto`` included."""
    return CASES[case].algorithms


def static_twin(case: str, **options: Any) -> Any:
    """`torch.nn.Conv2d` with the arguments of a case that it knows."""
    return CASES[case].static_twin(**options)
