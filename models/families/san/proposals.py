"""Recognises a SAN from the names and shapes of its tensors."""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import cast

from models.families.san.network import ARCHITECTURES, Kind
from models.recognition.layout import Layout, ratio, require
from models.recognition.proposals import Candidate, Options, Question
from models.registry import defaults, fewest_options

_FOOTPRINTS_UNSEEN = "shapes do not show the footprint of pairwise attention"
_SAME_SHAPES = "subtraction, summation and hadamard have the same shapes"


def propose(at: Layout) -> Iterator[Candidate]:
    """Read both kinds and the paper's ablations from the shapes, which do not show the footprint of pairwise attention."""
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
        name, options = fewest_options(_of_kind("patchwise"), shared | own)
        yield Candidate(name, _unless_first(options, "concatenation"), "fc.weight")


def _of_kind(kind: Kind) -> list[str]:
    return [spec.name for spec in ARCHITECTURES if spec.name.endswith(kind)]


def _unseen_reduction(widths: Sequence[int]) -> int:
    """Reduction that only the check of the widths uses."""
    return 16 if all(width % 16 == 0 for width in widths) else 1


def _unless_first(options: Options, published: str) -> Options:
    """Remove the relation if it is the published one of its kind."""
    return {name: value for name, value in options.items() if (name, value) != ("relation", published)}


def _pairwise_forms(inputs: int, relation: int, *, positions: bool) -> Iterator[tuple[str, str]]:
    extra = {"relative": 2, "absolute": 4} if positions else {"none": 0}
    for (name, channels), (position, more) in product(
        (("subtraction", relation), ("concatenation", 2 * relation), ("dot", 1)), extra.items()
    ):
        if inputs == channels + more:
            yield name, position


def _pairwise(described: Options) -> Candidate:
    name, options = fewest_options(_of_kind("pairwise"), described)
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
