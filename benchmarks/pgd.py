"""PGD on Linf 8/255 against torchattacks, foolbox, ART and adv-lib: equal work, and the time to the same robust accuracy.

    python -m benchmarks.pgd --steps 10 40
    python -m benchmarks.pgd --device cuda --images 2000 --batch 500 --model resnet_mini.fashion_mnist

Prints Markdown. Steps are of 2/255 from the image itself, without a random start. Peers are called as their users call them, each
with its own copy of the plain float32 model as it was loaded, frozen; ours search a folded copy, in float32 or in bfloat16, as an
evaluation does. A peer that is not installed is left out.

Equal work: every image goes through every step. The floor is that many forward passes and gradients to the images of the folded,
frozen, channels-last model, and nothing else.

Same robust accuracy: from the clean images to the verdict of the folded float32 model, the same for all; ours are timed as
`run_attack`, which looks at the clean images too. "Any step" takes flipped images out of the batch, "last step" keeps all;
adv-lib remembers any step but the last.

All take turns, batch by batch, so that a slow moment hits them all. Times are medians, on a CPU of the process's own time.
"""

import argparse
import copy
import platform
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

import attacks
from attacks.methods.pgd import PGD
from benchmarks.san_core import own_milliseconds
from evaluation.catalog import Catalog
from evaluation.data.classes import match_classes
from models import Classifier, fold

EPS, STEP_SIZE = 8 / 255, 2 / 255
THREAT = attacks.ThreatModel(attacks.Norm.LINF, EPS)
MODELS = ("resnet_mini.fashion_mnist", "resnet_mini.fashion_mnist_pgd", "san_mini_pairwise.fashion_mnist")

Search = Callable[[Tensor, Tensor], Tensor]
"""Takes images (N, C, H, W) and labels (N,), returns adversarial images."""

Trial = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""The same, and the judge's logits (N, K) beside the adversarial images."""


def torchattacks_pgd(model: Classifier, steps: int) -> Search:
    """PGD of torchattacks."""
    return import_module("torchattacks").PGD(model, eps=EPS, alpha=STEP_SIZE, steps=steps, random_start=False)


def foolbox_pgd(model: Classifier, steps: int) -> Search:
    """PGD of foolbox."""
    foolbox = import_module("foolbox")
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=model.device)
    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP_SIZE, steps=steps, random_start=False)
    return lambda images, labels: attack(wrapped, images, labels, epsilons=EPS)[1]


def art_pgd(model: Classifier, steps: int) -> Search:
    """PGD of the Adversarial Robustness Toolbox, which takes and returns arrays; the whole batch at once."""
    wrapped = import_module("art.estimators.classification").PyTorchClassifier(
        model=model,
        loss=nn.CrossEntropyLoss(),
        input_shape=(3, model.card.preprocessing.crop, model.card.preprocessing.crop),
        nb_classes=len(model.card.classes),
        clip_values=(0.0, 1.0),
        device_type="cpu" if model.device.type == "cpu" else "gpu",
    )
    make = partial(import_module("art.attacks.evasion").ProjectedGradientDescentPyTorch, wrapped, verbose=False)

    def search(images: Tensor, labels: Tensor) -> Tensor:
        attack = make(eps=EPS, eps_step=STEP_SIZE, max_iter=steps, batch_size=len(images))
        return torch.from_numpy(attack.generate(images.cpu().numpy(), labels.cpu().numpy())).to(images.device)

    return search


def adv_lib_pgd(model: Classifier, steps: int) -> Search:
    """PGD of adv-lib."""
    attack = import_module("adv_lib.attacks.projected_gradient_descent").pgd_linf
    call = partial(attack, steps=steps, random_init=False, absolute_step_size=STEP_SIZE)
    return lambda images, labels: call(model, images, labels, EPS)


PEERS: dict[str, Callable[[Classifier, int], Search]] = {
    "torchattacks": torchattacks_pgd,
    "adv-lib": adv_lib_pgd,
    "foolbox": foolbox_pgd,
    "adversarial-robustness-toolbox": art_pgd,
}
"""By the name of the distribution. torchattacks is always there, and comes first: speed-ups are over it."""


def peer_versions() -> dict[str, str | None]:
    """Version of every peer, None if it is not installed."""
    found: dict[str, str | None] = {}
    for name in PEERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


