"""AA-ResNet, attention augmented convolutional networks (Bello, Zoph, Vaswani, Shlens, Le, ICCV 2019, arXiv:1904.09925).

Some convolutions give up part of their channels to multi-head self-attention over the whole map, with relative positions: the first
convolution of a basic block, the 3x3 convolution of a bottleneck. The rest of the residual network and the names of its parameters
do not change. The new layers have no bias, so the numbers of parameters are the published ones.
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
