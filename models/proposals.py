"""What each family of architectures leaves behind in the names and shapes of its tensors.

A family looks at a checkpoint's shapes and proposes candidates; `models.recognition` builds each and compares. What a family
always has is asked for in the ways of `models.layout`, which end the proposals where it is not there.
"""

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import cast

from models.families.aa_resnet import MIN_KEY_DIMS
from models.families.resnet import IMAGENET_SIZES
from models.layout import Layout, ratio, require
from models.registry import names, spec

Options = dict[str, object]

TORCHVISION_RESNETS = (
    "wide_resnet50_2",
    "wide_resnet101_2",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
)
"""Of torchvision alone, with the tensors' names of our own ResNets."""


@dataclass(frozen=True)
class Question:
    """A fact that a file does not tell.

    Attributes:
        field: of the card, such as "preprocessing.crop".
        why: what makes it unknown, or what it is.
        likely: the answer taken when likely answers are accepted.
        allowed: which answers there are.
    """

    field: str
    why: str
    likely: object
    allowed: str


@dataclass(frozen=True)
class Candidate:
    """An architecture that the tensors may belong to.

    Attributes:
        architecture: a name that `create` knows.
        options: where they differ from the architecture's defaults.
        head: name of the classifier's weight, whose rows are the classes.
        questions: what shapes do not tell of the options.
    """

    architecture: str
    options: Options
    head: str
    questions: tuple[Question, ...] = ()


def defaults(architecture: str) -> Options:
    """Constructor arguments that an architecture has without options."""
    parameters = inspect.signature(spec(architecture).build).parameters.values()
    return {each.name: _plain(each.default) for each in parameters if each.default is not inspect.Parameter.empty}


def without_defaults(architecture: str, options: Mapping[str, object]) -> Options:
    """Leave out options that the architecture has anyway."""
    own = defaults(architecture)
    return {name: value for name, value in options.items() if name not in own or own[name] != _plain(value)}


def _plain(value: object) -> object:
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value  # pyright: ignore[reportUnknownVariableType]


def _named(prefix: str, suffix: str, options: Options) -> tuple[str, Options]:
    """Choose the architecture of a family that needs the fewest options."""
    of_family = [name for name in names() if name.startswith(prefix) and name.endswith(suffix)]
    described = [(name, without_defaults(name, options)) for name in of_family]
    return min(described, key=lambda each: len(each[1]))


def _resnet(at: Layout) -> Iterator[Candidate]:
    bottleneck = "layer1.0.conv3.weight" in at
    blocks = [len(at.indices(f"layer{index}.")) for index in range(1, 5)]
    sizes = {(block, tuple(layers)): depth for depth, (block, layers) in IMAGENET_SIZES.items()}
    depth = sizes.get(("Bottleneck" if bottleneck else "BasicBlock", tuple(blocks)))
    require(depth)
    if (squeezed := "layer4.0.se.fc1.weight") in at:
        reduction = ratio(at.side(squeezed, 1), at.side(squeezed))
        name = f"se_resnet{depth}"
        yield Candidate(name, without_defaults(name, {"reduction": reduction}), "fc.weight")
        return
    yield Candidate(f"resnet{depth}", {}, "fc.weight")
    for name in TORCHVISION_RESNETS if bottleneck else ():
        yield Candidate(f"torchvision:{name}", {}, "fc.weight")


def _resnet_mini(at: Layout) -> Iterator[Candidate]:
    stages = at.indices("stages.")
    widths = [at.side(f"stages.{index}.0.conv1.weight") for index in stages]
    before = [at.side("stem.0.weight"), *widths[:-1]]
    strides = [1 if a == b else 2 for a, b in zip(before, widths, strict=True)]
    options: Options = {"widths": widths, "blocks": len(at.indices("stages.0."))}
    likely: list[int] = [1, 2, 2] if len(widths) == 3 else strides
    question = Question("options.strides", "strides leave no trace in shapes", likely, "1 or 2 for each stage")
    stripped = without_defaults("resnet_mini", {**options, "strides": likely})
    yield Candidate("resnet_mini", stripped, "fc.weight", (question,))


