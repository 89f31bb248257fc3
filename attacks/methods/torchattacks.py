"""The attacks of torchattacks 3.5 (Kim 2020, arXiv:2010.01950), each named "torchattacks:" and its class.

They only propose images; success they report is ignored. Their random numbers come from global generators, which are seeded from
the image's draws and restored afterwards. An attack that draws random numbers, or in which the images of a batch decide together
when to stop, runs on one image at a time (`alone`; "restarts" if only restarts draw), so that results do not depend on the batch.
An attack that searches the smallest change (`kind` is "minimal") has no budget: its result is clipped to [0, 1], and the image is
returned unchanged if the result lies outside the budget.
"""

import contextlib
import io
import warnings
from collections.abc import Generator as Iterated
from dataclasses import dataclass, make_dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from attacks.norms import distance
from attacks.registry import register_attack
from attacks.run import AttackError
from attacks.task import Norm, Proposal, Task, ThreatModel
from common.generators import seeded

PREFIX = "torchattacks:"

BATCH_PIXELS = 2**20
"""Height times width times number of images in a batch: an attack stores all that their gradient needs."""

TARGETS = 9
"""Largest number of wrong classes that a targeted cascade aims for; torchattacks would aim for all of them."""

LEFT_OUT = {
    "AutoAttack": "the preset standard runs the same attacks",
    "GN": "Gaussian noise without a budget; see noise",
    "LGV": "trains models on a loader of training images",
    "Square": "the attack square does the same for a whole batch",
    "MultiAttack": "a condition with several attacks does the same",
    "VANILA": "changes nothing",
}
"""Classes of torchattacks that are not available here, and why."""


@dataclass(frozen=True)
class _Entry:
    """What the adapter must know about a class; parameters and their defaults are those of torchattacks."""

    norms: tuple[Norm, ...]
    parameters: dict[str, Any]
    kind: Literal["budget", "minimal"] = "budget"
    targetable: bool = True
    uses_gradient: bool = True
    alone: bool | Literal["restarts"] = False
    eps: str = "eps"


_LINF, _L2, _BOTH = (Norm.LINF,), (Norm.L2,), (Norm.LINF, Norm.L2)
_STEPS: dict[str, Any] = {"alpha": 2 / 255, "steps": 10}
_ELASTIC: dict[str, Any] = {
    "kappa": 0,
    "lr": 0.01,
    "binary_search_steps": 9,
    "max_iterations": 100,
    "abort_early": True,
    "initial_const": 0.001,
    "beta": 0.001,
}
_SMOOTHED: dict[str, Any] = {"noise_type": "guassian", "noise_sd": 0.5, "noise_batch_size": 5, "batch_max": 2048}
_DIVERSE: dict[str, Any] = {"resize_rate": 0.9, "diversity_prob": 0.5, "random_start": False}
_PATCHED: dict[str, Any] = {"num_iter_set": 10, "momentum": 1.0, "amplification": 10.0, "prob": 0.7}

