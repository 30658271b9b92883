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
