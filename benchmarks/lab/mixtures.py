"""What a student is trained on: the pool, verdicts, seeds, expansions, refined answers and mixtures of one recipe.

The core's own functions, in the order in which the tasks of the product call them, with the same generators; teacher
and judge are the stand-in's rules, called without a server. So a mixture is the product's, row for row, where the
student's answers are. Nothing is stored, since rules cost nothing.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import polars as pl

from tapir_core import curriculum
from tapir_core.config import RoundConfig, RunConfig, StandinEndpoint
from tapir_core.curriculum.expansion import ExpansionRequest
from tapir_core.data.decontamination import EvaluationQuestions, texts_asked
from tapir_core.data.readers import heldout_questions
from tapir_core.estimate.evidence import MESSAGE_TOKENS, estimate_tokens
from tapir_core.judging import Verdict, mode_of, show_instruction, verdict_rows
from tapir_core.prompts import Prompt, load_prompt
from tapir_core.randomness import derive_rng
from tapir_core.sources import read_heldout_of, read_pool_of
from tapir_core.stages import EXPAND, REFINE
from tapir_core.standin import rules

_STOP = "stop"

_LEAST_ERROR, _LEAST_GAIN, _FLOOR, _CAP = 0.05, 0.25, 0.25, 3.0
"""Of `following_shares`: ε, g, and how far a share may go from its target, as factors."""


def following_shares(
    target: Mapping[str, float], mastered: Mapping[str, float], gained: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Target shares moved to where the student errs and learns.

    share(t) ∝ π(t) · max(ε, 1 − a(t)) · max(g, what t gained an example of it, by the mean of all types), held between
    a quarter and three times π(t); the shares then need not sum to 1, as quotas scale them.

    Args:
        target: task type → π.
        mastered: task type → a, the share of the pool's instructions that are not hard.
        gained: task type → what a grew by in the round before for each example of it; nothing in the first round.
    """
    mean = sum(gained.values()) / len(gained) if gained else 0.0
    weights = {}
    for name, share in target.items():
        gain = gained.get(name, mean) / mean if gained and mean > 0 else 1.0
        weights[name] = share * max(_LEAST_ERROR, 1 - mastered.get(name, 0.0)) * max(_LEAST_GAIN, gain)
    scale = sum(target.values()) / sum(weights.values())
    return {name: min(_CAP * share, max(_FLOOR * share, weights[name] * scale)) for name, share in target.items()}


