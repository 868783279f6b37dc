"""A small, realistic run folder without any engine: real curriculum and stand-in, a student that is drawn by lot.

Every stage is written through `RunFolder`, so what is built here holds as a real run's stages do.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from tapir_core.config import RunConfig
from tapir_core.curriculum import (
    Gated,
    RoundSize,
    all_rejected,
    apply_gates,
    assemble,
    candidate_rows,
    compute_difficulty,
    draw_basic,
    draw_easy,
    draw_hard,
    draw_splits,
    easy_of,
    file_by_label,
    held_back,
    lacking,
    measure_rollouts,
    paid_gates,
    parse_expansion,
    plan_wave,
    quotas,
    reach_of,
    select_seeds,
    shares_of,
    size_round,
    split_usable,
    supply_of,
    target_shares,
    text_gates,
    trusted,
)
from tapir_core.curriculum.expansion import CONTAMINATED_GATE, ExpansionRequest
from tapir_core.data.dataset import Manifest, Part
from tapir_core.data.decontamination import EvaluationQuestions
from tapir_core.data.readers import heldout_questions, read_questions
from tapir_core.evaluation.scores import judges_in_words, score_answers, score_judged
from tapir_core.judging import combine_judges
from tapir_core.prompts import PROMPT_NAMES, load_prompt
from tapir_core.randomness import derive_rng
from tapir_core.run_folder import RunFolder, Seen, open_run
from tapir_core.run_state import judged_answers
from tapir_core.sources import standin_heldout, standin_pool
from tapir_core.stages import (
    EVALUATE,
    EXPAND,
    EXPANSION_REJECTED,
    QUESTIONS,
    REFINE,
    StageAt,
    heldout_stages,
    own_digest,
    plan,
)
from tapir_core.standin.families import recognise
from tapir_core.standin.rules import Ask, Behaviour, Refusal, expand
from tapir_core.text import digest
from tests.built_benchmarks import SKILL, BenchmarkStages
from tests.run_config import make_config
from tests.run_rows import (
    examined_candidates,
    judge_verdicts,
    pairs,
    refinements,
    student_answers,
    teacher_answers,
)

__all__ = ["build_run", "make_config"]


def build_run(
    root: Path | str,
    *,
    until: StageAt | None = None,
    config: RunConfig | None = None,
    student: Path | None = None,
    later: Sequence[StageAt] = (),
    **ingredients: str,
) -> RunFolder:
    """A run folder with every stage done up to ``until``, that one included; all of them without it.

    ``later`` are stages that the run does not plan, such as those of a benchmark that is asked by itself.
    ``student`` is a model folder that every training leaves; without one a checkpoint is a file of words. Benchmarks of
    lm-evaluation-harness are left to be asked.
    """
    prompts = {f"prompt:{name}": load_prompt(name).version for name in PROMPT_NAMES}
    builder = _Builder(run := open_run(config or make_config(root), {**prompts, **ingredients}), student)
    for at in plan(run.config):
        if at.benchmark is None or at.benchmark in run.config.evaluation.judged:
            builder.write(at)
        if at == until:
            break
    for at in later:
        builder.write(at)
    return run


class _Made(NamedTuple):
    """A stage as it was made once, to be laid into other runs."""

    at: StageAt
    manifest: Manifest
    contents: list[bytes]
    """Of its parts."""


_MADE: dict[str, list[_Made]] = {}
"""Digest of all that goes into a stage → the stage, and before it what was made on the way to it; of this process."""


class _Builder(BenchmarkStages):
    def __init__(self, run: RunFolder, student: Path | None) -> None:
        super().__init__(run)
        self.student = student
        self._before: list[str] = []
        """Digests of what the run has."""
        self._seen: Seen = {}

    def write(self, at: StageAt) -> None:
        """Make the stage, or lay what was made of the same before: most tests want much the same run."""
        goes_in = self._goes_in(at)
        if goes_in in _MADE:
            for each in _MADE[goes_in]:
                self._lay(each)
        else:
            self._sealed = list[StageAt]()
            getattr(self, f"_{at.name}")(at)
            _MADE[goes_in] = [self._taken(each) for each in self._sealed]
        self._before += [each.manifest.digest for each in _MADE[goes_in]]

    def _goes_in(self, at: StageAt) -> str:
        config = self.run.config
        said = config.model_dump(mode="json", exclude={"run"}) if at.benchmark or at.name == "evaluate" else {}
        by = own_digest(at, config, self.run.record.ingredients)
        return digest([by, repr(at), self.seed, said, str(self.student), self._files, self._before])

    @cached_property
    def _files(self) -> list[str]:
        """Digests of the files that the configuration names."""
        data, benchmarks = self.run.config.data, self.run.config.evaluation.benchmarks.values()
        named = [path for each in (data.pool, data.heldout) if each for path in each.files.values()]
        named += [path for each in benchmarks for path in each.all_files.values()]
        return [hashlib.sha256(Path(each).read_bytes()).hexdigest() for each in named if Path(each).is_file()]

    def _taken(self, at: StageAt) -> _Made:
        manifest = self.run.sealed(at)
        return _Made(at, manifest, [self.run.storage.read_bytes(f"{at.folder}/{part.name}") for part in manifest.parts])

    def _lay(self, made: _Made) -> None:
        at, manifest, contents = made
        for part, content in zip(manifest.parts, contents, strict=True):
            self.run.storage.write_bytes(f"{at.folder}/{part.name}", content)
        self.run.seal(at, [*manifest.parts], counts=manifest.counts, seen=self._seen)

    def _save(self, at: StageAt, rows: pl.DataFrame, **counts: float) -> None:
        super()._save(at, rows, **counts)
        self._sealed.append(at)

    def _round_pool(self, number: int) -> pl.DataFrame:
        """instruction_id, instruction, system, task_type, response."""
        first = split_usable(self._rows("pool"), self._rows("teach"), self._rows("label")).examples
        for stage in ("judged_heldout", "heldout_overlap") if self.run.config.data.judged else ():
            first = first.join(self._rows(stage), on="instruction_id", how="anti", maintain_order="left")
        later = [self._rows("expand", each).select(first.columns) for each in range(1, number)]
        return pl.concat([first, *later])

    def _shares(self) -> Any:
        return target_shares(self.run.config.curriculum.target_shares, shares_of(self._rows("label")))

    def _judged_heldout(self, at: StageAt) -> None:
        examples = split_usable(self._rows("pool"), self._rows("teach"), self._rows("label")).examples
        drawn = draw_splits(examples, self.run.config.data.judged.sizes(examples.height), self._rng(at))
        self._save(at, drawn.join(self._rows("pool").select("instruction_id", "reference"), on="instruction_id"))

    def _heldout_overlap(self, at: StageAt) -> None:
        self._save(at, self._evaluation().find(self._rows("pool")).clear(), checked=self._rows("pool").height)

    def _heldout(self, at: StageAt) -> None:
        source = self.run.config.data.heldout
        self._save(at, standin_heldout(source.dev, source.test, source.max_level, self.seed))

    def _questions(self, at: StageAt) -> None:
        self._save(at, read_questions(self.run.config.evaluation.benchmarks))

    def _contaminated(self, at: StageAt) -> None:
        source = self.run.config.data.pool
        found = self._evaluation().find(standin_pool(source.rows, source.max_level, self.seed))
        self._save(at, found, **self._evaluation().count(found))

    def _evaluation(self) -> EvaluationQuestions:
        heldout = [heldout_questions(self._rows(at.name)) for at in self._sets if self.run.holds(at)]
        benchmarks = [self._rows("questions")] if self.run.config.evaluation.benchmarks else []
        questions = pl.concat([pl.DataFrame(schema=QUESTIONS.columns), *heldout, *benchmarks])
        return EvaluationQuestions(questions, self.run.config.evaluation.decontamination)

    def _pool(self, at: StageAt) -> None:
        source = self.run.config.data.pool
        rows = standin_pool(source.rows, source.max_level, self.seed)
        if StageAt("contaminated") in plan(self.run.config):
            rows = rows.join(self._rows("contaminated"), on="instruction_id", how="anti", maintain_order="left")
        self._save(at, rows, duplicates=3)

    def _label(self, at: StageAt) -> None:
        pairs = [(identity, recognise(text).task_type) for identity, text in self._texts("pool")]
        rows = pl.DataFrame(pairs, schema=["instruction_id", "task_type"], orient="row")
        self._save(at, rows, **self._asked(rows.height))

    def _teach(self, at: StageAt) -> None:
        answers = teacher_answers(self._texts("pool"))
        self._save(at, answers, **self._asked(answers.height))

    def _answer_heldout(self, at: StageAt) -> None:
        texts = [self._rows(each.name).select("instruction_id", "instruction") for each in self._sets]
        rows = student_answers(pl.concat(texts), SKILL[at.round], self._rng(at))
        self._save(at, rows, **self._asked(rows.height))

    @property
    def _sets(self) -> list[StageAt]:
        return heldout_stages(self.run.config)

    def _judge_heldout(self, at: StageAt) -> None:
        answers, judged = self._rows("answer_heldout", at.round), self._rows("judged_heldout")
        verdicts = judge_verdicts(answers, judged, self.run.config.judge, self._rng(at))
        self._save(at, verdicts, **self._asked(verdicts.height))

    def _evaluate(self, at: StageAt) -> None:
        config, settings = self.run.config, f"student: {self.run.config.student.sampling.in_words}"
        answers, tables = self._rows("answer_heldout", at.round), [pl.DataFrame(schema=EVALUATE.columns)]
        if config.data.references:
            tables.append(score_answers(self._rows("heldout"), answers, settings))
        if config.data.judged:
            compared = judged_answers(self.run, at.round)
            who, limit = judges_in_words(config), config.data.judged.max_failed_share
            tables.append(
                score_judged(compared, judge=who, prompt_version="1", settings=settings, max_failed_share=limit)
            )
        self._save(at, pl.concat(tables))

    def _answer(self, at: StageAt) -> None:
        rows = student_answers(self._round_pool(at.round), SKILL[at.round - 1], self._rng(at))
        self._save(at, rows, **self._asked(rows.height))

    def _judge(self, at: StageAt) -> None:
        answers, pool = self._rows("answer", at.round), self._round_pool(at.round)
        verdicts = judge_verdicts(answers, pool, self.run.config.judge, self._rng(at))
        self._save(at, verdicts, **self._asked(verdicts.height))

    def _difficulty(self, at: StageAt) -> None:
        labels, judge = self._round_pool(at.round).select("instruction_id", "task_type"), self.run.config.judge
        verdicts = combine_judges(self._rows("judge", at.round), judge.panel_rule)
        self._save(at, compute_difficulty(verdicts, labels, judge.orders))

    def _select(self, at: StageAt) -> None:
        selection, rng = self.run.config.round(at.round).selection, derive_rng(self.seed, at.round, "select")
        used = () if selection.reads_difficulty else self._used(at.round)
        chosen = select_seeds(selection, self._candidates(at.round), rng, used)
        self._save(at, chosen.seeds, **chosen.counts)

    def _candidates(self, number: int) -> pl.DataFrame:
        judged = self.run.config.verdict_round(number)
        if judged is None:
            return self._round_pool(number).with_columns(mfd=pl.lit(None, pl.Float64))
        return trusted(self._rows("difficulty", judged), self.run.config.curriculum.teacher_floor)

    def _used(self, number: int) -> set[str]:
        """What a round draws last."""
        return {identity for each in range(1, number) for identity in self._rows("mix", each)["instruction_id"]}

    def _expand(self, at: StageAt) -> None:
        accepted, texts, rejected = [pl.DataFrame(schema=EXPAND.columns)], list[pl.DataFrame](), list[pl.DataFrame]()
        for wave in range(1, self.run.config.curriculum.expansion.max_waves + 1):
            if not self._request(StageAt("wave_requests", at.round, wave), pl.concat(accepted)):
                break
            screened, gated = self._gate(at.round, wave, pl.concat(accepted))
            accepted.append(gated.passed)
            texts.append(screened.rejected)
            rejected.append(gated.rejected)
        kept_back = all_rejected(texts, rejected)
        self._save(StageAt("expansion_rejected", at.round), kept_back)
        if StageAt("contaminated") in plan(self.run.config):
            held = kept_back.filter(gate=CONTAMINATED_GATE).unique("instruction_id", maintain_order=True)
            self._save(StageAt("contaminated", at.round), self._evaluation().find(held))
        self._save(at, pl.concat(accepted))

    def _request(self, at: StageAt, accepted: pl.DataFrame) -> int:
        seeds, wanted = self._rows("select", at.round), quotas(self._size(at.round).hard, self._shares())
        lacks = lacking(wanted, Counter(supply_of(seeds)) + Counter(supply_of(accepted)))
        self._lacks = lacks
        wave = plan_wave(seeds, lacks, round_number=at.round, wave=at.wave, oversample=1.0, rng=self._rng(at))
        rows = [(each.task_type, each.seed_id, each.sample_index) for each in wave]
        schema = {"task_type": pl.String, "seed_id": pl.String, "sample_index": pl.Int64}
        self._save(at, pl.DataFrame(rows, schema=schema, orient="row"))
        return len(rows)

    def _gate(self, number: int, wave: int, accepted: pl.DataFrame) -> tuple[Gated, Gated]:
        """Ask the stand-in and gate what it writes."""
        pool, columns = self._round_pool(number), ["instruction_id", "instruction"]
        texts = dict(pairs(pool))
        requests = [ExpansionRequest(*row) for row in self.run.rows(StageAt("wave_requests", number, wave)).rows()]
        written = []
        for each in requests:
            sections = {"seed": texts[each.seed_id], "task_type": each.task_type}
            reply = None
            with suppress(Refusal):  # it has no family of the task type that is wanted
                reply = expand(Ask(sections, str(sections), each.sample_index), Behaviour())
            written.append(parse_expansion(reply))
        candidates = candidate_rows(requests, written, wave)
        self._save(StageAt("wave_candidates", number, wave), candidates, **self._asked(len(requests)))
        if wave > 1:
            again = held_back(self.run.rows(StageAt("wave_screened", number, wave - 1)))
            candidates = pl.concat([again, candidates], how="vertical_relaxed")

        known = pl.concat([pool.select(columns), accepted.select(columns)])
        contaminated = {*self._evaluation().find(candidates)["instruction_id"]}
        gates = text_gates(self.run.config.curriculum.expansion, load_prompt("expand"), known, contaminated)
        screened = apply_gates(candidates, gates)
        self._save(StageAt("wave_screened", number, wave), _with_gates(screened))

        examined = examined_candidates(screened.passed)
        self._save(StageAt("wave_examined", number, wave), examined, **self._asked(2 * examined.height))
        labelled = examined.rename({"task_type": "label"})
        rows = screened.passed.join(labelled, on="instruction_id", validate="1:1", maintain_order="left")
        gated = file_by_label(apply_gates(rows, paid_gates(self._lacks)))
        gated = replace(gated, passed=gated.passed.select(EXPAND.columns.names()))
        self._save(StageAt("wave_gated", number, wave), _with_gates(gated))
        return screened, gated

    def _refine(self, at: StageAt) -> None:
        drawn = self._hard(at.round).rows.select("instruction_id", "task_type")
        rows = drawn.join(self._round_pool(at.round + 1).drop("task_type"), on="instruction_id")
        refined = refinements(rows.sort("instruction_id"))
        self._save(at, refined, **self._asked(refined.height))

    def _hard(self, number: int) -> Any:
        count, shares = self._size(number).hard, self._shares()
        seeds, new = self._rows("select", number), self._rows("expand", number)
        return draw_hard(seeds, new, count, shares, derive_rng(self.seed, number, "hard"), self._used(number))

    def _easy(self, number: int) -> pl.DataFrame:
        return easy_of(self._candidates(number), self._rows("select", number))

    def _size(self, number: int) -> RoundSize:
        settings = self.run.config.round(number)
        return size_round(settings.examples, settings.alpha or 0.0, reach_of(self._easy(number), self._shares()))

    def _mix(self, at: StageAt) -> None:
        config, number, rng = self.run.config, at.round, derive_rng(self.seed, at.round, "mix")
        counts: dict[str, float] = {}
        if number == 0:
            examples, wanted = self._round_pool(0), config.basic_tuning.examples
            mixture = assemble(
                [draw_basic(examples, wanted, rng)], examples, pl.DataFrame(schema=REFINE.columns), wanted, rng
            )
        else:
            wanted, hard, size = config.round(number).examples, self._hard(number), self._size(number)
            draws = [hard, draw_easy(self._easy(number), size.easy, self._shares(), rng, self._used(number))]
            if size.examples < size.asked:
                counts["reduced_to"] = float(size.examples)
            mixture = assemble(draws, self._round_pool(number + 1), self._rows("refine", number), wanted, rng)
        counts |= {f"shortfall: {name}": float(count) for name, count in mixture.shortfall.items()}
        self._save(at, mixture.rows, **counts, missing_examples=mixture.missing)

    def _rollout(self, at: StageAt) -> None:
        """Each prompt's tokens are three, drawn by lot."""
        rng, samples = self._rng(at), range(1, self.run.config.objective(at.round).rollouts + 1)
        rows = [
            (name, sample, [1, 2], rng.choices(range(3, 50), k=3), [-rng.random() for _ in range(3)], "stop")
            for name in sorted(self._rows("mix", at.round)["instruction_id"])
            for sample in samples
        ]
        self._save(at, pl.DataFrame(rows, schema=at.stage.columns, orient="row"), **self._asked(len(rows)))

    def _score(self, at: StageAt) -> None:
        """The teacher finds each of them less likely by a tenth of a nat and a round's number of tenths more."""
        less, drawn = 0.1 * (1 + at.round), self._rows("rollout", at.round)
        none = pl.lit([[], [], []], pl.List(pl.List(pl.Int32)))
        scores = drawn.select("instruction_id", "sample", pl.col("log_probs").list.eval(pl.element() - less))
        made = scores.with_columns(top_ids=none, top_log_probs=none).cast(at.stage.columns)
        self._save(at, made, **self._asked(made.height), **measure_rollouts(drawn, made))

    def _train(self, at: StageAt) -> None:
        files = {"model.safetensors": f"weights after {at}".encode()}
        if self.student is not None:
            files = {file.name: file.read_bytes() for file in sorted(self.student.iterdir())}
        for name, content in files.items():
            self.run.storage.write_bytes(f"{at.folder}/{name}", content)
        parts = [Part(name, 0, hashlib.sha256(content).hexdigest()) for name, content in files.items()]
        self.run.seal(at, parts, counts={"seconds": 41.0 + at.round})
        self._sealed.append(at)

    _average = _train

    def _texts(self, stage: str) -> list[tuple[str, str]]:
        return pairs(self._rows(stage).sort("instruction_id"))


def _with_gates(gated: Gated) -> pl.DataFrame:
    """Passed and rejected rows in one table, as the steps of a wave keep them."""
    empty = [pl.lit(None, pl.String).alias(name) for name in ("response", "gate") if name not in gated.passed.columns]
    return pl.concat([gated.passed.with_columns(empty).select(EXPANSION_REJECTED.columns.names()), gated.rejected])
