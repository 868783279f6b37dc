"""Lines that commands print: what they came to on stdout, what they are at on stderr.

Light: `tapir --help` imports it with every command. A line is not broken, so that paths and addresses can be copied.
"""

from rich.console import Console

__all__ = ["console", "errors", "print_line", "say"]

console = Console()
errors = Console(stderr=True)


def print_line(console: Console, line: str) -> None:
    """A line as it is."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def say(line: str) -> None:
    """What a command is at."""
    errors.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)
