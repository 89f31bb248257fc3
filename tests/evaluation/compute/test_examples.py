"""Pictures of images that were flipped."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import models
from evaluation.compute.conditions import Batch, run_condition
from evaluation.compute.examples import Example, make_examples
from evaluation.spec import AdversarialCondition

CONDITION = AdversarialCondition.model_validate(
    {"threat": {"norm": "Linf", "eps": 0.5}, "attacks": [{"name": "pgd", "parameters": {"steps": 20}}]}
)


def pixels(encoded: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded)))) / 255


def examples(name: str, side: int = 32, count: int = 3, **options: object) -> tuple[Batch, list[Example]]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network: nn.Module = models.create(name, num_classes=3, **options).eval()
        images = torch.rand(8, 3, side, side)
    card = models.ModelCard.model_validate(
        {
            "architecture": name,
            "classes": ["disc", "square", "stripes"],
            "preprocessing": {"resize": side, "crop": side, "mean": [0.5] * 3, "std": [0.25] * 3},
        }
    )
    classifier = models.Classifier(network, card).eval()
    with torch.no_grad():
        labels = classifier(images).argmax(1)  # right by definition
    batch = Batch(classifier, classifier, images, labels, range(100, 108), seed=0)
    outcome = run_condition(CONDITION, batch)
    try:
        models.attention_layers(classifier)
        explained = classifier
    except models.NoAttentionError:
        explained = None
    return batch, make_examples(batch, outcome, explained, count)


@pytest.mark.parametrize("name", ["san_mini_pairwise", "aa_resnet_mini", "dat_mini", "attention_mask_mini"])
def test_a_model_with_attention_shows_it_before_and_after(name: str) -> None:
    _, found = examples(name)
    assert found
    for each in found:
        assert each.clean_attention is not None
        assert each.attention is not None
        for grid in (each.clean_attention, each.attention):
            values = np.asarray(grid)
            assert values.ndim == 2
            assert values.max() == pytest.approx(1)
            assert values.min() >= 0
        if name != "san_mini_pairwise":  # untrained, its weights are all alike
            assert each.clean_attention != each.attention


def test_pictures_are_what_happened() -> None:
    batch, found = examples("resnet_mini")
    assert 0 < len(found) <= 3
    for each in found:
        assert each.attention is None
        at = each.index - 100
        clean = batch.images[at].permute(1, 2, 0).numpy()
        assert np.abs(pixels(each.clean) - clean).max() <= 0.5 / 255 + 1e-6
        change = pixels(each.changed) - pixels(each.clean)
        assert np.abs(change).max() == pytest.approx(each.scale, abs=1 / 255)
        assert pixels(each.difference) == pytest.approx(0.5 + change / (2 * each.scale), abs=2 / 255)
        assert each.label == ("disc", "square", "stripes")[int(batch.labels[at])] != each.prediction


def test_large_pictures_are_kept_small_and_none_are_kept_beyond_the_count() -> None:
    _, found = examples("resnet_mini", side=128)
    assert {pixels(each.clean).shape for each in found} <= {(112, 112, 3)}
    assert examples("resnet_mini", count=0)[1] == []
    assert examples("resnet_mini", count=-2)[1] == []
