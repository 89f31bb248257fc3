"""Names and shapes of a checkpoint's tensors, as families of architectures read them.

A file can have any tensors. Whatever a family always has is asked for in the ways below: where it is not there, or is impossible,
`NotMineError` ends the family's proposals. Any other error is a mistake in the family, and is not caught.
"""

import re

Shape = tuple[int, ...]

_WIDEST = 2**20
"""Most of anything that a layer has: products of a few sides stay far below what a tensor can have."""


class NotMineError(Exception):
    """The tensors are not those of this family."""


def require(fact: object) -> None:
    """End the proposals of a family unless something holds that is always so in it.

    Raises:
        NotMineError: it does not hold.
    """
    if not fact:
        raise NotMineError


def ratio(whole: int, part: int) -> int:
    """How many times a part, at least 1, goes into a whole.

    Raises:
        NotMineError: not once.
    """
    require(part <= whole)
    return whole // part


class Layout(dict[str, Shape]):
    """Shapes by name."""

    def __missing__(self, name: str) -> Shape:
        """Tell that a tensor is not there that the family always has.

        Raises:
            NotMineError: always.
        """
        raise NotMineError(name)

    def side(self, name: str, axis: int = 0) -> int:
        """Read one side of a tensor that the family always has; at least 1.

        Raises:
            NotMineError: it is not there, has no such axis, or the side is 0 or wider than any layer's.
        """
        shape = self[name]
        require(axis < len(shape) and 0 < shape[axis] <= _WIDEST)
        return shape[axis]

    def indices(self, prefix: str) -> list[int]:
        """Read the numbers that follow a prefix; at least one.

        Raises:
            NotMineError: there is none.
        """
        found = (re.match(r"\d+", name[len(prefix) :]) for name in self if name.startswith(prefix))
        numbers = sorted({int(match[0][:9]) for match in found if match})
        require(numbers)
        return numbers
