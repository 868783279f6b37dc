"""The batch API as OpenAI's own client meets it."""

import json
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Batch

from tests.doubles.batches import BatchRules
from tests.doubles.standin import StandinServer
from tests.tapir_core.standin.asks import SUM

ESSAY = "Write an essay about the sea."
SUMS = [f"What is {number} + 61?" for number in range(60)]


@contextmanager
def client_of(log_path: Path | None = None, faults: str = "", **rules: Any) -> Iterator[openai.OpenAI]:
    with (
        StandinServer(batches=BatchRules(**{"seconds": 0.05, **rules}), faults=faults, log_path=log_path) as server,
        openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client,
    ):
        yield client


def input_file(texts: Sequence[str], **fields: Any) -> bytes:
    rows = [
        {
            "custom_id": f"row-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "standin-teacher", "messages": [{"role": "user", "content": text}], **fields},
        }
        for number, text in enumerate(texts)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def start(client: openai.OpenAI, content: bytes, **fields: Any) -> Batch:
    uploaded = client.files.create(file=("input.jsonl", content), purpose="batch")
    return client.batches.create(
        input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h", **fields
    )


def wait(client: openai.OpenAI, batch: Batch) -> Batch:
    deadline = time.monotonic() + 20
    while batch.status in {"validating", "in_progress", "finalizing", "cancelling"}:
        assert time.monotonic() < deadline, batch
        time.sleep(0.01)
        batch = client.batches.retrieve(batch.id)
    return batch


def rows(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def test_a_batch_answers_every_row_under_its_custom_id_in_another_order() -> None:
    with client_of() as client:
        batch = start(client, input_file(SUMS), metadata={"shard": "3"})
        assert (batch.status, batch.metadata) == ("validating", {"shard": "3"})
        batch = wait(client, batch)
        assert batch.status == "completed"
        assert batch.error_file_id is None
        assert batch.request_counts is not None
        assert batch.request_counts.to_dict() == {"total": 60, "completed": 60, "failed": 0}
        output = rows(client, batch.output_file_id)
    order = [row["custom_id"] for row in output]
    assert order != sorted(order, key=lambda name: int(name[4:]))
    answers = {row["custom_id"]: row["response"]["body"]["choices"][0]["message"]["content"] for row in output}
    assert answers == {f"row-{number}": f"Answer: {number + 61}" for number in range(60)}
    assert {(row["error"], row["response"]["status_code"]) for row in output} == {(None, 200)}
    assert len({row["id"] for row in output}) == 60


def test_a_batch_goes_through_its_statuses_and_keeps_their_moments() -> None:
    order, seen = ["validating", "in_progress", "finalizing"], []
    with client_of(seconds=0.4) as client:
        batch = start(client, input_file(SUMS))
        while batch.status != "completed":
            seen.append(batch.status)
            batch = client.batches.retrieve(batch.id)
    assert seen == sorted(seen, key=order.index)
    moments = [batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at]
    assert None not in moments
    assert moments == sorted(moments, key=lambda moment: moment or 0)
    assert batch.expires_at == batch.created_at + 24 * 3600
    assert batch.failed_at is batch.expired_at is batch.cancelled_at is None


def test_refusals_are_answers_and_wrong_rows_go_to_the_error_file_with_their_status() -> None:
    with client_of() as client:
        batch = wait(client, start(client, input_file([SUM, ESSAY]) + input_file([SUM], n=3).replace(b"row-0", b"bad")))
        assert batch.status == "completed"
        output, errors = rows(client, batch.output_file_id), rows(client, batch.error_file_id)
    assert {row["custom_id"]: bool(row["response"]["body"]["choices"][0]["message"]["refusal"]) for row in output} == {
        "row-0": False,
        "row-1": True,
    }
    (error,) = errors
    assert (error["custom_id"], error["error"], error["response"]["status_code"]) == ("bad", None, 400)
    assert "one choice" in error["response"]["body"]["error"]["message"]


def test_rows_expire_and_fail_by_their_shares_and_asked_again_they_may_do_better() -> None:
    with client_of(expire_share=0.25, fail_share=0.25) as client:
        first, second = (wait(client, start(client, input_file(SUMS))) for _ in range(2))
        assert first.status == "expired"
        assert first.expired_at is not None
        assert first.completed_at is None
        output, errors = rows(client, first.output_file_id), rows(client, first.error_file_id)
        answered_later = {row["custom_id"] for row in rows(client, second.output_file_id)}
    assert {row["custom_id"] for row in output + errors} == {f"row-{number}" for number in range(60)}
    assert first.request_counts is not None
    assert first.request_counts.to_dict() == {"total": 60, "completed": len(output), "failed": len(errors)}
    kinds = Counter(row["error"]["code"] if row["error"] else row["response"]["status_code"] for row in errors)
    assert set(kinds) == {"batch_expired", 500}
    assert all(5 <= count <= 25 for count in kinds.values())
    assert all(row["response"] is None for row in errors if row["error"])
    assert answered_later & {row["custom_id"] for row in errors}


def test_a_batch_of_which_nothing_was_answered_has_no_output_file() -> None:
    with client_of(expire_share=1.0) as client:
        batch = wait(client, start(client, input_file(SUMS[:3])))
    assert (batch.status, batch.output_file_id) == ("expired", None)


def test_a_batch_over_a_wrong_file_fails_and_says_why() -> None:
    with client_of(max_rows=2) as client:
        batch = wait(client, start(client, b"{hello\n"))
        assert (batch.status, batch.failed_at is None) == ("failed", False)
        assert batch.errors is not None
        assert [(error.code, error.line) for error in batch.errors.data or []] == [("invalid_json_line", 1)]
        long = wait(client, start(client, input_file(SUMS[:3])))
        assert long.errors is not None
        assert [error.code for error in long.errors.data or []] == ["too_many_tasks"]


def test_a_cancelled_batch_keeps_what_was_answered_and_names_the_rest(tmp_path: Path) -> None:
    log_path = tmp_path / "log.jsonl"
    with client_of(log_path, seconds=4) as client:
        batch = start(client, input_file(SUMS))
        while not (batch.request_counts and batch.request_counts.completed):
            batch = client.batches.retrieve(batch.id)
        batch = client.batches.cancel(batch.id)
        assert batch.status == "cancelling"
        assert client.batches.cancel(batch.id).status in {"cancelling", "cancelled"}
        batch = wait(client, batch)
        assert batch.status == "cancelled"
        assert batch.cancelled_at is not None
        output, errors = rows(client, batch.output_file_id), rows(client, batch.error_file_id)
    assert len(output) + len(errors) == 60
    assert {row["error"]["code"] for row in errors} == {"batch_cancelled"}
    assert len(log_path.read_text().splitlines()) == len(output)


def test_a_batch_cancelled_while_validating_answers_nothing() -> None:
    with client_of(seconds=20) as client:
        batch = wait(client, client.batches.cancel(start(client, input_file([SUM])).id))
        assert (batch.status, batch.in_progress_at, batch.output_file_id) == ("cancelled", None, None)


def test_a_finished_batch_cannot_be_cancelled() -> None:
    with client_of() as client:
        batch = wait(client, start(client, input_file([SUM])))
        with pytest.raises(openai.ConflictError, match="completed"):
            client.batches.cancel(batch.id)


def test_batches_are_listed_newest_first_and_page_by_page() -> None:
    with client_of() as client:
        assert client.batches.list().data == []
        ids = [start(client, input_file([SUM])).id for _ in range(5)]
        assert [batch.id for batch in client.batches.list(limit=2)] == ids[::-1]
        assert [batch.id for batch in client.batches.list(after=ids[1]).data] == ids[:1]
        with pytest.raises(openai.BadRequestError, match="'limit'"):
            client.batches.list(limit=1000)
        with pytest.raises(openai.NotFoundError):
            client.batches.list(after="batch_0")


@pytest.mark.parametrize(
    "change",
    [{"endpoint": "/v1/embeddings"}, {"completion_window": "1h"}],
)
def test_another_endpoint_or_window_is_refused_at_once(change: dict[str, Any]) -> None:
    with client_of() as client:
        uploaded = client.files.create(file=("input.jsonl", input_file([SUM])), purpose="batch")
        asked: Any = {"endpoint": "/v1/chat/completions", "completion_window": "24h", **change}
        with pytest.raises(openai.BadRequestError, match=next(iter(change))):
            client.batches.create(input_file_id=uploaded.id, **asked)


@pytest.mark.parametrize("body", [b"{hello", b"[1]"])
def test_a_batch_request_that_is_no_json_object_is_bad(body: bytes) -> None:
    with client_of() as client, pytest.raises(openai.BadRequestError, match="JSON"):
        client.post("/batches", content=body, cast_to=Batch)


def test_files_are_shown_read_and_deleted() -> None:
    with client_of() as client:
        content = input_file([SUM])
        uploaded = client.files.create(file=("input.jsonl", content), purpose="batch")
        assert (uploaded.bytes, uploaded.filename, uploaded.purpose) == (len(content), "input.jsonl", "batch")
        assert client.files.retrieve(uploaded.id) == uploaded
        assert client.files.content(uploaded.id).content == content
        batch = wait(
            client,
            client.batches.create(input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h"),
        )
        assert client.files.retrieve(batch.output_file_id or "").purpose == "batch_output"
        with pytest.raises(openai.BadRequestError, match="batch_output"):
            client.batches.create(
                input_file_id=batch.output_file_id or "", endpoint="/v1/chat/completions", completion_window="24h"
            )
        assert client.files.delete(uploaded.id).deleted
        for ask in (client.files.retrieve, client.files.content, client.files.delete):
            with pytest.raises(openai.NotFoundError, match="No such File"):
                ask(uploaded.id)


def test_an_unknown_batch_and_an_unknown_input_file_are_not_found() -> None:
    with client_of() as client:
        with pytest.raises(openai.NotFoundError):
            client.batches.retrieve("batch_0")
        with pytest.raises(openai.NotFoundError):
            client.batches.create(input_file_id="file-0", endpoint="/v1/chat/completions", completion_window="24h")


def test_uploads_that_are_no_batch_input_are_bad() -> None:
    with client_of() as client:
        with pytest.raises(openai.BadRequestError, match="purpose 'batch'"):
            client.files.create(file=("input.jsonl", b"x"), purpose="fine-tune")
        with pytest.raises(openai.BadRequestError, match="multipart"):
            client.post("/files", body={"purpose": "batch"}, cast_to=object)
        for parts, said in (
            ('Content-Disposition: form-data; name="purpose"\r\n\r\nbatch', "no 'file'"),
            (f'Content-Disposition: form-data; name="purpose"\r\n\r\n{"x" * 200}', "too large"),
            ("Content-Type: multipart/mixed; boundary=inner\r\n\r\n--inner--", "another form"),
        ):
            form = f"--edge\r\n{parts}\r\n--edge--\r\n".encode()
            head = {"Content-Type": "multipart/form-data; boundary=edge"}
            request = urllib.request.Request(f"{client.base_url}files", data=form, headers=head)
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(request)
            assert said in json.load(caught.value)["error"]["message"]


def test_the_log_has_a_line_a_row_with_the_digest_that_the_single_request_has(tmp_path: Path) -> None:
    log_path = tmp_path / "log.jsonl"
    with client_of(log_path, fail_share=0.5) as client:
        batch = wait(client, start(client, input_file(SUMS)))
        message: Any = {"role": "user", "content": SUMS[0]}
        client.chat.completions.create(model="standin-teacher", messages=[message])
    *in_batch, alone = [json.loads(line) for line in log_path.read_text().splitlines()]
    assert len(in_batch) == 60
    assert {line["batch"] for line in in_batch} == {batch.id}
    assert {(line["outcome"], line["fault"], line["status"]) for line in in_batch} == {
        ("answered", None, 200),
        ("failed", "500", 500),
    }
    assert alone["batch"] is None
    assert alone["sha256"] == in_batch[0]["sha256"]


def test_a_server_that_stops_ends_its_batches() -> None:
    began = time.monotonic()
    with client_of(seconds=60) as client:
        start(client, input_file([SUM]))
    assert time.monotonic() - began < 10


def test_ids_of_an_earlier_server_are_unknown() -> None:
    ids = []
    for _ in range(2):
        with client_of() as client:
            ids.append(start(client, input_file([SUM])).id)
    assert ids[0] != ids[1]


def test_faults_of_completions_do_not_strike_the_rows_of_a_batch() -> None:
    with client_of(faults="truncated=1") as client:
        assert wait(client, start(client, input_file([SUM]))).status == "completed"
