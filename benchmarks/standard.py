"""The preset `standard` against AutoAttack: the reference's own code, and that of torchattacks.

    python -m benchmarks.standard
    python -m benchmarks.standard --norm L2 --eps 0.5 1 --images 100

Prints Markdown: at each radius the robust accuracy, on how many images a contender's verdict is another than the reference's, and
the time. All attack the plain float32 model as it was loaded but ours, which search a folded copy, as an evaluation does; the plain
model judges all. The reference is `pyautoattack` on PyPI, the authors' code; it is left out where it is not installed. torchattacks
runs APGD for 10 steps where the reference has 100. Each runs once; on a CPU times are of the process's own.
"""

import argparse
import copy
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec

from torch import Tensor

from attacks import Norm, ThreatModel
from benchmarks.pgd import Search, Subject, parse, search_and_judge, still_standing, surroundings, table, timed, unit
from evaluation import AdversarialCondition, preset
from evaluation.compute.conditions import Batch, run_condition


def ours(subject: Subject, threat: ThreatModel) -> Search:
    """The cascade of the preset."""
    (condition,) = (each for each in preset("standard", threat) if isinstance(each, AdversarialCondition))

    def search(images: Tensor, labels: Tensor) -> Tensor:
        batch = Batch(subject.plain, subject.folded, images, labels, range(len(images)), seed=0)
        return run_condition(condition, batch).images

    return search


def reference(subject: Subject, threat: ThreatModel) -> Search:
    """AutoAttack by its authors."""
    make = import_module("pyautoattack").AutoAttack
    attack = make(copy.deepcopy(subject.plain), norm=str(threat.norm), eps=threat.eps, device=subject.device, seed=0)
    attack.verbose = False
    return lambda images, labels: attack.run_standard_evaluation(images, labels, batch_size=len(images))[0]


def of_torchattacks(subject: Subject, threat: ThreatModel) -> Search:
    """AutoAttack of torchattacks."""
    make, classes = import_module("torchattacks").AutoAttack, len(subject.plain.card.classes)
    return make(copy.deepcopy(subject.plain), norm=str(threat.norm), eps=threat.eps, n_classes=classes, seed=0)


CONTENDERS: dict[str, Callable[[Subject, ThreatModel], Search]] = {
    **({"AutoAttack": reference} if find_spec("pyautoattack") else {}),
    "torchattacks": of_torchattacks,
    "ours": ours,
}
"""The first is the one that the others are compared with."""


def compare(subject: Subject, threat: ThreatModel) -> str:
    """Let all attack the same images; a Markdown table."""
    images, labels = subject.batches[0]
    found: dict[str, tuple[float, Tensor]] = {}
    for name, make in CONTENDERS.items():
        milliseconds, seen = timed(partial(search_and_judge, make(subject, threat), subject.plain), images, labels)
        found[name] = milliseconds / 1000, still_standing(subject.plain, images, labels, *seen, threat)
    _, theirs = next(iter(found.values()))
    rows = [
        (name, f"{int(left.sum())} of {len(left)}", str(int((left != theirs).sum())), f"{seconds:.0f}")
        for name, (seconds, left) in found.items()
    ]
    return table((str(threat), "robust", "other verdicts", unit(subject.device)), rows)


def main() -> None:
    """Read the flags, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--model", default="resnet_mini.fashion_mnist_pgd", help="model of the zoo (default the robust one)"
    )
    parser.add_argument("--norm", type=Norm, default=Norm.LINF, help="Linf or L2 (default Linf)")
    parser.add_argument("--eps", nargs="+", default=["8/255", "16/255"], help="radii (default 8/255 16/255)")
    flags = parse(parser, images=60)
    print(f"{surroundings(flags)}. {flags.model}, {flags.images} images of {flags.dataset} in one batch.\n")
    subject = Subject.load(flags.model, flags.dataset, flags.images, flags.images, flags.device)
    for eps in flags.eps:
        print(compare(subject, ThreatModel(flags.norm, eps)), flush=True)


if __name__ == "__main__":
    main()
