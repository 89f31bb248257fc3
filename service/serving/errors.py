"""Why a prediction or an explanation was not made; the HTTP layer decides how each is answered."""


class OverloadedError(RuntimeError):
    """Too much is waiting.

    Attributes:
        retry_after_s: when to try again, whole seconds.
    """

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class KeyLimitError(OverloadedError):
    """One API key has too much waiting; others are served."""


class TooLateError(RuntimeError):
    """There was no answer in time, and the request was dropped."""


class StuckError(RuntimeError):
    """All threads that predict hang."""


class NotLoadedError(RuntimeError):
    """A model is not in memory."""
