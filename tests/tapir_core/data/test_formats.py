"""Formats are told apart by content, records are numbered, damage is located."""

import bz2
import codecs
import gzip
import io
import json
import lzma
import re
import zipfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tapir_core.data.records import Record, read_each, read_records
from tapir_core.errors import ConfigError
from tests.harness.processes import free_port

SKIPPED = b"\x5a\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"note"
SECONDS = pa.list_(pa.timestamp("s"))
TEXT = b"instruction\nA?\nB?\n"


def records_of(path: str, **given: Any) -> list[Record]:
    """All of a file, which is read as they are asked for."""
    return [*read_records(path, **given)]


def write(folder: Path, content: str | bytes, name: str = "pool") -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in (*names, "__MACOSX/._a"):
            archive.writestr(zipfile.ZipInfo(name), TEXT)
    return buffer.getvalue()


def arrow(*, named: list[str] | None = None, stream: bool = False, **columns: Any) -> bytes:
    table, buffer = pa.table(columns), pa.BufferOutputStream()
    table = table.rename_columns(named) if named else table
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(buffer, table.schema) as writer:
        writer.write_table(table)
    return bytes(buffer.getvalue())


def of_pyarrow(table: pa.Table) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    return bytes(buffer.getvalue())


def parquet(**columns: list[object]) -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame(columns).write_parquet(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        '[{"instruction": "A?"}, {"instruction": "B?"}]',
        '{"instruction": "A?"}\n{"instruction": "B?"}\n',
        "instruction\nA?\nB?\n",
        parquet(instruction=["A?", "B?"]),
        arrow(instruction=["A?", "B?"]),
        arrow(instruction=pa.array(["A?", "B?"]).dictionary_encode(), stream=True),
        gzip.compress(TEXT, mtime=0),
        gzip.compress(TEXT[:12], mtime=0) + gzip.compress(TEXT[12:], mtime=0),
        gzip.compress(parquet(instruction=["A?", "B?"]), mtime=0),
        bz2.compress(TEXT),
        lzma.compress(TEXT),
        pa.Codec("zstd").compress(TEXT, asbytes=True),
        gzip.compress(gzip.compress(TEXT, mtime=0), mtime=0),
        gzip.compress(bz2.compress(lzma.compress(TEXT)), mtime=0),
        SKIPPED + pa.Codec("zstd").compress(TEXT, asbytes=True),
        zipped("pool.csv"),
        zipped(".DS_Store", "data/pool.csv", "data/.DS_Store", "data/._pool.csv", "__MACOSX/data/._pool.csv", "data/"),
        'instruction\n"A?"\nB?\n',
        TEXT.decode().encode("utf-16"),
        codecs.BOM_UTF16_BE + TEXT.decode().encode("utf-16-be"),
    ],
)
@pytest.mark.parametrize("name", ["pool.json", "pool.csv", "pool"])
def test_the_content_tells_the_format_whatever_the_name(tmp_path: Path, content: str | bytes, name: str) -> None:
    records = records_of(write(tmp_path, content, name))
    assert [record.fields for record in records] == [{"instruction": "A?"}, {"instruction": "B?"}]


def test_a_byte_order_mark_is_no_part_of_the_content(tmp_path: Path) -> None:
    assert records_of(write(tmp_path, b"\xef\xbb\xbfinstruction\nA?\n")) == [Record(2, {"instruction": "A?"})]


def test_json_lines_are_numbered_by_line_and_blank_lines_pass(tmp_path: Path) -> None:
    records = records_of(write(tmp_path, '{"a": 1}\r\n\n{"a": 2}\n'))
    assert [record.number for record in records] == [1, 3]


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("head", [b'{"a": "b"}\n', b"instruction\n" + b"A?\n" * 2], ids=["jsonl", "csv"])
def test_lines_are_read_as_they_are_asked_for_and_damage_far_behind_is_placed(
    tmp_path: Path, head: bytes, pack: Callable[[bytes], bytes]
) -> None:
    lines = head + head.splitlines(keepends=True)[-1] * 300_000
    records = read_records(write(tmp_path, pack(lines + b"caf\xe9\n")))
    assert next(records).item in ({"a": "b"}, {"instruction": "A?"})
    with pytest.raises(ConfigError, match=rf"not UTF-8 \(line {lines.count(10) + 1}, byte {len(lines) + 3}\)"):
        list(records)


def test_a_damaged_line_is_one_broken_record(tmp_path: Path) -> None:
    found, broken = read_each(records_of(write(tmp_path, '{"a": \n{"a": 2}\n[1]\n7\n{"a": 3')), dict)
    assert [each.partition(":")[0] for each in broken] == ["row 1", "row 3", "row 4", "row 5"]
    assert broken[1] == "row 3: expected an object with fields, got list"
    assert found == [(Record(2, {"a": 2}), {"a": 2})]


def test_csv_is_numbered_by_the_line_a_row_starts_on(tmp_path: Path) -> None:
    records = records_of(write(tmp_path, 'instruction,input\n"two\nlines",x\nB?,y\n'))
    assert [record.number for record in records] == [2, 4]


