"""SAN against outputs of the authors' code, computed in float64 from formula weights."""

import pytest
import torch

import models
from models.families.san.network import PairwiseAttention, PatchwiseAttention
from models.ops.neighbourhood import aggregation, subtraction
from tests.models.formula import (
    assert_float32_is_near,
    assert_module_matches,
    assert_network_matches,
    draw,
    golden,
    tensor,
)

KINDS = ["pairwise", "patchwise"]


@pytest.mark.parametrize("op", ["aggregation", "subtraction", "subtraction2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_operation_equals_the_authors_kernel_exactly(op: str, dtype: torch.dtype) -> None:
    cases = [case for case in golden(f"op_{op}")["cases"] if not case["optional"]]
    assert cases
    for case in cases:
        k = case["kernel_size"]
        inputs = [tensor(x).to(dtype).requires_grad_() for x in case["inputs"].values()]
        output = aggregation(inputs[0], inputs[1], k) if op == "aggregation" else subtraction(inputs[0], inputs[-1], k)
        assert torch.equal(output, tensor(case["output"]).to(dtype).view_as(output)), case["name"]
        stored = case["upstream_grad"]
        upstream = (
            tensor(stored)
            if "data" in stored
            else torch.from_numpy(draw(case["seeds"]["upstream_grad"], output.shape)).double().mul(3).round()
        )
        actual = torch.autograd.grad(output, inputs, upstream.to(dtype).view_as(output))
        for gradient, expected in zip(actual, case["grads"].values(), strict=True):
            assert torch.equal(gradient, tensor(expected).to(dtype).view_as(gradient)), case["name"]


@pytest.mark.parametrize("kernel_size", [3, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_attention_matches_the_authors_module(kind: str, kernel_size: int) -> None:
    file = golden(f"block_sam_{kind}_k{kernel_size}")
    attention = {"pairwise": PairwiseAttention, "patchwise": PatchwiseAttention}[kind]
    assert_module_matches(attention(file["config"]["in_planes"], kernel_size), file)


@pytest.mark.parametrize("kind", KINDS)
def test_san10_matches_the_authors_network(kind: str) -> None:
    stages = ["conv_in", *(f"layer{i}" for i in range(5))]
    assert_network_matches(models.create(f"san10_{kind}"), golden(f"san10_{kind}_224"), stages)


@pytest.mark.parametrize("kind", KINDS)
def test_san10_in_float32_is_within_its_tolerance(kind: str) -> None:
    assert_float32_is_near(models.create(f"san10_{kind}"), golden(f"san10_{kind}_224"))


def test_parameter_counts_of_every_size() -> None:
    counts = {
        "san10_pairwise": 10_531_848,
        "san10_patchwise": 11_841_124,
        "san15_pairwise": 14_065_436,
        "san15_patchwise": 16_181_310,
        "san19_pairwise": 17_596_156,
        "san19_patchwise": 20_518_470,
        "resnet26": 13_696_552,
        "resnet38": 19_626_792,
        "resnet50": 25_557_032,
    }
    with torch.device("meta"):
        actual = {name: sum(p.numel() for p in models.create(name).parameters()) for name in counts}
    assert actual == counts
