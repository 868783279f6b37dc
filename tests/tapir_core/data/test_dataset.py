import threading

import polars as pl
import pytest

from tapir_core.data.dataset import Manifest, read_manifest, read_part, read_rows, write_manifest, write_part
from tapir_core.storage import Storage

ROWS = pl.DataFrame({"instruction_id": ["a", "b"], "mfd": [1.0, None]})


def write(storage, *parts, version=2, key="k", counts=None):
    rows = sum(part.rows for part in parts)
    manifest = Manifest("select", version, key, tuple(ROWS.columns), rows, parts, counts=counts or {})
    return write_manifest(storage, "seeds", manifest)


def test_rows_come_back_in_the_order_of_the_parts(tmp_path):
    storage = Storage(tmp_path)
    first, second = write_part(storage, "seeds", ROWS), write_part(storage, "seeds", ROWS.reverse())
    ref = write(storage, second, first)
    assert read_rows(storage, "seeds")["instruction_id"].to_list() == ["b", "a", "a", "b"]
    assert ref.rows == 4
    assert read_part(storage, "seeds", first).equals(ROWS)


def test_parts_are_read_at_once(tmp_path, monkeypatch):
    storage, both = Storage(tmp_path), threading.Barrier(2, timeout=10)
    write(storage, write_part(storage, "seeds", ROWS), write_part(storage, "seeds", ROWS.reverse()))
    read_bytes = storage.read_bytes

    def read_together(path):
        if path.endswith(".parquet"):
            both.wait()  # one that is read after the other waits in vain
        return read_bytes(path)

    monkeypatch.setattr(storage, "read_bytes", read_together)
    assert read_rows(storage, "seeds")["instruction_id"].to_list() == ["a", "b", "b", "a"]


def test_equal_rows_have_equal_names_and_are_written_once(tmp_path):
    storage = Storage(tmp_path)
    part = write_part(storage, "seeds", ROWS)
    written = (tmp_path / "seeds" / part.name).stat().st_mtime_ns
    assert write_part(storage, "seeds", ROWS.clone()) == part
    assert (tmp_path / "seeds" / part.name).stat().st_mtime_ns == written


def test_without_a_manifest_a_folder_is_not_complete(tmp_path):
    storage = Storage(tmp_path)
    write_part(storage, "seeds", ROWS)
    assert read_manifest(storage, "seeds") is None
    with pytest.raises(FileNotFoundError):
        read_rows(storage, "seeds")


def test_a_torn_manifest_counts_as_none(tmp_path):
    storage = Storage(tmp_path)
    write(storage, write_part(storage, "seeds", ROWS))
    storage.write_bytes("seeds/manifest.json", storage.read_bytes("seeds/manifest.json")[:40])
    assert read_manifest(storage, "seeds") is None


def test_the_digest_is_of_the_rows_and_of_nothing_else(tmp_path):
    storage = Storage(tmp_path)
    part = write_part(storage, "seeds", ROWS)
    again = write(storage, part, version=3, key="another", counts={"seconds": 9.0})
    assert again.digest == write(storage, part).digest
    assert again.digest != write(storage, part, part).digest


def test_a_dataset_without_parts_still_has_its_columns(tmp_path):
    storage = Storage(tmp_path)
    write(storage)
    assert read_rows(storage, "seeds").columns == ROWS.columns
