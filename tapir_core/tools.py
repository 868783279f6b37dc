"""Tools in a conversation, as text: so that every stage that reads texts reads calls and their results too.

A conversation with tools begins (after its system text) with a turn of the role `tools`, the definitions as JSON. A
call stands in an assistant's text as Qwen's and Hermes' templates write it, ``<tool_call>`` around its name and
arguments; a result in a turn of the user, in ``<tool_response>``. `structured` gives the messages back as APIs and chat
templates take them. Without a turn of tools such marks are text like any other.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, NamedTuple

from tapir_core.text import encodable

TOOLS: Literal["tools"] = "tools"
"""The role of the turn that has the definitions."""

_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
_RESULT = re.compile(r"<tool_response>\n(.*?)\n</tool_response>", re.DOTALL)
_RESULTS = re.compile(rf"{_RESULT.pattern}(?:\n{_RESULT.pattern})*", re.DOTALL)


class Call(NamedTuple):
    """A call of a tool."""

    name: str
    arguments: Mapping[str, Any]

    @classmethod
    def of(cls, function: object) -> "Call":
        """What an API's message has as `function`; Llama calls the arguments `parameters`.

        Raises:
            ValueError: it has no name, or arguments that are no object.
        """
        said = function if isinstance(function, dict) else {}
        given = said.get("arguments", said.get("parameters")) or {}
        arguments = json.loads(given) if isinstance(given, str) else given
        if not (isinstance(said.get("name"), str) and isinstance(arguments, dict)):
            raise ValueError("a call of a tool has no name of a function, or arguments that are no JSON object")
        return cls(said["name"], arguments)

    @property
    def text(self) -> str:
        """As it stands in an assistant's text, arguments in the order in which they are given."""
        said = {"name": self.name, "arguments": self.arguments}
        return f"<tool_call>\n{_dumped(said).replace('</tool_call>', _ESCAPED_CALL)}\n</tool_call>"


def message_text(content: str, calls: object) -> str:
    """The text of an assistant's message: what it says, and its `tool_calls` or `function_call`.

    Raises:
        ValueError: a call is none of a function.
    """
    listed = calls if isinstance(calls, list) else [calls] if calls else []
    made = [Call.of(each.get("function", each) if isinstance(each, dict) else each).text for each in listed]
    return "\n".join([*([content] if content.strip() else []), *made])


_ESCAPED_CALL, _ESCAPED_RESULT = r"<\/tool_call>", r"<\/tool_response>"
"""Closing marks within a call, where JSON reads them as they were, and within a result."""


def result_text(content: str) -> str:
    """The text of a result, for a turn of the user; one that is marked already stays."""
    marked, bare = re.fullmatch(r"\s*<tool_response>\n?(.*?)\n?</tool_response>\s*", content, re.DOTALL), content
    if marked and "</tool_response>" not in marked[1]:
        bare = marked[1]
    return f"<tool_response>\n{bare.replace('</tool_response>', _ESCAPED_RESULT)}\n</tool_response>"


def definitions(tools: Any) -> str:
    """The text of the turn that has ``tools``, an API's `tools` or `functions` or JSON of these.

    Raises:
        ValueError: they are no list of definitions.
    """
    listed = json.loads(tools) if isinstance(tools, str) else tools or []
    whole = [
        each if not isinstance(each, dict) or "function" in each else {"type": "function", "function": each}
        for each in (listed if isinstance(listed, list) else [None])
    ]
    functions = [each["function"] if isinstance(each, dict) else None for each in whole]
    if not all(isinstance(each, dict) and isinstance(each.get("name"), str) for each in functions):
        raise ValueError("the tools are no list of functions with names")
    return _dumped(whole)


def calls_in(text: str) -> tuple[str, list[Call]]:
    """What an assistant's text says beside its calls, and these."""
    calls, rest = list[Call](), list[str]()
    for place, part in enumerate(_CALL.split(text)):
        if place % 2:
            with suppress(ValueError, RecursionError):
                calls.append(Call.of(json.loads(part)))
                continue
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
    messages, tools, asked, count = list[dict[str, Any]](), list[dict[str, Any]](), list[str](), 0
    for role, text in listed:
        said, calls = calls_in(text) if role == "assistant" else (text, [])
        results = _RESULT.findall(text) if asked and role == "user" and _RESULTS.fullmatch(text) else []
        if role == TOOLS:
            tools += json.loads(text)
        elif calls:
            made = [
                {
                    "id": f"call_{count + place}",
                    "type": "function",
                    "function": {
                        "name": call.name,
                        "arguments": _dumped(call.arguments) if as_text else call.arguments,
                    },
                }
                for place, call in enumerate(calls, start=1)
            ]
            messages.append({"role": role, "content": said, "tool_calls": made})
        elif results:
            # A result too many answers the last call.
            messages += [
                {
                    "role": "tool",
                    "tool_call_id": asked[min(place, len(asked) - 1)],
                    "content": result.replace(_ESCAPED_RESULT, "</tool_response>"),
                }
                for place, result in enumerate(results)
            ]
        else:
            messages.append({"role": role, "content": text})
        # Only the turn that follows calls has their results.
        asked = [f"call_{count + place}" for place in range(1, len(calls) + 1)]
        count += len(calls)
    return messages, tools


def same_calls(answer: str, wanted: str) -> float | None:
    """1 where two answers make the same calls, in whatever order: names and arguments equal as canonical JSON.

    `1.0` is `1`, as JSON has one kind of number. 0 where the calls differ; None where neither makes one.
    """
    called = (json.dumps(calls_in(each)[1]) for each in (answer, wanted))
    numbered = (json.loads(calls, parse_float=lambda said: json.loads(said.removesuffix(".0"))) for calls in called)
    made, meant = (sorted(json.dumps(call, sort_keys=True) for call in calls) for calls in numbered)
    return float(made == meant) if made or meant else None


def _dumped(value: Any) -> str:
    return encodable(json.dumps(value, ensure_ascii=False))
