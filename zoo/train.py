"""The recipes of the zoo's checkpoints: seeded, resumable after every epoch, one command each.

    python -m zoo.train resnet_mini.fashion_mnist

Data: `zoo/data/fashion_mnist.npz` (see `zoo/fashion_mnist.py`). State: `zoo/runs/`. Result: a checkpoint with its card in
`zoo/checkpoints/`, the card's accuracy measured by `evaluation.evaluate` on the zoo's test images.
"""

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image
from rich.progress import Progress
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import models
from common import file_sha256
from evaluation import EvaluationSpec, evaluate
from models.families.attention_mask import AttentionMaskNet, diversity_loss
from zoo.fashion_mnist import CLASSES, TEST_ZIP, ZOO, arrays

RUNS = ZOO / "runs"
PREPROCESSING = models.Preprocessing(resize=32, crop=32, mean=(0.286, 0.286, 0.286), std=(0.353, 0.353, 0.353))
"""Mean and standard deviation of the training images' pixels."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one checkpoint is trained: AdamW under a one-cycle schedule, random shifts and left-right flips.

    Attributes:
        architecture: a name that `models.create` knows.
        epochs: passes over the training images.
        start: a checkpoint of the zoo to start from; without one, fresh weights.
        learning_rate: the peak of the one-cycle schedule.
        batch_size: images an optimiser step.
        eps: radius of the Linf ball on the [0, 1] scale for training on PGD examples (Madry et al. 2018); 0 trains on clean images.
        attack_steps: PGD steps for each batch.
        diversity: weight of the diversity loss between attention masks.
        bfloat16: autocast to bfloat16, which is faster only on a CPU with instructions for it.
    """

    architecture: str
    epochs: int
    start: str | None = None
    learning_rate: float = 3e-3
    batch_size: int = 128
    eps: float = 0.0
    attack_steps: int = 4
    diversity: float = 0.0
    bfloat16: bool = False


RECIPES = {
    "resnet_mini.fashion_mnist": Recipe(architecture="resnet_mini", epochs=10, bfloat16=True),
    "resnet_mini.fashion_mnist_pgd": Recipe(architecture="resnet_mini", epochs=10, eps=8 / 255, bfloat16=True),
    "san_mini_pairwise.fashion_mnist": Recipe(architecture="san_mini_pairwise", epochs=10, bfloat16=True),
    "san_mini_patchwise.fashion_mnist": Recipe(architecture="san_mini_patchwise", epochs=10, bfloat16=True),
    "san_mini_patchwise.fashion_mnist_pgd": Recipe(
        architecture="san_mini_patchwise",
        start="san_mini_patchwise.fashion_mnist",
        epochs=4,
        learning_rate=1e-3,
        eps=8 / 255,
        attack_steps=2,
    ),
    "aa_resnet_mini.fashion_mnist": Recipe(architecture="aa_resnet_mini", epochs=4),
    "dat_mini.fashion_mnist": Recipe(architecture="dat_mini", epochs=8, learning_rate=2e-3),
    "attention_mask_mini.fashion_mnist": Recipe(architecture="attention_mask_mini", epochs=5),
    "multi_attention_mask_mini.fashion_mnist": Recipe(
        architecture="multi_attention_mask_mini", epochs=5, diversity=0.01
    ),
}


