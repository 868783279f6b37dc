"""Whether a checkpoint's chat template renders a conversation: asked of a child, which loads the tokenizer."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tapir_core.errors import ConfigError, EngineError
from tasks.engines.endpoints import keyless_environment

__all__ = ["RenderedChat", "render_chat"]


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A conversation as the student sees it."""

    text: str
    takes_system: bool
    """Whether it may begin with a system message."""


def render_chat(folder: Path, chat_template: Path | None = None, *, timeout_seconds: float) -> RenderedChat:
    """Render a short conversation with the template of a checkpoint, or with the file that replaces it.

    Raises:
        ConfigError: the template cannot be rendered, or leaves out what was said.
        EngineError: the tokenizer was not loaded in time.
    """
    argv = [sys.executable, "-m", "tasks.engines.chat_template_main", str(folder.absolute())]
    argv += [str(chat_template.absolute())] if chat_template else []
    env = keyless_environment() | {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
    here = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(argv, env=env, cwd=here, capture_output=True, text=True, timeout=timeout_seconds)
    except subprocess.TimeoutExpired as exc:
        raise EngineError(f"the tokenizer of {folder} was not loaded within {timeout_seconds:g} s") from exc
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ConfigError(
            f"the chat template of {chat_template or folder} renders no conversation ({said}); mend it, or set "
            "student.chat_template to a Jinja file that does (configs/chat_templates/ has some)"
        )
    return RenderedChat(**json.loads(done.stdout.splitlines()[-1]))