ENTRIES = {
    "FGSM": _Entry(_LINF, {}),
    "BIM": _Entry(_LINF, _STEPS),
    "RFGSM": _Entry(_LINF, _STEPS, alone=True),
    "PGD": _Entry(_LINF, _STEPS | {"random_start": True}, alone=True),
    "EOTPGD": _Entry(_LINF, _STEPS | {"eot_iter": 2, "random_start": True}, alone=True),
    "FFGSM": _Entry(_LINF, {"alpha": 10 / 255}, alone=True),
    "TPGD": _Entry(_LINF, _STEPS, targetable=False, alone=True),
    "MIFGSM": _Entry(_LINF, _STEPS | {"decay": 1.0}),
    "UPGD": _Entry(_LINF, _STEPS | {"random_start": False, "loss": "ce", "decay": 1.0, "eot_iter": 1}, alone=True),
    "APGD": _Entry(
        _BOTH, {"steps": 10, "n_restarts": 1, "loss": "ce", "eot_iter": 1, "rho": 0.75}, targetable=False, alone=True
    ),
    "APGDT": _Entry(_BOTH, {"steps": 10, "n_restarts": 1, "eot_iter": 1, "rho": 0.75}, targetable=False, alone=True),
    "DIFGSM": _Entry(_LINF, _STEPS | {"decay": 0.0} | _DIVERSE, alone=True),
    "TIFGSM": _Entry(
        _LINF, _STEPS | {"decay": 0.0, "kernel_name": "gaussian", "len_kernel": 15, "nsig": 3} | _DIVERSE, alone=True
    ),
    "Jitter": _Entry(_LINF, _STEPS | {"scale": 10, "std": 0.1, "random_start": True}, alone=True),
    "NIFGSM": _Entry(_LINF, _STEPS | {"decay": 1.0}),
    "PGDRS": _Entry(_LINF, _STEPS | _SMOOTHED, alone=True),
    "SINIFGSM": _Entry(_LINF, _STEPS | {"decay": 1.0, "m": 5}),
    "VMIFGSM": _Entry(_LINF, _STEPS | {"decay": 1.0, "N": 5, "beta": 1.5}, alone=True),
    "VNIFGSM": _Entry(_LINF, _STEPS | {"decay": 1.0, "N": 5, "beta": 1.5}, alone=True),
    "SPSA": _Entry(
        _LINF,
        {"delta": 0.01, "lr": 0.01, "nb_iter": 1, "nb_sample": 128, "max_batch_size": 64},
        uses_gradient=False,
        alone=True,
    ),
    "JSMA": _Entry((Norm.L0,), {"theta": 1.0, "gamma": 0.1}, kind="minimal", alone=True),
    "EADL1": _Entry((Norm.L1,), _ELASTIC, kind="minimal", alone=True),
    "EADEN": _Entry((Norm.L1, Norm.L2), _ELASTIC, kind="minimal", alone=True),
    "PIFGSM": _Entry(_LINF, _PATCHED, targetable=False, alone=True, eps="max_epsilon"),
    "PIFGSMPP": _Entry(_LINF, _PATCHED | {"project_factor": 0.8}, alone=True, eps="max_epsilon"),
    "CW": _Entry(_L2, {"c": 1, "kappa": 0, "steps": 50, "lr": 0.01}, kind="minimal", alone=True),
    "PGDL2": _Entry(_L2, {"alpha": 0.2, "steps": 10, "random_start": True, "eps_for_division": 1e-10}, alone=True),
    "DeepFool": _Entry(_L2, {"steps": 50, "overshoot": 0.02}, kind="minimal", targetable=False, alone=True),
    "PGDRSL2": _Entry(_L2, {"alpha": 0.2, "steps": 10} | _SMOOTHED | {"eps_for_division": 1e-10}, alone=True),
    "SparseFool": _Entry(
        (Norm.L0,), {"steps": 10, "lam": 3, "overshoot": 0.02}, kind="minimal", targetable=False, alone=True
    ),
    "OnePixel": _Entry(
        (Norm.L0,),
        {"pixels": 1, "steps": 10, "popsize": 10, "inf_batch": 128},
        kind="minimal",
        uses_gradient=False,
        alone=True,
    ),
    "Pixle": _Entry(
        (Norm.L0,),
        {
            "x_dimensions": (2, 10),
            "y_dimensions": (2, 10),
            "pixel_mapping": "random",
            "restarts": 20,
            "max_iterations": 10,
            "update_each_iteration": False,
        },
        kind="minimal",
        uses_gradient=False,
        alone=True,
    ),
    "FAB": _Entry(
        _BOTH,
        {"steps": 10, "n_restarts": 1, "alpha_max": 0.1, "eta": 1.05, "beta": 0.9, "multi_targeted": False},
        targetable=False,
        alone="restarts",
    ),
}
"""All classes that are available."""

HANDED_OVER = frozenset({"eps", "max_epsilon", "norm", "seed", "verbose", "n_classes"})
"""Parameters of torchattacks that follow from threat, draws and model, and are not the user's."""


