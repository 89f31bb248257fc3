"""The page of all presets, attacks and transforms, made from the registries: python -m evaluation > docs/attacks.md."""

import sys
from collections.abc import Iterable

import attacks
from attacks.methods.torchattacks import LEFT_OUT
from evaluation.presets import list_presets

_INTRODUCTION = """# Presets, attacks and transforms

This page is made from the registries: `python -m evaluation > docs/attacks.md`. The service answers the same at `GET /v1/presets`
and `GET /v1/attacks`; [evaluation.md](evaluation.md) says how numbers are counted, checked and compared."""

_ATTACKS = """## Attacks

A *budget* attack makes the most of a radius; a *minimal* one looks for the smallest change and counts where that lies within the
radius. What an attack returns is measured by the harness in float32: only an image that was right, is wrong now, and lies within
radius and [0, 1] counts as flipped. Each can be run several times (`restarts` beside `parameters`). Names that begin with
`torchattacks:` are run through that library (Kim 2020, arXiv:2010.01950)."""


def page() -> str:
    """Write the page as Markdown."""
    described = attacks.describe()
    fitting = [each for each in list_presets() if each.has_one_budget]
    sections = (
        _INTRODUCTION,
        "## Presets",
        _table(
            ("preset", "what it does", "after"),
            ((f"`{each.name}`", each.explanation, each.source) for each in list_presets()),
        ),
        f"Another budget can be asked for where a preset attacks within one ({', '.join(each.name for each in fitting)}): "
        '`--eps 4/255 --norm\nLinf`, or `"threat": {"norm": "Linf", "eps": "4/255"}` in a request.',
        _ATTACKS,
        _table(
            ("attack", "what it is", "norms", "kind", "targets", "parameters"),
            (
                (
                    f"`{each.name}`",
                    each.explanation.splitlines()[0],
                    " ".join(each.norms),
                    each.kind,
                    "yes" if each.targetable else "no",
                    _defaults(each),
                )
                for each in described
                if each.kind != "transform"
            ),
        ),
        "Classes of torchattacks that are left out:",
        _table(("class", "because"), ((f"`{name}`", reason) for name, reason in LEFT_OUT.items())),
        "## Transforms",
        _table(
            ("transform", "parameters"),
            ((f"`{each.name}`", _defaults(each)) for each in described if each.kind == "transform"),
        ),
    )
    return "\n\n".join(sections) + "\n"


def _defaults(described: attacks.Description) -> str:
    def one(name: str, schema: dict[str, object]) -> str:
        allowed = schema.get("enum")
        choices = f" ({', '.join(map(str, allowed))})" if isinstance(allowed, list) else ""
        return f"{name}{choices}" if "default" not in schema else f"{name} = {_written(schema['default'])}{choices}"

    return "; ".join(one(name, schema) for name, schema in described.parameters.items())


def _written(value: object) -> str:
    return attacks.format_eps(value) if isinstance(value, float) else str(value)


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(header)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.stdout.write(page())
