"""How a command ends that failed."""

from pydantic import ValidationError

from common.folders import FolderError
from service.client import ClientError
from service.endings import BAD_REQUEST, FAILURE
from service.errors import field_errors
from service.preflight import StartError
from service.removal import InUseError
from service.store import StoreError


def ending_of(error: Exception) -> tuple[str, int] | None:
    """Say in one line what was wrong, with the exit status: a bad request ends with 2, a failure with 1; None for a defect."""
    match error:
        case ValidationError():
            return "; ".join(map(str, field_errors(error.errors()))), BAD_REQUEST
        case FolderError() | StartError() | StoreError() | InUseError():
            return str(error), FAILURE
        case ValueError() | OSError():
            return str(error), BAD_REQUEST
        case ClientError():
            refused = 400 <= error.problem.get("status", 500) < 500
            return str(error), BAD_REQUEST if refused else FAILURE
        case _:
            return None
