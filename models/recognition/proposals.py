"""What a family proposes for a checkpoint's tensors, and the questions that the tensors leave open."""

from dataclasses import dataclass

Options = dict[str, object]
"""Constructor arguments of an architecture, by name."""


@dataclass(frozen=True)
class Question:
    """A fact that a file does not contain.

    Attributes:
        field: of the card, such as "preprocessing.crop".
        why: why the file does not contain it, or what it means.
        likely: the answer used when likely answers are accepted.
        allowed: the possible answers, in words.
    """

    field: str
    why: str
    likely: object
    allowed: str


@dataclass(frozen=True)
class Candidate:
    """An architecture that the tensors may belong to.

    Attributes:
        architecture: a name that `create` accepts.
        options: those that differ from the architecture's defaults.
        head: name of the last layer's weight, whose rows are the classes.
        questions: about options that shapes do not determine.
    """

    architecture: str
    options: Options
    head: str
    questions: tuple[Question, ...] = ()
