"""Prompts are files: one Jinja2 template a prompt, versioned by content, replaceable by a folder of the user's own.

The sections of a prompt are those that the shipped file uses. A template of the user's may use these, and must use
those that are not optional: a judge prompt without the answers would still run, and cost money for nothing. What goes
into a section is neutralised by whoever renders it (`tapir_core.judging.prompt`), not here.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import jinja2
import jinja2.meta

from tapir_core.errors import ConfigError

_SUFFIX = ".jinja2"
_SHIPPED = {file.stem: file for file in sorted(Path(__file__).parent.glob(f"*{_SUFFIX}"))}
_OPTIONAL = frozenset({"system", "reference"})
PROMPT_NAMES: tuple[str, ...] = tuple(_SHIPPED)
"""Names of the shipped prompts, which are also the names that a folder may replace."""

_ENVIRONMENT = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt file, read and checked."""

    name: str
    text: str
    version: str
    """First 12 hex digits of sha256 over the file's bytes."""

    def render(self, **sections: str | None) -> str:
        """The message that is sent. A section that the template uses and that is not given is an error."""
        return _compile(self.text).render(**sections)


def load_prompt(name: str, folder: str | None = None) -> Prompt:
    """Read the prompt ``name``: the file of that name in ``folder`` if there is one, otherwise the shipped file.

    Raises:
        ConfigError: the folder is missing or holds a prompt that TAPIR does not know, or the template is broken.
        KeyError: there is no prompt of this name.
    """
    path = _SHIPPED[name]
    sections = _used_sections(path.read_text(encoding="utf-8"))
    if folder is not None:
        if wrong := check_prompts(folder):
            raise ConfigError(wrong)
        own = Path(folder) / path.name
        path = own if own.exists() else path
    source = f"prompt file {str(path)!r}"
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
        if wrong := _wrong_sections(text, sections):
            raise ConfigError(wrong, source=source)
        _compile(text).render(dict.fromkeys(sections, "x"))
    except OSError as exc:
        raise ConfigError(f"{source} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{source} is not UTF-8 (byte {exc.start}); save it as UTF-8") from exc
    except jinja2.TemplateSyntaxError as exc:
        raise ConfigError(f"{source}, line {exc.lineno}: {exc.message}; correct the template") from exc
    except (jinja2.TemplateError, TypeError) as exc:
        raise ConfigError(f"{source} cannot be filled in: {exc}; correct the template") from exc
    return Prompt(name, text, hashlib.sha256(content).hexdigest()[:12])


def check_prompts(folder: str) -> list[str]:
    """What is wrong with a folder of prompt files of the user's own."""
    if not Path(folder).is_dir():
        return [f'run.prompts: value "{folder}": there is no such folder; make it or leave the field out']
    templates = sorted(file.name for file in Path(folder).iterdir() if file.suffix in (_SUFFIX, ".jinja", ".j2"))
    shipped = [file.name for file in _SHIPPED.values()]
    return [
        f'run.prompts: value "{folder}": {name} replaces no prompt; the prompts are {", ".join(shipped)}'
        for name in templates
        if name not in shipped
    ]


def _wrong_sections(text: str, sections: frozenset[str]) -> list[str]:
    used = _used_sections(text)
    unknown, known = ", ".join(sorted(used - sections)), ", ".join(sorted(sections))
    lacking = ", ".join(f"{{{{ {each} }}}}" for each in sorted(sections - _OPTIONAL - used))
    said = {
        f"it uses {unknown}, which is no section of this prompt; use {known}": unknown,
        f"it lacks {lacking}; add it": lacking,
    }
    return [sentence for sentence, holds in said.items() if holds]


@lru_cache(maxsize=64)
def _used_sections(text: str) -> frozenset[str]:
    return frozenset(jinja2.meta.find_undeclared_variables(_ENVIRONMENT.parse(text)))


@lru_cache(maxsize=64)
def _compile(text: str) -> jinja2.Template:
    return _ENVIRONMENT.from_string(text)
