"""A chat template is proved by rendering a conversation."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from tapir_core import thoughts, tools
from tapir_core.config.student import PRESETS
from tapir_core.errors import ConfigError
from tasks.engines.training.chat import EXCHANGE, load_tokenizer, render, render_sample, unlearnt
from tasks.engines.training.launch import render_chat
from tests.students import make_checkpoint, make_tokenized

LOOP = "{% for m in messages %}"
ASKING = "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_tokenized(tmp_path)


def template(folder: Path, text: str) -> Path:
    file = folder / "other.jinja"
    file.write_text(text)
    return file


def trl_template(name: str) -> Path:
    """A family's own template, as TRL's wheel carries it."""
    trl = importlib.util.find_spec("trl")
    assert trl is not None
    assert trl.origin is not None
    return Path(trl.origin).parent / "chat_templates" / f"{name}.jinja"


def test_the_conversation_is_rendered_in_a_child(folder: Path) -> None:
    chat = render_chat(folder, timeout_seconds=120)
    assert chat.text.endswith("<|start|>assistant\n")
    assert "two plus two" in chat.text
    assert chat.takes_system


def test_a_template_that_fails_is_named_with_its_remedy(folder: Path) -> None:
    broken = template(folder, "{{ messages[0].content | no_such_filter }}")
    with pytest.raises(ConfigError, match=r"other\.jinja.*no_such_filter.*; fix it, or set student\.chat_template"):
        render_chat(folder, broken, timeout_seconds=120)


@pytest.mark.parametrize("file", sorted(PRESETS.glob("*.jinja")), ids=lambda file: file.stem)
def test_the_shipped_templates_render(folder: Path, file: Path) -> None:
    assert "two plus two" in str(render_sample(folder, file)["text"])


def test_a_template_that_leaves_words_out_is_no_template(folder: Path) -> None:
    with pytest.raises(ConfigError, match="leaves out 'What is"):
        render_sample(folder, template(folder, "hello"))


def test_a_template_may_refuse_system_messages(folder: Path) -> None:
    refusing = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{{ m['content'] }}{% endfor %}"
    )
    chat = render_sample(folder, template(folder, refusing))
    assert (chat["takes_system"], chat["other"]) == (
        False,
        'set student.chat_template to "alpaca" or "plain" (docs/backbones.md)',
    )


def test_a_template_that_refuses_everything_fails(folder: Path) -> None:
    with pytest.raises(ConfigError, match="never"):
        render_sample(folder, template(folder, "{{ raise_exception('never') }}"))


def test_a_template_that_asks_otherwise_than_it_trains_is_refused_with_templates_that_do_not(tmp_path: Path) -> None:
    folder = make_tokenized(tmp_path, "<|im_start|>", "<|im_end|>", vocab_size=514)
    asking = template(folder, LOOP + "<|start|>{{ m.role }}: {{ m.content }}<|end|>{% endfor %}" + ASKING)
    with pytest.raises(ConfigError, match=r"asked ….*assistant\\n', trained ….*assistant: It is.*; set") as caught:
        render_chat(folder, asking, timeout_seconds=120)
    named = re.findall('"(.+?)"', str(caught.value).partition("; set ")[2])
    assert named == ["chatml", "chatml-tools", "alpaca", "plain"]
    for name in named:
        render_sample(folder, PRESETS / f"{name}.jinja")


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("deepseek_r1_distill", "<｜end▁of▁sentence｜>"),
        ("qwen3_5_think", "<|im_end|>\n"),
        ("nemotron_3_nano", "<|im_end|>\n"),
    ],
)
def test_a_student_that_always_thinks_learns_to_close_its_thought(folder: Path, name: str, end: str) -> None:
    tokenizer = load_tokenizer(folder, trl_template(name))
    more = {"role": "user", "content": "And one more?"}
    for talk in (EXCHANGE, [{"role": "system", "content": "Be brief."}, EXCHANGE[0], EXCHANGE[1], more, EXCHANGE[1]]):
        [(prompt, written)] = render(tokenizer, [talk])
        assert prompt.endswith("<think>\n")
        assert written == f"\n</think>\n\nIt is four.{end}"


DEFINED = [
    {
        "type": "function",
        "function": {"name": "weigh", "description": "Weigh it.", "parameters": {"type": "object", "properties": {}}},
    }
]
CALLED = {"name": "weigh", "arguments": {"animal": "tapir", "unit": "kg"}}
AS_GIVEN: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How heavy is it?"},
    {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": CALLED}]},
    {"role": "tool", "content": "250 kg"},
    {"role": "assistant", "content": "It weighs 250 kg."},
]
"""As a family's own template takes it."""
AS_TEXT = [
    {"role": "system", "content": "Be brief."},
    {"role": "tools", "content": tools.definitions(DEFINED)},
    {"role": "user", "content": "How heavy is it?"},
    {"role": "assistant", "content": tools.Call.of(CALLED).text},
    {"role": "user", "content": tools.result_text("250 kg")},
    {"role": "assistant", "content": "It weighs 250 kg."},
]
"""The same, as stages have it."""


