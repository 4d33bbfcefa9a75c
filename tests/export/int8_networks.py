"""A tiny trained DCD network and its data, shared by the tests of both int8 exports."""

import torch
from torch import Tensor, nn

from dynaconv.families import DCDConv2d

CLASSES = 3


def tiny_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 24, 3, stride=2, padding=1),
        nn.ReLU6(),
        DCDConv2d(24, 48, 1),
        nn.ReLU6(),
        DCDConv2d(48, 48, 3, padding=1),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(48, CLASSES),
    )


def stripes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Horizontal, vertical and diagonal stripes of any phase and strength, in noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    along = torch.stack([rows, columns, rows + columns])[labels]
    phase, strength, noise = (torch.rand(count, 1, 1, generator=generator) for _ in range(3))
    images = (0.5 + strength) * torch.sin(1.5 * along + 6.28 * phase)
    images = images + 0.5 * noise * torch.randn(count, 12, 12, generator=generator)
    return images[:, None], labels


def trained_network(steps: int = 60) -> nn.Module:
    torch.manual_seed(0)
    network = tiny_network()
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for step in range(steps):
        images, labels = stripes(32, seed=1000 + step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    return network.eval()


def batches(images: Tensor, labels: Tensor, size: int = 32) -> list[tuple[Tensor, Tensor]]:
    return list(zip(images.split(size), labels.split(size), strict=True))  # type: ignore[no-untyped-call]
