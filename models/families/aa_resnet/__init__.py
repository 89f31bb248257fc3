"""AA-ResNet, attention augmented convolutional networks (Bello, Zoph, Vaswani, Shlens, Le, ICCV 2019, arXiv:1904.09925).

Some convolutions give up part of their channels to multi-head self-attention over the whole map, with relative positions: the first
convolution of a basic block, the 3x3 convolution of a bottleneck. Everything else is the residual network it was, with the names of
its parameters. None of the new layers has a bias: so they have the published numbers of parameters.
"""

from models.families.aa_resnet.attention import AugmentedConv2d, read_augmented
from models.families.aa_resnet.network import ARCHITECTURES
from models.families.aa_resnet.proposals import propose
from models.registry import Family, register_family

register_family(
    Family(
        name="AA-ResNet",
        architectures=ARCHITECTURES,
        propose=propose,
        attention={AugmentedConv2d: read_augmented},
    )
)
