"""Tables on a terminal: figures are whole at any width."""

import io
import re
from datetime import datetime

import pytest
from rich.console import Console

from flows.commands.store import print_stats
from flows.commands.terminal import print_tables
from tapir_core.reporting.page import Table
from tapir_core.store_admin import AnswerGroup, StoreSize, StoreStats

SPAN = "840,123,456 (500,000,001–1,100,000,002)"
WIDE = Table(
    "Estimate of a-run-with-a-long-name-that-goes-on-and-on-0123456789 by stage",
    ("Stage", "Asks", "Answers", "To ask for", "Tokens in", "USD", "Hours"),
    (
        ("benchmark_replies of a_benchmark_with_a_long_name", "judge", "12,345,678", SPAN, "1.37M", "130.25", "12.5"),
        ("teacher and judge", "", "1", "2 (1–3)", "405k", "300.00 (50.00–1,300.00)", "–"),
    ),
    text_columns=2,
    note="Likely (lowest–highest).",
)


def printed(table: Table, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_tables(console, table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def figures(text: str) -> list[str]:
    return re.findall(r"[\d,.]*\d[kM%]?", text)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_no_figure_is_cut_however_narrow_the_terminal(width: int) -> None:
    shown = printed(WIDE, width)
    assert "…" not in shown
    wanted = [figure for row in WIDE.rows for cell in row for figure in figures(cell)]
    assert sorted(set(wanted) - set(figures(shown))) == []


def test_at_80_columns_a_table_of_seven_columns_stays_a_table() -> None:
    lines = printed(WIDE, 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("Stage") and line.rstrip().endswith("Hours") for line in lines)


def test_where_figures_do_not_fit_each_row_is_a_list_of_its_cells() -> None:
    lines = [line.rstrip() for line in printed(WIDE, 40).splitlines()]
    assert f"  To ask for  {SPAN}" in lines
    assert lines.index("teacher and judge") < lines.index("  Hours       –")


def test_with_room_enough_a_row_is_a_line() -> None:
    [line] = [line for line in printed(WIDE, 200).splitlines() if line.startswith("benchmark_replies")]
    assert SPAN in line


def test_a_store_of_long_names_and_large_figures_can_be_read_at_80_columns() -> None:
    group = AnswerGroup(
        role="benchmark",
        model="meta-llama/Meta-Llama-3.1-405B-Instruct-Turbo",
        identity="0123456789abcdef" * 4,
        prompt_version="a1b2c3d4e5f6",
        statuses={"answer": 12_345_678, "refused": 1_234},
        bytes=987_654_321_000,
        prompt_tokens=9_876_543_210,
        completion_tokens=0,
        usd=1_234_567.89,
        reused=7_654_321,
        first=datetime(2026, 1, 1),
        last=datetime(2026, 2, 1),
    )
    stats = StoreStats("sqlite:///s", StoreSize(1, 0), (group,))
    console = Console(file=io.StringIO(), width=80)
    print_stats(console, stats)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    for figure in ("12,346,912", "1,234", "9,876,543,210", "1,234,567.89", "7,654,321"):
        assert figure in figures(shown)
    assert "987.7 GB" in " ".join(shown.split())