def training_images() -> tuple[Tensor, Tensor]:
    """Return images uint8 (N, 32, 32), preprocessed as in evaluation, and labels int64 (N,)."""
    images, labels = arrays("train")
    side = PREPROCESSING.crop
    result = torch.empty(len(images), side, side, dtype=torch.uint8)
    for index, image in enumerate(images):
        result[index] = PREPROCESSING(Image.fromarray(image))[0].mul(255).round().byte()
    return result, torch.from_numpy(labels)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image (N, H, W) by up to two pixels and flip half of them left-right; returns float32 (N, 3, H, W) in [0, 1]."""
    n, h, w = images.shape
    padded = F.pad(images, (2, 2, 2, 2))
    dy, dx = torch.randint(0, 5, (2, n, 1), generator=generator)
    rows, columns = dy + torch.arange(h), dx + torch.arange(w)
    flipped = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.where(flipped, columns.flip(1), columns)
    shifted = padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return shifted.float().div_(255).unsqueeze(1).expand(-1, 3, -1, -1).contiguous()


def perturb(model: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Move images (N, 3, H, W) by PGD within the recipe's ball; batch norm uses the batch's own statistics, as in training."""
    delta = (torch.rand(images.shape, generator=generator) * 2 - 1) * recipe.eps
    step_size = 2.5 * recipe.eps / recipe.attack_steps
    for _ in range(recipe.attack_steps):
        adversarial = (images + delta).clamp(0, 1).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
            logits = model(adversarial)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits.float(), labels, reduction="sum"), adversarial)
        delta = (delta + step_size * gradient.sign()).clamp(-recipe.eps, recipe.eps)
    return (images + delta).clamp(0, 1)


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield shuffled indices in batches of `size`; a last smaller batch is dropped."""
    order = torch.randperm(count, generator=generator)
    yield from order[: count - count % size].split(size)


class Training:
    """One recipe's state: model, optimiser, schedule, finished epochs."""

    def __init__(self, name: str, steps_per_epoch: int) -> None:
        self.name, self.recipe = name, RECIPES[name]
        torch.manual_seed(0)
        network = models.create(self.recipe.architecture, num_classes=len(CLASSES))
        if self.recipe.start:
            network.load_state_dict(models.read_state_dict(models.ZOO / f"{self.recipe.start}.safetensors"))
        self.model = models.Classifier(network, card(name))
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=self.recipe.learning_rate, weight_decay=0.05)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, self.recipe.learning_rate, total_steps=self.recipe.epochs * steps_per_epoch
        )
        self.epochs_done = 0

    @property
    def path(self) -> Path:
        """Where the state is stored between epochs."""
        return RUNS / f"{self.name}.pt"

    def save(self) -> None:
        """Write the state; an interruption leaves the former state or this one."""
        RUNS.mkdir(exist_ok=True)
        state = {
            "network": self.model.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "epochs_done": self.epochs_done,
        }
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.path)

    def resume(self) -> None:
        """Continue from the saved state, if there is one."""
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            self.model.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.epochs_done = state["epochs_done"]

    def step(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> float:
        """Take one optimiser step on a batch; returns the loss."""
        self.model.train()
        if self.recipe.eps:
            images = perturb(self.model, images, labels, self.recipe, generator)
        self.optimizer.zero_grad()
        loss = self.loss(images, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        return loss.item()

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy, with the diversity loss added where the recipe has one."""
        if not self.recipe.diversity:
            with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bfloat16):
                logits = self.model(images)
            return F.cross_entropy(logits.float(), labels)
        network = cast(AttentionMaskNet, self.model.network)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bfloat16):
            logits, masks = network.logits_and_masks(self.model.normalise(images))
        return F.cross_entropy(logits.float(), labels) + self.recipe.diversity * diversity_loss(masks.float())


def card(name: str) -> models.ModelCard:
    """Describe a recipe's checkpoint; its hash and accuracy are added when they are known."""
    recipe = RECIPES[name]
    on = f"PGD-{recipe.attack_steps} examples, Linf {round(recipe.eps * 255)}/255" if recipe.eps else "clean images"
    start = f", started from {recipe.start}" if recipe.start else ""
    return models.ModelCard(
        architecture=recipe.architecture,
        classes=CLASSES,
        preprocessing=PREPROCESSING,
        dataset="Fashion-MNIST (re-split), 59,988 training images",
        training=f"{recipe.epochs} epochs on {on}{start}, AdamW, one-cycle to {recipe.learning_rate:g}, batch {recipe.batch_size}, "
        "shifts by 2 pixels and left-right flips" + (", bfloat16 autocast" if recipe.bfloat16 else ""),
        licence="Apache-2.0 (images: MIT)",
    )


def train(name: str) -> Training:
    """Run a recipe to its end, from wherever it was left."""
    images, labels = training_images()
    recipe = RECIPES[name]
    steps = len(images) // recipe.batch_size
    training = Training(name, steps)
    training.resume()
    with Progress() as progress:
        task = progress.add_task(name, total=recipe.epochs * steps, completed=training.epochs_done * steps)
        while training.epochs_done < recipe.epochs:
            generator = torch.Generator().manual_seed(training.epochs_done)
            losses: list[float] = []
            for batch in batches(len(images), recipe.batch_size, generator):
                losses.append(training.step(augment(images[batch], generator), labels[batch], generator))
                progress.advance(task)
            training.epochs_done += 1
            training.save()
            progress.console.print(f"{name} epoch {training.epochs_done}: loss {np.mean(losses):.4f}")
    return training


def export(training: Training) -> None:
    """Write the checkpoint and its card, measure its accuracy on the zoo's test images, and add that to the card."""
    path = models.ZOO / f"{training.name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_file(training.model.network.state_dict(), path)
    facts = card(training.name).model_copy(update={"sha256": file_sha256(path)})
    write_card(path, facts)
    report = evaluate(EvaluationSpec(models=(training.name,), dataset=TEST_ZIP.stem))
    accuracy = report.models[0].conditions[0].accuracy
    if accuracy is None:
        raise RuntimeError(f"no image of {TEST_ZIP} was evaluated")
    claim = {
        "clean_accuracy": accuracy.value,
        "clean_accuracy_on": f"{accuracy.n} test images of Fashion-MNIST (re-split), "
        f"95 % interval {accuracy.low:.4f} to {accuracy.high:.4f}",
    }
    write_card(path, facts.model_copy(update=claim))


def write_card(checkpoint: Path, card: models.ModelCard) -> None:
    """Write a card beside its checkpoint."""
    checkpoint.with_name(f"{checkpoint.stem}.json").write_text(card.model_dump_json(indent=2) + "\n")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Train a checkpoint of the zoo.")
    parser.add_argument("name", choices=RECIPES)
    export(train(parser.parse_args().name))


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    main()
