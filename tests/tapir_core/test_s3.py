"""What an S3 server may do to us: throttle, fail, hang, break off, refuse, not be there."""

import hashlib
import random
import time

import pytest

from tapir_core.errors import ConfigError, MissingPrerequisite, TapirError
from tapir_core.storage import PIECE_BYTES, Storage, Timeouts
from tests.s3_server import answer, break_off, cut, nothing, stall

SHORT = Timeouts(connect_seconds=1, silent_seconds=0.3, attempts=2)

TRANSIENT = [
    answer("503 Slow Down", "SlowDown"),
    answer("429 Too Many Requests", "TooManyRequests"),
    answer("500 Internal Server Error", "InternalError"),
    cut,
]


@pytest.mark.parametrize("fault", TRANSIENT, ids=["throttled", "too many", "failed", "cut off"])
def test_what_goes_wrong_once_is_tried_again(s3, fault):
    storage = Storage("s3://runs/a")
    s3.faults[:] = [fault]
    storage.write_bytes("file", b"content")
    assert s3.requests == ["PUT /runs/a/file"] * 2
    assert storage.read_bytes("file") == b"content"


def test_an_answer_that_breaks_off_is_asked_for_again(s3):
    storage, content = Storage("s3://runs/a"), random.Random(1).randbytes(300_000)
    storage.write_bytes("file", content)
    s3.faults[:] = [break_off]
    assert storage.read_bytes("file") == content
    s3.faults[:] = [break_off]
    assert storage.names("") == ["file"]
    s3.faults[:] = [break_off, break_off]
    assert storage.sha256("file") == hashlib.sha256(content).hexdigest()
    assert s3.faults == []


def test_a_slow_answer_is_waited_for(s3):
    storage = Storage("s3://runs/a", Timeouts(silent_seconds=2))
    s3.faults[:] = [stall(0.5)]
    storage.write_bytes("file", b"content")
    assert s3.requests == ["PUT /runs/a/file"]


def test_a_server_that_hangs_ends_in_an_error_within_a_bound(s3):
    s3.faults[:] = [stall(0.5)] * 20
    started = time.monotonic()
    with pytest.raises(MissingPrerequisite, match=r"s3://runs/a: http://127.* does not answer.*AWS_ENDPOINT_URL"):
        Storage("s3://runs/a", SHORT).read_bytes("file")
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("status", "code"), [("503 Slow Down", "SlowDown"), ("500 Internal Server Error", "InternalError")]
)
def test_a_server_that_goes_on_failing_is_named_with_its_word_for_it(s3, status, code):
    s3.faults[:] = [answer(status, code)] * SHORT.attempts
    with pytest.raises(TapirError, match=f"after all attempts \\({code}\\).*the same command goes on"):
        Storage("s3://runs/a", SHORT).write_bytes("file", b"content")
    assert len(s3.requests) == SHORT.attempts


def test_a_write_that_fails_leaves_what_was_there(s3):
    storage = Storage("s3://runs/a", SHORT)
    storage.write_bytes("file", b"old")
    s3.faults[:] = [answer("500 Internal Server Error", "InternalError")] * SHORT.attempts
    with pytest.raises(TapirError):
        storage.write_bytes("file", b"new")
    assert storage.read_bytes("file") == b"old"


@pytest.mark.parametrize("root", ["s3://nowhere", "s3://nowhere/folder"])
def test_a_missing_bucket_is_no_missing_file(s3, root):
    storage = Storage(root)
    for use in (
        lambda: storage.read_bytes("file"),
        lambda: storage.write_bytes("file", b""),
        lambda: storage.names(""),
        lambda: storage.files(),
        lambda: storage.exists("file"),
        lambda: storage.exists(""),
        lambda: storage.remove("file"),
    ):
        with pytest.raises(ConfigError, match=f"{root}: http.* has no such bucket; make it"):
            use()


def test_refused_credentials_are_named_by_their_variables_and_never_shown(s3):
    storage = Storage("s3://runs/a")
    for code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "ExpiredToken"):
        s3.faults[:] = [answer("403 Forbidden", code)]
        with pytest.raises(MissingPrerequisite, match=rf"refuses this \({code}\); check AWS_ACCESS_KEY_ID") as caught:
            storage.write_bytes("file", b"")
        assert "AKIDEXAMPLE" not in str(caught.value)
        assert "not-to-be-seen" not in str(caught.value)


