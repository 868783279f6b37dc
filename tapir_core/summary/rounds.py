"""One round of a run, read from its folder."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from tapir_core.config import HELDOUT
from tapir_core.curriculum import SeedCounts, count_unscored, share_table, shares_of, target_shares
from tapir_core.data.decontamination import CONTAMINATED
from tapir_core.judging import expected_orders
from tapir_core.judging.orders import combine_judges
from tapir_core.stages import Compared, StageAt, benchmark_stages, lines_of_round
from tapir_core.summary.formats import round_name
from tapir_core.summary.run_reader import Look
from tapir_core.summary.types import (
    BenchmarkHits,
    Decontamination,
    ExpansionSummary,
    MixtureSummary,
    RefinementSummary,
    RoundSummary,
)

__all__ = ["Pool", "benchmark_figures", "heldout_scores", "summarise_decontamination", "summarise_round"]

_GATES = ("length", "echo", "near_duplicate", "contaminated", "task_type", "teacher_answer", "difficulty")
_SHORTFALL = "shortfall: "


@dataclass(frozen=True, slots=True)
class Pool:
    """The first pool of a run, as far as it is known."""

    labels: pl.DataFrame | None = None
    """instruction_id, task_type of every instruction."""
    usable: pl.DataFrame | None = None
    """instruction_id, task_type of those with a usable teacher answer."""


def summarise_round(look: Look, number: int, first: Pool) -> RoundSummary:
    """What is done of round ``number``; ``first`` is the pool of round 1."""
    pool = _round_pool(look, number, first)
    difficulty = _difficulty(look, number)
    seeds = look.manifest(StageAt("select", number))
    return RoundSummary(
        number,
        stages=look.summarise_stages(lines_of_round(), number),
        pool=None if pool is None else pool.height,
        not_judged=_not_judged(look, number),
        difficulty=difficulty,
        unscored=None if pool is None or difficulty is None else _unscored(look, number, pool, difficulty.height),
        seeds=None if seeds is None else seeds.rows,
        delta=None if seeds is None else SeedCounts.of_manifest(seeds.counts).delta,
        expansion=_expansion(look, number),
        refinement=_refinement(look, number),
        mixture=_mixture(look, number, first),
        scores=heldout_scores(look, number),
        benchmarks=benchmark_figures(look, number),
    )


def _round_pool(look: Look, number: int, first: Pool) -> pl.DataFrame | None:
    """instruction_id and task_type of the round's pool; nothing for the backbone, which is trained on none."""
    earlier = [look.rows(StageAt("expand", each)) for each in range(1, number)]
    known = [rows.select("instruction_id", "task_type") for rows in earlier if rows is not None]
    if number < 0 or first.usable is None or len(known) < len(earlier):
        return None
    return pl.concat([first.usable, *known], how="vertical_relaxed")


def _difficulty(look: Look, number: int) -> pl.DataFrame | None:
    rows, seeds = look.rows(StageAt("difficulty", number)), look.rows(StageAt("select", number))
    if rows is None:
        return None
    chosen = (
        pl.lit(None, pl.Boolean) if seeds is None else pl.col("instruction_id").is_in(seeds["instruction_id"].implode())
    )
    return rows.select("instruction_id", "task_type", "mfd", "order_gap", chosen.alias("seed"))


def _not_judged(look: Look, number: int) -> str | None:
    config = look.run.config
    if number < 1 or config.judges(number):
        return None
    judged = config.verdict_round(number)
    return "drawn at random" if judged is None else f"MFD of {round_name(judged)}"


def _unscored(look: Look, number: int, pool: pl.DataFrame, scored: int) -> dict[str, int]:
    verdicts, judge, reasons = look.rows(StageAt("judge", number)), look.run.config.judge, {}
    if verdicts is not None:
        reasons = count_unscored(combine_judges(verdicts, judge.panel_rule), pool, expected_orders(judge))
    without = pool.height - scored - sum(reasons.values())
    return reasons | ({"no verdict was received": without} if without > 0 else {})


