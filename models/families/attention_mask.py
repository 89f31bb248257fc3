"""Attention masks on a ResNet: one 1x1 convolution and a sigmoid give M masks over the last feature map.

Each mask multiplies the features before global average pooling, so the classifier sees M weighted means. A well-known tutorial uses
this form to tell dogs from cats; a diversity loss keeps several masks different. The masks are meant to be looked at:
`masks(images)` returns them.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from models.families.resnet import ResNetMini, resnet
from models.readings import Place, Reading
from models.recognition.layout import Layout, require
from models.recognition.proposals import Candidate, Options
from models.registry import Family, ModelSpec, fewest_options, register_family

PAPER = "ResNet-34 (arXiv:1512.03385) with sigmoid attention masks"
MAXIMUM_OFFSET = 0.01
"""Added to a mask's maximum before division, so that an empty mask stays empty (diversity loss)."""


class MaskConvolution(nn.Conv2d):
    """The 1x1 convolution whose sigmoids are the masks."""


class AttentionMaskNet(nn.Module):
    """A backbone, its attention masks, and a classifier on the masked means.

    With one mask, the original has a mask convolution with bias and one linear layer; with several masks it has neither.

    Args:
        features: maps normalised images (N, 3, H, W) to features (N, channels, h, w).
        channels: of the features.
        num_classes: number of logits.
        masks: number of attention masks, M.
        hidden: units between the masked means and the logits; 0 for a single linear layer.
        mask_bias: whether the mask convolution has a bias.
    """

    def __init__(
        self, features: nn.Module, channels: int, num_classes: int, *, masks: int, hidden: int, mask_bias: bool
    ) -> None:
        super().__init__()
        if masks < 1:
            raise ValueError(f"masks must be at least 1, got {masks}")
        self.features = features
        self.attention = MaskConvolution(channels, masks, 1, bias=mask_bias)
        pooled = masks * channels
        head = [nn.Dropout(0.5), nn.Linear(hidden or pooled, num_classes)]
        self.classifier = nn.Sequential(*([nn.Linear(pooled, hidden), nn.ReLU(inplace=True)] if hidden else []), *head)
        if not mask_bias:
            nn.init.xavier_uniform_(self.attention.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Classify normalised images (N, 3, H, W); returns logits (N, num_classes)."""
        return self.logits_and_masks(images)[0]

    def logits_and_masks(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits and the masks (N, M, h, w) in [0, 1] behind them."""
        features = self.features(images)
        masks = self.attention(features).sigmoid()
        means = torch.einsum("nmhw,nchw->nmc", masks, features) / features[0, 0].numel()  # (N, M, channels)
        return self.classifier(means.flatten(1)), masks


_TUTORIAL_NAMES = {
    "features.0.": "features.conv1.",
    "features.1.": "features.bn1.",
    **{f"features.{index + 3}.": f"features.layer{index}." for index in range(1, 5)},
    "attn_conv.0.": "attention.",
    "fc.": "classifier.",
}


def _rename_tutorial(names: Iterable[str]) -> dict[str, str]:
    """Translate the tensor names of the tutorial's own code, which numbers the ResNet's children."""
    names = list(names)
    return {name: _from_tutorial(name) for name in names} if "attn_conv.0.weight" in names else {}


def _from_tutorial(name: str) -> str:
    for theirs, ours in _TUTORIAL_NAMES.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def diversity_loss(masks: Tensor) -> Tensor:
    """Measure how much the masks of an image overlap: 0 for masks that share no position.

    Every mask is divided by its maximum (+ 0.01); the loss is the mean of the squared entries of their Gram matrix over positions,
    its diagonal set to zero.

    Args:
        masks: (N, M, h, w) in [0, 1].

    Returns:
        A scalar.
    """
    scaled = (masks / (masks.amax((2, 3), keepdim=True) + MAXIMUM_OFFSET)).flatten(2)  # (N, M, h*w)
    gram = scaled @ scaled.transpose(1, 2)  # (N, M, M)
    return (gram - torch.diag_embed(gram.diagonal(dim1=1, dim2=2))).square().mean()


def _headless(network: nn.Module) -> nn.Module:
    """A ResNet without pooling and classifier, with the ResNet's names."""
    return nn.Sequential(OrderedDict((n, m) for n, m in network.named_children() if n not in ("avgpool", "fc")))


def _on_resnet34(num_classes: int, *, masks: int, hidden: int, mask_bias: bool) -> nn.Module:
    features = _headless(resnet(1000, block="BasicBlock", layers=[3, 4, 6, 3]))  # (N, 512, H/32, W/32)
    return AttentionMaskNet(features, 512, num_classes, masks=masks, hidden=hidden, mask_bias=mask_bias)


def _on_mini(num_classes: int, *, masks: int, hidden: int, mask_bias: bool) -> nn.Module:
    features = _headless(ResNetMini(num_classes, widths=(24, 48, 64), strides=(1, 2, 1)))  # (N, 64, H/4, W/4)
    return AttentionMaskNet(features, 64, num_classes, masks=masks, hidden=hidden, mask_bias=mask_bias)


def _propose(at: Layout) -> Iterator[Candidate]:
    suffix = "resnet34" if "features.layer4.0.conv1.weight" in at else "mini"
    linears = [index for index in at.indices("classifier.") if f"classifier.{index}.weight" in at]
    require(linears)
    hidden = at.side(f"classifier.{linears[0]}.weight") if len(linears) > 1 else 0
    options: Options = {
        "masks": at.side("attention.weight"),
        "hidden": hidden,
        "mask_bias": "attention.bias" in at,
    }
    name, differing = fewest_options((f"{prefix}attention_mask_{suffix}" for prefix in ("", "multi_")), options)
    yield Candidate(name, differing, f"classifier.{linears[-1]}.weight")


def _read(_layer: MaskConvolution, _features: Tensor, output: Tensor, _query: Place | None) -> Reading:
    """Read the masks, which do not depend on a query."""
    return Reading("masks that weigh the last features before pooling", output.sigmoid())


_FORMS = {
    "": {"masks": 1, "hidden": 0, "mask_bias": True},
    "multi_": {"masks": 4, "hidden": 256, "mask_bias": False},
}

register_family(
    Family(
        name="attention masks",
        architectures=tuple(
            ModelSpec(f"{prefix}attention_mask_{backbone}", partial(build, **options), (3, side, side), PAPER)
            for prefix, options in _FORMS.items()
            for backbone, build, side in (("resnet34", _on_resnet34, 224), ("mini", _on_mini, 32))
        ),
        propose=_propose,
        rename=_rename_tutorial,
        attention={MaskConvolution: _read},
    )
)
