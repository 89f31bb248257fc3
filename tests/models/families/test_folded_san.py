"""The fast path of SAN against the plain modules, which the authors' numbers hold in place."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import evaluation
import models
import models.families.san.folded as folded_san
import models.ops.tiles as tile_module
from models.families.san.folded import FoldedPairwise, FoldedPatchwise, FoldedSAN, is_foldable
from models.families.san.network import PUBLISHED, SAN, Block, PairwiseAttention, PatchwiseAttention
from models.ops.pairwise import border_classes, class_representatives
from models.ops.tiles import fold, pad, tiles, windows
from tests.models.formula import draw, formula_images, formula_weights, golden, probe
from tests.models.operands import CORES, random

KINDS = ["pairwise", "patchwise"]
SMALL_TILES = [None, 1, 20_000]
"""Working memory: all in one tile, one row of one image each, and in between."""


def load_formula_weights(network: nn.Module) -> None:
    state = network.state_dict()
    shapes = {name: list(value.shape) for name, value in state.items()}
    weights = formula_weights(shapes, [name for name in shapes if name.endswith("num_batches_tracked")])
    network.load_state_dict(weights, strict=False)
    network.double().eval()


def mini(kind: str, footprints: tuple[int, ...] = (3, 5, 7), **options: Any) -> SAN:
    """A small network whose norms have scales of both signs and, once each, of zero."""
    network = SAN(7, kind=kind, blocks=(1, 2, 1), footprints=footprints, widths=(64, 96, 128), stem_width=16, **options)
    load_formula_weights(network)
    for i, norm in enumerate(m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.weight.data[i % 3 :: 3] *= -1
        norm.weight.data[i % min(5, len(norm.weight))] = 0
    return network


def with_gradient(network: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    output = network(x)
    upstream = random(*output.shape, seed=9).to(output.dtype)
    return output.detach(), torch.autograd.grad(output, x, upstream)[0]


def force_tiles(monkeypatch: pytest.MonkeyPatch, size: int | None) -> None:
    if size is not None:
        monkeypatch.setattr(tile_module, "CPU_TILE_BYTES", size)


@pytest.mark.parametrize("tile_bytes", SMALL_TILES)
@pytest.mark.parametrize(
    ("batch", "height", "width", "footprints"),
    [
        (1, 64, 32, (3, 5, 7)),  # last map 8 x 4
        (3, 32, 48, (7, 5, 3)),
        (2, 32, 32, (3, 7, 7)),  # last maps 8 x 8 and 4 x 4
        (3, 43, 26, (1, 3, 3)),  # odd maps
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_folded_network_equals_the_plain_one(
    kind: str,
    batch: int,
    height: int,
    width: int,
    footprints: tuple[int, ...],
    tile_bytes: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    force_tiles(monkeypatch, tile_bytes)
    network = mini(kind, footprints)
    images = random(batch, 3, height, width)  # no two equal pixels in a pool
    logits, gradient = with_gradient(network, images)
    folded_logits, folded_gradient = with_gradient(FoldedSAN(network), images)
    assert logits.std() > 0.1
    assert (folded_logits - logits).abs().max() < 1e-9
    assert (folded_gradient - gradient).abs().max() < 1e-9 * gradient.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_one_folded_network_serves_maps_of_different_sizes(kind: str) -> None:
    network = mini(kind)
    folded = FoldedSAN(network)
    for height, width in [(32, 48), (48, 32), (32, 48)]:
        images = random(1, 3, height, width)
        assert (folded(images) - network(images)).abs().max() < 1e-9


@pytest.mark.parametrize("options", [{"share": 4}, {"r1": 8, "r2": 8, "share": 2}, {"r2": 2, "share": 16}])
@pytest.mark.parametrize("kind", KINDS)
def test_other_reductions(kind: str, options: dict[str, int]) -> None:
    network = mini(kind, **options)
    images = random(2, 3, 32, 32)
    for plain, folded in zip(with_gradient(network, images), with_gradient(FoldedSAN(network), images), strict=True):
        assert (folded - plain).abs().max() < 1e-9 * plain.abs().max()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("pairwise", {"relation": "concatenation"}),
        ("pairwise", {"relation": "dot"}),
        ("pairwise", {"position": "none"}),
        ("pairwise", {"transforms": "tied"}),
        ("patchwise", {"relation": "star"}),
        ("patchwise", {"mapping_layers": 3}),
    ],
)
def test_ablations_are_refused(kind: str, options: dict[str, Any]) -> None:
    network = mini(kind, **options)
    assert not is_foldable(network)
    with pytest.raises(ValueError, match="only the published attention can be folded"):
        FoldedSAN(network)


@pytest.mark.parametrize("kind", KINDS)
def test_golden_san10(kind: str) -> None:
    file = golden(f"san10_{kind}_224")
    network = models.create(f"san10_{kind}", num_classes=1000)
    network.load_state_dict(formula_weights(file["state_dict"], file["derived_keys"]), strict=False)
    assert isinstance(network.double(), SAN)
    folded = FoldedSAN(network)
    images = formula_images(file["input"]["shape"])
    doubles = images.double().requires_grad_()
    logits = folded(doubles)
    expected = torch.tensor(file["logits"], dtype=torch.float64)
    assert (logits - expected).abs().max() <= 1e-8
    upstream = torch.from_numpy(draw(9, logits.shape)).double()
    (gradient,) = torch.autograd.grad((upstream * logits).mean(), doubles)
    assert gradient.norm().item() == pytest.approx(file["grad"]["input_grad"]["l2"], rel=1e-8)
    assert probe(gradient) == pytest.approx(file["grad"]["input_grad"]["probe"], rel=1e-6, abs=1e-10)
    with torch.inference_mode():
        assert (folded.float()(images).double() - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("attention", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_products_stay_near(kind: str, attention: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding to 8 bits moves the logits by less than 2 % and the gradient, through many switches, by less than 30 %.

    On a CPU the attention itself is not rounded; on a GPU it is, which is tried here.
    """
    if attention == torch.bfloat16:
        monkeypatch.setattr(folded_san, "ROUNDED_ATTENTION", {"cpu"})
    seen: set[torch.dtype] = set()
    core = getattr(folded_san, f"{kind}_core")

    def attend(x1: Tensor, x2: Tensor, x3: Tensor, weights: tuple[Tensor, ...], *, kernel_size: int) -> Tensor:
        seen.update(x.dtype for x in (x1, x2, x3, *weights))
        return core(x1, x2, x3, weights, kernel_size=kernel_size)

    monkeypatch.setattr(folded_san, f"{kind}_core", attend)
    network = mini(kind).float()
    images = random(4, 3, 32, 32).float()
    logits, gradient = with_gradient(network, images)
    rounded_logits, rounded_gradient = with_gradient(FoldedSAN(network, matmul_dtype=torch.bfloat16), images)
    assert seen == {attention}
    assert rounded_logits.dtype == rounded_gradient.dtype == torch.float32
    assert 1e-5 < (rounded_logits - logits).norm() / logits.norm() < 0.02
    assert 1e-5 < (rounded_gradient - gradient).norm() / gradient.norm() < 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_is_copied_and_frozen(kind: str) -> None:
    network = mini(kind)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    folded = FoldedSAN(network)
    images = random(2, 3, 32, 32).requires_grad_()
    logits = folded(images)
    logits.sum().backward()
    assert network.training
    assert images.grad is not None
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not list(folded.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    for parameter in network.parameters():
        parameter.data.zero_()
    assert torch.equal(folded(images), logits)


@pytest.mark.parametrize("tile_bytes", [None, 1])
@pytest.mark.parametrize(("n", "h", "w", "k"), [(2, 3, 4, 3), (1, 3, 3, 5), (1, 8, 2, 3), (2, 1, 1, 1), (1, 4, 5, 7)])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_the_cores_equal_finite_differences(
    kind: str, n: int, h: int, w: int, k: int, tile_bytes: int | None
) -> None:
    core, operands = CORES[kind]
    inputs, weights = operands(n=n, h=h, w=w, k=k)

    def call(*operands: Tensor) -> Tensor:
        return core(*operands, weights, kernel_size=k, tile_bytes=tile_bytes)

    assert torch.autograd.gradcheck(call, inputs, fast_mode=n * h * w > 12)


@pytest.mark.parametrize("kind", KINDS)
def test_results_do_not_depend_on_tiles_batch_or_strides(kind: str) -> None:
    core, operands = CORES[kind]
    inputs, weights = operands(n=5, h=9, w=6, k=5)
    inputs = [x.detach() for x in inputs]
    whole = core(*inputs, weights, kernel_size=5)
    for tile_bytes in (1, 30_000, 60_000, 200_000):
        assert torch.allclose(core(*inputs, weights, kernel_size=5, tile_bytes=tile_bytes), whole, rtol=0, atol=1e-12)
    single = core(*(x[2:3] for x in inputs), weights, kernel_size=5)
    assert torch.allclose(single, whole[2:3], rtol=0, atol=1e-12)
    strided = [x.permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1) for x in inputs]
    assert not strided[0].is_contiguous()
    assert torch.allclose(core(*strided, weights, kernel_size=5), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_little_is_kept_for_the_gradient(kind: str) -> None:
    """The attention keeps its three operands and nothing per tap; a network keeps a fraction of the plain one."""
    attention, folding = {
        "pairwise": (PairwiseAttention, FoldedPairwise),
        "patchwise": (PatchwiseAttention, FoldedPatchwise),
    }[kind]
    block = Block(attention, 64, 7, PUBLISHED).double().eval()
    merged = random(2, 16, 16, 24).requires_grad_()
    folded = folding(block).double()
    assert saved_bytes(lambda: folded.attend(merged)) <= 2 * 16 * 16 * 24 * 8
    network = mini(kind).requires_grad_(False)
    images = random(2, 3, 32, 32).requires_grad_()
    fast = FoldedSAN(network)
    assert saved_bytes(lambda: fast(images)) < saved_bytes(lambda: network(images)) / 4


def saved_bytes(call: Callable[[], Tensor]) -> int:
    """Bytes of maps kept for the backward pass; what lies in one storage counts once, weights do not."""
    kept: dict[int, int] = {}

    def pack(saved: Tensor) -> Tensor:
        if saved.dim() > 2:
            kept[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        output = call()
    assert output.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize(("height", "width", "k"), [(5, 4, 3), (4, 4, 7), (3, 6, 5), (2, 2, 1)])
def test_windows_of_padded_maps(height: int, width: int, k: int) -> None:
    """Windows are what unfolding gathers; `fold` is the adjoint of `pad`."""
    maps, groups, r = 2, 3, k // 2
    x = random(2, height, width, groups * maps)
    padded = pad(x, maps, k)
    nchw = x.permute(0, 3, 1, 2)
    taps = torch.nn.functional.unfold(torch.nn.functional.pad(nchw, (r, r, r, r), mode="reflect"), k)
    expected = taps.view(2, groups, maps, k, k, height, width).permute(3, 4, 0, 5, 1, 6, 2).flatten(5)
    assert torch.equal(windows(padded, maps, k, (slice(0, 2), slice(0, height))), expected)
    part = windows(padded, maps, k, (slice(1, 2), slice(1, height)))
    assert torch.equal(part, expected[:, :, 1:2, 1:height])
    other = random(*padded.shape, seed=1)
    assert torch.allclose((padded * other).sum(), (x * fold(other.clone(), maps, k)).sum())


@pytest.mark.parametrize(("n", "h", "affordable"), [(1, 1, 1), (3, 7, 1), (3, 7, 2), (3, 7, 6), (3, 7, 100), (4, 5, 4)])
def test_tiles_cover_every_row_of_every_image_once(n: int, h: int, affordable: int) -> None:
    seen = torch.zeros(n, h)
    for tile in tiles(torch.empty(n, h, 1, 1), 10, affordable * 40):
        seen[tile] += 1
        assert 1 <= seen[tile].numel() <= max(1, affordable)
    assert torch.equal(seen, torch.ones(n, h))


@pytest.mark.parametrize(
    ("size", "k", "classes", "representatives"),
    [
        (8, 5, [0, 1, 2, 2, 2, 2, 3, 4], [0, 1, 2, 6, 7]),
        (5, 5, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),
        (3, 5, [0, 1, 2], [0, 1, 2]),
        (4, 1, [0, 0, 0, 0], [0]),
    ],
)
def test_border_classes(size: int, k: int, classes: list[int], representatives: list[int]) -> None:
    assert border_classes(size, k).tolist() == classes
    assert class_representatives(size, k).tolist() == representatives


@pytest.mark.parametrize("kind", ["pairwise", pytest.param("patchwise", marks=pytest.mark.thorough)])
def test_a_folded_classifier_is_evaluated_as_the_one_it_came_from(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = evaluation.EvaluationSpec(
        models=(f"san_mini_{kind}.fashion_mnist",),
        dataset="fashion_mnist_test",
        images=4,
        conditions=evaluation.pgd_conditions([2 / 255], steps=3),
    )
    seen: list[type] = []
    fold = models.fold

    def fold_and_tell(classifier: models.Classifier) -> models.Classifier:
        folded = fold(classifier)
        seen.append(type(folded.network))
        assert folded.device == classifier.device
        return folded

    monkeypatch.setattr(models, "fold", fold_and_tell)
    fast = evaluation.evaluate(spec, device="cpu")
    monkeypatch.setattr(models, "fold", lambda classifier: classifier)
    plain = evaluation.evaluate(spec, device="cpu")
    assert seen[0] is FoldedSAN  # those whose images are transferred follow
    for ours, theirs in zip(fast.models[0].conditions, plain.models[0].conditions, strict=True):
        assert ours.accuracy == theirs.accuracy