def test_a_csv_row_with_another_number_of_cells_is_broken(tmp_path: Path) -> None:
    _, broken = read_each(records_of(write(tmp_path, "instruction,input\nA?\nB?,y\nC?,y,z\n")), dict)
    assert broken == [f"row {row}: {cells} cells, but the header names 2" for row, cells in ((2, 1), (4, 3))]


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
@pytest.mark.parametrize("header", ["instruction{}input", '"instruction"{}"input"', "\ufeffinstruction {}input"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_header_tells_the_delimiter(tmp_path: Path, delimiter: str, header: str, end: str) -> None:
    rows = [header.format(delimiter), f'"2, 3; 4."{delimiter}"x, y; z\t1|"', ""]
    path = write(tmp_path, end.join(rows))
    assert [each.fields for each in records_of(path)] == [{"instruction": "2, 3; 4.", "input": "x, y; z\t1|"}]


@pytest.mark.parametrize(
    ("content", "columns", "found"),
    [
        ('instruction,"a;b;c;d"\nA?,x\n', {}, ["instruction", "a;b;c;d"]),
        ("Frage;Text, lang\nA?;x\n", {"instruction": "Frage"}, ["instruction"]),
        ("instruction\nSum 1; 2; 3.\n", {}, ["instruction"]),
    ],
)
def test_a_delimiter_in_a_name_or_a_cell_is_no_delimiter(
    tmp_path: Path, content: str, columns: dict[str, str], found: list[str]
) -> None:
    [record] = records_of(write(tmp_path, content), columns=columns)
    assert [name for name in record.fields if name in found] == found


def test_columns_of_other_names_are_found_behind_any_delimiter(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape('columns = { instruction = "question" }')):
        records_of(write(tmp_path, "question;answer\nA?;B.\n"))


def test_brotli_is_told_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"br' is compressed \(brotli\); unpack it"):
        records_of(write(tmp_path, pa.Codec("brotli").compress(TEXT, asbytes=True), "pool.jsonl.br"))


def test_parquet_keeps_lists_of_messages(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "A?"}]
    assert records_of(write(tmp_path, parquet(messages=[messages]))) == [Record(1, {"messages": messages})]


def test_a_table_gives_no_row_the_fields_of_another(tmp_path: Path) -> None:
    """Else each tool call would have the arguments of all tools."""
    rows = [
        {"role": "assistant", "tool_calls": [{"name": "weather", "arguments": {"city": "Paris"}}]},
        {"role": "assistant", "tool_calls": [{"name": "add", "arguments": {"a": 1, "of": [1, None]}}]},
    ]
    pq.write_table(pa.table({"messages": [[row] for row in rows]}), tmp_path / "pool.parquet")
    found = records_of(str(tmp_path / "pool.parquet"))
    assert [record.item["messages"] for record in found] == [[row] for row in rows]


def test_a_url_is_opened_through_fsspec(tmp_path: Path) -> None:
    path = write(tmp_path, "instruction\nA?\n")
    assert records_of(f"file://{path}") == [Record(2, {"instruction": "A?"})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"instruction": "A?"},\n {"instruction": }]', "damaged JSON: Expecting value: line 2 column 18"),
        (b'[{"instruction": "caf\xe9"}]', "is not UTF-8 (line 1, byte 21)"),
        (b'{\n "data": [\n {"instruction": "A?"\n}]}', "neither a JSON list nor JSON lines"),
        (b"hello world\n", "unknown format: no column instruction, messages or conversations (found 'hello world')"),
        (b"", "unknown format"),
        (b'instruction\n"open quote\n', "damaged CSV: unexpected end of data"),
        (b"PAR1 is not enough", "damaged Parquet"),
        (parquet(instruction=["A?"])[:-9], "damaged Parquet"),
        (parquet(question=["A?"]), "unknown format"),
        (("[" * 200_000).encode(), "damaged JSON"),
        (b"\x1f\x8b\x08\x00gzip", "is compressed (gzip) and cannot be read"),
        (gzip.compress(b"instruction\nA?\n", mtime=0)[:-9], "is compressed (gzip) and cannot be read"),
        (b"\x28\xb5\x2f\xfd zstd", "is compressed (zstd) and cannot be read"),
        (b"PK\x03\x04 zip", "is compressed (zip) and cannot be read"),
        (zipped("a.csv", "b.csv"), "(zip) and cannot be read: it has 2 files (a.csv, b.csv), name one of them"),
        (zipped("xl/workbook.xml"), "it is a workbook of Excel, save the sheet as CSV"),
        (zipped(), "is compressed (zip) and cannot be read: it has no file; fetch it again"),
        (zipped(".DS_Store", "__MACOSX/._pool.csv"), "it has no file; fetch it again, or unpack it"),
        (gzip.compress(b"\x1f\x8b\x08\x00gzip", mtime=0), "is compressed (gzip) and cannot be read"),
        (b"7z\xbc\xaf\x27\x1c\0\4", "is a 7z archive; unpack it, and name the file in it"),
        (gzip.compress(b"Rar!\x1a\x07\0", mtime=0), "is a RAR archive; unpack it"),
        (gzip.compress(bytes(257) + b"ustar" + bytes(250), mtime=0), "is a tar archive; unpack it"),
        (b"ARROW1\0\0 is not enough", "damaged Arrow"),
        ("instruction\nA?".encode("utf-16-le"), "seems to be UTF-16 without a byte order mark; save it as UTF-8"),
        ("instruction\n字という字".encode("utf-16-be"), "seems to be UTF-16 without a byte order mark"),
        (("instruction\n" + "字" * 900).encode("utf-16-le"), "seems to be UTF-16 without a byte order mark"),
        (b"instruction\nA\0?", "is no text: it has a zero byte (character 13); save it as UTF-8"),
        (codecs.BOM_UTF16_LE + b"odd", "is not UTF-16"),
        (b"instruction,instruction\nA?,B?\n", "has several columns 'instruction'; rename all but one"),
        (arrow(instruction=["A?"], again=["B?"], named=["instruction"] * 2), "has several columns 'instruction'"),
        (
            arrow(instruction=pa.array([10**12], pa.timestamp("s"))),
            "column 'instruction' (timestamp[s]) cannot be read",
        ),
    ],
)
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ConfigError) as caught:
        records_of(path)
    assert message in str(caught.value)
    assert path in str(caught.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"there is no file 'nowhere\.json'; check the path"):
        records_of("nowhere.json")


