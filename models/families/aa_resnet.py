"""AA-ResNet, attention augmented convolutional networks (Bello, Zoph, Vaswani, Shlens, Le, ICCV 2019, arXiv:1904.09925).

Some convolutions give up part of their channels to multi-head self-attention over the whole map, with relative positions: the first
convolution of a basic block, the 3x3 convolution of a bottleneck. Everything else is the residual network it was, with the names of
its parameters. None of the new layers has a bias: so they have the published numbers of parameters.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import unknown_name
from models.families.resnet import ResNetMini
from models.ops.relative import WIDTH_MULTIPLE, append_relative_logits, one_hot_places
from models.registry import ModelSpec, create, register

PAPER = "Bello et al., ICCV 2019, arXiv:1904.09925"
MIN_KEY_DIMS = 20
"""Key dimensions that a head has at least."""

Positions = Literal["relative", "none", "sine", "coord"]


class AugmentedConv2d(nn.Module):
    """A convolution and multi-head self-attention side by side, concatenated along the channels.

    Head h computes softmax((Q K^T + S_H + S_W) / sqrt(D)) V, D = key_dims / heads; a 1x1 convolution mixes the heads. Strided
    layers attend to their whole input and then pool the result, 3x3 averages with stride 2.

    Args:
        inputs: channels.
        outputs: channels, those of the attention included.
        key_dims: of all heads together, d_k.
        value_dims: of all heads together, d_v; with as many as outputs there is no convolution.
        heads: number of them, dividing key_dims and value_dims.
        map_size: (H, W) of the input, needed for the tables of relative positions.
        kernel_size: of the convolution, odd.
        stride: 1 or 2.
        pools: how often the attention's input is halved by 3x3 average pooling; bilinear interpolation brings its output back.
        positions: "relative"; or, added or concatenated to the attention's input, "sine" (waves of rows and columns) or "coord"
            (CoordConv, Liu et al. 2018, arXiv:1807.03247: x, y and distance from the centre); or "none".

    Raises:
        ValueError: the dimensions cannot be divided among the heads or exceed the outputs, or the positions are unknown.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        key_dims: int,
        value_dims: int,
        heads: int,
        map_size: tuple[int, int],
        kernel_size: int = 3,
        stride: int = 1,
        pools: int = 0,
        positions: Positions = "relative",
    ) -> None:
        super().__init__()
        if key_dims % heads or value_dims % heads or not 0 < value_dims <= outputs:
            raise ValueError(
                f"key_dims and value_dims must be multiples of heads={heads}, and value_dims at most outputs={outputs}, "
                f"got {key_dims} and {value_dims}"
            )
        if positions not in get_args(Positions):
            raise unknown_name("position encoding", positions, get_args(Positions))
        self.heads, self.key_dims, self.value_dims = heads, key_dims, value_dims
        self.stride, self.pools, self.positions = stride, pools, positions
        self.conv = None
        if value_dims < outputs:
            padding = kernel_size // 2
            self.conv = nn.Conv2d(inputs, outputs - value_dims, kernel_size, stride, padding, bias=False)
            nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        attended = inputs + 3 if positions == "coord" else inputs
        self.qkv = nn.Conv2d(attended, 2 * key_dims + value_dims, 1, bias=False)
        self.projection = nn.Conv2d(value_dims, value_dims, 1, bias=False)
        if positions == "relative":
            h, w = (math.ceil(side / 2**pools) for side in map_size)
            dims = key_dims // heads
            self.rel_h = nn.Parameter(torch.randn(2 * h - 1, dims) * dims**-0.5)
            self.rel_w = nn.Parameter(torch.randn(2 * w - 1, dims) * dims**-0.5)
            self.register_buffer("places", one_hot_places(h, w, dims), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H/stride, W/stride), rounded up.

        Raises:
            ValueError: the tables of relative positions are for another size.
        """
        attended = self._attend(x)
        if self.stride > 2**self.pools:
            attended = _halve(attended)
        size = [math.ceil(side / self.stride) for side in x.shape[-2:]]
        if list(attended.shape[-2:]) != size:
            attended = F.interpolate(attended, size, mode="bilinear", align_corners=False)
        return attended if self.conv is None else torch.cat([self.conv(x), attended], 1)

    def attention(self, x: Tensor) -> Tensor:
        """Compute the weights of every position (dim 2) over all positions (dim 3), row by row: (N, heads, H*W, H*W).

        H and W are those of the input, halved `pools` times.
        """
        queries, keys, _ = self._queries_keys_values(self._pooled(x))
        return (queries @ keys.mT).softmax(-1)

    def own_macs(self, x: Tensor) -> int:
        """Minus the products with zeros and ones, which the layer's definition does not have."""
        places = math.prod(math.ceil(side / 2**self.pools) for side in x.shape[-2:])
        dims, value_dims = self.key_dims // self.heads, self.value_dims // self.heads
        keys = dims + (self.get_buffer("places").shape[1] if self.positions == "relative" else 0)
        widths = 2 * _common_width(keys, value_dims) if _pays(places, keys) else keys + value_dims
        return -len(x) * self.heads * places**2 * (widths - dims - value_dims)

    def _attend(self, x: Tensor) -> Tensor:
        x = self._pooled(x)
        heads = _attention(*self._queries_keys_values(x))  # (N, heads, H*W, d_v/heads)
        return self.projection(heads.mT.reshape(len(x), self.value_dims, *x.shape[-2:]))

    def _pooled(self, x: Tensor) -> Tensor:
        for _ in range(self.pools):
            x = _halve(x)
        return x

    def _queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project the input to three times (N, heads, H*W, .); the products of queries and keys are the logits.

        Relative positions are part of the product: a query brings its logits for every row and column of the map, a key says which
        are its own. Queries are divided by sqrt(D), and with them all terms of the logits.
        """
        dims = [self.key_dims, self.key_dims, self.value_dims]
        parts = self.qkv(self._with_positions(x)).split(dims, 1)
        queries, keys, values = (part.unflatten(1, (self.heads, -1)).flatten(3).mT for part in parts)
        queries = queries * (self.key_dims // self.heads) ** -0.5  # (N, heads, H*W, D)
        if self.positions == "relative":
            self._require_map_size(x)
            places = self.get_buffer("places").to(keys.dtype)
            queries = append_relative_logits(
                queries.unflatten(2, x.shape[-2:]), self.rel_h, self.rel_w, places.shape[1]
            )
            keys = torch.cat([keys, places.expand(*keys.shape[:2], -1, -1)], -1)
        return queries, keys, values

    def _with_positions(self, x: Tensor) -> Tensor:
        if self.positions == "sine":
            return x + _sine(x)
        if self.positions == "coord":
            return torch.cat([x, _coordinates(x).expand(len(x), -1, -1, -1)], 1)
        return x

    def _require_map_size(self, x: Tensor) -> None:
        h, w = len(self.rel_h) // 2 + 1, len(self.rel_w) // 2 + 1
        if x.shape[-2:] != (h, w):
            got = " x ".join(str(side) for side in x.shape[-2:])
            raise ValueError(f"the relative positions of this layer are for maps of {h} x {w}, got {got}")


def _attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Compute softmax(Q K^T) V, where it pays by fused kernels, which hold no logits but want all operands equally wide."""
    places, width = keys.shape[-2:]
    value_dims = values.shape[-1]
    if _pays(places, width):
        common = _common_width(width, value_dims)
        queries, keys, values = (_widened(x, common) for x in (queries, keys, values))
    return F.scaled_dot_product_attention(queries, keys, values, scale=1.0)[..., :value_dims]