@dataclass(frozen=True)
class Subject:
    """A model in the forms that are attacked, and batches of images (N, C, H, W) with labels (N,)."""

    name: str
    plain: Classifier
    folded: Classifier
    bfloat16: Classifier
    batches: list[tuple[Tensor, Tensor]]

    @classmethod
    def load(cls, name: str, dataset: str, count: int, batch: int, device: torch.device) -> "Subject":
        """Load a model of the zoo and `count` images of a data set."""
        catalog = Catalog()
        plain = catalog.load_model(name, device)
        folded, bfloat16 = fold(plain), fold(plain, "bfloat16")
        pictures = catalog.open_dataset(dataset)
        chosen = pictures.select(count, 0)
        to_logit = torch.tensor(match_classes(plain.card.classes, pictures, name).logits)
        images = torch.stack([plain.card.preprocessing(pictures.picture(index)) for index in chosen]).to(device)
        labels = to_logit[[pictures.labels[index] for index in chosen]].to(device)
        return cls(name, plain, folded, bfloat16, list(zip(images.split(batch), labels.split(batch), strict=True)))

    @property
    def device(self) -> torch.device:
        """Where all of it is."""
        return self.plain.device

    def peers(self, steps: int) -> dict[str, Search]:
        """The installed peers, each with a copy of the plain model."""
        there = [name for name, found in peer_versions().items() if found]
        return {name: PEERS[name](copy.deepcopy(self.plain), steps) for name in there}


def pgd(steps: int, counts: Literal["any_step", "last_step"]) -> PGD:
    """Our own."""
    return PGD(steps=steps, step_size=STEP_SIZE, random_start=False, counts=counts)