def _attention_mask(at: Layout) -> Iterator[Candidate]:
    suffix = "resnet34" if "features.layer4.0.conv1.weight" in at else "mini"
    linears = [index for index in at.indices("classifier.") if f"classifier.{index}.weight" in at]
    require(linears)
    hidden = at.side(f"classifier.{linears[0]}.weight") if len(linears) > 1 else 0
    options: Options = {
        "masks": at.side("attention.weight"),
        "hidden": hidden,
        "mask_bias": "attention.bias" in at,
    }
    candidates = [f"{prefix}attention_mask_{suffix}" for prefix in ("", "multi_")]
    name = min(candidates, key=lambda each: len(without_defaults(each, options)))
    yield Candidate(name, without_defaults(name, options), f"classifier.{linears[-1]}.weight")


_FOOTPRINTS_UNSEEN = "the footprint of pairwise attention leaves no trace in shapes"
_SAME_SHAPES = "subtraction, summation and hadamard have the same shapes"


def _san(at: Layout) -> Iterator[Candidate]:
    stages = [index for index in at.indices("layer") if f"conv{index}.weight" in at]
    require(stages)
    widths = [at.side(f"conv{index}.weight") for index in stages]
    blocks = [len(at.indices(f"layer{index}.")) for index in stages]
    sams = [f"layer{index}.0.sam." for index in stages]
    layers = max(at.indices(f"{sams[0]}conv_w.")) // 3 + 1
    require(layers <= len(at))
    tied = "distinct" if f"{sams[0]}conv2.weight" in at else "tied"
    transforms = tied if f"{sams[0]}conv1.weight" in at else "all_tied"
    values = [at.side(f"{sam}conv3.weight") for sam in sams]
    relations = [at.side(f"{sam}conv{'3' if transforms == 'all_tied' else '1'}.weight") for sam in sams]
    inputs = [at.side(f"{sam}conv_w.0.weight") for sam in sams]
    outputs = [at.side(f"{sam}conv_w.{3 * layers - 1}.weight") for sam in sams]
    shared: Options = {
        "blocks": blocks,
        "widths": widths,
        "stem_width": at.side("conv_in.weight"),
        "mapping_layers": layers,
        "transforms": transforms,
        "r1": ratio(widths[0], relations[0]) if transforms != "all_tied" else _unseen_reduction(widths),
        "r2": ratio(widths[0], values[0]),
    }
    for relation, position in _pairwise_forms(inputs[0], relations[0], positions=f"{sams[0]}conv_p.weight" in at):
        yield _pairwise(shared | {"relation": relation, "position": position, "share": ratio(values[0], outputs[0])})
    for relation, squares in _patchwise_forms(inputs, relations, outputs):
        footprints = [math.isqrt(taps) for taps in squares]
        maps = outputs[0] // squares[0]
        own: Options = {"relation": relation, "footprints": footprints, "share": ratio(values[0], maps)}
        name, options = _named("san", "patchwise", shared | own)
        yield Candidate(name, _unless_first(options, "concatenation"), "fc.weight")


def _unseen_reduction(widths: Sequence[int]) -> int:
    """Reduction that nothing uses but the check of the widths."""
    return 16 if all(width % 16 == 0 for width in widths) else 1


def _unless_first(options: Options, published: str) -> Options:
    """Leave out the relation that is published for the kind."""
    return {name: value for name, value in options.items() if (name, value) != ("relation", published)}


def _pairwise_forms(inputs: int, relation: int, *, positions: bool) -> Iterator[tuple[str, str]]:
    extra = {"relative": 2, "absolute": 4} if positions else {"none": 0}
    for (name, channels), (position, more) in product(
        (("subtraction", relation), ("concatenation", 2 * relation), ("dot", 1)), extra.items()
    ):
        if inputs == channels + more:
            yield name, position


def _pairwise(described: Options) -> Candidate:
    name, options = _named("san", "pairwise", described)
    stages = len(cast(list[int], described["widths"]))
    published = cast(list[int], defaults(name)["footprints"])
    likely = published if len(published) == stages else [3] + [7] * (stages - 1)
    options = _unless_first(options, "subtraction")
    if likely != published:
        options["footprints"] = likely
    asked = [Question("options.footprints", _FOOTPRINTS_UNSEEN, likely, "odd numbers, one for each stage")]
    if described["relation"] == "subtraction":
        asked += [Question("options.relation", _SAME_SHAPES, "subtraction", "subtraction, summation or hadamard")]
    return Candidate(name, options, "fc.weight", tuple(asked))


