"""What a user can act on, from a child to its driver: printed as one line of its standard error, raised again there."""

import re
import sys

from tapir_core import errors
from tapir_core.errors import TapirError

__all__ = ["tell_error", "told_error"]


def tell_error(error: TapirError) -> None:
    """Print it in the child."""
    print(f"tapir error {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)


def told_error(text: str, *, more: str = "") -> TapirError | None:
    """The last error that a child printed, if any, with ``more`` after its words."""
    told = re.findall(r"^tapir error (\w+): (.*)$", text, flags=re.MULTILINE)
    if not told:
        return None
    kind, message = told[-1]
    error: TapirError = getattr(errors, kind)(f"{message}{more}")
    return error