def _expansion(look: Look, number: int) -> ExpansionSummary | None:
    accepted, rejected = look.manifest(StageAt("expand", number)), look.rows(StageAt("expansion_rejected", number))
    if accepted is None or rejected is None:
        return None
    waves = look.waves(number)
    requests = [look.manifest(StageAt("wave_requests", number, wave)) for wave in waves]
    counts = _counted(rejected["gate"])
    ordered = {gate: counts.pop(gate) for gate in _GATES if gate in counts}
    asked = sum(manifest.rows for manifest in requests if manifest is not None)
    asking = [manifest for manifest in requests if manifest is not None and manifest.rows]
    return ExpansionSummary(asked, accepted.rows, len(asking), ordered | counts)


def _refinement(look: Look, number: int) -> RefinementSummary | None:
    rows = look.rows(StageAt("refine", number))
    if rows is None:
        return None
    kept = rows.filter(pl.col("accepted"))
    return RefinementSummary(kept.height, _counted(rows.filter(~pl.col("accepted"))["reason"]))


def _mixture(look: Look, number: int, first: Pool) -> MixtureSummary | None:
    at = StageAt("mix", number)
    rows, manifest = look.rows(at), look.manifest(at)
    if rows is None or manifest is None or first.labels is None:
        return None
    wanted = target_shares(look.run.config.curriculum.target_shares, shares_of(first.labels))
    return MixtureSummary(
        rows.height,
        int(manifest.counts.get("missing_examples", 0)),
        _counted(rows["origin"]),
        _shortfall(manifest.counts),
        share_table(first.labels, wanted, rows.select("task_type")),
    )


def _shortfall(counts: Mapping[str, float]) -> dict[str, int]:
    return {name.removeprefix(_SHORTFALL): int(count) for name, count in counts.items() if name.startswith(_SHORTFALL)}


def heldout_scores(look: Look, number: int) -> pl.DataFrame | None:
    """Held-out accuracies of a student by split and task type; nothing where it was not scored."""
    scores = look.rows(StageAt("evaluate", number))
    return None if scores is None else scores.filter(benchmark="heldout", metric="accuracy")


def benchmark_figures(look: Look, who: Compared) -> pl.DataFrame | None:
    """Figures of a student, or of a model of a file, on all benchmarks; nothing where it has none."""
    last = [benchmark_stages(name, who)[-1] for name in look.run.config.evaluation.asked]
    found = map(look.rows, last)
    tables = [rows for rows in found if rows is not None]
    return pl.concat(tables) if tables else None


def _counted(values: pl.Series) -> dict[str, int]:
    """Value → rows, the most frequent first, then by name."""
    counts: list[tuple[str, int]] = values.drop_nulls().value_counts().rows()
    return dict(sorted(counts, key=lambda pair: (-pair[1], pair[0])))


def summarise_decontamination(look: Look) -> Decontamination | None:
    """What was looked for and found; nothing before the pool was looked through, or where nothing is looked for."""
    pool = look.rows(StageAt("contaminated"))
    if pool is None:
        return None
    rounds = look.run.config.round_numbers
    found = {number: rows for number in rounds if (rows := look.rows(StageAt("contaminated", number))) is not None}
    expansion = Counter(name for rows in found.values() for name in rows["benchmark"])
    in_pool = Counter(pool["benchmark"])
    listed = [pool.with_columns(place=pl.lit("pool"))]
    listed += [rows.with_columns(place=pl.lit(f"expansion, {round_name(number)}")) for number, rows in found.items()]
    return Decontamination(
        tuple(
            BenchmarkHits(name, questions, in_pool[name], expansion[name])
            for name, questions in _questions(look).items()
        ),
        pl.concat(listed).select("place", *CONTAMINATED.names()),
    )


def _questions(look: Look) -> dict[str, int]:
    """Benchmark → its questions, a turn counting as one."""
    found: dict[str, int] = {}
    heldout, questions = look.manifest(StageAt("heldout")), look.rows(StageAt("questions"))
    if heldout is not None:
        found[HELDOUT] = heldout.rows
    if questions is not None:
        found |= dict(sorted(Counter(questions["benchmark"]).items()))
    return found
