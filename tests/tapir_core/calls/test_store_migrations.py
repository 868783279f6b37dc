"""Stores of schema 3 and 4, as earlier versions left them, are brought to the newest."""

from dataclasses import asdict
from datetime import datetime
from functools import partial

import pytest
from sqlalchemy import insert, text

from tapir_core.calls import AnswerStore, Spend
from tapir_core.calls.store_tables import leases, open_engine, writing
from tapir_core.calls.store_writes import adopt_batches
from tapir_core.errors import RunBusy
from tapir_core.leases import RunLease
from tapir_core.processes import Holder
from tests.doubles.provider import make_request
from tests.tapir_core.calls.batch_helpers import plan_batch

SCHEMA_3 = """
    DROP TABLE attempts;
    DROP TABLE shards;
    CREATE TABLE claims (
        key VARCHAR(64) NOT NULL PRIMARY KEY, holder VARCHAR(32) NOT NULL, run TEXT NOT NULL, role VARCHAR(16) NOT NULL,
        tokens BIGINT NOT NULL, usd FLOAT NOT NULL
    );
    ALTER TABLE batch_rows DROP COLUMN attempt;
    DELETE FROM spending;
    UPDATE meta SET value = '3' WHERE name = 'schema_version';
    INSERT INTO claims VALUES ('in a batch', 'a-batch', 'quickstart', 'judge', 70, 0.5);
    INSERT INTO batch_rows (key, batch, prompt_version, sample_index) VALUES ('answered since', 'a-batch', '', 0);
    INSERT INTO claims VALUES ('of a process', 'somebody', 'quickstart', 'teach', 9, 9.0);
    INSERT INTO spending VALUES ('quickstart', 'judge', 4, 100, 50, 2.0, 60.0)
"""


def make_schema_3(store_url: str) -> None:
    row = make_request("question", role="judge", run="quickstart")
    with AnswerStore(store_url) as store:
        store.lead(plan_batch("a-batch", "http://127.0.0.1:9/v1", {"in a batch": row})).result(timeout=30)
    engine = open_engine(store_url)
    with writing(engine) as connection:
        for statement in SCHEMA_3.split(";"):
            connection.execute(text(statement))
    engine.dispose()


def test_open_batches_keep_what_they_owe_and_its_reservations(store_url: str):
    make_schema_3(store_url)
    for _ in range(2):
        with AnswerStore(store_url) as store:
            assert store.spend_by_role("quickstart") == {"judge": Spend(5, 170, 50, 2.5, 60.0)}
    with AnswerStore(store_url) as store:
        (batch,) = store.lead(partial(adopt_batches, keys=("in a batch",))).result(timeout=30)
        assert list(batch.rows) == list(batch.attempts) == ["in a batch"]
        assert store.batched(["in a batch", "answered since", "of a process"]) == {"in a batch"}


def test_open_batches_of_schema_4_keep_what_they_owe(store_url: str):
    make_schema_3(store_url)
    AnswerStore(store_url).close()
    engine = open_engine(store_url)
    with writing(engine) as connection:
        connection.execute(text("CREATE TABLE claims (key VARCHAR(64) PRIMARY KEY, holder VARCHAR(32) NOT NULL)"))
        connection.execute(text("INSERT INTO claims VALUES ('in a batch', 'a-batch'), ('of a process', 'somebody')"))
        connection.execute(text("INSERT INTO batch_rows VALUES ('answered since', 'a-batch', '', 0, 7)"))
        connection.execute(text("UPDATE meta SET value = '4' WHERE name = 'schema_version'"))
    engine.dispose()
    with AnswerStore(store_url) as store:
        assert store.batched(["in a batch", "answered since", "of a process"]) == {"in a batch"}
        assert store.spend_by_role("quickstart") == {"judge": Spend(5, 170, 50, 2.5, 60.0)}


def test_a_store_of_schema_2_whose_driver_is_gone_goes_on(store_url: str):
    make_schema_3(store_url)
    engine = open_engine(store_url)
    with writing(engine) as connection:
        connection.execute(text("ALTER TABLE leases DROP COLUMN flow_run"))
        connection.execute(text("UPDATE meta SET value = '2' WHERE name = 'schema_version'"))
        long_ago = datetime(2026, 1, 1)
        row = {"run_key": "/runs/gone", "token": "t", "since": long_ago, "heartbeat": long_ago, "host": "another"}
        columns = [column for column in leases.columns if column.name != "flow_run"]
        values = asdict(Holder.this_process()) | row
        names = ", ".join(column.name for column in columns)
        places = ", ".join(f":{column.name}" for column in columns)
        connection.execute(text(f"INSERT INTO leases ({names}) VALUES ({places})"), values)
    engine.dispose()
    with RunLease(store_url, "/runs/gone"), AnswerStore(store_url) as store:
        assert store.spend_by_role("quickstart") == {"judge": Spend(5, 170, 50, 2.5, 60.0)}


def test_a_store_that_an_earlier_version_works_on_is_left_alone(store_url: str):
    make_schema_3(store_url)
    engine = open_engine(store_url)
    with writing(engine) as connection:
        connection.execute(text("UPDATE meta SET value = '3' WHERE name = 'schema_version'"))
        row = {"run_key": "/runs/quickstart", "token": "t", "since": datetime.now(), "heartbeat": datetime.now()}
        connection.execute(insert(leases).values(row | asdict(Holder.this_process())))
    engine.dispose()
    with pytest.raises(RunBusy, match="run /runs/quickstart is driven by process"):
        RunLease(store_url, "/runs/another")
    with pytest.raises(RunBusy):
        AnswerStore(store_url)
