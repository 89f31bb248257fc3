"""Recognises a DAT from the names and shapes of its tensors."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from models.families.dat.network import ARCHITECTURES
from models.recognition.layout import Layout, ratio, require
from models.recognition.proposals import Candidate, Options, Question
from models.registry import defaults, without_defaults

_MOST_STAGES = 8


def propose(at: Layout) -> Iterator[Candidate]:
    """Read widths, blocks and tables from the shapes, which do not show how far points can move."""
    stages = at.indices("stages.")
    require(len(stages) <= _MOST_STAGES and stages == list(range(len(stages))))
    widths = [at.side("patch_proj.0.weight"), *(at.side(f"down_projs.{index}.0.weight") for index in stages[:-1])]
    attns = {stage: [f"stages.{stage}.attns.{i}." for i in at.indices(f"stages.{stage}.attns.")] for stage in stages}
    blocks = ["".join(_kind(at, attn) for attn in attns[stage]) for stage in stages]
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
    for position in _positions(at, deformable):
        side = _side(at, position, deformable, windowed, shared)
        sized = shared | ({"position": position} if deformable else {}) | ({"image_size": side} if side else {})
        yield _candidate(sized, moves, widths, side_known=side is not None)


def _kind(at: Layout, attn: str) -> str:
    if f"{attn}proj_q.weight" in at:
        return "D"
    return "S" if f"{attn}attn_mask" in at else "L"


def _positions(at: Layout, deformable: Mapping[int, str]) -> list[str]:
    attn = next(iter(deformable.values()), None)
    if attn is None or f"{attn}rpe_table" in at:
        return ["relative", "fixed"] if attn else ["relative"]
    return ["depthwise" if f"{attn}rpe_table.weight" in at else "none"]


def _side(
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


def _candidate(
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

    name = min((each.name for each in ARCHITECTURES), key=lambda each: len(completed(each)))
    questions: list[Question] = []
    if moves:
        why = "shapes do not show how far points can move"
        questions.append(Question("options.offset_range", why, 2.0, "cells, above 0"))
    if not side_known:
        why = "nothing in the file depends on the size of the images"
        likely = defaults(name)["image_size"]
        questions.append(Question("options.image_size", why, likely, "pixels"))
    return Candidate(name, completed(name), "cls_head.weight", tuple(questions))
