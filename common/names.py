"""Names: looked up with a suggestion when one is misspelled, and written so that people can read them."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Generic, TypeVar

Item = TypeVar("Item")


class UnknownNameError(ValueError):
    """A name that does not exist; the message suggests the nearest and lists all. `kind` is what was looked up, such as "model"."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def unknown_name(kind: str, name: str, allowed: Iterable[str]) -> UnknownNameError:
    """Build the error for an unknown name.

    Args:
        kind: what was looked up, such as "model".
        name: the name received.
        allowed: all names that exist.
    """
    choices = sorted(allowed)
    nearest = get_close_matches(name, choices, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return UnknownNameError(kind, f"unknown {kind} {name!r}.{hint} Known: {', '.join(choices) or 'none'}.")


def printable(name: str) -> str:
    r"""Write a file's name so that it can be printed, sent and hashed: bytes that are not UTF-8 become \xff and the like."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def counted(count: int, noun: str, plural: str = "") -> str:
    """Write a number with its noun, such as "3 images"; `plural` is for nouns that need more than an s."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


class Registry(Generic[Item]):
    """Named items of one kind, in the order of registration."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._items: dict[str, Item] = {}

    def add(self, name: str, item: Item) -> None:
        """Register an item.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._items:
            raise ValueError(f"{self._kind} {name!r} is registered twice")
        self._items[name] = item

    def __getitem__(self, name: str) -> Item:
        if name not in self._items:
            raise unknown_name(self._kind, name, self._items)
        return self._items[name]

    def names(self) -> list[str]:
        """List the registered names."""
        return list(self._items)