@dataclass
class Curriculum:
    """The data of one recipe, round by round. A round is made once the one before it is `kept`."""

    config: RunConfig
    follow_shares: bool = False
    """Whether target shares follow the student."""
    expansions: list[pl.DataFrame] = field(default_factory=list)
    """Accepted new instructions of each round kept, columns of `expand`."""
    mixtures: list[curriculum.Mixture] = field(default_factory=list)
    """Of each round kept."""
    difficulties: dict[int, pl.DataFrame] = field(default_factory=dict)
    """Round → the MFD of its pool."""
    replies: dict[str, dict[tuple[str, int], str | None]] = field(default_factory=lambda: defaultdict(dict))
    """What a call is for (label, teach, judge, expand, refine) → its prompt and sample index → the reply; the same
    question is asked once, as from the call store."""

    def calls(self) -> dict[str, dict[str, int]]:
        """What each kind of call that the recipe needs came to, by the estimate's count of tokens.

        Where nothing is chosen by difficulty, the pool's plain answers are needed of what is trained on only; and no
        label, where natural shares are taken and nothing is expanded.
        """
        return {
            what: {
                "calls": len(of),
                "prompt_tokens": sum(estimate_tokens(prompt) + MESSAGE_TOKENS for prompt, _ in of),
                "completion_tokens": sum(estimate_tokens(reply) for reply in of.values() if reply),
            }
            for what, of in sorted(self._needed().items())
        }

    def _needed(self) -> dict[str, dict[tuple[str, int], str | None]]:
        needed = dict(self.replies)
        if not self.difficulties:
            mixtures = [self.basic(), *self.mixtures]
            trained = {identity for each in mixtures for identity in each.rows["instruction_id"]}
            unread = self.examples.filter(~pl.col("instruction_id").is_in(trained))["instruction"].to_list()
            needed["teach"] = {key: reply for key, reply in needed["teach"].items() if key[0] not in {*unread}}
            if self.config.curriculum.target_shares == "natural" and "expand" not in needed:
                del needed["label"]
        return needed

    def _ask(self, what: str, text: str, sample: int = 0) -> str | None:
        """What the stand-in says to one user message; nothing where it refuses."""
        known = self.replies[what]
        if (text, sample) not in known:
            of = self.config.judge if what == "judge" else self.config.teacher
            assert isinstance(of.endpoint, StandinEndpoint)
            asked = rules.read_ask([{"role": "user", "content": text}], sample)
            behaviour = rules.Behaviour(
                of.endpoint.position_bias, of.endpoint.noise, of.endpoint.prefers, of.endpoint.logprobs
            )
            try:
                known[text, sample] = str(rules.say(asked, behaviour))
            except rules.Refusal:
                known[text, sample] = None
        return known[text, sample]

    @cached_property
    def heldout(self) -> pl.DataFrame:
        """dev and test."""
        return read_heldout_of(self.config.data.heldout, self.config).rows

    @cached_property
    def examples(self) -> pl.DataFrame:
        """The pool with task types and plain answers, by id."""
        data = self.config.data
        rows = read_pool_of(data.pool, data, self.config.run.seed).rows
        rows = rows.join(self._questions.find(rows), on="instruction_id", how="anti", maintain_order="left")
        replies = [self._ask("teach", text) for text in rows["instruction"]]
        taught = rows.select("instruction_id").with_columns(
            response=pl.Series(replies, dtype=pl.String),
            finish_reason=pl.Series([_STOP if reply else "refused" for reply in replies]),
        )
        usable = curriculum.split_usable(rows, taught, self._labels(rows)).examples
        return usable.join(rows.select("instruction_id", "reference"), on="instruction_id").sort("instruction_id")

    @cached_property
    def shares(self) -> Mapping[str, float]:
        """Pr(task type) of every mixture."""
        return curriculum.target_shares(self.config.curriculum.target_shares, curriculum.shares_of(self.examples))

    def pool(self, number: int) -> pl.DataFrame:
        """The pool of a round: the first one and what the rounds before it added."""
        added = [each.drop("seed_id", "wave") for each in self.expansions[: max(0, number - 1)]]
        return pl.concat([self.examples, *added], how="diagonal_relaxed").sort("instruction_id")

    def basic(self) -> curriculum.Mixture:
        """S_0's examples."""
        count, seed = self.config.basic_tuning.examples, self.config.run.seed
        drawn = curriculum.draw_basic(self.examples, count, derive_rng(seed, 0, "mix"))
        plain = pl.DataFrame(schema=REFINE.columns)
        return curriculum.assemble([drawn], self.examples, plain, count, derive_rng(seed, 0, "order"))

    def measure(self, number: int, answers: Mapping[str, str | None]) -> None:
        """Judge the student's ``answers`` to the pool of a round, instruction → answer, for its MFD.

        What has no answer has no MFD.
        """
        self.difficulties[number] = self._judge(number, answers)

    def measure_frontier(self, number: int, drawn: Sequence[Mapping[str, str | None]]) -> None:
        """p(1 − p) in place of the MFD: p is the share of ``drawn`` answers that the judge puts no lower than the
        teacher's."""
        judged = pl.concat([self._judge(number, each) for each in drawn])
        p = (pl.col("mfd") <= 0).mean()
        found = judged.group_by("instruction_id").agg(pl.exclude("mfd").first(), mfd=p * (1 - p))
        self.difficulties[number] = found.select(judged.columns).sort("instruction_id")

    def _judge(self, number: int, answers: Mapping[str, str | None]) -> pl.DataFrame:
        judge, pool = self.config.judge, self.pool(number)
        mode, prompt, verdicts = mode_of(judge), self._prompt(judge.asked_as.prompt), list[Verdict]()
        for row in pool.rename({"response": "teacher"}).iter_rows(named=True):
            if (own := answers[row["instruction_id"]]) is None:
                continue
            shown = {**row, "student": own}
            texts = {place: mode.render(prompt, shown, place) for place in mode.places()}
            replies = {place: self._ask("judge", text) for place, text in texts.items()}
            for place in filter(mode.rests_on, replies):
                said = [replies[each] for each in mode.rests_on(place)]
                scores = [mode.parse(each) for each in said]
                verdicts.append(mode.combine(row["instruction_id"], place, scores, said[0], "judge.endpoint"))
        labels = pool.select("instruction_id", "task_type")
        return curriculum.compute_difficulty(verdict_rows(verdicts), labels, judge.expected_orders)

    def _shares_of(self, judged: int | None) -> Mapping[str, float]:
        """Pr(task type) of the round whose pool was ``judged``."""
        if judged is None or not self.follow_shares:
            return self.shares
        now, before = self._mastered(judged), self._mastered(judged - 1) if judged - 1 in self.difficulties else None
        if before is None:
            return following_shares(self.shares, now)
        trained = curriculum.supply_of(self.mixtures[-1].rows)
        gained = {name: (a - before.get(name, 0.0)) / trained[name] for name, a in now.items() if name in trained}
        return following_shares(self.shares, now, gained)

    def _mastered(self, number: int) -> dict[str, float]:
        """Task type → share of the first pool's instructions that were not hard in a round (MFD ≤ 2)."""
        first = self.difficulties[number].join(self.examples, on="instruction_id", how="semi")
        return dict(first.group_by("task_type").agg((pl.col("mfd") <= 2).mean()).sort("task_type").iter_rows())

    def make_round(self, number: int, settings: RoundConfig) -> "RoundMade":
        """The mixture of a round of these settings; its pool is measured, where its selection reads difficulty."""
        judged, seed = self.config.verdict_round(number), self.config.run.seed
        used = frozenset(identity for each in self.mixtures for identity in each.rows["instruction_id"])
        if judged is None:
            candidates = self.pool(number).with_columns(mfd=pl.lit(None, pl.Float64))
        else:
            candidates = curriculum.trusted(self.difficulties[judged], self.config.curriculum.teacher_floor)
        rule, shares = settings.selection, self._shares_of(judged)
        of_rule = () if rule.reads_difficulty else used
        chosen = curriculum.select_seeds(rule, candidates, derive_rng(seed, number, "select"), of_rule)
        easy_rows = curriculum.easy_of(candidates, chosen.seeds)
        reach = curriculum.reach_of(easy_rows, shares)
        size = curriculum.size_round(settings.examples, settings.alpha or 0.0, reach)
        new = self._expand(number, chosen.seeds, curriculum.quotas(size.hard, shares))
        rngs = {part: derive_rng(seed, number, part) for part in ("hard", "easy", "order")}
        hard = curriculum.draw_hard(chosen.seeds, new, size.hard, shares, rngs["hard"], used)
        easy = curriculum.draw_easy(easy_rows, size.easy, shares, rngs["easy"], used)
        texts = pl.concat([self.pool(number), new.drop("seed_id", "wave")], how="diagonal_relaxed")
        refined = self._refine(hard.rows, texts)
        mixture = curriculum.assemble([hard, easy], texts, refined, settings.examples, rngs["order"])
        return RoundMade(mixture, new)

    def keep(self, made: "RoundMade") -> None:
        """Go on from this round."""
        self.mixtures.append(made.mixture)
        self.expansions.append(made.expansion)

    def _expand(self, number: int, seeds: pl.DataFrame, wanted: Mapping[str, int]) -> pl.DataFrame:
        """E_r, in waves."""
        settings, prompt = self.config.curriculum.expansion, self._prompt("expand")
        pool, nothing = self.pool(number), pl.DataFrame(schema=EXPAND.columns)
        held, accepted = nothing, nothing
        texts = {row["instruction_id"]: show_instruction(row) for row in pool.iter_rows(named=True)}
        described = self.config.curriculum.types.described
        for wave in range(1, settings.max_waves + 1):
            have = Counter(curriculum.supply_of(seeds)) + Counter(curriculum.supply_of(accepted))
            lacks = curriculum.lacking(wanted, have) if seeds.height else {}
            if not lacks:
                break
            rng = derive_rng(self.config.run.seed, number, "expand", wave)
            asked: list[ExpansionRequest] = curriculum.plan_wave(
                seeds, lacks, round_number=number, wave=wave, oversample=settings.oversample, rng=rng
            )
            messages = [
                curriculum.render_expansion(prompt, texts[each.seed_id], described(each.task_type)) for each in asked
            ]
            replies = [self._ask("expand", text, each.sample_index) for text, each in zip(messages, asked, strict=True)]
            own = curriculum.candidate_rows(asked, list(map(curriculum.parse_expansion, replies)), wave)
            candidates = pl.concat([held.select(own.columns), own], how="vertical_relaxed")
            known = pl.concat(map(texts_asked, [self.pool(1), *self.expansions, accepted]))
            contaminated = {*self._questions.find(candidates)["instruction_id"]}
            screened = curriculum.apply_gates(candidates, curriculum.text_gates(settings, prompt, known, contaminated))
            held, rows = curriculum.held_back(screened.rejected), screened.passed
            examined = self._examine(rows, lacks)
            said = examined.rename({"task_type": "label"})
            rows = rows.join(said, on="instruction_id", how="left", maintain_order="left")
            gated = curriculum.apply_gates(rows, curriculum.paid_gates(lacks))
            passed = curriculum.file_by_label(gated).passed.select(*EXPAND.columns)
            accepted = pl.concat([accepted, passed], how="vertical_relaxed")
        return accepted

    def _examine(self, rows: pl.DataFrame, lacks: Mapping[str, int]) -> pl.DataFrame:
        """The label of each candidate, and the plain answer of those whose task type is needed."""
        labels = self._labels(rows)
        needed = curriculum.needed_types(rows, labels["task_type"], lacks).to_list()
        texts = zip(rows["instruction"], needed, strict=True)
        replies = [self._ask("teach", text) if wanted else None for text, wanted in texts]
        endings = [_STOP if reply else None for reply in replies]
        return labels.with_columns(
            response=pl.Series(replies, dtype=pl.String), finish_reason=pl.Series(endings, dtype=pl.String)
        )

    def _refine(self, hard: pl.DataFrame, texts: pl.DataFrame) -> pl.DataFrame:
        if not self.config.curriculum.refine:
            return pl.DataFrame(schema=REFINE.columns)
        rows = hard.select("instruction_id", "task_type").join(texts.drop("task_type"), on="instruction_id")
        table = []
        for row in rows.iter_rows(named=True):
            family = self.config.curriculum.types.family_of(row["task_type"])
            prompt = self._prompt(curriculum.refinement_prompt_name(family))
            text = curriculum.render_refinement(prompt, show_instruction(row), row["system"], row["response"])
            refined = self._ask("refine", text)
            problem = curriculum.refinement_problem(row["response"], refined, family)
            table.append((row["instruction_id"], row["task_type"], row["response"], refined, problem is None, problem))
        return pl.DataFrame(table, schema=REFINE.columns, orient="row")

    def _labels(self, rows: pl.DataFrame) -> pl.DataFrame:
        """instruction_id and task_type, null where the teacher names none."""
        teacher, prompt = self.config.teacher, self._prompt("label")
        labelling = curriculum.Labelling(self.config.curriculum.types, teacher.label_replies)
        replies = (self._ask("label", labelling.render(prompt, text)) for text in rows["instruction"])
        parsed = [labelling.parse(reply) for reply in replies]
        names = [each if isinstance(each, str) else None for each in parsed]
        return rows.select("instruction_id").with_columns(task_type=pl.Series(names, dtype=pl.String))

    @cached_property
    def _questions(self) -> EvaluationQuestions:
        return EvaluationQuestions(heldout_questions(self.heldout), self.config.evaluation.decontamination)

    def _prompt(self, name: str) -> Prompt:
        return load_prompt(name, self.config.run.prompts)


@dataclass(frozen=True, slots=True)
class RoundMade:
    """What a round trains on."""

    mixture: curriculum.Mixture
    expansion: pl.DataFrame
    """Columns of `expand`."""
