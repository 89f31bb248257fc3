"""Caches of what takes long to compute, which threads that ask at the same time compute once."""

from collections.abc import Callable
from functools import lru_cache, wraps
from threading import Lock
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def computed_once(maxsize: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Cache like `lru_cache`, and let whoever asks for what is being computed wait for it; what raises is computed again.

    Args:
        maxsize: how many results are kept, those used last.
    """

    def decorate(compute: Callable[P, T]) -> Callable[P, T]:
        cached, lock_of = lru_cache(maxsize)(compute), lru_cache(maxsize)(lambda *_args, **_kwargs: Lock())
        making = Lock()

        @wraps(cached)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            with making:
                lock = lock_of(*args, **kwargs)
            with lock:
                return cached(*args, **kwargs)

        return call

    return decorate