def test_an_address_that_gives_nothing_is_no_matter_of_the_folder_one_starts_in() -> None:
    for address in ("file:///nowhere/pool.json", f"http://127.0.0.1:{free_port()}/pool.json"):
        with pytest.raises(ConfigError, match=r"nothing can be read at '.*'; check the address and the network"):
            records_of(address)


def test_a_folder_an_unknown_protocol_and_half_an_address_are_no_files(tmp_path: Path) -> None:
    for path in (str(tmp_path), "nosuchprotocol://bucket/pool.json", "http://[host/pool.json"):
        with pytest.raises(ConfigError, match="cannot be read"):
            records_of(path)


def test_a_number_too_long_for_python_is_a_broken_line(tmp_path: Path) -> None:
    lines = [json.dumps({"instruction": "A?"}), '{"n": ' + "9" * 5000 + "}"]
    _, [broken] = read_each(records_of(write(tmp_path, "\n".join(lines))), dict)
    assert broken.startswith("row 2: damaged JSON")


@pytest.mark.parametrize("name", ["conversations", "instruction"])
def test_a_csv_cell_may_be_as_long_as_a_conversation(tmp_path: Path, name: str) -> None:
    long = "word " * 200_000
    [record] = records_of(write(tmp_path, f'{name}\n"{long}"\n'))
    assert record.fields == {name: long}


@pytest.mark.parametrize(
    "odd",
    [
        pa.array([10**12], pa.timestamp("s")),
        pa.array([10**15], pa.date64()),
        pa.array([Decimal(7)], pa.decimal256(60, 2)),
        pa.array([{"at": [10**12]}], pa.struct({"at": pa.list_(pa.timestamp("s"))})),
        pa.array([10**18 + 1], pa.duration("ns")),
    ],
    ids=lambda array: str(array.type),
)
def test_a_column_that_is_not_read_may_hold_anything_and_have_any_name(tmp_path: Path, odd: pa.Array) -> None:
    table = pa.table({"instruction": ["A?"], "crawled": odd, "again": odd}).rename_columns(
        ["instruction", *["odd"] * 2]
    )
    assert records_of(write(tmp_path, of_pyarrow(table)), fields=["instruction"]) == [Record(1, {"instruction": "A?"})]


def test_of_images_in_a_table_only_whether_there_is_one_is_read(tmp_path: Path) -> None:
    images = pa.array([{"bytes": b"PNG", "at": [10**12]}, None], pa.struct({"bytes": pa.binary(), "at": SECONDS}))
    path = write(tmp_path, of_pyarrow(pa.table({"instruction": ["A?", "B?"], "image": images})))
    assert [record.fields["image"] for record in records_of(path)] == [True, None]


def test_only_the_columns_that_are_read_must_have_names_of_their_own(tmp_path: Path) -> None:
    path = write(tmp_path, "instruction,note,note\nA?,x,y\n")
    assert records_of(path, fields=["instruction"]) == [Record(2, {"instruction": "A?"})]
    with pytest.raises(ConfigError, match="has several columns 'note'"):
        records_of(path, fields=["instruction", "note"])


@pytest.mark.parametrize(
    "content",
    [
        '{"instruction": "A?"}\n{"instruction": "A?", "instruction": "B?"}\n',
        '[{"instruction": "A?"}, {"instruction": "A?", "more": [{"instruction": 1, "instruction": 1}]}]',
    ],
)
def test_a_name_that_stands_twice_in_an_object_breaks_the_record(tmp_path: Path, content: str) -> None:
    found, broken = read_each(records_of(write(tmp_path, content)), dict)
    assert (len(found), broken) == (1, ["row 2: `instruction` stands twice in one object; leave one out"])
