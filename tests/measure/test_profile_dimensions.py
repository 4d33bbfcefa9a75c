"""Profiles of networks over signals and volumes, and of decoders."""

import pytest
import torch
from tests.messages import refuses
from tests.networks import UNet, Vocoder
from torch import nn

from dynaconv import convert, profile
from dynaconv.families import families

NETWORKS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "signals": (Vocoder(), (2, 20, 30)),
    "volumes": (UNet(3, 1, 2, (4, 8)), (1, 8, 8, 12)),
    "images": (UNet(), (3, 32, 32)),
}


# A family with limits of kernel sizes or channels has no layer for these networks.
@pytest.mark.parametrize("family", [family.name for family in families() if family.kernel_sizes is None])
@pytest.mark.parametrize("name", NETWORKS)
def test_published_count_is_the_static_one_with_branch_and_assembly(name: str, family: str) -> None:
    network, size = NETWORKS[name]
    static, dynamic = profile(network, size), profile(convert(network, family), size)
    # The static convolutions count the same; what the branches and kernels add does not depend on the pixels.
    doubled = (*size[:-1], 2 * size[-1])
    added = profile(convert(network, family), doubled).published_macs - profile(network, doubled).macs
    assert dynamic.published_macs - static.macs == added > 0


def test_published_count_of_a_transposed_convolution() -> None:
    network = nn.Sequential(nn.ConvTranspose1d(4, 6, 5, stride=3, groups=2))
    dynamic = convert(network, "condconv", num_experts=3)
    # 10 input values for each of 4 channels, with 3 outputs of the group and 5 taps; routing and mixing of 60 weights.
    assert profile(network, (4, 10)).macs == 4 * 10 * 3 * 5
    assert profile(dynamic, (4, 10)).published_macs == 4 * 10 * 3 * 5 + 3 * 4 + 3 * 60


def test_input_size_is_that_of_the_first_convolution() -> None:
    with refuses(ValueError, "(B, C, L)"):
        profile(Vocoder(), (1, 20, 30, 30))
    assert profile(Vocoder(), (20, 30)).input_size == (1, 20, 30)
    with torch.no_grad():
        assert profile(UNet(3, 1), (1, 8, 8, 8)).input_size == (1, 1, 8, 8, 8)
