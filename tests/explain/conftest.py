"""Images with labels."""

import pytest
import torch
from torch import Tensor


@pytest.fixture
def labelled() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    classes = torch.randint(0, 3, (37,), generator=generator)
    images = torch.rand(37, 4, 5, 3, generator=generator) + classes[:, None, None, None]
    return images, classes
