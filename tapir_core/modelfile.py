"""The Modelfile of an exported student, for Ollama: chat template in Go's form, tokens that end an answer, sampling.

Only for families whose safetensors Ollama converts, and only with the chat template that is shipped for the family:
with another one the student would be asked otherwise than it was trained. Limits: written from Ollama's documentation
and never run with it; the token that begins a text is left to Ollama, which puts it first.
"""

from typing import Any

from tapir_core.config import StudentConfig
from tapir_core.config.student import PRESETS
from tapir_core.data.dataset import TRAIN_AGAIN, read_json
from tapir_core.storage import Storage

_FAMILIES = {
    "Qwen2ForCausalLM": "chatml",
    "LlamaForCausalLM": "llama3.2",
    "Gemma3ForCausalLM": "gemma3",
}
"""Architecture → the chat template that its preset names."""


def write_modelfile(checkpoint: Storage, student: StudentConfig) -> tuple[str, str]:
    """The Modelfile of the student in ``checkpoint``, empty where it has none, and why it has none, else empty."""
    there = checkpoint.files()

    def read(name: str) -> dict[str, Any]:
        return read_json(checkpoint, name, TRAIN_AGAIN) if name in there else {}

    [architecture, *_] = read("config.json").get("architectures") or [""]
    if architecture not in _FAMILIES:
        return "", f"the architecture {architecture or 'of its config.json'} is none of {', '.join(_FAMILIES)}"
    family = _FAMILIES[architecture]
    own = checkpoint.read_bytes("chat_template.jinja").decode() if "chat_template.jinja" in there else ""
    if own.strip() != (PRESETS / f"{family}.jinja").read_text(encoding="utf-8").strip():
        return "", f"its chat template is not `{family}`, for which alone one is written of {architecture}"
    ids = read("generation_config.json").get("eos_token_id", [])
    texts = {each["id"]: each["content"] for each in read("tokenizer.json").get("added_tokens", [])}
    stops = [texts[each] for each in (ids if isinstance(ids, list) else [ids]) if each in texts]
    if not stops:
        return "", "no token that ends an answer stands in its generation_config.json and tokenizer.json"
    parameters = {
        "temperature": student.sampling.temperature,
        "top_p": student.sampling.top_p,
        "num_predict": student.sampling.max_tokens,
        "num_ctx": student.room,
    }
    lines = [
        "# Never run with Ollama: written from its documentation. In this folder: ollama create NAME -f Modelfile",
        "FROM .",
        f'TEMPLATE """{(PRESETS / f"{family}.gotmpl").read_text(encoding="utf-8")}"""',
        *(f'PARAMETER stop "{each}"' for each in stops),
        *(f"PARAMETER {name} {value}" for name, value in parameters.items() if isinstance(value, int | float)),
    ]
    return "\n".join([*lines, ""]), ""
