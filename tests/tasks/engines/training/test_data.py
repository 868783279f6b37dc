from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tapir_core.errors import ConfigError
from tasks.engines.tiny_student import tiny_student
from tasks.engines.training.data import closing_token, encode, mark_trained, read_conversations

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


def test_a_student_without_a_chat_template_is_refused_with_the_remedy(folder: Path) -> None:
    tokenizer = load(folder)
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match=r"student\.chat_template"):
        closing_token(tokenizer)


def test_long_examples_are_left_out_and_counted_never_cut(folder: Path) -> None:
    long = [*QUESTION, {"role": "assistant", "content": "four " * 100}]
    corpus = encode(load(folder), [[*QUESTION, ANSWER], long], max_length=60)
    assert (len(corpus.lengths), corpus.left_out) == (1, 1)


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
        assert corpus.rows[1]["labels"] == corpus.example(1).labels
        assert corpus.rows[2]["labels"] == [-100, -100], "the filler"
        assert (corpus.lengths, corpus.prompt_lengths) == (first.lengths, first.prompt_lengths)


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
