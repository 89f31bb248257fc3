"""What an attack says it costs is what it costs on images that it cannot flip."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attacks
from attacks import Task, ThreatModel
from tests.attacks.digits import draws

COSTS: dict[str, list[dict[str, Any]]] = {
    "pgd": [{"steps": 5}, {"steps": 5, "counts": "last_step"}],
    "fgsm": [{}],
    "noise": [{}],
    "apgd": [{"steps": 7, "loss": loss, "targets_tried": 3} for loss in ("ce", "dlr", "targeted_dlr")],
    "fab": [{"steps": 4, "targets_tried": 2}],
    "smoothed_pgd": [{"steps": 3, "samples": 4}],
    "square": [{"queries": 40}],
}


class Sure(nn.Module):
    """Class 0 for every image; counts passes of an image, three for one with its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 6 * 6, 4)
        nn.init.constant_(self.linear.bias, 0.0)
        self.passes = 0

    def forward(self, images: Tensor) -> Tensor:
        self.passes += len(images) * (3 if images.requires_grad else 1)
        return self.linear(images.flatten(1)) + torch.tensor([100.0, 0, 0, 0])


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize(
    ("name", "parameters"), [(name, each) for name, choices in COSTS.items() for each in choices], ids=str
)
def test_an_attack_takes_the_passes_that_it_announces(name: str, parameters: dict[str, Any], norm: str) -> None:
    torch.manual_seed(0)
    model, images, attack = Sure().eval(), torch.rand(2, 3, 6, 6), attacks.create(name, **parameters)
    labels = torch.zeros(2, dtype=torch.int64)
    attack.perturb(Task(model, images, labels, ThreatModel(norm, 0.03), draws(images)))
    assert model.passes == 2 * attack.passes


def test_every_attack_of_our_own_is_here() -> None:
    assert COSTS.keys() == {name for name in attacks.attack_names() if not name.startswith("torchattacks:")}


@pytest.mark.parametrize(
    ("name", "parameters", "passes"),
    [
        ("FGSM", {}, 3),
        ("PGD", {"steps": 7}, 3 * 7),
        ("EOTPGD", {"steps": 4, "eot_iter": 5}, 3 * 4 * 5),
        ("APGDT", {"steps": 4}, 3 * 4 * 9),
        ("FAB", {"steps": 6, "n_restarts": 2}, 4 * 6 * 2),
        ("FAB", {"steps": 6, "multi_targeted": True}, 4 * 6 * 9),
        ("EADL1", {"binary_search_steps": 2, "max_iterations": 10}, 3 * 2 * 10),
    ],
)
def test_the_bound_of_torchattacks_counts_steps_restarts_samples_and_targets(
    name: str, parameters: dict[str, Any], passes: int
) -> None:
    assert attacks.create(f"torchattacks:{name}", **parameters).passes == passes
