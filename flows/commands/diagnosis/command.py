"""`tapir doctor`: every part that a run needs, what was found of it, and the remedy for each fault. Fixes nothing.

With `--try` one real request in each role: what is sent, what comes, what is read of it, its price. The first
instruction of the pool is labelled, answered, expanded and refined, and every judge scores the teacher's answer against
an empty-handed one. A few requests, paid like those of a run; how fast they were answered is kept for the estimate,
nothing else of them. A local server is asked some more at once, which shows how many it works at.
"""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from flows.commands.diagnosis import checks, configuration
from flows.commands.terminal import AsJson, Overrides, console, say
from flows.driver import read_config
from flows.prefect_server import server as prefect_server
from tapir_core import curriculum, errors, judging, probing, prompts, sources, task_types
from tapir_core.calls import (
    Answer,
    AnswerStore,
    CallEngine,
    EndpointSource,
    Message,
    Outcome,
    Request,
    Role,
    Scored,
    Tokens,
    client,
    wire,
)
from tapir_core.config import BudgetConfig, CallsConfig, EndpointConfig, RunConfig, Sampling, VllmEndpoint
from tapir_core.config.checks import missing_for_calls
from tapir_core.speeds import EndpointSpeed, keep_speeds
from tapir_core.text import Unparsed, shorten
from tasks import scoring
from tasks.asking import chat, conversation
from tasks.engines.endpoints import Endpoints, endpoint_source
from tasks.engines.training.pair import Compared

_STYLES = {"ok": "green", "warning": "yellow", "fault": "bold red"}
_LONGEST = 400
"""Characters of a prompt or reply that are shown."""
_AT_ONCE, _SHORT = 12, 128
"""Plain answers that a local server is asked for at once, and their longest, in tokens."""
_PAIR_LENGTH, _MOST_K = 1024, 32
"""Room of each model of a pair, in tokens, and the most of the likeliest that a round may ask for."""
_NO_ANSWER = "I do not know."
"""Of the student, whom nobody asks here."""


def doctor(
    config: Annotated[Path | None, typer.Argument(help="TOML file; what it needs is checked too.")] = None,
    root: Annotated[
        str | None, typer.Option(help="Folder of all runs; the configuration's, or `runs`, when left out.")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    attempt: Annotated[
        bool,
        typer.Option(
            "--try",
            help="Ask teacher and judges once in each role, paid, and show what comes. With --pair: serve both in "
            "turn, and let them score answers of each other.",
        ),
    ] = False,
    pair: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="TEACHER STUDENT", help="Two models: can the first score what the second samples?"),
    ] = None,
    chat_template: Annotated[
        str | None, typer.Option(help="With --pair: in place of both models' own, as student.chat_template.")
    ] = None,
) -> None:
    """`tapir doctor`."""
    if (overrides or (attempt and pair is None)) and config is None:
        asks = "--try asks whom a" if attempt else "--set replaces a value of a"
        raise errors.ConfigError(f"{asks} configuration names; name its file: `tapir doctor CONFIG …`")
    if (pair is None and chat_template) or (pair is not None and config is not None):
        raise errors.ConfigError("--pair compares two models without a configuration, --chat-template is for it alone")
    if pair is not None:
        found = configuration.pair_findings(*pair, chat_template, root or "runs")
        fits = attempt and not any(each.level == "fault" for each in found)
        _show([*found, *(try_pair(*pair, chat_template, root or "runs") if fits else ())], as_json=as_json)
    if attempt:
        assert config is not None
        raise typer.Exit(min(1, try_roles(read_config(config, overrides or [], look=missing_for_calls))))
    read, said = (None, []) if config is None else configuration.read_run(config, overrides or [])
    place = root or (read.run.root if read else "runs")
    prefect_server.ignore_settings(place, say, database=True)
    *here, last = checks.checks_of(place, read)
    *found, server = checks.examine([*here, *(configuration.run_checks(read, place) if read else ()), last])
    # What is on a server is only asked of one that answers.
    parts = [] if server.level == "fault" else checks.examine(checks.server_parts(place))
    _show([*said, *found, server, *parts], as_json=as_json)


