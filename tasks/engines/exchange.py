"""Gives a running vLLM server the weights of another checkpoint, and shows that it answers with them.

A start takes 85 to 107 s on a GPU that compiles, an exchange seconds. A checkpoint must be like the one before in all
but its weights, and say with which log-probabilities its trainer read a few fixed texts (`LOG_PROBS`). After the
exchange the server must agree with that, and before it must not have. Greedy answers would not do: vLLM's stale copy of
a head gave the right tokens, with log-probabilities that were 0.001 nats off.
"""

import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any, TypeVar

import httpx
from safetensors import SafetensorError, safe_open

from tapir_core.errors import EngineError
from tasks.engines import backbone

SERVED = "student"
"""The path of every checkpoint for its server, in the folder where that works."""

LOG_PROBS = "log_probs.json"
"""In a checkpoint: the ids of each text, and what its trainer made of all but the first, in nats."""

_TEXTS = (
    ("What is the capital of France?", "The capital of France is Paris."),
    ("Add 17 and 25.", "17 + 25 = 42"),
    ("Name three colours.", "Red, green and blue."),
    ("Write a sentence about rain.", "The rain fell softly on the roof all night."),
    ("Is 91 a prime number?", "No: 91 is 7 times 13."),
    ("Turn this into a question: you like tea.", "Do you like tea?"),
    ("Sort these words: pear, apple, fig.", "apple, fig, pear"),
    ("How do I boil an egg?", "Put it into boiling water for eight minutes, then cool it."),
)
"""Instruction, answer."""

TALKS = [[{"role": "user", "content": asked}, {"role": "assistant", "content": answer}] for asked, answer in _TEXTS]
"""As conversations."""

_LIMITS = {"float32": 1e-3}
_LIMIT = 0.15
"""Mean nats a token by which server and trainer may differ, by the server's precision: 135M in bfloat16 by 0.06."""
_CLEARER = 4
"""How many times further away the checkpoint before must be."""

_FREE_FIELDS = (
    *("use_cache", "dtype", "torch_dtype", "transformers_version", "_name_or_path"),
    *("is_local", "local_files_only", "name_or_path"),
)
"""Fields of config.json and tokenizer_config.json that change no answer: the precision is set by an option."""

_SECONDS = 60.0
"""For what takes a moment; who has not answered by then is started anew."""

Read = TypeVar("Read")
Told = list[list[float]]
"""Of each text the log-probability of each token but the first, nats."""