def _patchwise_forms(
    inputs: Sequence[int], relations: Sequence[int], outputs: Sequence[int]
) -> Iterator[tuple[str, list[int]]]:
    """Relations with the taps of every stage's footprint that they would mean."""
    forms = {
        "concatenation": [count // relation - 1 for count, relation in zip(inputs, relations, strict=True)],
        "star": list(inputs),
        "clique": [math.isqrt(count) for count in inputs],
    }
    for relation, taps in forms.items():
        squares = (count > 0 and math.isqrt(count) ** 2 == count and math.isqrt(count) % 2 for count in taps)
        if all(squares) and not any(maps % count for maps, count in zip(outputs, taps, strict=True)):
            yield relation, taps


_MOST_DAT_STAGES = 8


def _dat(at: Layout) -> Iterator[Candidate]:
    stages = at.indices("stages.")
    require(len(stages) <= _MOST_DAT_STAGES and stages == list(range(len(stages))))
    widths = [at.side("patch_proj.0.weight"), *(at.side(f"down_projs.{index}.0.weight") for index in stages[:-1])]
    attns = {stage: [f"stages.{stage}.attns.{i}." for i in at.indices(f"stages.{stage}.attns.")] for stage in stages}
    blocks = ["".join(_dat_kind(at, attn) for attn in attns[stage]) for stage in stages]
    deformable = {stage: attn for stage in stages for attn in attns[stage] if f"{attn}proj_q.weight" in at}
    windowed = {stage: attn for stage in stages for attn in attns[stage] if f"{attn}proj_qkv.weight" in at}
    moves = {
        stage: (at.side(f"{attn}conv_offset.0.weight"), at.side(f"{attn}conv_offset.0.weight", 2))
        for stage, attn in deformable.items()
        if f"{attn}conv_offset.0.weight" in at
    }
    shared: Options = {
        "widths": widths,
        "blocks": blocks,
        "patch_size": at.side("patch_proj.0.weight", 2),
        "expansion": ratio(at.side("stages.0.mlps.0.chunk.linear1.weight"), widths[0]),
    }
    if windowed:
        stage, attn = next(iter(windowed.items()))
        rows, heads = (at.side(f"{attn}relative_position_bias_table", axis) for axis in (0, 1))
        shared |= {"window": (math.isqrt(rows) + 1) // 2, "head_width": ratio(widths[stage], heads)}
    if deformable and not moves:
        shared["offset_range"] = 0.0
    for position in _dat_positions(at, deformable):
        side = _dat_side(at, position, deformable, windowed, shared)
        sized = shared | ({"position": position} if deformable else {}) | ({"image_size": side} if side else {})
        yield _dat_candidate(sized, moves, widths, side_known=side is not None)


def _dat_kind(at: Layout, attn: str) -> str:
    if f"{attn}proj_q.weight" in at:
        return "D"
    return "S" if f"{attn}attn_mask" in at else "L"


def _dat_positions(at: Layout, deformable: Mapping[int, str]) -> list[str]:
    attn = next(iter(deformable.values()), None)
    if attn is None or f"{attn}rpe_table" in at:
        return ["relative", "fixed"] if attn else ["relative"]
    return ["depthwise" if f"{attn}rpe_table.weight" in at else "none"]


def _dat_side(
    at: Layout, position: str, deformable: Mapping[int, str], windowed: Mapping[int, str], shared: Options
) -> int | None:
    """Side of the images: from a table over the map, or from the number of windows."""
    patch = int(str(shared["patch_size"]))
    if deformable and position in ("relative", "fixed"):
        stage, attn = next(iter(deformable.items()))
        rows = at.side(f"{attn}rpe_table", 1)
        side = (rows + 1) // 2 if position == "relative" else math.isqrt(rows)
        return side * patch * 2**stage
    for stage in windowed:
        for index in at.indices(f"stages.{stage}.attns."):
            if (mask := f"stages.{stage}.attns.{index}.attn_mask") in at:
                return math.isqrt(at.side(mask)) * math.isqrt(at.side(mask, 1)) * patch * 2**stage
    return None


def _dat_candidate(
    described: Options, moves: Mapping[int, tuple[int, int]], widths: Sequence[int], *, side_known: bool
) -> Candidate:
    """Name the DAT; what only deformable attentions use is taken from the name's defaults in stages that have none."""
    count = len(widths)

    def completed(name: str) -> Options:
        own, full = defaults(name), dict(described)
        for option, read in (
            ("groups", {stage: ratio(widths[stage], shape[0]) for stage, shape in moves.items()}),
            ("offset_kernels", {stage: shape[1] for stage, shape in moves.items()}),
        ):
            usual = cast(list[int], own[option])
            full[option] = [read.get(stage, usual[stage] if stage < len(usual) else 1) for stage in range(count)]
        return without_defaults(name, full)

    dats = [name for name in names() if name.startswith("dat_")]
    name = min(dats, key=lambda each: len(completed(each)))
    questions: list[Question] = []
    if moves:
        why = "how far points can move leaves no trace in shapes"
        questions.append(Question("options.offset_range", why, 2.0, "cells, above 0"))
    if not side_known:
        why = "nothing in the file depends on the size of the images"
        likely = defaults(name)["image_size"]
        questions.append(Question("options.image_size", why, likely, "pixels"))
    return Candidate(name, completed(name), "cls_head.weight", tuple(questions))


@dataclass(frozen=True)
class _Augmented:
    """What an augmented convolution's tensors tell.

    Attributes:
        name: of the module.
        outputs: channels in all.
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


def _aa_resnet(at: Layout) -> Iterator[Candidate]:
    convs = _augmented(at)
    name = _aa_name(at)
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
            sides = _aa_sides(at, convs, stem, pooled=bool(pooled), pool_first=bool(pool_first))
            if sides:
                published = own["image_size"] in sides
                side = own["image_size"] if published else sides[-1]
                described = shared | {"image_size": side, "pooled": pooled, "pool_first": pool_first}
                why = f"tables are the same for images of {sides[0]} to {sides[-1]} pixels"
                asked = () if published else (Question("options.image_size", why, side, f"{sides[0]} to {sides[-1]}"),)
                yield Candidate(name, without_defaults(name, described), "fc.weight", asked)
        return
    yield from _aa_without_tables(name, shared)


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


def _aa_name(at: Layout) -> str:
    if at["conv1.weight"] != (64, 3, 7, 7):
        small = {16: "aa_wide_resnet28_10", 32: "aa_resnet_mini"}.get(at.side("conv1.weight"))
        require(small)
        return str(small)
    block = "Bottleneck" if "layer1.0.conv3.weight" in at else "BasicBlock"
    layers = [len(at.indices(f"layer{index}.")) for index in range(1, 5)]
    depths = [depth for depth, size in IMAGENET_SIZES.items() if size == (block, layers)]
    require(depths)
    return f"aa_resnet{depths[0]}"


def _rate(pairs: Sequence[tuple[int, int]], heads: int, least: int, default: object) -> float:
    """Find kappa or upsilon from (outputs, dimensions) of every layer: any number of an interval gives the same network."""
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


def _aa_sides(at: Layout, convs: Sequence[_Augmented], stem: int, *, pooled: bool, pool_first: bool) -> range:
    """Image sizes that give every table its number of rows."""
    low, high = 0, 10**9
    for conv in convs:
        pools = int(pooled and conv.first) + int(pool_first and conv.strided)
        factor, rows = stem * conv.scale * 2**pools, (at.side(f"{conv.name}.rel_h") + 1) // 2
        low, high = max(low, (rows - 1) * factor), min(high, rows * factor)
    return range(low + 1, high + 1)


def _aa_without_tables(name: str, shared: Options) -> Iterator[Candidate]:
    own = defaults(name)
    why = "without tables of relative positions it leaves no trace in shapes"
    questions = [
        Question("options.heads", why, shared["heads"], "a divisor of key and value dimensions"),
        Question("options.pooled", why, own["pooled"], "true or false"),
        Question("options.pool_first", why, own["pool_first"], "true or false"),
    ]
    coord = without_defaults(name, shared | {"positions": "coord"})
    yield Candidate(name, coord, "fc.weight", tuple(questions))
    same = Question("options.positions", "none and sine have the same shapes", "none", "none or sine")
    yield Candidate(name, without_defaults(name, shared | {"positions": "none"}), "fc.weight", (*questions, same))


Family = Callable[[Layout], Iterator[Candidate]]
FAMILIES: tuple[Family, ...] = (_san, _dat, _aa_resnet, _attention_mask, _resnet_mini, _resnet)
"""In this order: what an earlier one claims, a later one does not see."""
