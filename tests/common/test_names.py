"""Names as people read them, and help for those that do not exist."""

import os

import pytest

from common import Registry, UnknownNameError, counted, printable


def test_bytes_that_are_not_utf8_can_be_printed() -> None:
    name = os.fsdecode(b"caf\xe9 \xc3\xa9")
    with pytest.raises(UnicodeEncodeError):
        name.encode()
    assert printable(name) == r"caf\xe9 é"


def test_numbers_have_their_noun() -> None:
    assert [counted(count, "image") for count in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert [counted(count, "class", "classes") for count in (1, 3)] == ["1 class", "3 classes"]


def test_an_unknown_name_lists_all_and_suggests_the_nearest() -> None:
    colours = Registry[int]("colour")
    with pytest.raises(UnknownNameError, match=r"^unknown colour 'red'\. Known: none\.$"):
        colours["red"]
    for name in ("red", "blue"):
        colours.add(name, len(name))
    assert (colours["blue"], colours.names()) == (4, ["red", "blue"])
    with pytest.raises(UnknownNameError, match=r"^unknown colour 'bleu'\. Did you mean 'blue'\? Known: blue, red\.$"):
        colours["bleu"]
    with pytest.raises(ValueError, match="colour 'red' is registered twice"):
        colours.add("red", 5)
