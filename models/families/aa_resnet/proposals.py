"""Recognises an AA-ResNet from the names and shapes of its tensors."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from models.families.aa_resnet.attention import MIN_KEY_DIMS
from models.families.aa_resnet.network import ARCHITECTURES
from models.families.resnet import depth_of
from models.recognition.layout import Layout, ratio, require
from models.recognition.proposals import Candidate, Options, Question
from models.registry import defaults, without_defaults


@dataclass(frozen=True)
class _Augmented:
    """What the tensors of an augmented convolution show.

    Attributes:
        name: of the module.
        outputs: total number of channels.
        keys: key dimensions of all heads.
        values: value dimensions of all heads.
        scale: how many times smaller than the first stage's input its own input is.
        first: whether its stage is the first with attention.
        strided: whether it halves the map.
    """

    name: str
    outputs: int
    keys: int
    values: int
    scale: int
    first: bool
    strided: bool


def propose(at: Layout) -> Iterator[Candidate]:
    """Read dimensions, heads and tables off the shapes; any image size that gives the tables is possible."""
    convs = _augmented(at)
    name = _name(at)
    own = defaults(name)
    stem = 1 if name.startswith("aa_wide") else 2 if name.endswith("mini") else 4
    relative = f"{convs[0].name}.rel_h" in at
    heads = ratio(convs[0].keys, at.side(f"{convs[0].name}.rel_h", 1)) if relative else int(str(own["heads"]))
    shared: Options = {
        "heads": heads,
        "kappa": _rate([(each.outputs, each.keys) for each in convs], heads, MIN_KEY_DIMS, own["kappa"]),
        "upsilon": _rate([(each.outputs, each.values) for each in convs], heads, 1, own["upsilon"]),
    }
    if relative:
        for pooled, pool_first in product(
            (own["pooled"], not own["pooled"]), (own["pool_first"], not own["pool_first"])
        ):
            sides = _sides(at, convs, stem, pooled=bool(pooled), pool_first=bool(pool_first))
            if sides:
                published = own["image_size"] in sides
                side = own["image_size"] if published else sides[-1]
                described = shared | {"image_size": side, "pooled": pooled, "pool_first": pool_first}
                why = f"tables are the same for images of {sides[0]} to {sides[-1]} pixels"
                asked = () if published else (Question("options.image_size", why, side, f"{sides[0]} to {sides[-1]}"),)
                yield Candidate(name, without_defaults(name, described), "fc.weight", asked)
        return
    yield from _without_tables(name, shared)


def _augmented(at: Layout) -> list[_Augmented]:
    pattern = re.compile(r"(layer([1-9])\.(\d+)\.conv\d)\.qkv\.weight")
    matches = [match for match in map(pattern.fullmatch, at) if match]
    require(matches)
    first = min(int(match[2]) for match in matches)
    found: list[_Augmented] = []
    for name, stage, block in (match.groups() for match in matches):
        values = at.side(f"{name}.projection.weight")
        strided = int(stage) > 1 and block == "0"
        own = f"{name}.conv.weight"
        found.append(
            _Augmented(
                name=name,
                outputs=values + (at.side(own) if own in at else 0),
                keys=ratio(at.side(f"{name}.qkv.weight") - values, 2),
                values=values,
                scale=2 ** (int(stage) - 1 - strided),
                first=int(stage) == first,
                strided=strided,
            )
        )
    return found


def _name(at: Layout) -> str:
    if at["conv1.weight"] != (64, 3, 7, 7):
        small = {16: "aa_wide_resnet28_10", 32: "aa_resnet_mini"}.get(at.side("conv1.weight"))
        require(small)
        return str(small)
    name = f"aa_resnet{depth_of(at)}"
    require(name in {each.name for each in ARCHITECTURES})
    return name


def _rate(pairs: Sequence[tuple[int, int]], heads: int, least: int, default: object) -> float:
    """Find kappa or upsilon from (outputs, dimensions) of every layer: any value in an interval gives the same network."""
    bounds = [
        (0.0 if dims == least * heads else (dims - heads / 2) / outputs, min(1e9, (dims + heads / 2) / outputs))
        for outputs, dims in pairs
    ]
    low, high = max(bound[0] for bound in bounds), min(bound[1] for bound in bounds)
    if all(dims == outputs for outputs, dims in pairs):
        return 1.0
    if low <= float(str(default)) < high:
        return float(str(default))
    rounded = (round((low + high) / 2, digits) for digits in range(1, 8))
    return next((value for value in rounded if low <= value < high and value), (low + high) / 2)


def _sides(at: Layout, convs: Sequence[_Augmented], stem: int, *, pooled: bool, pool_first: bool) -> range:
    """Image sizes that give every table its number of rows."""
    low, high = 0, 10**9
    for conv in convs:
        pools = int(pooled and conv.first) + int(pool_first and conv.strided)
        factor, rows = stem * conv.scale * 2**pools, (at.side(f"{conv.name}.rel_h") + 1) // 2
        low, high = max(low, (rows - 1) * factor), min(high, rows * factor)
    return range(low + 1, high + 1)


def _without_tables(name: str, shared: Options) -> Iterator[Candidate]:
    own = defaults(name)
    why = "without tables of relative positions, shapes do not show it"
    questions = [
        Question("options.heads", why, shared["heads"], "a divisor of key and value dimensions"),
        Question("options.pooled", why, own["pooled"], "true or false"),
        Question("options.pool_first", why, own["pool_first"], "true or false"),
    ]
    coord = without_defaults(name, shared | {"positions": "coord"})
    yield Candidate(name, coord, "fc.weight", tuple(questions))
    same = Question("options.positions", "none and sine have the same shapes", "none", "none or sine")
    yield Candidate(name, without_defaults(name, shared | {"positions": "none"}), "fc.weight", (*questions, same))