def _show(found: Sequence[checks.Finding], *, as_json: bool) -> NoReturn:
    if as_json:
        typer.echo(findings_json(found))
    else:
        print_findings(console, found)
    raise typer.Exit(int(any(each.level == "fault" for each in found)))


def findings_json(findings: Sequence[checks.Finding]) -> str:
    """The findings as one JSON object."""
    faults = sum(each.level == "fault" for each in findings)
    return json.dumps({"faults": faults, "findings": [asdict(each) for each in findings]}, indent=1, ensure_ascii=False)


def print_findings(console: Console, findings: Sequence[checks.Finding]) -> None:
    """A row for each part; the remedy stands below what it fixes."""
    columns = Column(no_wrap=True), Column(no_wrap=True), Column(overflow="fold")
    table = Table(*columns, box=None, show_header=False, padding=(0, 2, 0, 0))
    for each in findings:
        said = Text.assemble(each.found, (f"\n→ {each.remedy}" if each.remedy else "", "bold"))
        table.add_row(Text(each.level, style=_STYLES[each.level]), each.part, said)
    console.print(table)
    levels = Counter(each.level for each in findings)
    console.print(f"\nfaults {levels['fault']} · warnings {levels['warning']}", highlight=False)


def try_roles(config: RunConfig) -> int:
    """Ask teacher and judges as a run does, and show what comes; gives how many faults there are.

    What an endpoint refuses is left out, and said, as a run does it.

    Raises:
        ConfigError: an endpoint refuses what must not be left out, or the pool cannot be read.
        MissingPrerequisite: a key is not there, or nothing answers.
    """
    calls, pool = config.calls, sources.read_pool_of(config.data.pool, config.data, config.run.seed)
    rows = [*pool.rows.head(_AT_ONCE).iter_rows(named=True)]
    with _asking(calls, config.budget, config.run.root) as (engine, endpoints):
        trials = _Trials(engine, endpoints, calls)
        settled, found = probing.settle(config, {}, trials.ask)
        for line in probing.in_words(found):
            console.print(line, highlight=False)
        _try_each(settled, trials.attempt, rows[0])
        _keep_speeds(settled, trials, [conversation(row) for row in rows])
    return trials.faults


def try_pair(teacher: str, student: str, chat_template: str | None, root: str) -> list[checks.Finding]:
    """Let two models that fit draw and score answers, one after the other, as an on-policy round asks them.

    Raises:
        EngineError: one of them is not served.
    """
    pool = sources.standin_pool(scoring.ANSWERS, 2, 1)["instruction"]
    answers, words = dict[str, list[Tokens]](), dict[str, list[Tokens | None]]()
    found = list[tuple[str, Compared | None]]()
    for name, model in (("teacher", teacher), ("student", student)):
        served = VllmEndpoint(model=model, chat_template=chat_template, max_model_length=_PAIR_LENGTH)
        with _asking(CallsConfig(), BudgetConfig(), root) as (engine, endpoints):
            say(f"serving the {name} {model}")
            source = endpoint_source(served, endpoints, f"--pair {name}")
            scorer = scoring.Scorer(partial(engine.ask, source=source), served.answers_as("teacher"))
            drawn = scorer.tokens([scorer.drawing(chat(text), _SHORT) for text in pool])
            answers[name] = [each for each in drawn if each is not None]
            found.append((name, scoring.check_own(scorer, answers[name])))
            asked = [Scored(each.prompt, each.ids, _MOST_K) for each in answers["teacher"]]
            words[name] = scorer.word_on(asked)
            if name == "teacher" and asked:
                found += [(name, scoring.check_places(scorer, asked)), (name, scoring.check_steady(scorer, asked[0]))]
    found.append(("teacher", scoring.check_lead(*words.values())))
    silent = Compared("answers", "a request failed, so that this could not be checked", "look at its server's log")
    return [
        checks.Finding(f"{name}: {each.part}", "fault" if each.remedy else "ok", each.found, each.remedy)
        for name, each in ((name, each or silent) for name, each in found)
    ]


