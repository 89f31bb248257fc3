"""DAT, vision transformer with deformable attention (Xia, Pan, Song, Li, Huang, CVPR 2022, arXiv:2201.00520).

The original model, not DAT++. Early stages attend within local and shifted windows; later ones alternate local windows with
*deformable* attention, in which every query sees the same keys, sampled from the map at a grid of points that the queries
themselves have moved. Parameters have the names of the authors' checkpoints.
"""

from models.families.dat.attention import DeformableAttention, WindowAttention, read_deformable
from models.families.dat.network import ARCHITECTURES
from models.families.dat.proposals import propose
from models.registry import Family, register_family

register_family(
    Family(
        name="DAT",
        architectures=ARCHITECTURES,
        propose=propose,
        attention={DeformableAttention: read_deformable},
        unshown={WindowAttention: "attention within windows only, which is not drawn"},
    )
)
