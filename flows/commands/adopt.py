"""`tapir adopt`: from the file that a hosted model was fine-tuned with to a run that makes its successor.

Writes the rows of a pool and a configuration beside it; asks nobody but the user.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from flows.commands import init
from flows.commands.terminal import console, print_lines
from tapir_core import prices, randomness, sources, turns
from tapir_core.config import OpenAIEndpoint, load
from tapir_core.data import fine_tunes, records
from tapir_core.estimate.evidence import estimate_tokens

_JUDGE = "gpt-6-luna"
"""At OpenAI, where none is named."""
_MOST, _SHARE = 300, 0.3
"""Most rows that are held out, and their share of all; dev takes a third of them, test the others."""
_TOOLS = {
    "qwen": ("hermes", ""),
    "llama3": ("llama3_json", ""),
    "llama-3": ("llama3_json", ""),
    "smollm": ("hermes", "chatml-tools"),
}
"""Family → the parser of its calls, and a chat template that shows tools; empty is its own (docs/tools.md)."""


def adopt(
    file: Annotated[Path, typer.Argument(help="Fine-tuning examples, preference pairs or stored completions.")],
    config: Annotated[Path, typer.Argument(help="The file to write; the rows stand beside it.")] = Path("adopted.toml"),
    model: Annotated[str | None, typer.Option(help="The fine-tune, as its API calls it.")] = None,
    address: Annotated[str | None, typer.Option(help="Of its OpenAI-compatible API.")] = None,
    judge: Annotated[str | None, typer.Option(help="Another model there, which compares the answers.")] = None,
    student: Annotated[
        str | None, typer.Option(help="`embedded`, a preset (qwen2.5, …), a model folder or a hub id.")
    ] = None,
    usd: Annotated[float | None, typer.Option(help="The most to spend.")] = None,
    price: Annotated[
        tuple[float, float] | None,
        typer.Option(help="USD for a million prompt and completion tokens of the fine-tune.", show_default="listed"),
    ] = None,
) -> None:
    """`tapir adopt`."""
    pool = config.with_suffix(".jsonl")
    with init.whole([config, pool], "--model, --address, --judge, --student, --usd and --price"):
        found = fine_tunes.read_fine_tune(str(file))
        rows = len(found.rows)
        drawn = found.held_out(max(2, min(_MOST, int(_SHARE * rows))), randomness.derive_rng(0, "adopt"))
        held_out = sum(group in drawn for group in found.groups)
        asked = init.Asked(
            str(pool),
            "",
            model or init.until("The fine-tune, as its API calls it (ft:…)", str),
            judge=judge or "",
            heldout={"test": max(1, held_out - held_out // 3), "dev": max(1, held_out // 3)},
            answered_by=(min(found.models) if len(found.models) == 1 else "") or file.name,
            longest=max(estimate_tokens(row.answer or "") for row in found.rows),
            whole=max(
                sum(estimate_tokens(each.content) for each in turns.messages_of(row._asdict())) for row in found.rows
            ),
        )
        asked = init.ask(asked, student, asked.teacher, address, usd)
        has_tools = any(turns.has_tools(row._asdict()) for row in found.rows)
        name = "smollm" if asked.embedded else (asked.preset or Path(asked.backbone).name).lower()
        asked = replace(
            asked,
            judge=asked.judge
            or init.until("Judge: another model there", str, _JUDGE if asked.address == init.OPENAI else ""),
            price=price or _price(asked),
            tools=next((each for family, each in _TOOLS.items() if has_tools and name.startswith(family)), None),
        )
        trained = found.write(pool, drawn)
        config.write_text(init.text_of(asked, config, rows), encoding="utf-8")
        lost = sources.clean_pool(load.load_config(config)).lost
    print_lines(
        console,
        f"{file}: {rows:,} rows, {sum(bool(row.answer) for row in found.rows):,} with an answer. "
        f"{trained:,} answers are trained on, in {pool}; "
        f"{asked.teacher} is asked for {rows - trained:,}; students are compared with it on {held_out:,}.",
        *(
            "A local address is free, without a cap; --price and --usd give one."
            for _ in [0]
            if asked.local and not asked.usd
        ),
        *(f"Left out: {count:,} {what}." for what, count in found.left_out.items()),
        *(f"Warning: {len(found.bad):,} broken rows are left out:" for _ in found.bad[:1]),
        *(f"  {each}" for each in records.first_of([*found.bad])),
        *(f"Warning: {each}." for each in [lost] if each),
        init.next_steps(asked, config),
    )


def _price(asked: init.Asked) -> tuple[float, float] | None:
    """What the fine-tune costs, where no list says it and something is paid."""
    if not asked.usd or not isinstance(
        prices.price_of(OpenAIEndpoint(model=asked.teacher, base_url=asked.address)), prices.UnknownPrice
    ):
        return None
    return (
        init.until(f"USD for a million prompt tokens of {asked.teacher}", float),
        init.until(f"USD for a million completion tokens of {asked.teacher}", float),
    )
