"""A student engine beside the product: llama.cpp's own server, given a GGUF file.

A GGUF file is one fixed student: `gguf` is the backbone's. A checkpoint of a training is served from a file that the
command `convert` makes of it when its server starts; without that command it is refused, for the backbone's file would
answer in its place. A file is known by its name: give another file another name.
"""

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from tapir_core.config import SERVED_NAME, Free, StudentEngine
from tapir_core.errors import ConfigError, MissingPrerequisite
from tapir_core.paths import TRAINING_SUMMARY
from tasks.engines.keys import offline_environment
from tasks.engines.student_server import Installed, Launch, StudentServer, serve


class LlamaCppEngine(StudentEngine):
    """llama.cpp's `llama-server`, which the run starts for each checkpoint and stops before training."""

    served_by: ClassVar = "driver"

    type: Literal["llama_cpp"] = "llama_cpp"

    gguf: str
    """The backbone as a GGUF file."""

    convert: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Words of a command that writes the checkpoint `{checkpoint}` to the file `{gguf}`; trained students need it."""

    max_model_length: PositiveInt = 2048
    """Tokens of prompt and answer together."""

    program: Free[str] = "llama-server"
    """llama.cpp's server: a path, or a name in `PATH`."""

    threads: Free[PositiveInt] = 4
    """Threads that compute."""

    concurrency: Free[PositiveInt] = 4
    """Requests in flight to the server, each with a context of its own."""

    start_timeout_seconds: Free[PositiveFloat] = 120.0
    """Longest wait until the server is ready."""

    @property
    def in_words(self) -> str:
        """The file is the model as it was quantized."""
        return f"llama.cpp with {Path(self.gguf).name}"

    def lacking(self) -> Iterator[str]:
        """Its program and the backbone's file."""
        if shutil.which(self.program) is None:
            yield f"student.engine.program: {self.program} is no program; install llama.cpp, or name its llama-server"
        if not Path(self.gguf).is_file():
            yield f"student.engine.gguf: {self.gguf} is no file; name the backbone's GGUF file"


class LlamaServer(StudentServer):
    """`llama-server` for one checkpoint."""

    engine: LlamaCppEngine

    def launch(self, port: int, key: str) -> Launch:
        """How llama-server is started; it samples as a request says and not otherwise.

        Raises:
            ConfigError: the checkpoint was trained, and nothing makes a GGUF file of it.
        """
        engine, trained = self.engine, (self.checkpoint / TRAINING_SUMMARY).exists()
        if trained and not engine.convert:
            raise ConfigError(
                f"{self.checkpoint} was trained, and student.engine.gguf is the backbone; name a command that makes a "
                'GGUF file of a checkpoint, as student.engine.convert = ["convert_hf_to_gguf.py", "{checkpoint}", '
                '"--outfile", "{gguf}"] with the script of llama.cpp'
            )
        # In the folder for temporary files that goes with the child.
        file = "student.gguf" if trained else str(Path(engine.gguf).absolute())
        convert = [word.format(checkpoint=self.checkpoint.absolute(), gguf=file) for word in engine.convert]
        steps = [*([shlex.join(convert)] if trained else []), f"exec {shlex.join(self._command(file, port))}"]
        env = offline_environment() | {"LLAMA_API_KEY": key}
        command = ["sh", "-c", " && ".join(['cd "$TMPDIR"', *steps])]
        return Launch(command, env, engine.concurrency)

    @classmethod
    def installed(cls, engine: LlamaCppEngine) -> Installed:
        """Program and file; what the program was built for it does not tell."""
        if lacking := list(engine.lacking()):
            raise MissingPrerequisite("; ".join(lacking))
        return Installed(f"{shutil.which(engine.program)} with {engine.gguf}", device=None)

    def _command(self, file: str, port: int) -> list[str]:
        engine, template = self.engine, self.student.template
        options: dict[str, object] = {
            "--model": file,
            "--alias": SERVED_NAME,
            "--host": self.host,
            "--port": port,
            "--ctx-size": engine.max_model_length * engine.concurrency,
            "--parallel": engine.concurrency,
            "--threads": engine.threads,
            "--top-k": 0,
            "--min-p": 0.0,
            **({"--chat-template-file": template.absolute()} if template else {}),
        }
        program = shutil.which(engine.program) or engine.program
        return [str(Path(program).absolute()), "--jinja", *(str(word) for pair in options.items() for word in pair)]


serve(LlamaCppEngine, LlamaServer)
