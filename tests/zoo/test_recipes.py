"""The recipes on a handful of pictures: seeded, resumable, and what they write can be loaded."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import models
import zoo.fashion_mnist
import zoo.train
from common import file_sha256
from evaluation import open_dataset
from zoo.train import Recipe, Training, augment, batches, perturb, train, training_images

NAME = "resnet_mini.fashion_mnist_pgd"


@pytest.fixture(autouse=True)
def small_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty training and twenty test pictures, and folders of their own."""
    generator = np.random.default_rng(0)
    stored = {
        f"{part}_{what}": values
        for part, count in (("train", 40), ("test", 20))
        for what, values in (
            ("images", generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)),
            ("labels", np.arange(count, dtype=np.uint8) % 10),
        )
    }
    np.savez(tmp_path / "arrays.npz", **stored)
    monkeypatch.setattr(zoo.fashion_mnist, "ARRAYS", tmp_path / "arrays.npz")
    monkeypatch.setattr(zoo.fashion_mnist, "TEST_ZIP", tmp_path / "datasets" / "test.zip")
    monkeypatch.setattr(zoo.train, "RUNS", tmp_path / "runs")
    recipe = Recipe(architecture="resnet_mini", epochs=2, batch_size=16, eps=8 / 255, attack_steps=2)
    monkeypatch.setitem(zoo.train.RECIPES, NAME, recipe)


def weights(training: Training) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in training.model.network.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_an_interrupted_recipe_ends_where_an_uninterrupted_one_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = weights(train(NAME))
    monkeypatch.setattr(zoo.train, "RUNS", tmp_path / "again")

    def save_and_stop(self: Training) -> None:
        real_save(self)
        if self.epochs_done == 1:
            raise KeyboardInterrupt

    real_save = Training.save
    with monkeypatch.context() as patched:
        patched.setattr(Training, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train(NAME)
    assert same(weights(train(NAME)), whole)


def test_a_finished_recipe_is_not_trained_again() -> None:
    finished = train(NAME)
    before = finished.path.stat().st_mtime_ns
    assert same(weights(train(NAME)), weights(finished))
    assert finished.path.stat().st_mtime_ns == before


def test_training_pictures_are_preprocessed_as_in_evaluation() -> None:
    images, labels = training_images()
    assert images.shape == (40, 32, 32)
    zoo.fashion_mnist.write_test_zip()
    dataset = open_dataset(zoo.fashion_mnist.TEST_ZIP)
    test_images, test_labels = zoo.fashion_mnist.arrays("test")
    for index, file in enumerate(dataset.files):
        number = int(file.split("/")[1].split(".")[0])
        assert np.array_equal(np.asarray(dataset.picture(index)), test_images[number])
        assert dataset.classes[dataset.labels[index]] == zoo.fashion_mnist.CLASSES[test_labels[number]]
    # Labels count in the order of an ImageFolder: the data set's own 0 is T-shirt_top.
    assert zoo.fashion_mnist.CLASSES[labels[0]] == "T-shirt_top"


def test_the_zip_of_test_pictures_is_reproducible() -> None:
    zoo.fashion_mnist.write_test_zip()
    first = file_sha256(zoo.fashion_mnist.TEST_ZIP)
    zoo.fashion_mnist.write_test_zip()
    assert file_sha256(zoo.fashion_mnist.TEST_ZIP) == first


def test_missing_arrays_are_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(zoo.fashion_mnist, "ARRAYS", tmp_path / "missing.npz")
    with pytest.raises(FileNotFoundError, match=r"missing.npz is missing: put an npz .* or run .*--download"):
        training_images()


def test_augmentation_shifts_and_flips_and_is_seeded() -> None:
    image = torch.zeros(32, 32, dtype=torch.uint8)
    image[10, 4] = 255
    moved = augment(image.expand(400, -1, -1), torch.Generator().manual_seed(0))
    assert moved.shape == (400, 3, 32, 32)
    assert torch.equal(moved, augment(image.expand(400, -1, -1), torch.Generator().manual_seed(0)))
    places = {tuple(place.tolist()) for place in moved[:, 0].nonzero()[:, 1:]}
    straight = {(10 + dy, 4 + dx) for dy in range(-2, 3) for dx in range(-2, 3)}
    assert places == straight | {(y, 31 - x) for y, x in straight}
    assert moved.unique().tolist() == [0, 1]


def test_batches_hold_every_image_once() -> None:
    seen = torch.cat(list(batches(40, 16, torch.Generator().manual_seed(0))))
    assert len(seen) == 32
    assert len(seen.unique()) == 32


def test_training_examples_stay_in_the_ball_and_raise_the_loss() -> None:
    recipe = zoo.train.RECIPES[NAME]
    training = Training(NAME, 2)
    images, labels = torch.rand(16, 3, 32, 32), torch.arange(16) % 10
    adversarial = perturb(training.model, images, labels, recipe, torch.Generator().manual_seed(0))
    assert (adversarial - images).abs().max() <= recipe.eps + 1e-6
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    loss = torch.nn.functional.cross_entropy
    assert loss(training.model(adversarial), labels) > loss(training.model(images), labels)


def test_the_shipped_checkpoints_are_those_of_their_cards() -> None:
    for checkpoint in models.find_checkpoints().values():
        assert hashlib.sha256(checkpoint.path.read_bytes()).hexdigest() == checkpoint.card().sha256
        assert models.verify(checkpoint).clean_accuracy is not None
