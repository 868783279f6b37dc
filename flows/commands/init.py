"""Before the first run: `tapir setup` builds the environment of the student's server, `tapir init` a configuration.

The environment is built from the pins that come with this package; the configuration from the answers to five
questions.
"""

import math
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, TypeVar, cast
from urllib.parse import urlsplit

import jinja2
import typer

from flows.commands.terminal import console, print_lines
from tapir_core import installation, sources
from tapir_core.calls.types import is_local
from tapir_core.config import EMBEDDED_STUDENT, DataConfig, FilePool, check_web_address, load
from tapir_core.config.student import PRESETS, shipped
from tapir_core.data.records import UnknownLayout
from tapir_core.errors import ConfigError, MissingPrerequisite
from tasks.engines import machine

OPENAI = "https://api.openai.com/v1"
_STANDIN = "standin"
_EMBEDDED = "embedded"
_ROWS = 600
"""Of a generated pool: enough to show something in minutes."""
_OTHER_KINDS = {"vl", "vision", "omni", "audio", "coder", "math", "embedding", "reranker"}
"""Words in the names of models of a family that its preset is not for."""
_FEWEST_STEPS = 24
"""An epoch should have, before a larger batch is worth more."""
_BATCHES = (8, 16, 32, 64, 128)

T = TypeVar("T")


def setup(
    student: Annotated[
        Literal["vllm-cpu", "vllm-cuda", "vllm-cuda-torch-2.11"] | None,
        typer.Option(help="vLLM for processors or NVIDIA GPUs; left out, what this machine has.", show_default=False),
    ] = None,
    torch_index: Annotated[
        str, typer.Option(metavar="URL", help="Index that torch comes from; left out, pip's usual one.")
    ] = "",
    python: Annotated[Path, typer.Option(help="The Python to build with.", show_default="this one")] = Path(
        sys.executable
    ),
) -> None:
    """`tapir setup`."""
    folder = installation.student_environment()
    pins = student or ("vllm-cuda" if machine.visible_gpus() else "vllm-cpu")
    index = ["--torch-index", torch_index] if torch_index else []
    command = [str(python), "-I", str(installation.BUILDER), str(folder), pins, *index]
    try:
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    except OSError as exc:
        raise ConfigError(f"--python {python}: {exc.strerror}; name an interpreter") from exc
    if done.returncode:
        raise MissingPrerequisite(f"the student's environment could not be built: {done.stderr.strip()}")
    print_lines(console, f"student environment: {installation.interpreter(folder)}")


@dataclass(frozen=True, slots=True)
class Asked:
    """The five answers."""

    instructions: str
    student: str
    teacher: str
    address: str = ""
    usd: float = 0.0
    """The most to spend; 0 where nothing is paid."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Field of an instruction → its name in the file, where that is another."""
    judge: str = ""
    """Another model than the teacher."""
    answered_by: str = ""
    """Whose answers the file has, where they are those of a fine-tune to move; the next three are for that too."""
    heldout: Mapping[str, int] = field(default_factory=dict)
    """Split → its rows, which are asked of the fine-tune."""
    longest: int = 0
    """Tokens of the longest answer, about."""
    whole: int = 0
    """Of the longest conversation before it."""
    tools: tuple[str, str] | None = None
    """Tool parser and chat template, where conversations have tools."""
    price: tuple[float, float] | None = None
    """USD for a million prompt and completion tokens, where no list says it."""

    @property
    def own(self) -> bool:
        """Whether the instructions are a file, and not generated."""
        return self.instructions != _STANDIN

    @property
    def standin(self) -> bool:
        """Whether the stand-in teaches and judges."""
        return self.teacher == _STANDIN

    @property
    def embedded(self) -> bool:
        """Whether the student is the one that comes from a Python package."""
        return self.student == _EMBEDDED

    @property
    def preset(self) -> str:
        """The preset of the student's family, as far as its name tells one; empty for none."""
        if self.embedded:
            return "smollm2"
        words = re.split(r"[-_]", Path(self.student).name.lower())
        # A name may be one word (Qwen2.5) or two (Llama-3.2); what follows another word (Qwen3-VL) is another family.
        begins = [words[0], "".join(words[:2])]
        found = [
            each for each in shipped("toml") if each.split("-")[0] in begins and {*each.split("-")[1:]} <= {*words}
        ]
        return "" if _OTHER_KINDS & {*words} else max(found, key=len, default="")

    @property
    def backbone(self) -> str:
        """As `student.backbone`."""
        if self.embedded:
            return EMBEDDED_STUDENT
        if self.student in shipped("toml"):
            return str(load.read_toml(PRESETS / f"{self.student}.toml")["student"]["backbone"])
        return self.student

    @property
    def local(self) -> bool:
        """Whether teacher and judge answer in the user's own network, where nothing is paid."""
        return not self.standin and is_local(self.address)

    @property
    def key(self) -> str:
        """Environment variable for the key, after the provider: none for the stand-in and for a local address."""
        host = urlsplit(self.address).hostname or ""
        if self.standin or self.local:
            return ""
        name = re.sub(r"\W", "_", [*host.split(".")[-2:-1], host][0]).upper()
        return f"{name}_API_KEY" if name[:1].isalpha() else "API_KEY"