def test_missing_credentials_are_asked_for(s3, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(MissingPrerequisite, match=r"no credentials.*set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        Storage("s3://runs/a").read_bytes("file")


def test_credentials_may_come_from_a_profile(s3, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (tmp_path / "keys").write_text("[ours]\naws_access_key_id = A\naws_secret_access_key = B\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    monkeypatch.setenv("AWS_PROFILE", "ours")
    Storage("s3://runs/a").write_bytes("file", b"content")
    monkeypatch.setenv("AWS_PROFILE", "theirs")
    with pytest.raises(MissingPrerequisite, match=r"no credentials.*ProfileNotFound"):
        Storage("s3://runs/a", SHORT).read_bytes("file")


def test_an_endpoint_where_nobody_listens_is_named_without_its_password(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://us:secret@127.0.0.1:9")
    with pytest.raises(MissingPrerequisite, match=r"http://127\.0\.0\.1:9 does not answer") as caught:
        Storage("s3://runs/a", SHORT).read_bytes("file")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["localhost:9000", "nonsense"])
def test_an_endpoint_that_is_no_address_is_refused(s3, monkeypatch, endpoint):
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(ConfigError, match="AWS_ENDPOINT_URL=https://HOST:PORT"):
        Storage("s3://runs/a").read_bytes("file")


@pytest.mark.parametrize("root", ["s3://", "s3:///folder", "s3://No_Such_Name!/a"])
def test_a_root_without_a_bucket_is_refused(s3, root):
    with pytest.raises(ConfigError, match="s3://BUCKET/FOLDER"):
        Storage(root).read_bytes("file")


def test_what_another_process_wrote_or_removed_is_seen_at_once(s3):
    ours, theirs = Storage("s3://runs/a"), Storage("s3://runs")
    theirs.write_bytes("a/one", b"1")
    assert ours.names("") == ["one"]
    s3.put("/runs/a/two", b"2")
    assert ours.names("") == ["one", "two"]
    assert ours.exists("two")
    s3.delete("/runs/a/one")
    assert not ours.exists("one")
    assert ours.names("") == ["two"]


@pytest.mark.parametrize("root", ["exp[1]", "exp*", "e?p1", "exp{1,2}"])
def test_a_root_whose_name_is_a_pattern_removes_nothing_elsewhere(s3, root):
    own, other = Storage(f"s3://runs/{root}"), Storage("s3://runs/exp1")
    for each in (own, other):
        each.write_bytes("run/x", b"1")
        each.write_bytes("run/y/z", b"1")
    own.remove("run/x")
    own.remove("run/y")
    assert own.files() == {}
    assert [*other.files()] == ["run/x", "run/y/z"]


def test_a_folder_that_somebody_made_is_no_file_of_itself(s3):
    s3.put("/runs/a/", b"")
    storage = Storage("s3://runs/a")
    assert storage.names("") == []
    assert storage.files() == {}
    storage.write_bytes("b/file", b"1")
    assert storage.names("") == ["b"]


def test_a_small_file_takes_one_request(s3):
    storage = Storage("s3://runs/a")
    storage.write_bytes("file", b"content")
    storage.read_bytes("file")
    assert s3.requests == ["PUT /runs/a/file", "GET /runs/a/file"]


def test_a_big_file_goes_in_pieces_that_are_tried_again_and_comes_back_the_same(s3, tmp_path):
    content = random.Random(1).randbytes(1 << 20) * (2 * PIECE_BYTES >> 20) + b"the rest"
    (tmp_path / "weights").write_bytes(content)
    storage = Storage("s3://runs/a")
    s3.faults[:] = [nothing, answer("503 Slow Down", "SlowDown")]
    Storage(tmp_path).send("weights", storage)
    assert s3.requests.count("PUT /runs/a/weights") == 3 + 1
    assert storage.sha256("weights") == hashlib.sha256(content).hexdigest()


def test_a_big_file_whose_upload_fails_is_not_there(s3, tmp_path):
    with (tmp_path / "weights").open("wb") as file:
        file.truncate(2 * PIECE_BYTES)
    storage = Storage("s3://runs/a", SHORT)
    s3.faults[:] = [nothing, *[answer("500 Internal Server Error", "InternalError")] * 4]
    with pytest.raises(TapirError):
        Storage(tmp_path).send("weights", storage)
    assert not storage.exists("weights")
