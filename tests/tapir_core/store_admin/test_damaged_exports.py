"""What is wrong with an export is named, and nothing of it is imported."""

import hashlib
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tapir_core.calls.store_tables import open_engine
from tapir_core.errors import ConfigError, TapirError
from tapir_core.store_admin import (
    Archive,
    Imported,
    import_answers,
)
from tests.tapir_core.store_admin.exports import all_rows, export, import_into, manifest_of
from tests.tapir_core.store_admin.store_rows import fill, numbered, sql


def rewrite(place: Path, rows: pl.DataFrame) -> None:
    """Put ``rows`` in place of an export's only part, with digests that fit."""
    manifest = manifest_of(place)
    (part,) = manifest["parts"]
    (place / part["name"]).unlink()
    rows.write_parquet(place / "new")
    digest = hashlib.sha256((place / "new").read_bytes()).hexdigest()
    name = f"part-{digest[:16]}.parquet"
    (place / "new").rename(place / name)
    manifest["parts"] = [{"name": name, "rows": rows.height, "sha256": digest}]
    (place / "manifest.json").write_text(json.dumps({**manifest, "rows": rows.height}))


def test_damaged_rows_of_an_export_are_not_imported(store_url: str, other_url: str, tmp_path: Path):
    fill(store_url, numbered(3))
    export(store_url, tmp_path / "out")
    rows = pl.read_parquet(tmp_path / "out" / "part-*.parquet")
    rewrite(tmp_path / "out", rows.with_columns(text=pl.Series(["forged", *rows["text"][1:]])))
    assert import_into(other_url, tmp_path / "out") == Imported(added=2, damaged=1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: rows.drop("usd"), "does not hold"),
        (lambda rows: rows.with_columns(pl.col("attempts").cast(pl.String)), "does not hold"),
        (lambda rows: pl.concat([rows, rows]), "does not hold"),
    ],
)
def test_a_part_of_other_columns_or_repeated_keys_is_refused(
    store_url: str, other_url: str, tmp_path: Path, change: Any, says: str
):
    fill(store_url, numbered(2))
    export(store_url, tmp_path / "out")
    rewrite(tmp_path / "out", change(pl.read_parquet(tmp_path / "out" / "part-*.parquet")))
    with pytest.raises(ConfigError, match=says):
        import_into(other_url, tmp_path / "out")
    assert all_rows(other_url) == []


def test_a_damaged_or_missing_part_is_named_and_nothing_of_it_is_imported(
    store_url: str, other_url: str, tmp_path: Path
):
    fill(store_url, numbered(2))
    export(store_url, tmp_path / "out")
    (part,) = (tmp_path / "out").glob("part-*")
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    with pytest.raises(ConfigError, match=f"{part.name} is damaged"):
        import_into(other_url, tmp_path / "out")
    part.unlink()
    with pytest.raises(ConfigError, match=f"{part.name} is missing"):
        import_into(other_url, tmp_path / "out")
    assert all_rows(other_url) == []


def test_a_part_that_is_no_parquet_is_refused(store_url: str, other_url: str, tmp_path: Path):
    fill(store_url, numbered(1))
    export(store_url, tmp_path / "out")
    content = b"PAR1 nothing PAR1"
    digest = hashlib.sha256(content).hexdigest()
    name = f"part-{digest[:16]}.parquet"
    (tmp_path / "out" / name).write_bytes(content)
    manifest = manifest_of(tmp_path / "out") | {"parts": [{"name": name, "rows": 1, "sha256": digest}]}
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="no Parquet"):
        import_into(other_url, tmp_path / "out")


def test_a_folder_without_a_manifest_is_no_export(other_url: str, tmp_path: Path):
    with pytest.raises(ConfigError, match="no whole export"):
        import_into(other_url, tmp_path / "nowhere")


SOUND = {"format": "tapir answers", "schema_version": "1", "rows": 0, "parts": [], "chosen": {}, "created": ""}
LEADS_OUT = {"name": "../../secret.parquet", "rows": 1, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        ("no JSON", "Expecting value"),
        ("[]", "list indices"),
        ("{}", "format"),
        (json.dumps({"stage": "pool", "key": "k", "columns": [], "rows": 0, "parts": []}), "format"),
        (json.dumps(SOUND | {"format": "photos"}), "photos"),
        (json.dumps(SOUND | {"parts": [{"name": "x"}], "rows": 1}), "missing 2 required"),
        (json.dumps(SOUND | {"parts": None}), "not iterable"),
        (json.dumps(SOUND | {"rows": 5}), "not those of the whole"),
        (json.dumps(SOUND | {"parts": [LEADS_OUT], "rows": 1}), "not named by its content"),
        (json.dumps(SOUND | {"more": 1}), "unexpected keyword"),
    ],
)
def test_a_manifest_of_something_else_is_refused(other_url: str, tmp_path: Path, manifest: str, says: str):
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(ConfigError, match=rf"manifest\.json is damaged or of something else.*{says}"):
        import_into(other_url, tmp_path)


def test_an_export_of_another_version_is_refused(store_url: str, other_url: str, tmp_path: Path):
    fill(store_url, numbered(1))
    export(store_url, tmp_path / "out")
    text = (tmp_path / "out" / "manifest.json").read_text().replace('"schema_version": "1"', '"schema_version": "9"')
    (tmp_path / "out" / "manifest.json").write_text(text)
    with pytest.raises(ConfigError, match="schema version '9'"):
        import_into(other_url, tmp_path / "out")


def test_a_store_that_cannot_be_written_fails_the_import_with_the_reason(
    store_url: str, other_url: str, tmp_path: Path
):
    fill(store_url, numbered(1))
    export(store_url, tmp_path / "out")
    engine = open_engine(other_url)
    sql(other_url, "DROP TABLE answers")
    with pytest.raises(TapirError, match="cannot be written: no such table"):
        import_answers(engine, Archive(str(tmp_path / "out")))


def test_a_file_of_own_answers_is_no_export_and_is_told_where_it_goes(tmp_path: Path) -> None:
    mine = tmp_path / "mine.json"
    mine.write_text('[{"instruction": "Sum 1 and 2.", "output": "3"}]')
    with pytest.raises(ConfigError, match=r"no whole export: .*--teacher-of CONFIG"):
        Archive(str(mine)).read_manifest()
