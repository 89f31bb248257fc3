"""The normalisation is part of the classifier."""

import torch
from torch import Tensor, nn

from models import Classifier, ModelCard, Preprocessing

PREPROCESSING = Preprocessing(resize=4, crop=4, mean=(0.5, 0.25, 0.125), std=(0.5, 0.25, 1.0))
CARD = ModelCard(architecture="resnet_mini", classes=("a", "b"), preprocessing=PREPROCESSING)


def images() -> Tensor:
    return torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_the_network_sees_normalised_images() -> None:
    seen = Classifier(nn.Identity(), CARD)(images())
    expected = torch.stack([(images()[:, 0] - 0.5) / 0.5, (images()[:, 1] - 0.25) / 0.25, (images()[:, 2] - 0.125)], 1)
    assert torch.allclose(seen, expected, rtol=0, atol=1e-6)


def test_logits_equal_the_network_on_images_normalised_by_hand() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (PREPROCESSING.mean, PREPROCESSING.std))
    assert torch.equal(Classifier(network, CARD)(images()), network((images() - mean) / std))


def test_gradients_pass_through_the_normalisation() -> None:
    leaf = images().requires_grad_()
    Classifier(nn.Identity(), CARD)(leaf).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.mean((0, 2, 3)).tolist() == [2, 4, 1]


def test_the_statistics_follow_the_type_but_are_not_saved() -> None:
    classifier = Classifier(nn.Linear(1, 1), CARD).double()
    assert classifier.mean.dtype == torch.float64
    assert set(classifier.state_dict()) == {"network.weight", "network.bias"}
