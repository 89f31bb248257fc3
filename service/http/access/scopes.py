"""Which scope a request needs, by its method; `require_admin` is declared where that is not enough.

A route that is added is thereby reserved to keys that may submit, unless it only reads.
"""

from service.accounts.callers import Caller
from service.accounts.keys import Scope

READING = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""

LOOKING = ("/changes", "/v2/repository/index")
"""How paths end that are only looked at, although by POST: parts of pages that have changed, and a list of models."""

COMPUTING = ("/predict", "/classify", "/infer", "/explain", "/try", "/dry-run", "/new/condition", "/new/preview")
"""How paths end that compute an answer by POST, and change nothing either."""


def needed_scope(method: str, path: str) -> Scope:
    """The scope without which a request is refused, whatever its route."""
    return Scope.READ if method in READING or (method == "POST" and path.endswith(LOOKING)) else Scope.SUBMIT


def is_change(method: str, path: str) -> bool:
    """Whether a request is to change something."""
    return needed_scope(method, path) is not Scope.READ and not (method == "POST" and path.endswith(COMPUTING))


def refusal(caller: Caller, needed: Scope) -> str:
    """Say why a caller is refused."""
    who = f"the API key {caller.key!r} has" if caller.key else "a request without one of the API keys has"
    return f"this needs the scope {needed}; {who} the scope {caller.scope}"
