from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tapir_core import thoughts
from tapir_core.config import TrainingConfig
from tapir_core.errors import ConfigError
from tasks.engines.tiny_student import tiny_student
from tasks.engines.training.chat import closing_token
from tasks.engines.training.data import encode, mark_trained, read_conversations
from tasks.engines.training.prerequisites import ModelSize, estimate_memory

QUESTION = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2 plus 2?"}]
ANSWER = {"role": "assistant", "content": "2 plus 2 is 4."}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_student(tmp_path_factory.mktemp("tiny"))


def load(folder: Path, template: str | None = None) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer


def test_trained_tokens_are_exactly_the_answer_and_the_closing_token(folder: Path) -> None:
    tokenizer = load(folder)
    corpus = encode(tokenizer, [[*QUESTION, ANSWER]], max_length=500)
    example = corpus.example(0)
    trained = [label for label in example.labels if label != -100]
    assert tokenizer.decode(trained) == "2 plus 2 is 4.<|end|>"
    assert trained[-1] == corpus.closing == tokenizer.eos_token_id
    prompt = tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    assert mark_trained(tokenizer, example) == f"{prompt}⟦2 plus 2 is 4.<|end|>⟧"


def test_a_thought_is_learnt_or_stands_there_unlearnt(folder: Path) -> None:
    tokenizer = load(folder)
    thinking = {"role": "assistant", "content": thoughts.join("Two and two.", "2 plus 2 is 4.")}
    prompt = tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    shown = {
        masked: mark_trained(
            tokenizer, encode(tokenizer, [[*QUESTION, thinking]], max_length=500, masked=masked).example(0)
        )
        for masked in (False, True)
    }
    thought = "<think>\nTwo and two.\n</think>\n\n"
    assert shown[False] == f"{prompt}⟦{thought}2 plus 2 is 4.<|end|>⟧"
    assert shown[True] == f"{prompt}{thought}⟦2 plus 2 is 4.<|end|>⟧"


def test_a_special_token_in_a_thought_stays_text_or_the_example_is_left_out(folder: Path) -> None:
    tokenizer = load(folder)
    marked = {"role": "assistant", "content": thoughts.join("It says <|end|> there.", "2 plus 2 is 4.")}
    plain, talks = [*QUESTION, ANSWER], [[*QUESTION, marked]]
    assert encode(tokenizer, talks, max_length=500).example(0).labels.count(tokenizer.eos_token_id) == 1
    assert encode(tokenizer, [plain, *talks], max_length=500, masked=True).left_out == 1


def test_only_the_last_of_several_answers_is_trained(folder: Path) -> None:
    tokenizer = load(folder)
    talk = [*QUESTION, ANSWER, {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}]
    example = encode(tokenizer, [talk], max_length=500).example(0)
    assert tokenizer.decode(example.tokens[example.prompt_length :]) == "Yes.<|end|>"


def test_a_closing_token_inside_an_answer_does_not_end_it(folder: Path) -> None:
    tokenizer = load(folder)
    example = encode(tokenizer, [[*QUESTION, {"role": "assistant", "content": "a <|end|> b"}]], max_length=500).example(
        0
    )
    assert tokenizer.decode(example.tokens[example.prompt_length :]) == "a <|end|> b<|end|>"


@pytest.mark.parametrize(
    ("template", "closing"),
    [
        pytest.param("{% for m in messages %}{{ m.content }}\n{% endfor %}", "<|end|>", id="none, so the eos"),
        pytest.param("{% for m in messages %}{{ m.content }}<|pad|>\n{% endfor %}", "<|pad|>", id="not the eos"),
    ],
)
def test_the_closing_token_is_the_templates_or_else_the_eos(folder: Path, template: str, closing: str) -> None:
    tokenizer = load(folder, template)
    corpus = encode(tokenizer, [[*QUESTION, ANSWER]], max_length=500)
    assert tokenizer.decode([corpus.closing]) == closing
    assert corpus.example(0).tokens[-1] == corpus.closing


TURN = "<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n"


def thinking(asked: str, answered: str) -> str:
    """A template whose generation prompt and whose answer go on in these ways."""
    return (
        f"{{% for m in messages %}}{{% if m.role == 'assistant' %}}<|start|>assistant\n{answered}<|end|>\n"
        f"{{% else %}}{TURN}{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}<|start|>assistant\n{asked}{{% endif %}}"
    )