@contextmanager
def _asking(calls: CallsConfig, budget: BudgetConfig, root: str) -> Iterator[tuple[CallEngine, Endpoints]]:
    """An engine whose answers nobody keeps, and servers that end with it."""
    with (
        TemporaryDirectory() as folder,
        closing(Endpoints(calls.concurrency, lambda name: Path(folder, f"{name}.log"), root)) as endpoints,
        CallEngine(AnswerStore(f"sqlite:///{folder}/store.sqlite"), calls, run="doctor", budget=budget) as engine,
    ):
        yield engine, endpoints


def _keep_speeds(config: RunConfig, trials: "_Trials", asked: Sequence[tuple[Message, ...]]) -> None:
    """Of every endpoint that gave a reply; local servers are ``asked`` some more."""
    sampling = config.teacher.answering
    short = sampling.model_copy(update={"max_tokens": min(_SHORT, sampling.max_tokens)})
    speeds: dict[str, EndpointSpeed] = {}
    for where, endpoint in config.endpoints.items():
        # One server may be teacher and judge: what it has answered by now would be looked up.
        if (replies := trials.timed[endpoint.place]) and endpoint.place not in speeds:
            speeds[endpoint.place] = trials.at_once(EndpointSpeed.fit(replies), where, endpoint, short, asked)
            console.print(f"{where}: {speeds[endpoint.place].in_words}", highlight=False)
    if speeds:
        keep_speeds(config.run.root, speeds)
        console.print("`tapir estimate` counts with it.", highlight=False)


def _try_each(config: RunConfig, attempt: Callable[..., str], row: Mapping[str, Any]) -> None:
    teacher, own = config.teacher, config.run.prompts
    text, system, at = judging.show_instruction(row), row["system"], ("teacher.endpoint", teacher.endpoint)
    types = config.curriculum.types
    label = curriculum.Labelling(types, teacher.label_replies)
    task_type = task_types.OTHERS
    if label.is_open:
        asked = chat(label.render(prompts.load_prompt("label", own), text))
        task_type = attempt("label", *at, teacher.labelling, asked, label.parse, label.schema) or task_type
    taught = attempt("teach", *at, teacher.answering, conversation(row), str, teacher.answer_schema)
    if config.curriculum.expansion.max_waves:
        expansion = curriculum.render_expansion(prompts.load_prompt("expand", own), text, types.described(task_type))
        attempt("expand", *at, teacher.expanding, chat(expansion), curriculum.parse_expansion)
    if config.curriculum.refine:
        prompt = prompts.load_prompt(curriculum.refinement_prompt_name(types.family_of(task_type)), own)
        attempt("refine", *at, teacher.refining, chat(curriculum.render_refinement(prompt, text, system, taught)), str)
    mode, judge = judging.mode_of(config.judge), config.judge
    shown = {**row, "teacher": taught, "student": _NO_ANSWER}
    for where, endpoint in judge.endpoints.items():
        asked = chat(mode.render(prompts.load_prompt(judge.asked_as.prompt, own), shown, mode.places()[0]))
        attempt("judge", where, endpoint, judge.sampling, asked, partial(_scores, mode, asked[-1].content), mode.schema)


def _scores(mode: judging.JudgeMode, shown: str, raw: str) -> str | Unparsed:
    scores = mode.parse(raw, shown)
    if isinstance(scores, Unparsed):
        return scores
    return ", ".join(f"{name} {score:g}" for name, score in zip(mode.form.score_names(), scores, strict=True))


