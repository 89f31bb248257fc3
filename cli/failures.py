"""Message and exit status of a command that failed."""

from pydantic import ValidationError

from cli.exit_codes import BAD_REQUEST, FAILURE
from common.folders import FolderError
from service.http.problems import field_errors
from service.jobs.queries import DamagedEvaluationError
from service.jobs.queue import WrongStatusError
from service.jobs.removal.requests import InUseError
from service.preflight import StartError
from service.sql.database import StoreError
from withstand import ClientError


def ending_of(error: Exception) -> tuple[str, int] | None:
    """Describe an error in one line, with its exit status: 2 for a bad request, 1 for a failure; None for a defect of ours."""
    match error:
        case ValidationError():
            return "; ".join(map(str, field_errors(error.errors()))), BAD_REQUEST
        case FolderError() | StartError() | StoreError() | InUseError() | DamagedEvaluationError():
            return str(error), FAILURE
        case ValueError() | OSError() | WrongStatusError():
            return str(error), BAD_REQUEST
        case ClientError():
            refused = 400 <= (error.status or 500) < 500
            return str(error), BAD_REQUEST if refused else FAILURE
        case _:
            return None