def _pays(places: int, width: int) -> bool:
    """Whether the logits are larger than operands of this width."""
    return places > 2 * width


def _common_width(keys: int, values: int) -> int:
    return -(-max(keys, values) // WIDTH_MULTIPLE) * WIDTH_MULTIPLE


def _widened(x: Tensor, width: int) -> Tensor:
    return F.pad(x, (0, width - x.shape[-1])) if x.shape[-1] < width else x


def _halve(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)


def _coordinates(x: Tensor) -> Tensor:
    """Rows, columns, both from -1 to 1, and their distance from the centre: (1, 3, H, W), x before y."""
    h, w = x.shape[-2:]
    ys = torch.linspace(-1, 1, h, dtype=x.dtype, device=x.device).unsqueeze(1).expand(h, w)
    xs = torch.linspace(-1, 1, w, dtype=x.dtype, device=x.device).expand(h, w)
    return torch.stack([xs, ys, torch.hypot(xs, ys)]).unsqueeze(0)


def _sine(x: Tensor) -> Tensor:
    """Sines and cosines of the row, then of the column, wavelengths from 2 pi to 10000 * 2 pi: (1, C, H, W)."""
    channels, h, w = x.shape[1:]
    count = math.ceil(channels / 4)
    places = torch.arange(max(count, h, w), device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
    waves = (10000.0 ** (-places[:count] / count)).unsqueeze(1)
    rows = (places[:h] * waves).unsqueeze(2).expand(-1, h, w)
    columns = (places[:w] * waves).unsqueeze(1).expand(-1, h, w)
    encoding = torch.cat([rows.sin(), rows.cos(), columns.sin(), columns.cos()])
    return encoding[:channels].unsqueeze(0).to(x.dtype)


@dataclass(frozen=True)
class Body:
    """A residual network before it is augmented.

    Attributes:
        layers: builds from `num_classes` what is applied one after the other; stages of blocks are named layer1, layer2, ...
        stem_stride: how many times smaller than the image the input of the first stage is.
        first: index of the first stage with attention, from 0.
    """

    layers: Callable[[int], dict[str, nn.Module]]
    stem_stride: int
    first: int


class AAResNet(nn.Sequential):
    """A residual network with one attention augmented convolution in each block of its later stages.

    Args:
        num_classes: number of logits.
        body: the network to augment.
        kappa: key dimensions per output channel of a convolution; a head has at least 20 in any case.
        upsilon: value dimensions per output channel, above 0; 1 replaces the convolution. Both numbers of dimensions are rounded to
            the nearest multiple of heads.
        heads: of each attention.
        positions: "relative", "sine", "coord" or "none".
        image_size: height and width of the images in pixels; with relative positions, no others are possible.
        pooled: attend at half the resolution in the first stage with attention, where the maps are largest.
        pool_first: in strided convolutions, pool before the attention, not after it: a quarter of the places, a sixteenth of the
            memory. Then no map is larger than the stage's, 28, 14 and 7 for images of 224.

    Raises:
        ValueError: kappa, upsilon, heads or image_size is out of range, or the positions are unknown.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        body: Body,
        kappa: float = 0.2,
        upsilon: float = 0.1,
        heads: int = 8,
        positions: Positions = "relative",
        image_size: int = 224,
        pooled: bool = False,
        pool_first: bool = False,
    ) -> None:
        if not (kappa > 0 and 0 < upsilon <= 1 and heads >= 1 and image_size >= 1):
            raise ValueError(
                "kappa must be above 0, upsilon in (0, 1], heads and image_size at least 1, "
                f"got {kappa=}, {upsilon=}, {heads=}, {image_size=}"
            )
        super().__init__()
        self.image_size = image_size if positions == "relative" else None
        for name, layer in body.layers(num_classes).items():
            self.add_module(name, layer)
        size = math.ceil(image_size / body.stem_stride)
        stages = [layer for name, layer in self.named_children() if name.startswith("layer")]
        for index, block in ((index, block) for index, stage in enumerate(stages) for block in stage.children()):
            name = "conv2" if hasattr(block, "conv3") else "conv1"
            conv = cast(nn.Conv2d, block.get_submodule(name))
            outputs, stride = conv.out_channels, conv.stride[0]
            if index >= body.first:
                augmented = AugmentedConv2d(
                    conv.in_channels,
                    outputs,
                    key_dims=max(_nearest_multiple(kappa * outputs, heads), MIN_KEY_DIMS * heads),
                    value_dims=max(_nearest_multiple(upsilon * outputs, heads), heads),
                    heads=heads,
                    map_size=(size, size),
                    stride=stride,
                    pools=int(pooled and index == body.first) + int(pool_first and stride > 1),
                    positions=positions,
                )
                block.add_module(name, augmented)
            size = math.ceil(size / stride)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name in nn.Sequential)
        """Classify normalised images (N, 3, H, W); returns logits (N, num_classes).

        Raises:
            ValueError: the relative positions are for another image size.
        """
        size = self.image_size
        if size is not None and input.shape[-2:] != (size, size):
            got = " x ".join(str(side) for side in input.shape[-2:])
            raise ValueError(f"this network was built for images of {size} x {size} (option image_size), got {got}")
        return super().forward(input)


def _nearest_multiple(value: float, divisor: int) -> int:
    return int(value / divisor + 0.5) * divisor


def _plain(name: str, num_classes: int) -> dict[str, nn.Module]:
    """Take one of the plain ImageNet networks apart."""
    layers = dict(create(name, num_classes=num_classes).named_children())
    fc = layers.pop("fc")
    return {**layers, "flatten": nn.Flatten(), "fc": fc}


# Pooling before attention gives maps of 28, 14 and 7, and 9.5 GFLOPs for AA-ResNet-50, published are 8.3; pooling after it gives
# 13.5 and takes a gigabyte of memory an image. Both have the published numbers of parameters.
for _depth in (34, 50, 101, 152):
    _body = Body(partial(_plain, f"resnet{_depth}"), stem_stride=4, first=1)
    _published = {34: 74.7, 50: 77.7, 101: 78.7, 152: 79.1}[_depth]
    _kappa, _upsilon = (0.25, 0.25) if _depth == 34 else (0.2, 0.1)
    _build = partial(AAResNet, body=_body, kappa=_kappa, upsilon=_upsilon, pool_first=True)
    register(ModelSpec(f"aa_resnet{_depth}", _build, (3, 224, 224), PAPER, (_published,)))


class WideBlock(nn.Module):
    """Pre-activation block of wide ResNets (Zagoruyko, Komodakis, BMVC 2016, arXiv:1605.07146), without dropout."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, width, 1, stride, bias=False) if inputs != width else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, width, H/stride, W/stride)."""
        activated = self.bn1(x).relu()
        residual = self.conv2(self.bn2(self.conv1(activated)).relu())
        return residual + (x if self.shortcut is None else self.shortcut(activated))


def _wide(blocks: int, factor: int, num_classes: int) -> dict[str, nn.Module]:
    widths = [16, 16 * factor, 32 * factor, 64 * factor]
    layers: dict[str, nn.Module] = {"conv1": nn.Conv2d(3, 16, 3, padding=1, bias=False)}
    for index in range(3):
        first = WideBlock(widths[index], widths[index + 1], stride=1 if index == 0 else 2)
        rest = (WideBlock(widths[index + 1], widths[index + 1], stride=1) for _ in range(blocks - 1))
        layers[f"layer{index + 1}"] = nn.Sequential(first, *rest)
    head = {"bn1": nn.BatchNorm2d(widths[-1]), "relu": nn.ReLU(inplace=True), "avgpool": nn.AdaptiveAvgPool2d(1)}
    return {**layers, **head, "flatten": nn.Flatten(), "fc": nn.Linear(widths[-1], num_classes)}


_wide_28_10 = Body(partial(_wide, 4, 10), stem_stride=1, first=0)
register(ModelSpec("aa_wide_resnet28_10", partial(AAResNet, body=_wide_28_10, image_size=32), (3, 32, 32), PAPER))


def _mini(num_classes: int) -> dict[str, nn.Module]:
    """Take `resnet_mini` apart, the stages under torchvision's names."""
    network = ResNetMini(num_classes)
    conv1, bn1, relu = network.stem
    stages = {f"layer{index}": stage for index, stage in enumerate(network.stages, 1)}
    head = {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": network.fc}
    return {"conv1": conv1, "bn1": bn1, "relu": relu, **stages, **head}


_build = partial(
    AAResNet,
    body=Body(_mini, stem_stride=2, first=1),
    kappa=0.25,
    upsilon=0.25,
    heads=2,
    image_size=32,
    pool_first=True,
)
register(ModelSpec("aa_resnet_mini", _build, (3, 32, 32), PAPER))