@pytest.mark.parametrize(
    ("asked", "answered", "trained"),
    [
        pytest.param("<think>\n", "{{ m.content.split('</think>')[-1] }}", "\n</think>\n\n{}", id="dropped thoughts"),
        pytest.param("<think>\n", "<think>\n\n</think>\n\n{{ m.content }}", "\n</think>\n\n{}", id="empty thoughts"),
        pytest.param("<think>", "</think>{{ m.content }}", "\n</think>\n\n{}", id="closed thoughts"),
        pytest.param("<thought>\n", "{{ m.content }}", "\n</thought>\n\n{}", id="another tag"),
        pytest.param("<think>\n\n</think>\n\n", "{{ m.content }}", "{}", id="no thinking"),
        pytest.param("<|channel>thought\n<channel|>", "{{ m.content }}", "{}", id="no thinking in a channel"),
        pytest.param("", "<think>\n\n</think>\n\n{{ m.content }}", "<think>\n\n</think>\n\n{}", id="either"),
    ],
)
@pytest.mark.parametrize("talk", [QUESTION, [*QUESTION, ANSWER, QUESTION[-1]]], ids=["one turn", "two turns"])
def test_a_student_is_trained_on_the_prompt_as_it_is_served_and_closes_its_thought(
    folder: Path, talk: list[dict[str, str]], asked: str, answered: str, trained: str
) -> None:
    tokenizer = load(folder, thinking(asked, answered))
    tokenizer.add_tokens(["\n\n"])  # as in many vocabularies: it merges what the prompt ends and the answer begins with
    example = encode(tokenizer, [[*talk, ANSWER]], max_length=500).example(0)
    served = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    assert example.tokens[: example.prompt_length] == tokenizer(served, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(example.tokens[example.prompt_length :]) == trained.format(ANSWER["content"]) + "<|end|>"


def test_a_system_text_that_moves_to_the_last_turn_stands_where_the_server_has_it(folder: Path) -> None:
    moving = (
        "{% set system = messages[0].content %}{% for m in messages[1:] %}<|start|>{{ m.role }}\n"
        "{{ system if loop.last and m.role == 'user' }}{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
    )
    bare = "{% if messages[0].role != 'system' %}{% set messages = [{'content': ''}] + messages %}{% endif %}"
    tokenizer = load(folder, bare + moving)
    example = encode(tokenizer, [[*QUESTION, ANSWER]], max_length=500).example(0)
    assert mark_trained(tokenizer, example) == (
        "<|start|>user\nBe brief.What is 2 plus 2?<|end|>\n<|start|>assistant\n⟦2 plus 2 is 4.<|end|>⟧"
    )


def test_a_prompt_that_goes_another_way_than_the_example_is_shown_where_they_part(folder: Path) -> None:
    tokenizer = load(folder, thinking("Let me see: ", "{{ m.content }}"))
    with pytest.raises(ConfigError, match=r"asked …'.*assistant\\nLet me see: ', trained …'.*assistant\\nIt is four"):
        encode(tokenizer, [[*QUESTION, ANSWER]], max_length=500)


@pytest.mark.parametrize(
    "said", ["<|start|>", "An answer ends with <|end|>, not with <|pad|>.", "<|end|>\n<|start|>user\nHi"]
)
def test_an_answer_that_names_special_tokens_is_trained_as_text(folder: Path, said: str) -> None:
    tokenizer = load(folder)
    example = encode(tokenizer, [[*QUESTION, {"role": "assistant", "content": said}]], max_length=500).example(0)
    trained = example.tokens[example.prompt_length :]
    assert tokenizer.decode(trained) == f"{said}<|end|>"
    assert set(tokenizer.all_special_ids) & set(trained[:-1]) == set()


@pytest.mark.parametrize("place", [0, 1])
def test_an_example_whose_prompt_names_a_special_token_is_left_out_and_counted(folder: Path, place: int) -> None:
    talk = [*QUESTION, ANSWER]
    talk[place] = {**talk[place], "content": "What does <|end|> mean?"}
    corpus = encode(load(folder), [talk, [*QUESTION, ANSWER]], max_length=500)
    assert (len(corpus.lengths), corpus.left_out) == (1, 1)
    with pytest.raises(ConfigError, match="1 have the text of a special token in their prompt"):
        encode(load(folder), [talk], max_length=500)


def test_a_student_without_a_chat_template_is_refused_with_the_remedy(folder: Path) -> None:
    tokenizer = load(folder)
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match=r"student\.chat_template"):
        closing_token(tokenizer)


