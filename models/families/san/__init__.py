"""Self-attention networks (Zhao et al. 2020, arXiv:2004.13621), pairwise and patchwise."""

from models.families.san import network

__all__ = ["network"]
