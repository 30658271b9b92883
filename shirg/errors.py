"""The one exception that faces turn into a single line and exit code 2."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake that the user can mend.

    The message names the argument, the value received and what would work, because it is all that the user sees.
    """
