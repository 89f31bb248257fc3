"""Every small architecture in every type, compiled, and the page that states how near it stays."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import models
from models.__main__ import TOLERANCES, page

MINIS = [name for name in models.names() if "_mini" in name]
every_mini = pytest.mark.parametrize("name", MINIS)


def network(name: str) -> nn.Module:
    """In evaluation mode and float64, with statistics that differ from the identity."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = models.create(name, num_classes=10).double().eval()
        for module in built.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
    return built


def images() -> Tensor:
    return torch.randn(8, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def difference(logits: Tensor, exact: Tensor) -> float:
    return ((logits.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("dtype", TOLERANCES)
@every_mini
def test_every_type_is_as_near_to_float64_as_stated(name: str, dtype: torch.dtype) -> None:
    exact, rounded = network(name), network(name).to(dtype)
    with torch.inference_mode():
        logits = rounded(images().to(dtype))
        assert logits.dtype == dtype
        error = difference(logits, exact(images()))
    assert TOLERANCES[dtype] / 1e3 < error <= TOLERANCES[dtype]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every_mini
def test_autocast_is_no_farther(name: str, dtype: torch.dtype) -> None:
    exact = network(name)
    with torch.inference_mode():
        expected = exact(images())
        with torch.autocast("cpu", dtype):
            logits = exact.float()(images().float())
    assert difference(logits, expected) <= TOLERANCES[dtype]


@every_mini
def test_a_compiled_network_gives_the_same_logits_and_gradients(name: str) -> None:
    """Captured by torch.compile and run without generated code, whose compilation takes minutes."""
    plain = network(name)
    compiled = torch.compile(copy.deepcopy(plain), backend="eager", fullgraph=True)
    answers: list[tuple[Tensor, Tensor]] = []
    for run in (plain, compiled):
        x = images().requires_grad_()
        logits = run(x)
        answers.append((logits, *torch.autograd.grad(logits.square().sum(), x)))
    torch._dynamo.reset()
    for ours, theirs in zip(*answers, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-10)


PAGE = Path(__file__).parent.parent.parent / "docs" / "models.md"


def test_the_page_of_architectures_is_made_from_the_registry() -> None:
    written = PAGE.read_text().splitlines()
    assert {*page(MINIS).splitlines()} <= {*written}, "run: python -m models > docs/models.md"
    described = [line.split("`")[1] for line in written if line.startswith("| `") and " x " in line]
    assert described == models.names()


@pytest.mark.thorough
def test_the_page_of_architectures_counts_the_large_ones_too() -> None:
    assert PAGE.read_text() == page(models.names()), "run: python -m models > docs/models.md"
