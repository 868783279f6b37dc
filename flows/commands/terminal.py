"""What the commands of `tapir` share: what a user gives them, and how they print.

All of it is imported when a command is given, and nothing by `tapir --help`. Only Prefect is imported later, by the
functions that need it: its settings must stand in the environment before.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Column
from rich.table import Table as RichTable
from rich.text import Text

from tapir_core import paths, run_folder
from tapir_core.reporting.page import Table

ConfigPath = Annotated[Path, typer.Argument(help="TOML file; shipped ones lie in configs/.", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="Replace a value.")]
RunName = Annotated[str, typer.Argument(help="Name of a run, or its folder.", show_default=False)]
Root = Annotated[str, typer.Option(help="Folder of all runs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Also = Literal["terminal"] | None
"""Of an option `--also`: ask anew, too, where a judge failed for good."""

console = Console()
"""What a command came to."""
errors = Console(stderr=True)
"""What it is at, and what went wrong."""

_TEXT_CELLS, _READABLE_CELLS = 12, 24
"""How narrow a column of text may become, in cells of the terminal, and how wide it is before figures are."""
_WORD = re.compile(r"\S+\s*")
_END = re.compile(r"[^\s–]*–\s*|[^\s–]+\s*")
"""An end of a span with its dash: `600 (590–`, `610)`."""


def run_ref(name: str, root: str) -> run_folder.RunRef:
    """The run that a user calls ``name``: its name below ``root``, its folder, or its address."""
    if "://" in name:
        folder_of_runs, _, name = name.rstrip("/").rpartition("/")
        return run_folder.RunRef(folder_of_runs, name)
    folder = Path(name if Path(name).name not in ("", "..") else os.path.abspath(name))
    if os.sep in name or (folder / paths.RUN_RECORD).exists():
        return run_folder.RunRef(str(folder.parent), folder.name)
    return run_folder.RunRef(root, name)


def print_lines(console: Console, *lines: str) -> None:
    """Lines as they are: none is broken, so that paths and addresses can be copied."""
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def say(line: str) -> None:
    """What a command is at."""
    errors.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)


def print_tables(console: Console, *tables: Table) -> None:
    """Title, table and note of those that have rows, however narrow the terminal: text is broken, a figure never is.

    Columns of figures line up at the right. What does not fit by words stands closer, then spans break after their
    dash; where even that is too wide, each row is a list of its cells.
    """
    for table in filter(None, tables):
        layout = _lay_out(table, console.width)
        if layout is None:
            _print_lists(console, table)
        else:
            _print_columns(console, table, *layout)
        if table.note:
            console.print(table.note, style="dim", highlight=False, markup=False)
        console.print()


def _lay_out(table: Table, room: int) -> tuple[int, list[int]] | None:
    """Blanks between columns, and the width of each; nothing where they need more ``room``."""
    columns = [*zip(table.columns, *table.rows, strict=True)]
    natural = [max(map(cell_len, cells)) for cells in columns]
    for gap, pieces in ((2, _WORD), (1, _WORD), (1, _END)):
        widths = [
            min(natural[place], _TEXT_CELLS)
            if place < table.text_columns
            else max((cell_len(piece.strip()) for cell in cells for piece in pieces.findall(cell)), default=0)
            for place, cells in enumerate(columns)
        ]
        spare = room - sum(widths) - gap * (len(widths) - 1)
        if spare >= 0:
            # From the left: text as wide as it is readable, then figures, which break only in the middle of a span.
            readable = [
                min(wide, _READABLE_CELLS) if place < table.text_columns else wide for place, wide in enumerate(natural)
            ]
            for place, wished in [*enumerate(readable), *enumerate(natural)]:
                more = min(spare, wished - widths[place])
                widths[place], spare = widths[place] + more, spare - more
            return gap, widths
    return None


def _print_columns(console: Console, table: Table, gap: int, widths: list[int]) -> None:
    columns = [
        Column(
            Text(name),
            justify="left" if place < table.text_columns else "right",
            width=widths[place],
            overflow="fold",
            header_style="dim",
        )
        for place, name in enumerate(table.columns)
    ]
    shown = RichTable(
        *columns,
        title=Text(table.title) if table.title else None,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, gap, 0, 0),
    )
    for row in table.rows:
        shown.add_row(*(Text(_broken(cell, width)) for cell, width in zip(row, widths, strict=True)))
    console.print(shown)


def _broken(cell: str, width: int) -> str:
    return " ".join(word if cell_len(word) <= width else word.replace("–", "–\n") for word in cell.split(" "))


def _print_lists(console: Console, table: Table) -> None:
    if table.title:
        console.print(Text(table.title, style="bold"))
    longest = max(map(cell_len, table.columns))
    names = [set_cell_size(name, longest) for name in table.columns[1:]]
    for row in table.rows:
        cells = (f"  {name}  {cell}" for name, cell in zip(names, row[1:], strict=True))
        console.print(Text("\n".join([row[0], *cells])), soft_wrap=True)
