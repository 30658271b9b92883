"""Exceptions for mistakes of users, which commands print as one line and end with exit code 2."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake that the user can fix. The message names the argument, the value received and what would work."""


def missing_package(error: ImportError) -> str | None:
    """One line about a package that is missing or too old; None if the failed import is our own."""
    if (error.name or "").partition(".")[0] == "shirg":
        return None
    return (
        f"{error}: our own models and commands need more packages than enable_shirg: pip install 'shirg[full]', in an "
        "environment of its own where another code base needs older ones"
    )


class ItemError(UserError):
    """One record, question or image that cannot be used with this model, while others can.

    Evaluation and training list the item and continue. It is raised for a question without text or with several `<image>`, an
    image that cannot be opened, a prompt longer than the model's positions, and a budget above the tokens of an image's tiles.
    A missing tokenizer, a lack of memory or a bug is no `ItemError`.
    """