def init(
    file: Annotated[Path, typer.Argument(help="The file to write.")] = Path("my_run.toml"),
    instructions: Annotated[str | None, typer.Option(help="A file, or `standin` for generated ones.")] = None,
    student: Annotated[
        str | None, typer.Option(help="`embedded`, a preset (qwen2.5, …), a model folder or a hub id.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="A model's name, or `standin`.")] = None,
    address: Annotated[str | None, typer.Option(help="Of the teacher's OpenAI-compatible API.")] = None,
    usd: Annotated[float | None, typer.Option(help="The most to spend.")] = None,
    column: Annotated[str | None, typer.Option(help="Of the file's columns the one with the instructions.")] = None,
) -> None:
    """`tapir init`."""
    with whole([file], "--instructions, --column, --student, --teacher, --address and --usd"):
        own, rows = _instructions(instructions, {} if column is None else {"instruction": column})
        asked = ask(own, student, teacher, address, usd)
        file.write_text(text_of(asked, file, rows), encoding="utf-8")
        few = sources.few_in_words(rows, load.load_config(file)) if asked.own else ""
    print_lines(console, (few and f"Warning: {few}.\n") + next_steps(asked, file))


@contextmanager
def whole(files: Sequence[Path], options: str) -> Iterator[None]:
    """New files of a command that asks its user: all of them, or where it is refused or interrupted none.

    Raises:
        ConfigError: one is there, or has no folder; a question has no answer, which ``options`` could have given.
    """
    if there := " and ".join(str(file) for file in files if file.exists()):
        raise ConfigError(f"there already: {there}; give another name, or remove what is there")
    if not files[0].parent.is_dir():
        raise ConfigError(f"{files[0]}: there is no folder {files[0].parent}; make it, or give another name")
    # Nothing was received that an interrupt could lose, and no training runs.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except BaseException as exc:
        for file in files:
            file.unlink(missing_ok=True)
        if not isinstance(exc, typer.Abort):
            raise
        raise ConfigError(
            f"{files[0]} is not written, for a question has no answer; give it at the terminal, or as {options}"
        ) from exc


def next_steps(asked: Asked, file: Path) -> str:
    """What to type after a configuration was written."""
    key = asked.key and f"export {asked.key}=…\n"
    return f"{file} is written. Next:\n{key}tapir doctor {file}\ntapir estimate {file}\ntapir run {file}"


def _instructions(given: str | None, columns: Mapping[str, str]) -> tuple[Asked, int]:
    """The first answer, with columns if the file has other names for them, and how many instructions it has."""

    def counted(where: str) -> tuple[Asked, int]:
        asked = Asked(where, "", "", columns=columns)
        try:
            return asked, _count(asked) if asked.own else _ROWS
        except UnknownLayout as unknown:
            question = f"Column with the instructions ({', '.join(unknown.found)})"
            named = replace(asked, columns=unknown.likely or {"instruction": until(question, str)})
            return named, _count(named)

    if given is not None:
        return counted(given)
    return until("Instructions: a file, or `standin` for generated ones", counted, default=_STANDIN)


def ask(own: Asked, student: str | None, teacher: str | None, address: str | None, usd: float | None) -> Asked:
    """What was not given, asked at the terminal.

    Raises:
        ConfigError: what was given cannot be.
    """
    asked = replace(
        own,
        student=student
        or typer.prompt(
            f"Student: `{_EMBEDDED}` (135M, for a laptop), a family ({', '.join(shipped('toml'))}), "
            "a model folder or a hub id",
            default=_EMBEDDED,
        ),
        teacher=teacher or typer.prompt("Teacher and judge: a model's name, or `standin`", default=_STANDIN),
    )
    if asked.standin:
        return asked
    at = _address(address) if address else until("Address of its OpenAI-compatible API", _address, default=OPENAI)
    asked = replace(asked, address=at)
    if usd is None and not asked.local:
        usd = until("The most to spend, in USD", lambda most: _affordable(asked, float(most)), default="20")
    return replace(asked, usd=_affordable(asked, usd or 0.0))


def _address(given: str) -> str:
    try:
        return check_web_address(given)
    except ValueError as wrong:  # which says nothing of what may be secret
        raise ConfigError(f"--address: {wrong}") from wrong


def _affordable(asked: Asked, usd: float) -> float:
    if not 0 <= usd < math.inf or not (usd or asked.local):
        raise ConfigError(f"--usd {usd:g}: nothing could be asked; give the most to spend")
    return usd


def until(question: str, take: Callable[[str], T], default: str = "") -> T:
    """The first answer that ``take`` accepts; each refusal is shown, and the question asked again."""

    def taken(answer: str) -> T:
        try:
            if not answer:
                raise ConfigError("this has no default; type an answer, or Ctrl-C to stop")
            return take(answer)
        except (ConfigError, ValueError) as refused:
            raise typer.BadParameter(
                str(refused) if isinstance(refused, ConfigError) else f"{answer!r} is no number"
            ) from refused

    return cast(T, typer.prompt(question, default=default, show_default=bool(default), value_proc=taken))


def _count(asked: Asked) -> int:
    pool = FilePool(path=asked.instructions, columns={**asked.columns})
    return sources.read_pool_of(pool, DataConfig(pool=pool), 0).rows.height


def text_of(asked: Asked, file: Path, rows: int) -> str:
    """The configuration, at most 30 lines; ``rows`` are the instructions that there are."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", file.stem).lstrip("-._") or "mine"
    template = jinja2.Template(
        Path(__file__).with_name("init.jinja2").read_text(encoding="utf-8"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    answer = 64 * math.ceil(1.25 * asked.longest / 64) or 512
    length = 256 * math.ceil((answer + 1.25 * asked.whole) / 256)
    batch_size = max((each for each in _BATCHES if each * _FEWEST_STEPS <= rows), default=_BATCHES[0])
    text = template.render(
        asked=asked, name=name, file=file, rows=rows, answer_tokens=answer, length=length, batch_size=batch_size
    )
    return f"{text.strip()}\n"
