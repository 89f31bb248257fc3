"""DAT against outputs of the authors' code, computed in float64 from formula weights."""

from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import models
from models.families.dat.attention import DeformableAttention, WindowAttention
from models.families.dat.network import fit_tables
from tests.models.formula import (
    assert_float32_is_near,
    assert_module_matches,
    assert_network_matches,
    draw,
    formula_weights,
    golden,
    load_formula_weights,
    tensor,
)


def block(kind: str) -> nn.Module:
    if kind == "deformable":
        return DeformableAttention(48, 6, 3, (6, 7), offset_kernel=5)
    return WindowAttention(24, 3, 5, (10, 15), shifted=kind == "shift")


@pytest.mark.parametrize("kind", ["local", "shift", "deformable"])
def test_attention_matches_the_authors_module(kind: str) -> None:
    assert_module_matches(block(kind), golden(f"block_dat_{kind}"))


def test_keys_are_sampled_where_the_authors_sample_them() -> None:
    file = golden("block_dat_deformable")
    module = cast(DeformableAttention, block("deformable"))
    load_formula_weights(module, file)
    positions, weights = module.attention(torch.from_numpy(draw(7, file["input"]["shape"])).double())
    assert (positions - tensor(file["sampling_positions_yx"])).abs().max() < 1e-10
    assert weights.shape == (2, 6, 42, 42)
    assert torch.allclose(weights.sum(-1), torch.ones(()).double())


def test_the_shift_masks_as_many_pairs_as_the_authors() -> None:
    expected = golden("block_dat_shift")["attn_mask_check"]
    mask = cast(Tensor, block("shift").attn_mask)
    assert list(mask.shape) == expected["shape"]
    assert (mask == expected["value"]).sum((1, 2)).tolist() == expected["masked_pairs_per_window"]
    assert ((mask == 0) | (mask == expected["value"])).all()


def test_dat_tiny_matches_the_authors_network() -> None:
    stages = ["patch_proj", *(f"stages.{i}" for i in range(4))]
    assert_network_matches(models.create("dat_tiny"), golden("dat_tiny_224"), stages)


def test_dat_tiny_in_float32_is_within_its_tolerance() -> None:
    assert_float32_is_near(models.create("dat_tiny"), golden("dat_tiny_224"))


def test_parameter_counts_of_every_size() -> None:
    counts = {"dat_tiny": 28_319_138, "dat_small": 49_700_402, "dat_base": 87_881_632, "dat_base_384": 88_178_272}
    with torch.device("meta"):
        actual = {name: sum(p.numel() for p in models.create(name).parameters()) for name in counts}
    assert actual == counts


def test_tables_for_another_image_size_are_resized_bicubically() -> None:
    """Windows of 7 to 12 and maps of 14 to 24: as published at 224, used at 384."""
    file = golden("dat_tiny_224")
    weights = formula_weights(file["state_dict"], file["derived_keys"])
    network = models.create("dat_tiny", num_classes=1000, image_size=384, window=12)
    network.load_state_dict(fit_tables(weights, network), strict=False)
    own = network.state_dict()
    name = "stages.2.attns.1.rpe_table"
    assert torch.equal(own[name], F.interpolate(weights[name][None], (47, 47), mode="bicubic")[0])
    name = "stages.0.attns.1.relative_position_bias_table"
    head = F.interpolate(weights[name][:, 1].view(1, 1, 13, 13), (23, 23), mode="bicubic")
    assert torch.equal(own[name][:, 1].view(23, 23), head[0, 0])
    assert torch.equal(own["stages.3.mlps.1.chunk.linear1.weight"], weights["stages.3.mlps.1.chunk.linear1.weight"])
    assert own["stages.0.attns.1.attn_mask"].shape == (64, 144, 144)
