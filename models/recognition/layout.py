"""Names and shapes of a checkpoint's tensors, as families of architectures read them.

A file can hold any tensors. A family reads what it always has in the ways below; where that is missing or impossible,
`NotMineError` ends the family's proposals. Any other error is a bug in the family, and is not caught.
"""

import re

Shape = tuple[int, ...]

_WIDEST = 2**20
"""Largest dimension of a layer: products of a few dimensions stay far below the number of elements a tensor can have."""


class NotMineError(Exception):
    """The tensors do not belong to this family."""


def require(fact: object) -> None:
    """End a family's proposals unless the tensors have a property that the family always has.

    Raises:
        NotMineError: they do not.
    """
    if not fact:
        raise NotMineError


def ratio(whole: int, part: int) -> int:
    """Divide a whole by a part of at least 1, rounded down.

    Raises:
        NotMineError: the part is larger than the whole.
    """
    require(part <= whole)
    return whole // part


class Layout(dict[str, Shape]):
    """Shapes of tensors by name."""

    def __missing__(self, name: str) -> Shape:
        """End the family's proposals: a tensor is missing that the family always has.

        Raises:
            NotMineError: always.
        """
        raise NotMineError(name)

    def side(self, name: str, axis: int = 0) -> int:
        """Read one dimension of a tensor that the family always has; at least 1.

        Raises:
            NotMineError: the tensor is missing, has no such axis, or the dimension is 0 or larger than any layer's.
        """
        shape = self[name]
        require(axis < len(shape) and 0 < shape[axis] <= _WIDEST)
        return shape[axis]

    def indices(self, prefix: str) -> list[int]:
        """List the numbers that follow a prefix in the names of tensors; at least one.

        Raises:
            NotMineError: no name has the prefix and a number.
        """
        found = (re.match(r"\d+", name[len(prefix) :]) for name in self if name.startswith(prefix))
        numbers = sorted({int(match[0][:9]) for match in found if match})
        require(numbers)
        return numbers
