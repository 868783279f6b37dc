import json
from dataclasses import replace
from pathlib import Path

from tapir_core.calls import AnswerStore, CallEngine
from tapir_core.config import CallsConfig
from tapir_core.store_admin import gather_stats, open_existing, store_size
from tests.doubles.provider import FakeProvider, make_request
from tests.tapir_core.store_admin.store_rows import fill, numbered, refusal, reply_of, sql


def test_rows_are_counted_by_role_model_identity_and_prompt_version(store_url: str):
    fill(store_url, ["a", "b"], role="teach", make_reply=lambda _: reply_of(usd=0.25))
    fill(store_url, ["c"], role="teach", make_reply=lambda _: refusal())
    fill(store_url, ["d"], role="judge", prompt_version="abc", make_reply=lambda _: reply_of(usd=2.0))
    fill(store_url, ["e"], role="judge", prompt_version="def", model="other", identity="x")
    stats = gather_stats(open_existing(store_url))
    assert [(group.role, group.model, group.prompt_version, group.rows) for group in stats.groups] == [
        ("judge", "fake-model", "abc", 1),
        ("judge", "other", "def", 1),
        ("teach", "fake-model", "", 3),
    ]
    taught = stats.groups[-1]
    assert taught.statuses == {"answer": 2, "refused": 1}
    assert (taught.prompt_tokens, taught.completion_tokens, round(taught.usd, 9)) == (20, 10, 0.5)
    assert stats.rows == 5
    assert stats.statuses == {"answer": 4, "refused": 1}


def test_the_age_span_comes_from_the_oldest_and_the_newest_row(store_url: str):
    first, last = fill(store_url, ["a", "b"])
    sql(store_url, "UPDATE answers SET created = '2026-01-01 00:00:00.000000' WHERE key = ?", first.key)
    sql(store_url, "UPDATE answers SET created = '2026-03-01 12:00:00.000000' WHERE key = ?", last.key)
    (group,) = gather_stats(open_existing(store_url)).groups
    assert (group.first.isoformat(), group.last.isoformat()) == ("2026-01-01T00:00:00", "2026-03-01T12:00:00")


def test_text_is_measured_in_bytes(store_url: str):
    (request,) = fill(store_url, ["a"], make_reply=lambda _: reply_of("漢" * 100))
    ((raw,),) = sql(store_url, "SELECT raw FROM answers WHERE key = ?", request.key)
    (group,) = gather_stats(open_existing(store_url)).groups
    assert group.bytes == 300 + len(raw.encode())


def test_everything_is_one_json_object_with_totals(store_url: str, tmp_path: Path):
    fill(store_url, ["a"], make_reply=lambda _: reply_of(usd=0.5))
    found = json.loads(json.dumps(gather_stats(open_existing(store_url)).as_json()))
    assert found["store"] == f"sqlite:///{tmp_path}/store.sqlite"
    assert (found["rows"], found["prompt_tokens"], found["completion_tokens"], found["usd"]) == (1, 10, 5, 0.5)
    assert found["first"] == found["last"] == found["groups"][0]["first"]
    assert found["bytes"] >= (tmp_path / "store.sqlite").stat().st_size


def test_requests_that_stored_rows_answered_are_counted_by_group(store_url: str):
    requests = fill(store_url, numbered(4), role="judge", prompt_version="abc")
    fill(store_url, ["never again"], role="teach")
    others = [replace(request, run="another") for request in requests]
    for asked in (requests[:2], others, [*others, make_request("new", role="judge", prompt_version="abc")]):
        with FakeProvider() as provider, CallEngine(AnswerStore(store_url), CallsConfig(), run="a-run") as engine:
            engine.ask(asked, provider.endpoint)
    judged, taught = gather_stats(open_existing(store_url)).groups
    assert (judged.rows, judged.reused, round(judged.reuse_share, 3)) == (5, 10, 0.667)
    assert (taught.rows, taught.reused, taught.reuse_share) == (1, 0, 0.0)
    assert gather_stats(open_existing(store_url)).as_json()["reused"] == 10


def test_an_empty_store_has_no_rows_and_no_age(store_url: str):
    fill(store_url, [])
    found = gather_stats(open_existing(store_url)).as_json()
    assert (found["rows"], found["groups"], found["first"], found["usd"]) == (0, [], None, 0)


def test_room_that_deleted_rows_left_is_told(store_url: str):
    fill(store_url, numbered(500))
    sql(store_url, "DELETE FROM answers")
    size = store_size(open_existing(store_url))
    assert size.free_bytes is not None
    assert 0 < size.free_bytes < size.bytes
