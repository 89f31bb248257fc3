"""Weights and inputs made from formulas, so that golden outputs need no stored tensors (see tests/golden/README.md)."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

GOLDEN = Path(__file__).parent.parent / "golden"


def golden(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def draw(seed: int, shape: Sequence[int]) -> np.ndarray:
    size = int(np.prod(shape))
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(size=size).astype(np.float32).reshape(shape)


def _scale(name: str, x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    if name.endswith("running_var"):
        return 0.5 + 0.5 * np.abs(x)
    if x.ndim == 1:
        return 1 + 0.1 * x if name.endswith("weight") else 0.1 * x
    if name.rsplit(".", 1)[-1] in ("rpe_table", "relative_position_bias_table"):
        return 0.5 * x
    fan_in = np.prod(x.shape[1:])
    if name.endswith("conv_w.5.weight"):
        pairwise = x.shape[0] <= x.shape[1]
        return 4 * x / np.sqrt(fan_in) if pairwise else 0.3 * x / np.sqrt(fan_in) / np.sqrt(x.shape[0] / x.shape[1])
    return x / np.sqrt(fan_in)


def formula_weights(shapes: Mapping[str, Sequence[int]], derived: Sequence[str]) -> dict[str, Tensor]:
    """Draw float32 weights for every name that is not derived."""
    drawn = sorted(set(shapes) - set(derived))
    return {
        name: torch.from_numpy(_scale(name, draw(1000 + i, shapes[name])).astype(np.float32))
        for i, name in enumerate(drawn)
    }


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(b"".join(weights[name].numpy().tobytes() for name in sorted(weights))).hexdigest()


def formula_images(shape: Sequence[int]) -> Tensor:
    """Coarse 32x32 patches plus half as much fine noise."""
    n, c, h, w = shape
    coarse = draw(7, (n, c, h // 32, w // 32)).repeat(32, axis=2).repeat(32, axis=3)
    return torch.from_numpy(coarse + np.float32(0.5) * draw(8, shape))


def tensor(stored: Mapping[str, Any]) -> Tensor:
    return torch.tensor(stored["data"], dtype=torch.float64).view(stored["shape"])


def probe(x: Tensor) -> list[float]:
    flat = x.detach().contiguous().flatten()
    return flat[[j * (flat.numel() - 1) // 15 for j in range(16)]].tolist()


def load_formula_weights(network: nn.Module, file: dict) -> None:
    weights = formula_weights(file["state_dict"], file["derived_keys"])
    assert weights_sha256(weights) == file["weights_sha256"]
    assert {name: list(value.shape) for name, value in network.state_dict().items()} == file["state_dict"]
    network.load_state_dict(weights, strict=False)  # batch counters are not drawn
    network.double().eval()


def gradients(network: nn.Module, inputs: Tensor, outputs: Tensor, *, upstream: Tensor) -> dict[str, Tensor]:
    named = {"input": inputs, **dict(network.named_parameters())}
    values = torch.autograd.grad((upstream * outputs).mean(), list(named.values()))
    return dict(zip(named, values, strict=True))


def assert_gradients_match(actual: dict[str, Tensor], expected: dict) -> None:
    assert actual["input"].norm().item() == pytest.approx(expected["input_grad"]["l2"], rel=1e-8)
    assert probe(actual["input"]) == pytest.approx(expected["input_grad"]["probe"], rel=1e-6, abs=1e-10)
    for name, l2 in expected["param_grad_l2"].items():
        if l2 > 1e-12:  # below, the parameter cannot influence the output
            assert actual[name].norm().item() == pytest.approx(l2, rel=5e-8), name


def assert_module_matches(module: nn.Module, file: dict) -> None:
    """Compare output and gradients of a block in float64 with a golden file."""
    load_formula_weights(module, file)
    x = torch.from_numpy(draw(7, file["input"]["shape"])).double().requires_grad_()
    output = module(x)
    assert (output - tensor(file["output"])).abs().max() < 1e-10
    upstream = torch.from_numpy(draw(9, output.shape)).double()
    assert_gradients_match(gradients(module, x, output, upstream=upstream), file["grad"])


def assert_network_matches(network: nn.Module, file: dict, stages: Sequence[str]) -> None:
    """Compare stages, logits and gradients of a network in float64 with a golden file."""
    assert sum(p.numel() for p in network.parameters()) == file["num_params"]
    load_formula_weights(network, file)
    seen: dict[str, Tensor] = {}
    for name in stages:
        network.get_submodule(name).register_forward_hook(lambda _m, _i, y, name=name: seen.update({name: y}))
    images = formula_images(file["input"]["shape"]).double().requires_grad_()
    logits = network(images)
    for name in stages:
        assert probe(seen[name]) == pytest.approx(file["stages"][name]["probe"], abs=1e-7), name
    assert (logits - torch.tensor(file["logits"], dtype=torch.float64)).abs().max() <= 1e-8
    upstream = torch.from_numpy(draw(9, logits.shape)).double()
    assert_gradients_match(gradients(network, images, logits, upstream=upstream), file["grad"])


def assert_float32_is_near(network: nn.Module, file: dict) -> None:
    """Compare logits in float32 with a golden file."""
    load_formula_weights(network, file)
    with torch.inference_mode():
        logits = network.float()(formula_images(file["input"]["shape"]))
    assert (logits.double() - torch.tensor(file["logits"], dtype=torch.float64)).abs().max() <= 1e-4
