"""The one exception that faces turn into a single line and exit code 2."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake that the user can mend.

    The message names the argument, the value received and what would work, because it is all that the user sees.
    """


def missing_package(error: ImportError) -> str | None:
    """One line for a package that is missing or too old; None if what cannot be imported is our own."""
    if (error.name or "").partition(".")[0] == "shirg":
        return None
    return (
        f"{error}: our own models and commands need more packages than enable_shirg: pip install 'shirg[full]', in an "
        "environment of its own where another code base needs older ones"
    )


class ItemError(UserError):
    """One record, question or image that cannot be used with this model, while others can.

    Evaluations and trainings list it and go on. It is raised for: a question without text or with several image marks, an
    image that cannot be opened, a prompt that is longer than the model was made for, more tokens asked of the tiles of an image
    than they have. Nothing else is an item's error: neither a missing tokenizer or memory nor a defect.
    """