def test_long_examples_are_left_out_and_counted_never_cut(folder: Path) -> None:
    long = [*QUESTION, {"role": "assistant", "content": "four " * 100}]
    corpus = encode(load(folder), [[*QUESTION, ANSWER], long], max_length=60)
    assert (len(corpus.lengths), corpus.left_out) == (1, 1)


def test_what_a_corpus_takes_in_memory_is_counted_beyond_32_bits(folder: Path) -> None:
    long = [*QUESTION, {"role": "assistant", "content": "four " * 100}]
    corpus = encode(load(folder), [[*QUESTION, ANSWER], long], max_length=4096)
    size = ModelSize(134_515_008, 40_000, 100_000_000, 30, 576, 1536, 49_152)
    training, exact = TrainingConfig(micro_batch_size=64), int(corpus.lengths.max())
    found = estimate_memory(training, size, in_bf16=True, longest=corpus.longest, processes=1)
    assert sum(found.values()) > 2**31 + 64 * exact * 49_152 * 16


def test_the_first_process_tokenizes_and_the_others_map_its_files(folder: Path, tmp_path: Path) -> None:
    def unread() -> Iterator[Any]:
        raise AssertionError("the mixture was read twice")
        yield

    long, other = ({"role": "assistant", "content": content} for content in ("four " * 100, "Four, that is."))
    tokenizer, talks = load(folder), [[*QUESTION, each] for each in (ANSWER, long, other)]
    first = encode(tokenizer, talks, max_length=60, folder=tmp_path)
    second = encode(tokenizer, unread(), max_length=60, folder=tmp_path)
    alone = encode(tokenizer, talks, max_length=60)
    assert first.rows.cache_files == second.rows.cache_files != []
    assert Path(first.rows.cache_files[0]["filename"]).is_relative_to(tmp_path)
    for corpus in (first, second, alone):
        assert [mark_trained(tokenizer, corpus.example(index)).count("our") for index in (0, 1)] == [0, 1]
        [learnt], [filler] = corpus.__getitems__([1]), corpus.__getitems__([])
        assert (learnt["labels"], learnt["number"]) == (corpus.example(1).labels, 1)
        assert (filler["labels"], len(filler["input_ids"])) == ([-100, -100], 2)
        assert corpus.lengths.tolist() == first.lengths.tolist()
        assert corpus.prompt_lengths.tolist() == first.prompt_lengths.tolist()


def test_when_nothing_fits_the_shortest_length_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"max_length = 3; the shortest has \d+"):
        encode(load(folder), [[*QUESTION, ANSWER]], max_length=3)


def test_an_empty_answer_does_not_pass_the_pre_flight(folder: Path) -> None:
    with pytest.raises(ConfigError, match="example 0 trains 1 tokens"):
        encode(load(folder), [[*QUESTION, {"role": "assistant", "content": ""}]], max_length=500)


@pytest.mark.parametrize("messages", [QUESTION, [ANSWER], []])
def test_a_conversation_that_does_not_end_with_an_answer_is_refused(
    tmp_path: Path, messages: list[dict[str, str]]
) -> None:
    rows = pl.DataFrame({"messages": [[*QUESTION, ANSWER], messages]})
    rows.write_parquet(tmp_path / "part.parquet")
    with pytest.raises(ConfigError, match="row 1 of the mixture"):
        list(read_conversations([tmp_path / "part.parquet"]))


def test_the_parts_of_a_mixture_are_read_in_order(tmp_path: Path) -> None:
    for name, text in (("b", "first"), ("a", "second")):
        talk = [{"role": "user", "content": text}, ANSWER]
        pl.DataFrame({"messages": [talk]}).write_parquet(tmp_path / f"{name}.parquet")
    rows = read_conversations([tmp_path / "b.parquet", tmp_path / "a.parquet"])
    assert [row[0]["content"] for row in rows] == ["first", "second"]