class _Adapter:
    """The common part of all these attacks; a subclass is a dataclass of the parameters."""

    entry: ClassVar[_Entry]
    class_name: ClassVar[str]
    norms: ClassVar[frozenset[Norm]]
    targetable: ClassVar[bool]
    uses_gradient: ClassVar[bool]
    kind: ClassVar[Literal["budget", "minimal"]]
    of_randomised: ClassVar[str] = "sees the mean logits of a randomised model, not the mean of its losses"

    @property
    def title(self) -> str:
        """For example "torchattacks CW"."""
        steps = getattr(self, "steps", None)
        return f"torchattacks {self.class_name}" + (f"-{steps}" if steps else "")

    @property
    def passes(self) -> int:
        """A rough upper bound: three per step, for every restart, sample and target.

        FAB without `multi_targeted` computes a gradient for every class at each step, so its cost grows with the number of classes.
        """
        counts = (
            "steps",
            "n_restarts",
            "restarts",
            "eot_iter",
            "N",
            "m",
            "nb_iter",
            "binary_search_steps",
            "max_iterations",
        )
        repeats = [int(getattr(self, name)) for name in counts if hasattr(self, name)]
        if self.class_name == "APGDT" or getattr(self, "multi_targeted", False):
            repeats.append(TARGETS)
        a_step = 4 if self.class_name == "FAB" else 3  # it classifies the image once more after the step
        return a_step * int(np.prod(repeats))

    def perturb(self, task: Task) -> Proposal:
        """See `Attack.perturb`.

        Raises:
            AttackError: torchattacks failed.
        """
        images, threat = task.images, task.threat
        if threat.eps == 0:
            return Proposal(images)
        found = self._search(task)
        if self.kind == "budget":
            return Proposal(found)
        found = found.clamp(0, 1)
        beyond = distance(found - images, threat.norm) > threat.eps
        return Proposal(torch.where(beyond.view(-1, 1, 1, 1), images, found))

    def _search(self, task: Task) -> Tensor:
        model, images, threat = task.model, task.images, task.threat
        classes, targeted = (task.labels, False) if task.targets is None else (task.targets, True)
        if self.entry.alone is True or (self.entry.alone and getattr(self, "n_restarts", 1) > 1):
            seeds = task.draws.integers(2**31).tolist()
            parts = zip(images.split(1), classes.split(1), seeds, strict=True)
            return torch.cat([self._call(model, *part[:2], threat, part[2], targeted=targeted) for part in parts])
        size = max(1, BATCH_PIXELS // images[0, 0].numel())
        batches = zip(images.split(size), classes.split(size), strict=True)
        return torch.cat([self._call(model, some, aims, threat, 0, targeted=targeted) for some, aims in batches])

    def _call(
        self, model: nn.Module, images: Tensor, classes: Tensor, threat: ThreatModel, seed: int, *, targeted: bool
    ) -> Tensor:
        import torchattacks  # noqa: PLC0415  takes seconds

        given = {name: getattr(self, name) for name in self.entry.parameters}
        try:
            with (
                _frozen(model),
                seeded(seed),
                torch.enable_grad(),
                contextlib.redirect_stdout(io.StringIO()),
                warnings.catch_warnings(action="ignore"),
            ):
                cls = getattr(torchattacks, self.class_name)
                attack = cls(model, **given, **self._handed_over(cls, model, images, threat, seed))
                attack.set_device(images.device)
                if targeted:
                    attack.set_mode_targeted_by_label(quiet=True)
                return attack(images, classes).detach()
        except Exception as error:  # anything its code raises
            raise AttackError(f"{self.title} failed: {type(error).__name__}: {error}") from error

    def _handed_over(
        self, cls: type, model: nn.Module, images: Tensor, threat: ThreatModel, seed: int
    ) -> dict[str, object]:
        """Those of the parameters in HANDED_OVER that the class has."""
        names = cls.__init__.__code__.co_varnames
        values: dict[str, object] = {
            self.entry.eps: threat.eps,
            "norm": str(threat.norm),
            "seed": seed,
            "verbose": False,
        }
        if "n_classes" in names:
            with torch.no_grad():
                values["n_classes"] = min(model(images[:1]).shape[1], TARGETS + 1)
        return {name: value for name, value in values.items() if name in names}


@contextlib.contextmanager
def _frozen(model: nn.Module) -> Iterated[None]:
    """Let no attack leave gradients in the parameters, as some would."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def _register(name: str, entry: _Entry) -> None:
    fields = [
        (parameter, type(default) if not isinstance(default, tuple) else tuple[int, int], default)
        for parameter, default in entry.parameters.items()
    ]
    facts: dict[str, Any] = {
        "__doc__": f"{name} of torchattacks.",
        "entry": entry,
        "class_name": name,
        "norms": frozenset(entry.norms),
        "targetable": entry.targetable,
        "uses_gradient": entry.uses_gradient,
        "kind": entry.kind,
    }
    register_attack(PREFIX + name)(
        make_dataclass(name, fields, bases=(_Adapter,), namespace=facts, frozen=True, kw_only=True)
    )


for _name, _entry in ENTRIES.items():
    _register(_name, _entry)
