"""SAN for evaluation: the same function with frozen weights, in fewer and smaller operations.

Every map is (N, H, W, C), so that a 1x1 convolution is one matrix product. Each of these exact rewritings removes a pass over the
map, or memory that would be stored for the gradient:

- The norm of the input is part of the first convolution. Max-pooling comes before norm and ReLU, so that these see a quarter of the
  pixels. This is possible because the maps of a stage are stored with the sign of that norm's scale.
- The three convolutions of an attention are one product. The first norm of its mapping is part of them, the second of the mapping's
  first layer. The norm after the attention scales the values instead, and in pairwise attention, whose weights sum to one, shifts
  them too; there the last bias of the mapping cancels in the softmax.
- The bias that ends a block only moves the input of the norms after it.
"""

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.families.san.network import SAN, Block, PairwiseAttention, PatchwiseAttention
from models.ops.pairwise import PairwiseWeights, class_representatives, pairwise_core
from models.ops.patchwise import PatchwiseWeights, patchwise_core
from models.ops.pooling import convolve_and_pool, max_pool, norm_relu

ROUNDED_ATTENTION = {"cuda"}
"""Devices where attention uses the type of the convolutions before it; a CPU gains nothing from types smaller than float32."""


class FoldedSAN(nn.Module):
    """A copy of a network in evaluation mode; gradients go to the images only.

    Args:
        san: the network, with the paper's default attention; it is not changed and need not be in evaluation mode.
        matmul_dtype: type of the operands of the 1x1 convolutions, for example torch.bfloat16; the default is the network's own. On
            a GPU the attention between these convolutions uses it too. All else, residual sums included, has the network's type.

    Raises:
        ValueError: the attention is one of the paper's ablations.
    """

    stem_weight: Tensor
    stem_bias: Tensor

    def __init__(self, san: SAN, *, matmul_dtype: torch.dtype | None = None) -> None:
        super().__init__()
        if not is_foldable(san):
            raise ValueError("only the published attention can be folded, not its ablations: use the network as it is")
        scale, shift = _affine(san.bn_in)
        self.register_buffer("stem_weight", (_matrix(san.conv_in) * scale[:, None]).t().contiguous())
        self.register_buffer("stem_bias", shift)
        self.stages = nn.ModuleList(_Stage(san, index) for index in range(san.stages))
        self.fc = _Linear(_double(san.fc.weight), _double(san.fc.bias))
        self.to(san.fc.weight)
        if matmul_dtype is not None:
            for layer in self.modules():
                if isinstance(layer, _Linear) and layer is not self.fc:
                    layer.weight = layer.weight.to(matmul_dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Classify normalised images (N, 3, H, W); returns logits (N, num_classes)."""
        x = convolve_and_pool(images, self.stem_weight, self.stem_bias).relu()
        for stage in self.stages[:-1]:
            x = stage(x, pool=True)  # (N, H/2, W/2, C)
        return self.fc(self.stages[-1](x, pool=False).mean((1, 2)))


def is_foldable(san: SAN) -> bool:
    """Whether all attention of a network is the published one, whatever its reductions."""
    attentions = (module for module in san.modules() if isinstance(module, PairwiseAttention | PatchwiseAttention))
    return all(attention.is_published for attention in attentions)


class _Stage(nn.Module):
    """Convolution, blocks, pooling, norm and ReLU: from the previous stage's pooled output to its own."""

    scale: Tensor
    shift: Tensor

    def __init__(self, san: SAN, index: int) -> None:
        super().__init__()
        scale, shift = _affine(cast(nn.BatchNorm2d, san.get_submodule(f"bn{index}")))
        sign = torch.where(scale < 0, -1.0, 1.0).to(scale)
        offset = torch.zeros_like(scale)
        self.conv = _Linear(_matrix(cast(nn.Conv2d, san.get_submodule(f"conv{index}"))) * sign[:, None])
        self.blocks = nn.Sequential()
        for block in cast(Iterable[Block], san.get_submodule(f"layer{index}")):
            self.blocks.append(_Block(block, sign, offset))
            offset = offset + _double(block.conv.bias)
        self.register_buffer("scale", scale.abs())
        self.register_buffer("shift", shift + scale * offset)

    def forward(self, x: Tensor, *, pool: bool) -> Tensor:
        x = self.blocks(self.conv(x))
        return norm_relu(max_pool(x) if pool else x, self.scale, self.shift)


class _Block(nn.Module):
    """A residual block.

    Args:
        block: to fold.
        sign: 1 or -1, the factor with which the maps of the stage are stored.
        offset: the biases of the blocks before, which the stored maps lack.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, block: Block, sign: Tensor, offset: Tensor) -> None:
        super().__init__()
        scale, shift = _affine(block.bn1)
        self.register_buffer("scale", scale * sign)
        self.register_buffer("shift", shift + scale * offset)
        self.attention = _FOLDED[type(block.sam)](block)
        self.conv = _Linear(_matrix(block.conv) * sign[:, None])

    def forward(self, x: Tensor) -> Tensor:
        attended = self.attention(norm_relu(x, self.scale, self.shift))
        return self.conv.add_to(x, attended.relu())


class FoldedPairwise(nn.Module):
    """Pairwise attention and the norm after it."""

    first: Tensor
    second: Tensor
    positions: Tensor
    position_scale: Tensor
    position_shift: Tensor
    position_layer: Tensor
    bias: Tensor

    def __init__(self, block: Block) -> None:
        super().__init__()
        sam = cast(PairwiseAttention, block.sam)
        before, first, between, second = _mapping(sam.conv_w)
        channels = self.channels = sam.conv1.out_channels
        self.kernel_size = sam.kernel_size
        relation = before[0][:channels], before[1][:channels]
        convs = (sam.conv1, *relation), (sam.conv2, relation[0], 0 * relation[1]), (sam.conv3, *_affine(block.bn2))
        self.convs = _merged(*convs)
        first = first * between[0][:, None]
        self.register_buffer("first", first[:, :channels].t().contiguous())
        self.register_buffer("second", second.t().contiguous())
        self.register_buffer("positions", _matrix(sam.conv_p).t())
        self.register_buffer("position_scale", before[0][channels:])
        self.register_buffer("position_shift", before[1][channels:])
        self.register_buffer("position_layer", first[:, channels:].t())
        self.register_buffer("bias", between[1])
        self._last: tuple[tuple[int, int, torch.dtype, torch.dtype, torch.device], PairwiseWeights] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Attend: (N, H, W, C) -> (N, H, W, C/R2)."""
        return self.attend(self.convs.for_attention(x)).to(x.dtype)

    def attend(self, merged: Tensor) -> Tensor:
        """Attend, given centres, neighbours and values (N, H, W, 2R + C/R2) beside each other."""
        x1, x2, x3 = merged.split([self.channels, self.channels, merged.shape[-1] - 2 * self.channels], -1)
        weights = self._weights(merged.shape[1], merged.shape[2], merged.dtype)
        return pairwise_core(x1, x2, x3, weights, kernel_size=self.kernel_size)

    def _weights(self, height: int, width: int, dtype: torch.dtype) -> PairwiseWeights:
        """Weights, with the position term of a map of this size; those of the last size and type are stored."""
        key = height, width, dtype, self.first.dtype, self.first.device
        if self._last is None or self._last[0] != key:
            table = self._positions(height, width)
            self._last = key, PairwiseWeights(self.first.to(dtype), self.second.to(dtype), table.to(dtype))
        return self._last[1]

    @torch.no_grad()
    def _positions(self, height: int, width: int) -> Tensor:
        """Compute the position term of every tap and border class: (k*k, min(H, k), min(W, k), R)."""
        ys, xs = (_displacements(size, self.kernel_size, self.first) for size in (height, width))  # (k, classes)
        dy, dx = torch.broadcast_tensors(ys[:, None, :, None], xs[None, :, None, :])  # (k, k, row and column classes)
        offsets = torch.stack([dx, dy], -1) @ self.positions
        offsets = (offsets * self.position_scale + self.position_shift).relu()
        return (offsets @ self.position_layer + self.bias).flatten(0, 1)


class FoldedPatchwise(nn.Module):
    """Patchwise attention and the norm after it."""

    shift: Tensor

    def __init__(self, block: Block) -> None:
        super().__init__()
        sam = cast(PatchwiseAttention, block.sam)
        (scale, shift), first, between, second = _mapping(sam.conv_w)
        channels = self.channels = sam.conv1.out_channels
        k = self.kernel_size = sam.kernel_size
        value_scale, value_shift = _affine(block.bn2)
        one = torch.ones_like(scale[:channels])
        convs = (sam.conv1, scale[:channels], shift[:channels]), (sam.conv2, one, 0 * one)
        self.convs = _merged(*convs, (sam.conv3, value_scale, 0 * value_shift))
        first = first * between[0][:, None]
        maps = len(first)
        bias = _double(cast(nn.Conv2d, sam.conv_w[5]).bias)
        weights = PatchwiseWeights(
            scale=_by_taps(scale[channels:], channels, k),
            shift=_by_taps(shift[channels:], channels, k),
            centre=first[:, :channels].t(),
            taps=_by_taps(first[:, channels:], channels, k).permute(1, 2, 0),
            bias=between[1],
            second=second.view(maps, k * k, maps).permute(1, 2, 0),
            second_bias=bias.view(maps, k * k).t(),
        )
        for name, value in weights._asdict().items():
            self.register_buffer(f"map_{name}", value.contiguous())
        self.register_buffer("shift", value_shift)

    def forward(self, x: Tensor) -> Tensor:
        """Attend: (N, H, W, C) -> (N, H, W, C/R2)."""
        return self.attend(self.convs.for_attention(x)).to(x.dtype)

    def attend(self, merged: Tensor) -> Tensor:
        """Attend, given centres, neighbours and values (N, H, W, 2R + C/R2) beside each other."""
        x1, x2, x3 = merged.split([self.channels, self.channels, merged.shape[-1] - 2 * self.channels], -1)
        buffers = (self.get_buffer(f"map_{name}") for name in PatchwiseWeights._fields)
        weights = PatchwiseWeights(*(buffer.to(merged.dtype) for buffer in buffers))
        return patchwise_core(x1, x2, x3, weights, kernel_size=self.kernel_size).add_(self.shift)


_FOLDED: dict[type[nn.Module], type[FoldedPairwise | FoldedPatchwise]] = {
    PairwiseAttention: FoldedPairwise,
    PatchwiseAttention: FoldedPatchwise,
}


class _Linear(nn.Module):
    """A matrix product over the last dimension; its operands may have a smaller type than its input and output."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.dtype == x.dtype:
            return F.linear(x, self.weight, self.bias)
        product = F.linear(x.to(self.weight.dtype), self.weight).to(x.dtype)
        return product if self.bias is None else product + self.bias

    def for_attention(self, x: Tensor) -> Tensor:
        """The product, in the type of the operands where attention has it too."""
        if x.device.type not in ROUNDED_ATTENTION:
            return self(x)
        bias = None if self.bias is None else self.bias.to(self.weight.dtype)
        return F.linear(x.to(self.weight.dtype), self.weight, bias)

    def add_to(self, x: Tensor, y: Tensor) -> Tensor:
        """X plus the product of y."""
        if self.weight.dtype == x.dtype:
            return torch.addmm(x.flatten(0, -2), y.flatten(0, -2), self.weight.t()).view(x.shape)
        return x + F.linear(y.to(self.weight.dtype), self.weight)


def _double(x: Tensor | None) -> Tensor:
    """A detached float64 copy, in which everything is folded."""
    if x is None:
        raise ValueError("a layer of the network has no bias or scale where the published one has it")
    return x.detach().double().clone()


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift of a norm in evaluation mode."""
    scale = _double(norm.weight) / (_double(norm.running_var) + norm.eps).sqrt()
    return scale, _double(norm.bias) - _double(norm.running_mean) * scale


def _matrix(conv: nn.Conv2d) -> Tensor:
    """Weight of a 1x1 convolution: (outputs, inputs)."""
    return _double(conv.weight).flatten(1)


def _merged(*parts: tuple[nn.Conv2d, Tensor, Tensor]) -> _Linear:
    """Several 1x1 convolutions with biases of one input, each followed by scale and shift."""
    weights = [_matrix(conv) * scale[:, None] for conv, scale, _ in parts]
    biases = [_double(conv.bias) * scale + shift for conv, scale, shift in parts]
    return _Linear(torch.cat(weights), torch.cat(biases))


def _mapping(layers: nn.Sequential) -> tuple[tuple[Tensor, Tensor], Tensor, tuple[Tensor, Tensor], Tensor]:
    """First norm, first matrix, second norm, second matrix of a mapping."""
    before, _, first, between, _, second = layers
    return (
        _affine(cast(nn.BatchNorm2d, before)),
        _matrix(cast(nn.Conv2d, first)),
        _affine(cast(nn.BatchNorm2d, between)),
        _matrix(cast(nn.Conv2d, second)),
    )


def _by_taps(x: Tensor, channels: int, kernel_size: int) -> Tensor:
    """Turn a last dimension of channels, then taps, into rows of taps by taps of the row and channels: (..., k, k*R)."""
    taps = x.unflatten(-1, (channels, kernel_size, kernel_size))
    return taps.movedim(-3, -1).flatten(-2)


def _displacements(size: int, kernel_size: int, like: Tensor) -> Tensor:
    """Centre minus tap along one axis of positions from -1 to 1, for every tap and border class: (k, classes)."""
    positions = torch.linspace(-1, 1, size, dtype=like.dtype, device=like.device)
    centres = class_representatives(size, kernel_size, like.device)
    taps = (centres + torch.arange(kernel_size, device=like.device)[:, None] - kernel_size // 2).abs()
    reflected = torch.where(taps < size, taps, 2 * (size - 1) - taps)
    return positions[centres] - positions[reflected]
