"""Decoding what strangers send takes seconds in proportion to pixels and bytes, or is refused before it begins."""

import time

import pytest

from common.pictures import PictureError, open_picture
from tests.common.bombs import ACCEPTED, REFUSED

QUICK_S = 3.0
"""Three times what the slowest takes on a slow core; without limits these take up to 46 s on a faster one."""


@pytest.mark.parametrize("kind", ACCEPTED)
def test_what_lies_around_the_pixels_takes_no_time(kind: str) -> None:
    data = ACCEPTED[kind]()
    began = time.thread_time()
    open_picture(data)
    assert time.thread_time() - began < QUICK_S


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_out_of_proportion_is_refused_at_once(kind: str) -> None:
    make, reason = REFUSED[kind]
    data = make()
    began = time.thread_time()
    with pytest.raises(PictureError, match=reason):
        open_picture(data)
    assert time.thread_time() - began < QUICK_S / 10