@dataclass
class _Trials:
    """Asks for real, and shows what was sent, what came and what was read of it."""

    engine: CallEngine
    endpoints: Endpoints
    calls: CallsConfig
    faults: int = 0
    timed: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    """Place of an endpoint → completion tokens and seconds of every reply that is shown."""

    def ask(self, field: str, endpoint: EndpointConfig, request: Request) -> Outcome:
        """What comes of one request to the endpoint that ``field`` sets, at once."""
        return self.engine.ask([request], self._source(field, endpoint))[0]

    def _source(self, where: str, endpoint: EndpointConfig) -> EndpointSource:
        """As a run has it, but that a slow one is asked for more than a few at once; it has as long to answer."""
        source = endpoint_source(endpoint.live, self.endpoints, where)
        return lambda: replace(source(), is_slow=False, timeout_seconds=client.timeout_of(source(), self.calls))

    def at_once(
        self,
        speed: EndpointSpeed,
        where: str,
        endpoint: EndpointConfig,
        sampling: Sampling,
        asked: Sequence[tuple[Message, ...]],
    ) -> EndpointSpeed:
        """With how many replies a local server works at, asked for some plain answers."""
        if not endpoint_source(endpoint.live, self.endpoints, where)().is_slow:
            return speed
        who = endpoint.answers_as("teacher")
        requests = [Request("teach", each, who.model, who.identity, sampling) for each in asked]
        started = time.monotonic()
        outcomes = self.engine.ask(requests, self._source(where, endpoint))
        answers = [each.completion_tokens for each in outcomes if isinstance(each, Answer)]
        return speed.beside_others(answers, time.monotonic() - started) if answers else speed

    def attempt(
        self,
        role: Role,
        field: str,
        endpoint: EndpointConfig,
        sampling: Sampling,
        messages: tuple[Message, ...],
        parse: Callable[[str], Any],
        schema: str = "",
    ) -> str:
        """Show one request in one role; gives what the stage reads of the reply, in words, empty where nothing."""
        who = endpoint.answers_as("judge" if role == "judge" else "teacher")
        request = Request(role, messages, who.model, who.identity, sampling, schema=schema)
        started = time.monotonic()
        outcome = self.ask(field, endpoint, request)
        seconds = time.monotonic() - started
        sent = wire.request_body(request, endpoint_source(endpoint, self.endpoints, field)())
        prompt = sent.pop("messages")[-1]["content"]
        rows = {"sent": json.dumps(sent, ensure_ascii=False), "prompt": shorten(prompt, _LONGEST)}
        if isinstance(outcome, Answer):
            self.timed[endpoint.place].append((outcome.completion_tokens, seconds))
            ended = (
                f"{outcome.finish_reason}; {outcome.prompt_tokens} + {outcome.completion_tokens} tokens, "
                f"{outcome.usd:.6f} USD, {seconds:.1f} s"
            )
            rows |= {"came": shorten(outcome.text, _LONGEST), "ended": ended}
        read, fault = _read(role, outcome, parse)
        rows |= {name: said for name, said in {"read": shorten(read, _LONGEST), "fault": fault}.items() if said}
        console.print(Text(f"{role} · {field}", style="bold"))
        table = Table(box=None, show_header=False, padding=(0, 1, 0, 1))
        for name, said in rows.items():
            table.add_row(Text(name, style=_STYLES.get(name, "dim")), Text(said))
        console.print(table)
        self.faults += bool(fault)
        return read


def _read(role: Role, outcome: Outcome, parse: Callable[[str], Any]) -> tuple[str, str]:
    """What a stage makes of a reply, in words, and why nothing can be made of it."""
    if not isinstance(outcome, Answer):
        return "", outcome.message
    value = parse(outcome.text)
    if isinstance(value, Unparsed):
        return "", f"cannot be read: {value.reason}"
    why = curriculum.unusable_reason(outcome.text, outcome.finish_reason) if role in ("teach", "refine") else None
    return str(value), why or ""
