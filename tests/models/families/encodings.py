"""Augmented convolutions with every encoding."""

from typing import get_args

import pytest
import torch
from torch import Tensor

from models.families.aa_resnet.attention import Positions

every_encoding = pytest.mark.parametrize("positions", get_args(Positions))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