@pytest.mark.parametrize("family", ["qwen2_5", "qwen3", "llama3_1", "llama3_2", "qwen3_instruct_2507"])
@pytest.mark.parametrize("turns", [3, 5], ids=["a call is learnt", "an answer after a call is learnt"])
def test_tools_calls_and_results_are_rendered_as_the_familys_own_template_does(
    folder: Path, family: str, turns: int
) -> None:
    tokenizer = load_tokenizer(folder, trl_template(family))
    [(prompt, written)] = render(tokenizer, [AS_TEXT[: turns + 1]])
    asked, learnt = AS_GIVEN[: turns - 1], AS_GIVEN[:turns]
    assert prompt == tokenizer.apply_chat_template(asked, tools=DEFINED, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(learnt, tools=DEFINED, tokenize=False)
    assert written.strip()
    assert whole.endswith(written.lstrip("\n"))
    if turns == 3:
        assert all(each in written for each in ("weigh", "tapir"))
    assert '"weigh"' in prompt, "the definitions are asked with, not learnt"


def test_chatml_with_tools_writes_what_its_parser_reads(folder: Path) -> None:
    tokenizer = load_tokenizer(folder, PRESETS / "chatml-tools.jinja")
    [(prompt, written)] = render(tokenizer, [AS_TEXT[:4]])
    assert prompt.startswith("<|im_start|>system\nBe brief.\n\nTools:\n{")
    called = '<tool_call>\n{"name": "weigh", "arguments": {"animal": "tapir", "unit": "kg"}}\n</tool_call>'
    assert written == f"{called}<|im_end|>\n"
    [(prompt, written)] = render(tokenizer, [AS_TEXT])
    assert "<|im_start|>user\n<tool_response>\n250 kg\n</tool_response><|im_end|>\n<|im_start|>assistant\n" in prompt
    assert written == "It weighs 250 kg.<|im_end|>\n"
    plain = load_tokenizer(folder, PRESETS / "chatml.jinja")
    assert [*render(tokenizer, [EXCHANGE])] == [*render(plain, [EXCHANGE])], "without tools it is ChatML"


@pytest.mark.parametrize(("name", "takes"), [("chatml-tools", True), ("chatml", False), ("alpaca", False)])
def test_whether_a_template_shows_tools_is_found_by_rendering(folder: Path, name: str, *, takes: bool) -> None:
    assert render_sample(folder, PRESETS / f"{name}.jinja")["takes_tools"] is takes


@pytest.mark.parametrize(
    "written", ["<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n", "{{ m.role }}: {{ m.content }}<|end|>\n"]
)
def test_a_template_without_a_generation_prompt_is_refused_where_answers_begin_with_it(
    folder: Path, written: str
) -> None:
    with pytest.raises(ConfigError, match=r"no generation prompt, .* would write '.*assistant.*'"):
        render_sample(folder, template(folder, LOOP + written + "{% endfor %}"))


@pytest.mark.parametrize(
    ("tokens", "is_special", "config"),
    [
        (["<|im_start|>", "<|im_end|>"], True, {}),
        (["a word of its own"], False, {}),
        (["<|im_end|>"], True, {"vocab_size": 500}),
    ],
    ids=["template", "text", "fewer embeddings"],
)
def test_a_tokenizer_that_is_larger_than_its_model_is_refused(
    tmp_path: Path, tokens: list[str], is_special: bool, config: dict[str, int]
) -> None:
    folder = make_tokenized(tmp_path, *tokens, is_special=is_special, **config)
    size, have = config.get("vocab_size", 512), 512 + len(tokens)
    chatml = PRESETS / "chatml.jinja" if is_special else None
    with pytest.raises(ConfigError, match=rf"has {have} tokens, the model {size} embeddings, and none for '.+' \("):
        render_sample(folder, chatml)


def test_a_special_token_that_nothing_uses_needs_no_embedding(tmp_path: Path) -> None:
    assert render_sample(make_tokenized(tmp_path, "<image_soft_token>"))["takes_system"]


@pytest.mark.parametrize("file", ["tokenizer.model", "tokenizer.json"])
def test_a_tokenizer_that_cannot_be_read_is_named_as_such(tmp_path: Path, file: str) -> None:
    folder = make_checkpoint(tmp_path, config__json='{"model_type": "llama"}', tokenizer__json=None)
    (folder / file).write_bytes(b"\x0a\x05spiece")
    with pytest.raises(ConfigError, match=r"the tokenizer of .* cannot be loaded \(.*; give a folder with a tokenizer"):
        render_sample(folder)


def test_a_model_that_does_not_say_its_size_is_not_compared(tmp_path: Path) -> None:
    folder = make_tokenized(tmp_path, "word", is_special=False)
    (folder / "config.json").write_text("{}")
    assert render_sample(folder)["takes_system"]


THOUGHT = [
    {"role": "user", "content": "What is two plus two?"},
    {"role": "assistant", "content": thoughts.join("Two and two make four.", "It is four.")},
]


@pytest.mark.parametrize("family", ["qwen3", "qwen3_5_think", "deepseek_r1_distill", "qwen2_5", "llama3_2"])
def test_a_thought_is_rendered_as_the_family_writes_it_or_stands_in_the_answer(folder: Path, family: str) -> None:
    tokenizer = load_tokenizer(folder, trl_template(family))
    [(prompt, written)] = render(tokenizer, [THOUGHT])
    if "qwen3" in family:
        message = {"role": "assistant", "content": "It is four.", "reasoning_content": "Two and two make four."}
        own = tokenizer.apply_chat_template([THOUGHT[0], message], tokenize=False)
        assert own == prompt + written
    whole = prompt + written
    assert whole.count("<think>") == 1, "never a second mark"
    assert written.index("Two and two make four.") < written.index("</think>") < written.index("It is four.")
    masked, learnt = unlearnt(prompt, written, THOUGHT[-1]["content"])
    assert masked + learnt == whole
    assert learnt.startswith("It is four.")
    assert unlearnt(prompt, written, "It is four.") == (prompt, written), "without a thought all is learnt"


@pytest.mark.parametrize("family", ["qwen3", "qwen3_5_think"])
@pytest.mark.parametrize("said", ["", "I weigh it.\n"])
def test_a_call_behind_a_thought_is_rendered_once(folder: Path, family: str, said: str) -> None:
    tokenizer, call = load_tokenizer(folder, trl_template(family)), tools.Call.of(CALLED).text
    told = {"role": "assistant", "content": thoughts.join("I have to weigh it.", f"{said}{call}")}
    [(_, written)] = render(tokenizer, [[*AS_TEXT[:3], told]])
    assert (written.count("<tool_call>"), written.count("tapir")) == (1, 1)
    assert written.index("I have to weigh it.") < written.index("</think>") < written.index("<tool_call>")
    assert said.strip() in written


@pytest.mark.parametrize(
    ("answer", "learnt"), [("It is four.\n", "It is four."), ("d", "d<|im_end|>"), ("\n\nFour", "Four")]
)
@pytest.mark.parametrize("family", ["qwen3", "qwen3_5_think", "qwen2_5", "llama3_2"])
def test_what_is_learnt_behind_a_thought_begins_with_the_answer(
    folder: Path, family: str, answer: str, learnt: str
) -> None:
    said = thoughts.join("Two and two make four.", answer)
    tokenizer = load_tokenizer(folder, trl_template(family))
    [rendered] = render(tokenizer, [[THOUGHT[0], {"role": "assistant", "content": said}]])
    masked, trained = unlearnt(*rendered, said)
    assert trained.startswith(learnt.removesuffix("<|im_end|>"))
    assert masked.rstrip().endswith("</think>")


def test_a_thought_whose_answer_the_template_writes_otherwise_is_not_learnt() -> None:
    assert unlearnt("prompt", "<think>\na\n</think>\n\nsomething else", thoughts.join("a", "what was said"))[1] == ""


@pytest.mark.parametrize("family", ["qwen3", "qwen3_5_think", "deepseek_r1_distill"])
def test_an_answer_that_a_template_cuts_at_a_mark_of_thoughts_is_left_out(folder: Path, family: str) -> None:
    tokenizer = load_tokenizer(folder, trl_template(family))
    said = "Put your plan between <think> and </think> tags; then write the answer below."
    talks = [[THOUGHT[0], {"role": "assistant", "content": each}] for each in (said, "The end is </think>", "Four")]
    assert [bool(written) for _, written in render(tokenizer, talks)] == [False, False, True]


def test_a_template_that_closes_an_empty_thought_cannot_be_trained_to_think(folder: Path) -> None:
    tokenizer = load_tokenizer(folder, PRESETS / "qwen3.jinja")
    assert [*render(tokenizer, [EXCHANGE])]
    with pytest.raises(ConfigError, match=r"no room for a thought before an answer.*student\.chat_template = \"\""):
        [*render(tokenizer, [THOUGHT])]