def alternate(calls: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Time calls in turns, after one turn to warm up; medians in seconds."""
    for call in calls.values():
        call()
    turns = [{name: own_milliseconds(call, device) / 1000 for name, call in calls.items()} for _ in range(rounds)]
    return {name: statistics.median(turn[name] for turn in turns) for name in calls}


def equal_work(subject: Subject, steps: int, rounds: int) -> str:
    """Run all for all steps on the first batch; a Markdown table."""
    images, labels = subject.batches[0]
    calls: dict[str, Callable[[], object]] = {}
    for precision, model in (("float32", subject.folded), ("bfloat16", subject.bfloat16)):
        calls[f"floor, {precision}"] = partial(bare, model, images, steps)
        task = attacks.Task(model, images, labels, THREAT, attacks.Draws.of(0, range(len(images))))
        calls[f"ours, {precision}"] = partial(pgd(steps, "last_step").perturb, task)
    for name, search in subject.peers(steps).items():
        calls[name] = partial(search, images, labels)
    seconds = alternate(calls, rounds, subject.device)
    floor = seconds["floor, float32"]
    return table(
        (f"{steps} steps, every image", f"images x steps / {unit(subject.device)}", "time over the floor"),
        [(name, f"{len(images) * steps / each:.0f}", f"{each / floor:.2f}") for name, each in seconds.items()],
    )


def bare(model: nn.Module, images: Tensor, steps: int) -> None:
    """Do what every step needs, and nothing else."""
    for _ in range(steps):
        leaf = images.detach().requires_grad_()
        torch.autograd.grad(model(leaf).sum(), leaf)


@dataclass
class Result:
    """Seconds for all batches, one a round, and which images were still standing at the end, (N,) a batch."""

    seconds: list[float] = field(default_factory=list[float])
    standing: list[Tensor] = field(default_factory=list[Tensor])


def trials(subject: Subject, steps: int) -> dict[str, Trial]:
    """All contenders, from clean images to a verdict."""
    made: dict[str, Trial] = {}
    for name, search in subject.peers(steps).items():
        made[name] = partial(search_and_judge, search, subject.folded)
    made["ours, float32, last step"] = partial(attack_run, pgd(steps, "last_step"), subject.folded, subject.folded)
    made["ours, float32, any step"] = partial(attack_run, pgd(steps, "any_step"), subject.folded, subject.folded)
    made["ours, bfloat16, any step"] = partial(attack_run, pgd(steps, "any_step"), subject.folded, subject.bfloat16)
    return made


def search_and_judge(search: Search, judge: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Let a peer search, and look at what it found."""
    adversarial = search(images, labels)
    with torch.no_grad():
        return adversarial, judge(adversarial)


def attack_run(
    attack: PGD, judge: nn.Module, searched: nn.Module, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Let ours search and judge."""
    run = attacks.run_attack(
        attack, judge, images, labels, threat=THREAT, draws=attacks.Draws.of(0, range(len(images))), searched=searched
    )
    return run.adversarial, run.logits


def still_standing(
    judge: nn.Module,
    images: Tensor,
    labels: Tensor,
    adversarial: Tensor,
    logits: Tensor,
    threat: attacks.ThreatModel = THREAT,
) -> Tensor:
    """Which images are right and were not flipped within the budget, (N,) bool."""
    with torch.no_grad():
        right = judge(images).argmax(1) == labels
    order = torch.inf if threat.norm is attacks.Norm.LINF else 2
    beyond = (adversarial - images).double().flatten(1).norm(order, dim=1) > threat.eps + 1e-6
    return right & ((logits.argmax(1) == labels) | beyond)


def race(subject: Subject, steps: int, rounds: int) -> dict[str, Result]:
    """Attack all images with every contender; they take turns at each batch."""
    contenders = trials(subject, steps)
    results = {name: Result() for name in contenders}
    for _ in range(rounds):
        for result in results.values():
            result.seconds.append(0)
            result.standing.clear()
        for images, labels in subject.batches:
            for name, trial in contenders.items():
                milliseconds, found = timed(trial, images, labels)
                results[name].seconds[-1] += milliseconds / 1000
                results[name].standing.append(still_standing(subject.folded, images, labels, *found))
    return results


def timed(trial: Trial, images: Tensor, labels: Tensor) -> tuple[float, tuple[Tensor, Tensor]]:
    """Run one trial; returns milliseconds and what it found."""
    kept: list[tuple[Tensor, Tensor]] = []
    milliseconds = own_milliseconds(lambda: kept.append(trial(images, labels)), images.device)
    return milliseconds, kept[0]


def same_accuracy(subject: Subject, steps: int, rounds: int) -> str:
    """Let all find the robust accuracy; a Markdown table."""
    results = race(subject, steps, rounds)
    seconds = {name: statistics.median(result.seconds) for name, result in results.items()}
    standing = {name: torch.cat(result.standing) for name, result in results.items()}
    theirs = next(iter(PEERS))
    rows = [
        (
            name,
            f"{each:.2f}",
            f"{seconds[theirs] / each:.2f}x",
            f"{standing[name].double().mean().item():.3f}",
            f"{int((standing[name] != standing[theirs]).sum())}",
        )
        for name, each in seconds.items()
    ]
    header = (f"{steps} steps, to the verdict", unit(subject.device), "speed-up", "robust accuracy", "other verdicts")
    return table(header, rows)


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Write Markdown, the first column aligned left."""
    lines = [header, ("---", *["---:"] * (len(header) - 1)), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def unit(device: torch.device) -> str:
    """What times are of."""
    return "CPU s" if device.type == "cpu" else "s"


def hardware(device: torch.device) -> str:
    """Name the GPU, or the CPU and what it has for bfloat16."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    facts = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line) if info.exists() else {}
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    products = [flag for flag in ("avx512_bf16", "amx_bf16") if flag in facts.get("flags", "").split()]
    name = facts.get("model name") or platform.processor() or platform.machine()
    return f"{name} ({', '.join([torch.backends.cpu.get_cpu_capability(), *products])})"


def parse(parser: argparse.ArgumentParser, *, images: int) -> argparse.Namespace:
    """Add the flags that say on what and with what is measured, read all, and set the threads."""
    parser.add_argument("--dataset", default="fashion_mnist_test", help="of the zoo (default fashion_mnist_test)")
    parser.add_argument("--images", type=int, default=images, help=f"images (default {images})")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu or cuda (default cpu)")
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    return flags


def surroundings(flags: argparse.Namespace) -> str:
    """Name hardware, version and day."""
    where = f"{hardware(flags.device)}, {flags.device}, {flags.threads} threads"
    return f"{where}, torch {torch.__version__}, {datetime.now(UTC).date()}"


def main() -> None:
    """Read the flags, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", nargs="+", default=list(MODELS), help="models of the zoo (default three)")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 40], help="steps (default 10 40)")
    parser.add_argument("--batch", type=int, default=100, help="images of a batch (default 100)")
    parser.add_argument("--rounds", type=int, default=3, help="turns, of which medians are taken (default 3)")
    flags = parse(parser, images=200)
    print(
        f"{surroundings(flags)}. Linf 8/255, steps of 2/255, no random start; {flags.images} images of {flags.dataset} "
        f"in batches of {flags.batch}, {flags.rounds} rounds."
    )
    print(", ".join(f"{name} {found or 'not installed'}" for name, found in peer_versions().items()) + ".\n")
    for name in flags.model:
        subject = Subject.load(name, flags.dataset, flags.images, flags.batch, flags.device)
        print(f"## {name}\n\n{equal_work(subject, flags.steps[0], flags.rounds)}", flush=True)
        for steps in flags.steps:
            print(same_accuracy(subject, steps, flags.rounds), flush=True)


if __name__ == "__main__":
    main()
