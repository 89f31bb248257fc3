"""What a family proposes for a checkpoint's tensors, and what it has to ask about them."""

from dataclasses import dataclass

Options = dict[str, object]
"""Constructor arguments of an architecture, by name."""


@dataclass(frozen=True)
class Question:
    """A fact that a file does not tell.

    Attributes:
        field: of the card, such as "preprocessing.crop".
        why: what makes it unknown, or what it is.
        likely: the answer taken when likely answers are accepted.
        allowed: which answers there are.
    """

    field: str
    why: str
    likely: object
    allowed: str


@dataclass(frozen=True)
class Candidate:
    """An architecture that the tensors may belong to.

    Attributes:
        architecture: a name that `create` knows.
        options: where they differ from the architecture's defaults.
        head: name of the classifier's weight, whose rows are the classes.
        questions: what shapes do not tell of the options.
    """

    architecture: str
    options: Options
    head: str
    questions: tuple[Question, ...] = ()
