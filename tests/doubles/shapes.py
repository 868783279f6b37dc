"""Providers in the shape of those that people use: what each refuses and how it words it. The stand-in's rules answer.

Shapes as documented or seen in issues of their clients in 2025 and 2026; only what differs from OpenAI's plain chat
completions is modelled.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from tapir_core.standin.rules import Behaviour
from tapir_core.standin.server import reply_to_json
from tests.doubles.provider import PROBE, FakeReply, RecordedCall, Status

THOUGHT_TOKENS = 40
"""Of each reply of a model that thinks."""


def openai_reasoning(call: RecordedCall) -> FakeReply:
    """A reasoning model of OpenAI: its own temperature alone, the newer name of the longest answer, hidden thoughts."""
    body = call.body
    if "max_tokens" in body:
        said = "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        return _openai_error(f"Unsupported parameter: {said}", "max_tokens", "unsupported_parameter")
    if body.get("temperature", 1) != 1:
        said = f"'temperature' does not support {body['temperature']} with this model. Only the default (1) value is"
        return _openai_error(f"Unsupported value: {said} supported.", "temperature", "unsupported_value")
    if "top_p" in body:
        said = "Unsupported parameter: 'top_p' is not supported with this model."
        return _openai_error(said, "top_p", "unsupported_parameter")
    if body.get("logprobs"):
        said = "You are not allowed to request logprobs from this model"
        return _openai_error(said, None, None, status=403)
    room = body["max_completion_tokens"]
    if room < 16:
        said = "Could not finish the message because max_tokens or model output limit was reached. Please try again"
        return _openai_error(f"{said} with higher max_tokens.", None, None)
    completion = _completion(body)
    usage = completion["usage"]
    if room <= THOUGHT_TOKENS:
        completion["choices"][0] |= {"finish_reason": "length"}
        completion["choices"][0]["message"] = {"role": "assistant", "content": "", "refusal": None}
        usage["completion_tokens"] = 0
    thought = min(room, THOUGHT_TOKENS)
    usage |= {"completion_tokens": usage["completion_tokens"] + thought}
    usage |= {"completion_tokens_details": {"reasoning_tokens": thought}}
    usage |= {"total_tokens": usage["prompt_tokens"] + usage["completion_tokens"]}
    return Status(200, completion)


def anthropic(call: RecordedCall) -> FakeReply:
    """Anthropic's compatible endpoint: takes a temperature or `top_p`, and leaves aside what it does not know."""
    if "temperature" in call.body and "top_p" in call.body:
        return _anthropic_error(
            "`temperature` and `top_p` cannot both be specified for this model. Please use only one."
        )
    return Status(200, _completion(call.body, without=("seed", "logprobs", "top_logprobs", "response_format")))


def anthropic_newest(call: RecordedCall) -> FakeReply:
    """A later model there, which takes no temperature at all."""
    if "temperature" in call.body:
        return _anthropic_error("`temperature` is deprecated for this model.")
    return anthropic(call)


def gemini(call: RecordedCall) -> FakeReply:
    """Gemini's compatible endpoint: errors in a list, no seed, and thoughts in the total alone."""
    if "seed" in call.body:
        said = 'Invalid JSON payload received. Unknown name "seed": Cannot find field.'
        details = [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{"description": said}]}]
        return Status(
            400, [{"error": {"code": 400, "message": said, "status": "INVALID_ARGUMENT", "details": details}}]
        )
    completion = _completion(call.body)
    usage = completion["usage"]
    usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"] + THOUGHT_TOKENS
    return Status(200, completion)


def vllm(call: RecordedCall) -> FakeReply:
    """vLLM with a parser of thoughts: they stand in `reasoning`; codes are numbers."""
    if call.body["max_tokens"] > 32_000:
        said = (
            f"This model's maximum context length is 16384 tokens. However, you requested {call.body['max_tokens']} "
            "output tokens. Please reduce the length of the input prompt or the number of requested output tokens."
        )
        error = {"message": said, "type": "BadRequestError", "param": "input_tokens", "code": 400}
        return Status(400, {"error": error})
    return Status(200, _with_message(_completion(call.body), reasoning="Let me see."))


