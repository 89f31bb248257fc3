"""What people call evaluations, and how they find them again."""

from typing import Annotated

from pydantic import Field, StringConstraints
from sqlalchemy import ColumnElement, Connection, and_, true, update

from common.validation import Frozen
from evaluation import EvaluationSpec
from service.sql.tables import EVALUATIONS

_LINE = StringConstraints(strip_whitespace=True, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")
_WORD = StringConstraints(strip_whitespace=True, min_length=1, max_length=50, pattern=r"^[^\x00-\x20\x7f]+$")
_TEXT = StringConstraints(strip_whitespace=True, max_length=10_000, pattern=r"^[^\x00]*$")


class Label(Frozen):
    """What people write on an evaluation; nothing of it changes a result."""

    name: Annotated[str, _LINE, Field(description="a line; empty shows the models in its place")] = ""
    tags: Annotated[tuple[Annotated[str, _WORD], ...], Field(max_length=20, description="single words")] = ()
    note: Annotated[str, _TEXT, Field(description="plain text of any number of lines")] = ""


UNLABELLED = Label()


def words_of(evaluation_id: str, spec: EvaluationSpec, label: Label) -> str:
    """The text in which an evaluation is looked for."""
    return "\n".join([evaluation_id, *spec.models, spec.dataset, label.name, *label.tags, label.note]).casefold()


def put_label(db: Connection, evaluation_id: str, spec: EvaluationSpec, label: Label) -> None:
    """Write a label in place of the one before."""
    written = {"label": label.model_dump_json(), "words": words_of(evaluation_id, spec, label)}
    db.execute(update(EVALUATIONS).where(EVALUATIONS.c.id == evaluation_id).values(**written))


def has_words(search: str) -> ColumnElement[bool]:
    """Whether every word of a search occurs in what is known of an evaluation, in any case, within a query about evaluations."""
    found = (EVALUATIONS.c.words.contains(word, autoescape=True) for word in search.casefold().split())
    return and_(true(), *found)