def mould(checkpoint: Path, *, own_template: bool) -> dict[str, Any] | None:
    """What a server keeps of the checkpoint that it was started with; None where its files do not say.

    ``own_template``: its chat template too.
    """
    found: dict[str, Any] = {}
    try:
        for file in sorted(checkpoint.iterdir()):
            if file.suffix == ".safetensors":
                with safe_open(file, framework="numpy") as opened:
                    found |= {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118
            elif backbone.matters(file.name) and not file.name.endswith(".index.json"):
                text = file.read_text(encoding="utf-8")
                found[file.name] = json.loads(text) if file.suffix == ".json" else text
        for name, field in product(("config.json", "tokenizer_config.json"), _FREE_FIELDS):
            found[name].pop(field, None)
    except (OSError, SafetensorError, ValueError, LookupError):
        return None
    if not own_template:
        found.pop("chat_template.jinja", None)
    return found


class Exchange:
    """One running server, whose weights can be exchanged."""

    def __init__(
        self, url: str, key: str, model: str, pid: int, precision: str, *, on_gpu: bool, copies: int, seconds: float
    ) -> None:
        """Asks it to score the texts.

        Args:
            url: Where it answers.
            key: Its key.
            model: The name under which it serves.
            pid: Of its process, in whose folder the path of its checkpoint lies.
            precision: In which it computes, as vLLM names it.
            on_gpu: Whether it can leave its memory to others.
            copies: Models that it balances over.
            seconds: Longest time to load weights.

        Raises:
            EngineError: it does not answer.
        """
        self._load_seconds = seconds
        self._url, self._headers = url, {"Authorization": f"Bearer {key}"}
        self._model, self._limit, self._on_gpu, self._copies = model, _LIMITS.get(precision, _LIMIT), on_gpu, copies
        self._path = Path(os.readlink(f"/proc/{pid}/cwd"), SERVED)
        self._ids = [self._tokens(talk) for talk in TALKS]
        self._told = self._score()

    def rest(self) -> None:
        """Leave the GPU's memory to others, weights included; on processors there is nothing to leave.

        Raises:
            EngineError: it does not.
        """
        if self._on_gpu:
            self._order("/sleep", params={"level": 2})

    def take(self, checkpoint: Path) -> float:
        """Answer with these weights, awake again; gives the mean difference from their trainer, in nats a token.

        Raises:
            EngineError: it does not, or that cannot be shown.
        """
        said = json.loads((checkpoint / LOG_PROBS).read_bytes())
        if said["ids"] != self._ids:
            raise EngineError("its trainer read other tokens")
        self._load(checkpoint)
        told = self._score()
        now, before = (_apart(each, said["log_probs"]) for each in (told, self._told))
        # So that what is no number is refused too.
        if not (now <= self._limit and now * _CLEARER <= before):
            raise EngineError(
                f"by its answers it is {now:.4f} nats a token from {checkpoint}, and was {before:.4f} from it before"
            )
        self._told = told
        return now

    def wake(self, checkpoint: Path) -> None:
        """Answer again with the weights that it had.

        Raises:
            EngineError: it does not.
        """
        if self._on_gpu:
            self._load(checkpoint)
            if not (now := _apart(self._score(), self._told)) <= self._limit:
                raise EngineError(f"by its answers it is {now:.4f} nats a token from what it was before it rested")

    def _load(self, checkpoint: Path) -> None:
        new = self._path.with_name(f"{SERVED}.new")
        new.unlink(missing_ok=True)  # of an exchange that was cut off
        new.symlink_to(checkpoint.absolute())
        new.replace(self._path)
        if self._on_gpu:
            self._order("/wake_up", params={"tags": "weights"})
        self._order("/collective_rpc", json={"method": "take_weights"}, timeout=self._load_seconds)
        if self._on_gpu:
            self._order("/wake_up", params={"tags": "kv_cache"})
        # What it computed before lies there: new answers would go on from it, which no scoring shows.
        if not self._post("/reset_prefix_cache", lambda reply: reply is None or reply["success"]):
            raise EngineError("it keeps what it computed with the weights before")

    def _tokens(self, talk: list[dict[str, str]]) -> list[int]:
        asked = {"model": self._model, "messages": talk, "add_generation_prompt": False}
        return self._post("/tokenize", lambda reply: list[int](reply["tokens"]), json=asked)

    def _score(self) -> Told:
        """By every copy: copies that answer differently do not answer."""
        asked = [(ids, copy) for copy in range(self._copies) for ids in self._ids]
        with ThreadPoolExecutor(len(asked)) as pool:
            found = [*pool.map(self._score_one, *zip(*asked, strict=True))]
        texts = len(self._ids)
        first, *others = (found[each : each + texts] for each in range(0, len(found), texts))
        if not all(_apart(each, first) <= self._limit for each in others):
            raise EngineError("its copies answer differently")
        return first

    def _score_one(self, ids: list[int], copy: int) -> list[float]:
        asked = {"model": self._model, "prompt": ids, "prompt_logprobs": 0, "max_tokens": 1, "temperature": 0}
        to = {"X-data-parallel-rank": str(copy)} if self._copies > 1 else {}

        def read(reply: Any) -> list[float]:
            places = reply["choices"][0]["prompt_logprobs"][1:]
            return [float(place[str(each)]["logprob"]) for place, each in zip(places, ids[1:], strict=True)]

        return self._post("/v1/completions", read, headers=to, json=asked)

    def _order(self, path: str, **given: Any) -> None:
        self._post(path, lambda _: None, **given)

    def _post(
        self,
        path: str,
        read: Callable[[Any], Read],
        *,
        headers: Mapping[str, str] = MappingProxyType({}),
        timeout: float = _SECONDS,
        **given: Any,
    ) -> Read:
        own = {**self._headers, **headers}
        try:
            # Without the proxy that the environment may name.
            reply = httpx.post(f"{self._url}{path}", headers=own, timeout=timeout, trust_env=False, **given)
            reply.raise_for_status()
            return read(reply.json() if reply.content else None)
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as exc:
            raise EngineError(f"{path}: {exc!r}") from exc


def _apart(one: Told, other: Told) -> float:
    """Mean difference of the log-probabilities of two, in nats a token."""
    return fmean(abs(a - b) for ours, theirs in zip(one, other, strict=True) for a, b in zip(ours, theirs, strict=True))
