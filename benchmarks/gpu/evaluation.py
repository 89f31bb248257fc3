"""Whole evaluations of a ResNet-50 from JPEGs, how busy they keep the GPU, and what the GPU could do alone.

    python -m benchmarks.gpu.evaluation

From the specification to the report: pictures are looked at, decoded, attacked by PGD-10 on Linf 8/255 through all of its steps,
judged and checked. Weights are random, the labels are the model's own answers, so that every image is attacked. "Alone" is the same
work on images that are on the device already. Without a GPU: a small model, few pictures, two steps.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

import attacks
import evaluation
import models
from attacks.methods.pgd import PGD
from benchmarks.gpu.busy import Samples, sampled
from benchmarks.gpu.networks import card, precisions, random_classifier
from benchmarks.pgd import THREAT, pgd, table
from benchmarks.san_ops import milliseconds
from benchmarks.serving import pictures
from common.pictures import open_picture
from evaluation.catalog import Roles

MODEL, DATASET = "random", "pictures"
DRAWN = 40
"""Different pictures; the data set repeats them."""


def prepare(folder: Path, name: str, count: int, device: torch.device) -> tuple[evaluation.Catalog, Tensor, Tensor]:
    """Write JPEGs, sorted by what a model of random weights takes them for, and its checkpoint.

    Returns:
        A catalogue of both, and images (N, 3, H, W) of the different pictures with labels (N,), on the device.
    """
    drawn = pictures.jpegs(min(count, DRAWN))
    facts = card(name)
    images = torch.stack([facts.preprocessing(open_picture(each)) for each in drawn]).to(device)
    plain = random_classifier(name, images)
    with torch.no_grad():
        labels = plain(images).argmax(1)
    for index, (data, label) in enumerate(islice(cycle(zip(drawn, labels.tolist(), strict=True)), count)):
        place = folder / DATASET / facts.classes[label]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{index:05}.jpg").write_bytes(data)
    save_checkpoint(folder / "models", plain)
    return evaluation.Catalog((folder / "models",), (folder,)), images, labels


def save_checkpoint(folder: Path, classifier: models.Classifier) -> None:
    """Write weights and card under the name `MODEL`."""
    folder.mkdir()
    weights = {key: each.contiguous() for key, each in classifier.network.state_dict().items()}
    save_file(weights, folder / f"{MODEL}.safetensors")
    (folder / f"{MODEL}.json").write_text(classifier.card.model_dump_json())


def specification(attack: PGD | None, precision: models.Precision = "float32") -> evaluation.EvaluationSpec:
    """All pictures as they are, or under an attack."""
    condition = evaluation.CleanCondition()
    if attack is not None:
        choice = evaluation.AttackChoice(name="pgd", parameters=attacks.parameters(attack))
        condition = evaluation.AdversarialCondition(threat=THREAT, attacks=(choice,))
    return evaluation.EvaluationSpec(models=(MODEL,), dataset=DATASET, conditions=(condition,), precision=precision)


def clean(roles: Roles, images: Tensor) -> None:
    """What a clean evaluation asks of the device."""
    with torch.no_grad():
        roles.classifier(images)


def attacked(attack: PGD, precision: models.Precision, roles: Roles, images: Tensor, labels: Tensor) -> None:
    """What an attack asks of the device."""
    attacks.run_attack(
        attack,
        roles.classifier,
        images,
        labels,
        threat=THREAT,
        draws=attacks.Draws.of(0, range(len(images)), device=images.device),
        searched=roles.searched,
        searched_as=models.float32_in(precision),
    )


def alone(call: Callable[[], None], images: Tensor) -> float:
    """Images a second on the device, after one call to warm up."""
    call()
    return 1000 * len(images) / statistics.median(milliseconds(call, images.device) for _ in range(3))


def measure(
    spec: evaluation.EvaluationSpec, catalog: evaluation.Catalog, device: torch.device
) -> tuple[float, Samples]:
    """Run an evaluation; seconds, and samples of the GPU's use meanwhile."""
    with sampled(device) as samples:
        start = time.perf_counter()
        evaluation.evaluate(spec, catalog=catalog, device=str(device))
        seconds = time.perf_counter() - start
    return seconds, samples


def row(
    title: str, spec: evaluation.EvaluationSpec, catalog: evaluation.Catalog, count: int, call: Callable[[Roles], float]
) -> tuple[str, ...]:
    """Measure one evaluation, and the device alone on the same model."""
    device = torch.device(evaluation.best_device())
    seconds, samples = measure(spec, catalog, device)
    rate, possible = count / seconds, call(catalog.load_folded(MODEL, device, spec.precision))
    return (title, f"{seconds:.1f}", f"{rate:.1f}", samples.busy, f"{possible:,.0f}", f"{100 * rate / possible:.0f} %")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", help="not needed: whoever calls ends it")
    parser.parse_args()
    device = torch.device(evaluation.best_device())
    name, count, steps = ("resnet50", 400, 10) if device.type == "cuda" else ("resnet_mini", 12, 2)
    attack = replace(pgd(steps, "last_step"), random_start=True)
    with tempfile.TemporaryDirectory() as folder:
        catalog, images, labels = prepare(Path(folder), name, count, device)
        print(f"{name}, {count} JPEGs, one process.\n", flush=True)
        rows = [
            row(
                "clean", specification(None), catalog, count, lambda roles: alone(partial(clean, roles, images), images)
            )
        ]
        for precision in precisions(device):
            spec = specification(attack, precision)
            call = partial(attacked, attack, precision)
            rows.append(
                row(
                    f"{attack.title}, {precision}",
                    spec,
                    catalog,
                    count,
                    lambda roles, call=call: alone(partial(call, roles, images, labels), images),
                )
            )
    header = ("", "seconds", "images/s", "GPU busy", "the device alone, images/s", "of that")
    print(table(header, rows), flush=True)


if __name__ == "__main__":
    main()
