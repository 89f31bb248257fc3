"""Self-attention networks (Zhao et al. 2020, arXiv:2004.13621), pairwise and patchwise."""

import torch

from models.families.san.folded import FoldedSAN, is_foldable
from models.families.san.network import ARCHITECTURES, SAN, PairwiseAttention, PatchwiseAttention
from models.families.san.proposals import propose
from models.families.san.reading import read
from models.registry import Family, register_family


def _fold(network: SAN, dtype: torch.dtype) -> FoldedSAN | None:
    if not is_foldable(network):
        return None
    return FoldedSAN(network, matmul_dtype=None if dtype == torch.float32 else dtype)


register_family(
    Family(
        name="SAN",
        architectures=ARCHITECTURES,
        propose=propose,
        attention={PairwiseAttention: read, PatchwiseAttention: read},
        fold={SAN: _fold},
    )
)