def vllm_inline(call: RecordedCall) -> FakeReply:
    """vLLM without such a parser: thoughts stand before the answer."""
    completion = _completion(call.body)
    content = completion["choices"][0]["message"]["content"]
    return Status(200, _with_message(completion, content=f"<think>\nLet me see.\n</think>\n\n{content}"))


def ollama(call: RecordedCall) -> FakeReply:
    """Ollama: knows `max_tokens` alone and leaves the newer name aside; thoughts stand in `reasoning`."""
    if call.body.get("reasoning_effort"):
        said = '"small" does not support thinking'
        error = {"message": said, "type": "invalid_request_error", "param": None, "code": None}
        return Status(400, {"error": error})
    return Status(
        200, _with_message(_completion(call.body, without=("max_completion_tokens",)), reasoning="Let me see.")
    )


def llama_cpp(call: RecordedCall) -> FakeReply:
    """llama.cpp's server: thoughts in `reasoning_content`, its own timings, and errors by a type of its own."""
    words = sum(len(re.findall(r"\w+", message["content"])) for message in call.body["messages"])
    if words > 6000:
        said = f"request ({words} tokens) exceeds the available context size (8192 tokens), try increasing it"
        error = {"code": 400, "message": said, "type": "exceed_context_size_error", "n_prompt_tokens": words}
        return Status(400, {"error": {**error, "n_ctx": 8192}})
    completion = _with_message(_completion(call.body), reasoning_content="Let me see.")
    return Status(200, {**completion, "timings": {"prompt_n": words, "predicted_n": 5}})


def mistral(call: RecordedCall) -> FakeReply:
    """Mistral's API: an unknown field is a list of what is wrong, under 422."""
    if "seed" in call.body:
        wrong = {
            "type": "extra_forbidden",
            "loc": ["body", "seed"],
            "msg": "Extra inputs are not permitted",
            "input": 0,
        }
        flat = {"object": "error", "message": {"detail": [wrong]}, "type": "invalid_request_error"}
        return Status(422, {**flat, "param": None, "code": None})
    return Status(200, _completion(call.body))


SHAPES: dict[str, Callable[[RecordedCall], FakeReply]] = {
    each.__name__: each
    for each in (
        *(openai_reasoning, anthropic, anthropic_newest, gemini, vllm, vllm_inline, ollama, llama_cpp, mistral),
    )
}


def _completion(body: dict[str, Any], *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """What the stand-in answers; which of its roles is asked is the last word of the model's name."""
    role = body["model"].rpartition("-")[2]
    known = {name: value for name, value in body.items() if name not in without}
    completion: dict[str, Any] = reply_to_json({**known, "model": f"standin-{role}"}, Behaviour()).body
    message = completion["choices"][0]["message"]
    if body["messages"][-1]["content"] == PROBE:
        message |= {"content": "ready", "refusal": None}
    # A refusal is one in every form.
    if (wanted := known.get("response_format")) and message["content"]:
        message["content"] = _by_schema(wanted["json_schema"]["schema"], message["content"])
    return completion


def _by_schema(schema: dict[str, Any], text: str) -> str:
    """What a text of the stand-in says, as JSON."""
    numbers = iter(re.findall(r"\d+(?:\.\d+)?", text.rpartition("[[")[2]))
    label = text.rpartition("Task type: ")[2].strip()
    values = {
        name: float(next(numbers)) if each["type"] == "number" else label if "enum" in each else text
        for name, each in schema["properties"].items()
    }
    return json.dumps(values)


def _with_message(completion: dict[str, Any], **fields: str) -> dict[str, Any]:
    completion["choices"][0]["message"] |= fields
    return completion


def _openai_error(message: str, param: str | None, code: str | None, *, status: int = 400) -> Status:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return Status(status, {"error": error})


def _anthropic_error(message: str) -> Status:
    error = {"code": "invalid_request_error", "message": message, "type": "invalid_request_error", "param": None}
    return Status(400, {"error": error})
