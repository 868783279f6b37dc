"""Tools in a conversation, as text: so that every stage that reads texts reads calls and their results too.

A conversation with tools begins (after its system text) with a turn of the role `tools`, the definitions as JSON. A
call stands in an assistant's text as Qwen's and Hermes' templates write it, ``<tool_call>`` around its name and
arguments; a result in a turn of the user, in ``<tool_response>``. `structured` gives the messages back as APIs and chat
templates take them. Without a turn of tools such marks are text like any other.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

TOOLS: Literal["tools"] = "tools"
"""The role of the turn that has the definitions."""

_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
_RESULT = re.compile(r"<tool_response>\n(.*?)\n</tool_response>", re.DOTALL)


class Call(NamedTuple):
    """A call of a tool."""

    name: str
    arguments: Any
    """Decoded; the text where it is no JSON."""

    @classmethod
    def of(cls, function: Mapping[str, Any]) -> "Call":
        """What an API's message has as `function`; Llama calls the arguments `parameters`."""
        given = function.get("arguments", function.get("parameters", {}))
        return cls(str(function.get("name")), _decoded(given) if isinstance(given, str) else given)

    @property
    def text(self) -> str:
        """As it stands in an assistant's text, arguments in the order in which they are given."""
        said = {"name": self.name, "arguments": self.arguments}
        return f"<tool_call>\n{json.dumps(said, ensure_ascii=False)}\n</tool_call>"


def message_text(content: str, calls: object) -> str:
    """The text of an assistant's message: what it says, and its `tool_calls` or `function_call`."""
    listed = calls if isinstance(calls, list) else [calls] if calls else []
    made = [Call.of(each.get("function", each)).text for each in listed if isinstance(each, dict)]
    return "\n".join([*([content] if content.strip() else []), *made])


def result_text(content: str) -> str:
    """The text of a result, for a turn of the user."""
    return f"<tool_response>\n{content}\n</tool_response>"


def definitions(tools: Any) -> str:
    """The text of the turn that has ``tools``, an API's `tools` or `functions` or JSON of these.

    Raises:
        ValueError: they are no list of definitions.
    """
    listed = json.loads(tools) if isinstance(tools, str) else tools or []
    if not (isinstance(listed, list) and all(isinstance(each, dict) for each in listed)):
        raise ValueError("the tools are no list of definitions")
    whole = [each if "function" in each else {"type": "function", "function": each} for each in listed]
    return json.dumps(whole, ensure_ascii=False)


def calls_in(text: str) -> tuple[str, list[Call]]:
    """What an assistant's text says beside its calls, and these."""
    calls, rest = list[Call](), list[str]()
    for place, part in enumerate(_CALL.split(text)):
        said = _decoded(part) if place % 2 else None
        if isinstance(said, dict) and "name" in said:
            calls.append(Call.of(said))
        else:
            rest.append(f"<tool_call>\n{part}\n</tool_call>" if place % 2 else part)
    return "".join(rest).strip(), calls


def structured(
    turns: Iterable[tuple[str, str]], *, as_text: bool
) -> tuple[list[dict[str, Any]], Sequence[Mapping[str, Any]]]:
    """The messages of a conversation, and its tools, as an API takes them or a chat template.

    Args:
        turns: role and text of each.
        as_text: whether arguments are JSON text, as in an API, or objects, as in a template.
    """
    listed = list(turns)
    if not any(role == TOOLS for role, _ in listed):
        return [{"role": role, "content": text} for role, text in listed], ()
    messages, tools, open_calls, count = list[dict[str, Any]](), list[dict[str, Any]](), list[tuple[str, str]](), 0
    for role, text in listed:
        said, calls = calls_in(text) if role == "assistant" else (text, [])
        results = _RESULT.findall(text) if role == "user" and open_calls else []
        if role == TOOLS:
            tools += json.loads(text)
        elif calls:
            ids = [f"call_{count + place}" for place in range(1, len(calls) + 1)]
            count += len(calls)
            open_calls = [*zip(ids, (call.name for call in calls), strict=True)]
            made = [
                {
                    "id": each,
                    "type": "function",
                    "function": {"name": call.name, "arguments": _arguments(call, as_text)},
                }
                for each, call in zip(ids, calls, strict=True)
            ]
            messages.append({"role": role, "content": said, "tool_calls": made})
        elif results:
            # A result too many answers the last call.
            named = [*open_calls, *open_calls[-1:] * len(results)][: len(results)]
            messages += [
                {"role": "tool", "tool_call_id": each, "content": result} | ({} if as_text else {"name": name})
                for (each, name), result in zip(named, results, strict=True)
            ]
        else:
            messages.append({"role": role, "content": text})
    return messages, tools


def same_calls(answer: str, wanted: str) -> float | None:
    """1 where two answers make the same calls, in whatever order: names and arguments equal as canonical JSON.

    0 where they do not; None where neither makes one.
    """
    made, meant = (sorted(json.dumps(call, sort_keys=True) for call in calls_in(each)[1]) for each in (answer, wanted))
    return float(made == meant) if made or meant else None


def _arguments(call: Call, as_text: bool) -> Any:
    if isinstance(call.arguments, str):
        return call.arguments
    return json.dumps(call.arguments, ensure_ascii=False) if as_text else call.arguments


def _decoded(text: str) -> Any:
    """What JSON says; the text itself where it is none, or only another text."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(found, str) else found
