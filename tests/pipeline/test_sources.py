"""Files and folders as they come: each is read as it looks, or refused with its name, the place and what to do."""

from __future__ import annotations

import bz2
import gzip
import json
import logging
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Value, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError

from hf_dlc.cli.commands import main
from hf_dlc.pipeline.options import DataArguments, PruneArguments
from hf_dlc.pipeline.sources import dataset_identity, read_dataset, split_of
from hf_dlc.utils.content import content_digests
from tests.rows import json_lines


ROWS = [{"instruction": "Add 2, 3.", "output": "5"}, {"instruction": "Greet.", "output": "Hi"}]
LINES = json_lines(ROWS)
CSV = 'instruction,output\n"Add 2, 3.",5\nGreet.,Hi\n'


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, and a cache of `datasets` of its own."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return folder


def write(name: str, content: str | bytes) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return name


def read(name: str, **options: Any) -> Dataset:
    return read_dataset(DataArguments(dataset=name, **options))


def rows(name: str, **options: Any) -> list[dict[str, Any]]:
    return read(name, **options).to_list()


# ---- files that are read ------------------------------------------------------------------------------------------


def _zstandard(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)


def _arrow(make: Callable[..., Any]) -> bytes:
    sink, table = pa.BufferOutputStream(), pa.Table.from_pylist(ROWS)
    with make(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _parquet(table: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def _pandas_csv() -> bytes:
    return pd.DataFrame(ROWS).to_csv(index=False).encode()


KINDS = {
    "rows.jsonl": LINES,
    "rows.ndjson": LINES,
    "ROWS.JSONL": LINES,
    "lines.json": LINES,
    "rows.v2.jsonl": LINES,
    "bom.jsonl": "\ufeff" + LINES,
    "crlf.jsonl": LINES.replace("\n", "\r\n"),
    "blank.jsonl": "\n" + LINES.replace("\n", "\n \n"),
    "no_end.jsonl": LINES.rstrip("\n"),
    "list.json": json.dumps(ROWS),
    "pretty.json": json.dumps(ROWS, indent=2),
    "first_row_on_first_line.json": "[" + ",\n".join(map(json.dumps, ROWS)) + "]",
    "wrapped.json": json.dumps({"data": ROWS}),
    "wrapped_pretty.json": json.dumps({"data": ROWS}, indent=1),
    "pandas_records.json": pd.DataFrame(ROWS).to_json(orient="records"),
    "pandas_lines.jsonl": pd.DataFrame(ROWS).to_json(orient="records", lines=True),
    "rows.jsonl.gz": gzip.compress(LINES.encode()),
    "rows.jsonl.GZ": gzip.compress(LINES.encode()),
    "rows.jsonl.bz2": bz2.compress(LINES.encode()),
    "rows.jsonl.xz": lzma.compress(LINES.encode()),
    "rows.jsonl.zst": _zstandard(LINES.encode()),
    "rows.csv": CSV,
    "rows.CSV": CSV,
    "rows.csv.gz": gzip.compress(CSV.encode()),
    "bom.csv": "\ufeff" + CSV,
    "crlf.csv": CSV.replace("\n", "\r\n"),
    "blank.csv": CSV.replace("\n", "\n\n"),
    "no_end.csv": CSV.rstrip("\n"),
    "all_quoted.csv": '"instruction","output"\n"Add 2, 3.","5"\n"Greet.","Hi"\n',
    "pandas.csv": _pandas_csv(),
    "rows.tsv": "instruction\toutput\nAdd 2, 3.\t5\nGreet.\tHi\n",
    "rows.tsv.gz": gzip.compress(b"instruction\toutput\nAdd 2, 3.\t5\nGreet.\tHi\n"),
    "rows.parquet": _parquet(pa.Table.from_pylist(ROWS)),
    "ROWS.PARQUET": _parquet(pa.Table.from_pylist(ROWS)),
    "stream.arrow": _arrow(pa.ipc.new_stream),
    "file.arrow": _arrow(pa.ipc.new_file),
    "rows.feather": _arrow(pa.ipc.new_file),
    "a folder/with blanks.jsonl": LINES,
    "rows[1]*?.jsonl": LINES,
    "rows[1]*?.parquet": _parquet(pa.Table.from_pylist(ROWS)),
    "100%, #1 & more.csv": CSV,
}


@pytest.mark.parametrize("name", KINDS)
def test_kinds(name: str) -> None:
    assert rows(write(name, KINDS[name])) == ROWS


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet"])
def test_ways_to_a_file(name: str, here: Path, tmp_path: Path) -> None:
    write(f"in/{name}", KINDS[name])
    Path(f"link.{name}").symlink_to(here / "in" / name)
    (tmp_path / "home").symlink_to(here)
    for way in (f"in/{name}", f"./in/{name}", f"../here/in/{name}", here / "in" / name, f"~/in/{name}"):
        assert rows(str(way)) == ROWS
    assert rows(f"link.{name}") == ROWS
    assert rows("in/*") == rows("**/rows*") == rows("in/") == rows("in") == ROWS


def test_a_pattern_is_all_its_files() -> None:
    for place, row in enumerate(ROWS):
        write(f"data/part-{place}.jsonl", json.dumps(row))
    write("data/notes.txt", "no rows")
    assert rows("data/*.jsonl") == ROWS
    identity = dataset_identity(DataArguments(dataset="data/*.jsonl"), read("data/*.jsonl"))
    assert (identity.is_local, identity.revision, identity.rows) == (True, None, 2)


# ---- text is text -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    ["NA", "N/A", "None", "null", "NULL", "nan", "NaN", "007", "1.0", "1e3", "True", "false", "inf", "2020-01-01"],
)
@pytest.mark.parametrize("many", [1, 1500])
def test_fields_of_csv_are_text(value: str, many: int) -> None:
    write("rows.csv", "instruction,output\n" + f"Say it.,{value}\n" * many)
    found = read("rows.csv")
    assert found.features["output"] == Value("string")
    assert set(found["output"][:]) == {value}


def test_an_empty_field_of_csv_is_missing() -> None:
    write("rows.csv", 'instruction,input,output\na,,b\nc,"",\n')
    assert rows("rows.csv") == [
        {"instruction": "a", "input": None, "output": "b"},
        {"instruction": "c", "input": None, "output": None},
    ]


def test_the_types_of_a_csv_column_may_change() -> None:
    answers = [str(number) for number in range(120_000)] + ["four", "4.0"]
    write("rows.csv", "instruction,output\n" + "".join(f"Count.,{answer}\n" for answer in answers))
    assert read("rows.csv")["output"][:] == answers


def test_texts_of_csv_may_be_long_and_of_several_lines() -> None:
    text = 'He said "no",\nand left.\r\n\n' + "x" * 300_000
    pd.DataFrame({"instruction": ["a"], "output": [text]}).to_csv("rows.csv", index=False)
    assert rows("rows.csv") == [{"instruction": "a", "output": text}]


def test_the_index_that_pandas_writes_is_a_column() -> None:
    pd.DataFrame(ROWS).to_csv("rows.csv")
    assert read("rows.csv").column_names == ["Unnamed: 0", "instruction", "output"]


def test_odd_names_are_kept() -> None:
    write("rows.csv", '" a","b,c",d=e,ü\n1,2,3,4\n')
    assert rows("rows.csv") == [{" a": "1", "b,c": "2", "d=e": "3", "ü": "4"}]
    write("rows.jsonl", json.dumps({" a": "1", "b,c": "2", "d=e": "3", "ü": "4", "": "5", "a.b": "6"}))
    assert list(rows("rows.jsonl")[0]) == [" a", "b,c", "d=e", "ü", "", "a.b"]


# Of each column, what the lines hold and what is read.
TYPES: dict[str, tuple[list[Any], list[Any]]] = {
    "dates": (["2020-01-01", "2021-01-01 10:00:00"], ["2020-01-01", "2021-01-01 10:00:00"]),
    "numbers and text": (
        [4, "007", 1.5, True, '"q"', "null", "four"],
        ["4", "007", "1.5", "true", '"q"', "null", "four"],
    ),
    "a number beyond 64 bits": ([2**70], [str(2**70)]),
    "whole and other numbers": ([1, 1.5], [1.0, 1.5]),
    "all whole": ([1, 2, None], [1, 2, None]),
    "true and false": ([True, None], [True, None]),
    "nothing": ([None, None], [None, None]),
    "lists": ([[], ["a"], None], [[], ["a"], None]),
    "objects": ([{"a": "1"}, {"a": None}], [{"a": "1"}, {"a": None}]),
    "objects of several kinds": ([{"a": "1"}, {"b": [0.5]}, {}], [{"a": "1"}, {"b": [0.5]}, {}]),
    "text and objects": (["42", {"a": 1}, "x"], ["42", {"a": 1}, "x"]),
    "content of turns": ([[{"c": "42"}], [{"c": [{"t": "x"}]}]], [[{"c": "42"}], [{"c": [{"t": "x"}]}]]),
}


@pytest.mark.parametrize("many", [1, 2500])
@pytest.mark.parametrize("name", TYPES)
def test_values_of_json(name: str, many: int) -> None:
    given, expected = TYPES[name]
    write("rows.jsonl", "".join(json.dumps({"a": value, "b": "x"}) + "\n" for value in given for _ in range(many)))
    assert read("rows.jsonl")["a"][:] == [value for value in expected for _ in range(many)]


@pytest.mark.parametrize(
    ("first", "then"), [(3, "t"), ("t", 3), (None, "t"), ([{"r": "u"}], [{"r": "u", "n": "z"}]), ("2020-01-01", "t")]
)
def test_types_that_change_midway_in_a_large_file(first: Any, then: Any) -> None:
    """`datasets` tells the types by the first ten megabytes."""
    padding = "x" * 100_000
    with Path("rows.jsonl").open("w") as file:
        for value in [first] * 120 + [then, first]:
            file.write(json.dumps({"padding": padding, "a": value}) + "\n")
    found = read("rows.jsonl").select_columns("a")
    text = str if {type(first), type(then)} == {int, str} else lambda value: value
    assert [found[place]["a"] for place in (0, 119, 120, 121)] == [text(one) for one in (first, first, then, first)]


def test_mixed_types_are_said(caplog: pytest.LogCaptureFixture) -> None:
    write("rows.jsonl", '{"a": "x", "b": 1}\n{"a": "y", "b": 1}\n{"a": 3, "b": 2.5}\n')
    with caplog.at_level(logging.WARNING, "hf_dlc"):
        read("rows.jsonl")
    assert [record.getMessage() for record in caplog.records] == [
        "the column 'a' holds text (rows.jsonl, line 1) and a whole number (rows.jsonl, line 3): all is read as text"
    ]


def test_json_is_read_as_datasets_does_where_it_can() -> None:
    """Values and types, on rows of all layouts: scores of them stay what they were."""
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "tool_calls": [{"x": 1, "y": [2]}]},
    ]
    several = [
        [{"instruction": "a", "input": "", "output": "b"}, {"instruction": "c", "input": None, "output": "d"}],
        [{"messages": turns[:1]}, {"messages": turns}],
        [{"prompt": turns[:1], "completion": turns[1:], "score": 0.5, "n": 3, "ok": True, "none": None}],
        [{"text": "a\u2028b\\n"}, {"text": "\u00e9\U0001f600", "extra": [1.5, 2]}],
        [{"messages": turns, "tools": [{"name": "f", "parameters": {"a": {"type": "int"}, "b": {}}}]}, {"tools": []}],
        [{"input_ids": [1, 2], "labels": [-100, 2]}],
        [{"a": {"b": {"c": [[1], [2, 3]]}}, "d": [{"e": "f", "g": None}]}],
    ]
    for place, given in enumerate(several):
        name = write(f"{place}.jsonl", json_lines(given))
        expected = load_dataset("json", data_files=name, split="train")
        found = read(name)
        assert found.features == expected.features
        assert found.to_list() == expected.to_list()
        names = found.column_names
        assert content_digests(found, names) == content_digests(expected, names)  # scores find their rows again


def test_a_file_that_has_changed_is_read_again() -> None:
    write("rows.jsonl", LINES)
    assert rows("rows.jsonl") == ROWS
    write("rows.jsonl", LINES.replace("Hi", "Hello"))
    assert rows("rows.jsonl")[1]["output"] == "Hello"


# ---- files that are refused ---------------------------------------------------------------------------------------

WRONG: dict[str, tuple[str | bytes, str]] = {
    "more.csv": ("a,b\n1,2\n1,2,3\n", "more.csv, line 3: 3 fields, but the header has 2: a, b"),
    "more_first.csv": ("a,b\n1,2,3\n1,2\n", "more_first.csv, line 2: 3 fields, but the header has 2"),
    "more_in_all.csv": ("a,b\n1,2,3\n4,5,6\n", "more_in_all.csv, line 2: 3 fields, but the header has 2"),
    "comma_at_the_end.csv": ("a,b\n1,2,\n4,5,\n", "comma_at_the_end.csv, line 2: 3 fields"),
    "fewer.csv": ("a,b\n1,2\n1\n", "fewer.csv, line 3: 1 field, but the header has 2"),
    "blank_but_not_empty.csv": ("a,b\n1,2\n  \n", "blank_but_not_empty.csv, line 3: 1 field"),
    "far.csv": ("a,b\n" + "1,2\n" * 5000 + "1,2,3\n", "far.csv, line 5002: 3 fields"),
    "after_lines.csv": ('a,b\n"1\n\n2",3\n1,2,3\n', "after_lines.csv, line 5: 3 fields"),
    "within_lines.csv": ('a,b\n1,2\n"1\n2",3,4\n', "within_lines.csv, line 3: 3 fields"),
    "open.csv": ('a,b\n1,2\n"3,4\n5,6\n', "open.csv, in the row that begins on line 3: a quote is opened and never"),
    "quote.csv": ('a,b\n"1" 2,3\n', "quote.csv, in the row that begins on line 2: ',' expected after '\"'"),
    "backslash.csv": ('a,b\n"say \\"hi\\"",3\n', "backslash.csv, in the row that begins on line 2: "),
    "twice.csv": ("a,b,a\n1,2,3\n", "twice.csv, line 1: each column must have a name of its own, got a twice"),
    "semicolon.csv": ("a;b\n1;2\n", "semicolon.csv has one column, 'a;b': it seems to be separated by ';'"),
    "tab.csv": ("a\tb\n1\t2\n", r"tab.csv has one column, 'a\tb': it seems to be separated by '\t'"),
    "comma.tsv": ("a,b\n1,2\n", "comma.tsv has one column, 'a,b': it seems to be separated by ','"),
    "header.csv": ("a,b\n", "header.csv: there are no rows"),
    "header_no_end.csv": ("a,b", "header_no_end.csv: there are no rows"),
    "empty.csv": ("", "empty.csv: there are no rows"),
    "blank.csv": ("\n\n", "blank.csv: there are no rows"),
    "spaces.csv": ("  \n", "spaces.csv: there are no rows"),
    "empty.tsv": ("", "empty.tsv: there are no rows"),
    "empty.jsonl": ("", "empty.jsonl: there are no rows"),
    "blank.jsonl": (" \n\t\n", "blank.jsonl: there are no rows"),
    "bom.jsonl": ("\ufeff", "bom.jsonl: there are no rows"),
    "empty.json": ("", "empty.json: there are no rows"),
    "empty_list.json": ("[]", "empty_list.json: there are no rows"),
    "empty.jsonl.gz": (gzip.compress(b""), "empty.jsonl.gz: there are no rows"),
    "empty.parquet": (b"", "empty.parquet"),
    "no_rows.parquet": (_parquet(pa.table({"a": pa.array([], pa.string())})), "no_rows.parquet: there are no rows"),
    "no.parquet": ("a,b\n1,2\n", "no.parquet"),
    "no.arrow": ("a,b\n1,2\n", "no.arrow"),
    "utf16.csv": (
        "a,b\n1,2\n".encode("utf-16"),
        "utf16.csv is UTF-16, and must be UTF-8. Convert it: iconv -f UTF-16",
    ),
    "utf16le.csv": ("a,b\n1,2\n".encode("utf-16-le"), "utf16le.csv, line 1: there is a zero byte"),
    "utf16.jsonl": (LINES.encode("utf-16"), "utf16.jsonl is UTF-16"),
    "latin1.csv": ("a,b\n1,2\n1,caf\u00e9\n".encode("latin-1"), "latin1.csv, line 3, byte 6: 0xe9 is no UTF-8"),
    "latin1.jsonl": (
        '{"a": "b"}\n{"a": "\u00e9"}\n'.encode("latin-1"),
        "latin1.jsonl, line 2, byte 8: 0xe9 is no UTF-8",
    ),
    "zero.csv": (b"a,b\n1,2\n1,\x002\n", "zero.csv, line 3: there is a zero byte"),
    "mac.csv": ("a,b\r1,2\r", "mac.csv, in the row that begins on line 1: a carriage return stands outside of quotes"),
    "broken.jsonl": ('{"a": "b"}\n{"a": "b"\n{"a": "c"}\n', "broken.jsonl, line 2, column 10: this is no JSON"),
    "broken_first.jsonl": ('{"a": "b"\n{"a": "c"}\n', "broken_first.jsonl, line 1, column 10: this is no JSON"),
    "broken_last.jsonl": (LINES + '{"instruct', "broken_last.jsonl, line 3, column"),
    "broken_far.jsonl": ('{"a": "b"}\n' * 3000 + "{\n", "broken_far.jsonl, line 3001, column"),
    "broken.json": ('[\n{"a": "b"},\n{"a": }\n]', "broken.json, line 3, column 7: this is no JSON"),
    "commas.jsonl": (
        '{"a": "b"},\n{"a": "c"},\n',
        "commas.jsonl, line 1, column 11: this is no JSON: Extra data. JSON",
    ),
    "comma.json": ('[\n{"a": "b"},\n]', "comma.json, line 3, column 1: this is no JSON"),
    "python.jsonl": ("{'a': 'b'}\n{'a': 'c'}\n", "python.jsonl, line 1, column 2: this is no JSON"),
    "twice.jsonl": (
        '{"a": "b"}\n{"a": "b", "a": "c"}\n',
        "twice.jsonl, line 2: this is no row: the field 'a' is there twice",
    ),
    "deep.jsonl": ('{"a": "b"}\n{"a": ' + "[" * 100_000 + "\n", "deep.jsonl, line 2"),
    "lists.jsonl": ('["a", "b"]\n["c", "d"]\n', "lists.jsonl, line 1: a row must be a JSON object, got a list"),
    "text.jsonl": ('{"a": "b"}\n"a"\n', "text.jsonl, line 2: a row must be a JSON object, got text"),
    "null.jsonl": ('{"a": "b"}\nnull\n', "null.jsonl, line 2: a row must be a JSON object, got null"),
    "lists.json": ('[{"a": "b"}, ["a"]]', "lists.json, row 1: a row must be a JSON object, got a list"),
    "number.json": ("3", "number.json must hold rows, which are JSON objects, got a whole number"),
    "half.jsonl": (
        '{"a": "b"}\n{"a": "b", "c": "\\ud800"}\n',
        "half.jsonl, line 2: the column 'c' holds half of a surr",
    ),
    "columns.json": (
        pd.DataFrame(ROWS).to_json(),
        "columns.json holds a table, written by pandas with orient='columns'",
    ),
    "index.json": (
        pd.DataFrame(ROWS).to_json(orient="index"),
        "index.json holds a table, written by pandas with orient='i",
    ),
    "split.json": (
        pd.DataFrame(ROWS).to_json(orient="split"),
        "split.json holds a table, written by pandas with orient='s",
    ),
    "table.json": (
        pd.DataFrame(ROWS).to_json(orient="table"),
        "table.json holds a table, written by pandas with orient='t",
    ),
    "values.json": (
        pd.DataFrame(ROWS).to_json(orient="values"),
        "values.json, row 0: a row must be a JSON object, got a l",
    ),
    "no.jsonl.gz": (LINES, "no.jsonl.gz cannot be decompressed"),
    "cut.jsonl.gz": (gzip.compress(LINES.encode() * 999)[:-20], "cut.jsonl.gz cannot be decompressed"),
    "no.jsonl.bz2": (LINES, "no.jsonl.bz2 cannot be decompressed"),
    "no.jsonl.xz": (LINES, "no.jsonl.xz cannot be decompressed"),
    "no.jsonl.zst": (LINES, "no.jsonl.zst cannot be decompressed"),
    "rows.txt": (LINES, "rows.txt: expected a file that ends in .json, .jsonl, .ndjson, .csv, .tsv, .parquet"),
    "rows.xlsx": (b"PK", "rows.xlsx: expected a file that ends in .json"),
    "rows.jsonl.zip": (b"PK", "rows.jsonl.zip: expected a file that ends in .json"),
    "rows": (LINES, "rows: expected a file that ends in .json"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_read_has_a_place_and_a_reason(name: str) -> None:
    content, message = WRONG[name]
    write(name, content)
    with pytest.raises(ValueError, match=r"(?s).") as caught:
        read(name)
    assert message in str(caught.value)
    assert "An error occurred" not in str(caught.value)


def test_a_table_of_pandas_says_how_to_write_rows() -> None:
    pd.DataFrame(ROWS).to_json("rows.json")
    with pytest.raises(ValueError, match=r"df\.to_json\('rows\.jsonl', orient='records', lines=True\)"):
        read("rows.json")


def test_one_row_is_a_row() -> None:
    row = {"messages": [{"role": "user", "content": "a"}], "data": [{"a": "1"}], "meta": {"0": "x"}}
    assert rows(write("row.jsonl", json.dumps(row))) == [row]
    assert rows(write("chat.json", json.dumps({"data": row["messages"]}))) == [{"data": row["messages"]}]
    assert rows(write("pretty.json", json.dumps(ROWS[0], indent=2))) == ROWS[:1]
    assert rows(write("texts.json", '["a", "b"]')) == [{"text": "a"}, {"text": "b"}]


# ---- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *(
            "./rows",
            "../rows",
            "/rows",
            "~/rows",
            "rows/",
            "a/b/c",
            "a b",
            "a\\b",
            "C:\\rows",
            "me/rows~",
            "./rows.v2",
        ),
        *("rows.jsonl", "rows.txt", "a/rows.xlsx", "rows.jsonl.zst", "rows.ARROW"),
    ],
)
def test_a_path_that_is_not_there(name: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*, nor a folder"):
        read(name)


@pytest.mark.parametrize("name", ["data/*.jsonl", "rows?.csv", "[ab]/x"])
def test_a_pattern_without_files(name: str) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read(name)


@pytest.mark.parametrize("name", ["rows", "me/rows"])
def test_a_name_that_may_be_of_the_hub(name: str) -> None:
    with pytest.raises(ConnectionError, match=f"{name} is no file or folder here, and as a repository on the Hub: "):
        read(name)


@pytest.mark.parametrize("name", ["", " "])
def test_no_name(name: str) -> None:
    write("rows.jsonl", LINES)  # the working directory is not what is meant
    with pytest.raises(ValueError, match=r"dataset must be a file, a folder or a repository on the Hub, got ' ?'"):
        read(name)


def test_an_address() -> None:
    with pytest.raises(
        ValueError, match=r"a file, a folder or a repository on the Hub, got 'https://x\.org/rows\.jsonl'"
    ):
        read("https://x.org/rows.jsonl")


def test_a_folder_with_the_name_of_a_repository_is_read() -> None:
    write("me/rows/train.jsonl", LINES)
    assert rows("me/rows") == ROWS


def test_options_of_the_hub_are_not_said_of_a_file(caplog: pytest.LogCaptureFixture) -> None:
    options = DataArguments(dataset=write("rows.jsonl", LINES), dataset_config="x", dataset_revision="main")
    found = read_dataset(options)
    identity = dataset_identity(options, found)
    assert (identity.config, identity.revision) == (None, None)
    assert [f"{name} is for repositories on the Hub" in caplog.text for name in ("dataset_config", "dataset_revision")]


# ---- splits -------------------------------------------------------------------------------------------------------

TEN = [{"text": f"text {number}"} for number in range(10)]
TEN_LINES = json_lines(TEN)


def saved_dataset(name: str, split: str | None = None) -> str:
    Dataset.from_list(TEN, split=split).save_to_disk(name)
    return name


def saved_splits(name: str) -> str:
    DatasetDict({"train": Dataset.from_list(TEN), "test": Dataset.from_list(TEN[:4])}).save_to_disk(name)
    return name


def folder_of_splits(name: str) -> str:
    write(f"{name}/train.jsonl", TEN_LINES)
    write(f"{name}/test.jsonl", "".join(TEN_LINES.splitlines(keepends=True)[:4]))
    return name


SOURCES: dict[str, tuple[Callable[[], str], bool]] = {
    "jsonl": (lambda: write("rows.jsonl", TEN_LINES), False),
    "csv": (lambda: write("rows.csv", "text\n" + "".join(f"text {number}\n" for number in range(10))), False),
    "parquet": (lambda: write("rows.parquet", _parquet(pa.Table.from_pylist(TEN))), False),
    "pattern": (lambda: write("rows.jsonl", TEN_LINES)[:3] + "*", False),
    "saved dataset": (lambda: saved_dataset("saved"), False),
    "saved splits": (lambda: saved_splits("saved"), True),
    "folder": (lambda: folder_of_splits("folder"), True),
    "folder of one file": (lambda: str(Path(write("one/rows.jsonl", TEN_LINES)).parent), False),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", TEN),
        ("train[:50%]", TEN[:5]),
        ("train[2:4]", TEN[2:4]),
        ("train[-3:]", TEN[-3:]),
        ("train[8:99]", TEN[8:]),
        ("train[:2]+train[9:]", [*TEN[:2], *TEN[9:]]),
        ("test", TEN[:4]),
        ("train[:1]+test[:1]", [TEN[0], TEN[0]]),
        ("train+test", [*TEN, *TEN[:4]]),
    ],
)
def test_splits(source: str, split: str, expected: list[dict[str, str]]) -> None:
    make, has_test = SOURCES[source]
    name = make()
    if "test" in split and not has_test:
        with pytest.raises(ValueError, match=rf"split must be one of train, which .*{name[:3]}.* has, .*got 'test'"):
            read(name, split=split)
        return
    assert rows(name, split=split) == expected
    assert rows(name, split=split, max_rows=1) == expected[:1]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("train[5:5]", r"there are no rows in the split 'train\[5:5\]' of rows.jsonl"),
        ("train[a:b]", "split must look like 'train'"),
        ("train[:50%", "split must "),
        ("train[:150%]", "split must look like"),
        ("", "split must be one of train"),
    ],
)
def test_splits_that_are_none(split: str, message: str) -> None:
    write("rows.jsonl", TEN_LINES)
    with pytest.raises(ValueError, match=message):
        read("rows.jsonl", split=split)


def test_a_saved_dataset_has_its_own_name_for_its_split() -> None:
    saved_dataset("saved", "test")
    for split in ("test", "train"):
        options = DataArguments(dataset="saved", split=split)
        assert read_dataset(options).to_list() == TEN
        assert dataset_identity(options, read_dataset(options)).split == "test"
    with pytest.raises(ValueError, match="split must be one of test, train"):
        read("saved", split="validation")


def test_the_split_of_another_dataset() -> None:
    file, splits = write("rows.jsonl", TEN_LINES), saved_splits("saved")
    assert split_of(file, "test[:50%]") == "train"
    assert split_of(splits, "test[:50%]") == "test"
    assert split_of(splits, "train[:3]+test[:50%](pct1_dropremainder)") == "train+test"
    assert split_of(splits, "nope") == "nope"  # refused when it is read
    assert split_of("me/on_the_hub", "dev[:3]") == "dev"


# ---- folders ------------------------------------------------------------------------------------------------------


def picture(name: str) -> None:
    image = pytest.importorskip("PIL.Image", reason="images need Pillow")
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    image.new("RGB", (8, 8)).save(name)


@pytest.mark.parametrize("data", ["train.parquet", "rows.parquet", "rows.jsonl", "data/train.jsonl"])
def test_data_files_come_before_images(data: str, caplog: pytest.LogCaptureFixture) -> None:
    content = _parquet(pa.Table.from_pylist(ROWS)) if data.endswith("parquet") else LINES
    write(f"folder/{data}", content)
    for name in ("logo.png", "assets/a.png", "assets/b.jpg"):
        picture(f"folder/{name}")
    assert rows("folder") == ROWS
    assert "3 files are not read: a.png, b.jpg, logo.png" in caplog.text


@pytest.mark.parametrize("beside", ["train.jsonl", "data/train-00000-of-00001.jsonl"])
def test_images_in_several_folders_beside_a_split(beside: str) -> None:
    write(f"folder/{beside}", LINES)
    picture("folder/assets/a.png")
    picture("folder/docs/b.png")
    assert rows("folder") == ROWS


@pytest.mark.parametrize("beside", [None, "labels.csv", "README.md", "classes.json", "train/metadata.jsonl"])
def test_folders_of_images(beside: str | None, caplog: pytest.LogCaptureFixture) -> None:
    names = ["cat/a.png", "dog/b.png"] if beside != "train/metadata.jsonl" else ["train/a.png", "train/b.png"]
    for name in names:
        picture(f"folder/{name}")
    if beside:
        listed = "".join(json.dumps({"file_name": name, "label": name}) + "\n" for name in ("a.png", "b.png"))
        write(f"folder/{beside}", listed if "metadata" in beside else "a,b\n1,2\n")
    found = read("folder")
    assert len(found) == 2
    assert {"image", "label"} <= set(found.column_names)
    if beside in ("labels.csv", "classes.json"):
        assert f"folder is read as a folder of images; 1 files are not read: {beside}" in caplog.text


def test_a_list_of_images_stays_one() -> None:
    for name in ("a.png", "b.png"):
        picture(f"folder/{name}")
    write("folder/metadata.csv", "file_name,text\na.png,first\nb.png,second\n")
    assert read("folder")["text"][:] == ["first", "second"]


def test_splits_of_images() -> None:
    for name in (
        "train/cat/a.png",
        "train/dog/b.png",
        "validation/cat/c.png",
        "validation/dog/d.png",
        "train/cat/e.png",
    ):
        picture(f"photos/{name}")
    assert [len(read("photos", split=split)) for split in ("train", "validation", "train[:1]")] == [3, 2, 1]
    with pytest.raises(ValueError, match=r"split must be one of train, validation, .*got 'test'"):
        read("photos", split="test")
    with pytest.raises(ValueError, match=r"split must be one of train, .*got 'validation'"):
        read("photos/train", split="validation")
    assert split_of("photos/validation", "test") == "train"


def test_one_split_without_the_other(caplog: pytest.LogCaptureFixture) -> None:
    """Their columns differ, and one cannot be read at all."""
    write("folder/train.jsonl", LINES)
    write("folder/test.jsonl", '{"question": "a", "answer": "b"}\n')
    write("folder/validation.jsonl", "{broken\n")
    assert rows("folder") == ROWS
    assert rows("folder", split="test") == [{"question": "a", "answer": "b"}]
    with pytest.raises(ValueError, match=r"validation\.jsonl, line 1"):
        read("folder", split="validation")
    assert not caplog.records


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"], {"train": [0, 1]}),
        (
            ["data/train_sft-00000-of-00001.jsonl", "data/test_sft-00000-of-00001.jsonl"],
            {"train_sft": [0], "test_sft": [1]},
        ),
        (["train/a.jsonl", "test/a.jsonl"], {"train": [0], "test": [1]}),
        (["my_train.jsonl", "my-eval.jsonl"], {"train": [0], "test": [1]}),
        (["Train.jsonl", "Dev.jsonl"], {"train": [0], "validation": [1]}),
        (["a.jsonl", "b.jsonl"], {"train": [0, 1]}),
        (["deep/er/a.jsonl", "b.jsonl"], {"train": [1, 0]}),
        (["train.jsonl", "other.jsonl"], {"train": [0]}),
        (["trainer.jsonl", "contest.jsonl"], {"train": [1, 0]}),
        (["train.jsonl", ".hidden.jsonl"], {"train": [0]}),
        (["train.jsonl", "eval/x.jsonl"], {"train": [0], "test": [1]}),
        (["train.jsonl", "dataset_info.json"], {"train": [0]}),
    ],
)
def test_splits_of_a_folder(names: list[str], splits: dict[str, list[int]], caplog: pytest.LogCaptureFixture) -> None:
    for place, name in enumerate(names):
        write(f"folder/{name}", json.dumps({"text": str(place)}))
    for split, places in splits.items():
        assert [int(row["text"]) for row in rows("folder", split=split)] == places
    assert ("not read: other.jsonl" in caplog.text) == ("other.jsonl" in names)


def test_shards_with_and_without_a_column() -> None:
    write("folder/a.jsonl", '{"text": "1", "system": "s"}\n')
    write("folder/b.jsonl", '{"text": "2"}\n')
    assert rows("folder") == [{"text": "1", "system": "s"}, {"text": "2", "system": None}]


def test_a_shard_without_rows() -> None:
    write("folder/a.parquet", _parquet(pa.table({"text": pa.array([], pa.string())})))
    write("folder/b.parquet", _parquet(pa.table({"text": ["x"]})))
    write("more/a.jsonl", "")
    write("more/b.jsonl", '{"text": "x"}')
    write("most/a.csv", "text\n")
    write("most/b.csv", "text\nx\n")
    assert rows("folder") == rows("more") == rows("most") == [{"text": "x"}]


def test_shards_of_several_types() -> None:
    write("folder/a.jsonl", '{"text": 1}\n')
    write("folder/b.jsonl", '{"text": "x"}\n')
    assert rows("folder") == [{"text": "1"}, {"text": "x"}]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "the folder folder is empty"),
        ({"train.jsonl": ""}, r"folder/train\.jsonl: there are no rows"),
        ({"a.jsonl": '{"a": 1}', "b.jsonl": '{"b": 1}'}, r"same columns, but .*a\.jsonl has a, and .*b\.jsonl has b"),
        ({"a.csv": "a\n1\n", "b.csv": "b\n1\n"}, r"same columns, but .*a\.csv has a, and .*b\.csv has b"),
        (
            {"a.jsonl": '{"a": 1}', "b.csv": "a\n1\n"},
            r"of one kind, got .*b\.csv, .*a\.jsonl|of one kind, got .*a\.jsonl",
        ),
        ({"train.jsonl": "{", "logo.txt": "x"}, r"train\.jsonl, line 1"),
        ({"scoring.json": "{}", "pruned.parquet": ""}, "folder is the output folder of a run; .* in folder/pruned"),
    ],
)
def test_folders_that_are_refused(files: dict[str, str], message: str) -> None:
    Path("folder").mkdir()
    for name, content in files.items():
        write(f"folder/{name}", content)
    with pytest.raises(ValueError, match=message):
        read("folder")


def test_a_copy_of_a_repository_with_configurations() -> None:
    write("copy/README.md", "---\nconfigs:\n- config_name: a\n  data_files: one.jsonl\n- config_name: b\n"
          "  data_files:\n  - split: test\n    path: two.jsonl\n---\n# Rows\n")  # fmt: skip
    write("copy/one.jsonl", LINES)
    write("copy/two.jsonl", LINES)
    assert rows("copy", dataset_config="a") == rows("copy", dataset_config="b", split="test") == ROWS
    with pytest.raises(ValueError, match="split must be one of test"):
        read("copy", dataset_config="b")
    options = DataArguments(dataset="copy", dataset_config="a")
    assert dataset_identity(options, read_dataset(options)).config == "a"


def test_a_folder_of_text() -> None:
    """What `datasets` reads and we do not is left to it."""
    write("folder/train.txt", "a\nb\n")
    write("folder/test.txt", "c\n")
    assert rows("folder") == [{"text": "a"}, {"text": "b"}]
    assert rows("folder", split="test") == [{"text": "c"}]


def test_parquet_shards_of_several_types_have_a_cause() -> None:
    for place, text in enumerate(("x", 1)):
        write(f"folder/{place}.parquet", _parquet(pa.table({"text": [[text]], "a": ["b"]})))
    write("folder/2.parquet", _parquet(pa.table({"other": ["b"]})))
    with pytest.raises(ValueError, match=r"folder cannot be read: ") as caught:
        read("folder")
    assert "An error occurred while generating the dataset" not in str(caught.value).split(": ", 1)[1][:60]


def test_the_cause_is_said_also_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> None:
        try:
            raise KeyError("the cause")
        except KeyError as cause:
            raise DatasetGenerationError("An error occurred while generating the dataset") from cause

    monkeypatch.setattr("datasets.load_dataset", load)
    with pytest.raises(ValueError, match="me/rows cannot be read: 'the cause'"):
        read("me/rows")


# ---- options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "least"),
    [
        *(("max_rows", value, 1) for value in (0, -1, 2.5, True, "3")),
        ("num_threads", 0, 1),
        ("keep_tokens", 0, 1),
        ("min_per_group", -1, 0),
        ("selection_seed", -1, 0),
    ],
)
def test_counts_have_a_least_value(option: str, value: Any, least: int) -> None:
    with pytest.raises(ValueError, match=f"{option} must be at least {least} \\(a whole number\\), got {value!r}"):
        PruneArguments(**{option: value})
    assert getattr(PruneArguments(**{option: least}), option) == least


def test_what_a_file_is_said_to_hold_is_said_each_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "mixed.json"
    path.write_text(
        '{"data": [{"text": "a", "score": 1}, {"text": "b", "score": "x"}], "version": 2}', encoding="utf-8"
    )
    for _ in range(2):
        caplog.clear()
        dataset = read_dataset(DataArguments(dataset=str(path)))
        assert [message.split(": ")[-1] for message in caplog.messages] == ["version", "all is read as text"]
        assert dataset.info.description == ""


def test_a_folder_of_unknown_files(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("Hello.", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"holds no files with rows \(\.json, .*\) and no images"):
        read_dataset(DataArguments(dataset=str(tmp_path)))


def test_nan_is_no_value(tmp_path: Path) -> None:
    """Python writes it for the missing values of pandas, beside text."""
    path = tmp_path / "nan.jsonl"
    path.write_text('{"output": NaN, "score": NaN}\n{"output": "b", "score": 0.5}\n', encoding="utf-8")
    dataset = read_dataset(DataArguments(dataset=str(path)))
    assert dataset["output"][:] == [None, "b"]
    assert dataset["score"][:] == [None, 0.5]


@pytest.mark.parametrize("value", [-1.0, float("nan"), "60"])
def test_a_time_between_writes_is_not_negative(value: Any) -> None:
    with pytest.raises(ValueError, match="chunk_seconds must be a time of 0 or more"):
        PruneArguments(chunk_seconds=value)


@pytest.mark.parametrize("option", ["dataset", "split", "model", "output_dir"])
def test_names_are_text(option: str) -> None:
    """A YAML file may hold a number."""
    with pytest.raises(ValueError, match=f"{option} must be text, got 5"):
        PruneArguments(**{option: 5})


def test_paths_may_begin_at_home(tmp_path: Path) -> None:
    options = PruneArguments(dataset="~/rows.jsonl", model="~/model", output_dir="~/run")
    home = str(tmp_path / "home")
    assert (options.dataset, options.model, options.output_dir) == (
        f"{home}/rows.jsonl",
        f"{home}/model",
        f"{home}/run",
    )
    assert PruneArguments(dataset="./a~", model="me/x").dataset == "./a~"


# ---- the command line ---------------------------------------------------------------------------------------------


@pytest.fixture
def score(llama_folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Score with the tiny model, and return what the run says of its dataset."""

    def score(*options: str) -> dict[str, Any]:
        model = ["--model", str(llama_folder), "--schedule", "0, 0.2", "--dtype", "float32", "--num_threads", "1"]
        main(["score", *model, "--output_dir", "run", *options])
        return json.loads(Path("run/scoring.json").read_text(encoding="utf-8"))["dataset"]

    return score


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Status and message of a command that goes wrong."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    if isinstance(caught.value.code, str):
        return 1, caught.value.code
    return caught.value.code, capsys.readouterr().err.strip()


def kept() -> list[str]:
    return load_from_disk("run/pruned")["text"][:]


@pytest.mark.parametrize("source", ["jsonl", "csv", "pattern", "saved splits", "folder"])
def test_a_slice_is_scored_and_found_again(source: str, score: Callable[..., dict[str, Any]]) -> None:
    dataset = score("--dataset", SOURCES[source][0](), "--split", "train[:50%]")
    assert (dataset["split"], dataset["rows"], dataset["is_local"]) == ("train[:50%]", 5, True)
    main(["select", "--run_dir", "run", "--keep", "1.0"])
    assert kept() == [row["text"] for row in TEN[:5]]


def test_first_rows_of_a_slice_are_found_again(score: Callable[..., dict[str, Any]]) -> None:
    write("rows.jsonl", TEN_LINES)
    assert score("--dataset", "rows.jsonl", "--split", "train[4:]", "--max-rows", "3")["rows"] == 3
    main(["select", "--run_dir", "run", "--keep", "1.0"])
    assert kept() == [row["text"] for row in TEN[4:7]]


def test_rows_from_elsewhere_are_all_rows_of_it(score: Callable[..., dict[str, Any]]) -> None:
    score("--dataset", saved_splits("saved"), "--split", "test[:50%]")
    write("some.jsonl", "".join(TEN_LINES.splitlines(keepends=True)[:2]))
    main(["select", "--run_dir", "run", "--keep", "1.0", "--dataset", "some.jsonl"])
    assert kept() == ["text 0", "text 1"]


def test_a_file_at_home_is_found_again(
    score: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(str(tmp_path / "home" / "rows.jsonl"), TEN_LINES)
    write(str(tmp_path / "home" / "options.yaml"), "dataset: ~/rows.jsonl\nsplit: train[:2]\n")
    assert score("--config=~/options.yaml")["name"] == str(tmp_path / "home" / "rows.jsonl")
    main(["select", "--run_dir", "run", "--keep", "1.0", "--dataset", "~/rows.jsonl"])
    assert kept() == ["text 0", "text 1"]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    main(["select", "--run_dir", "../here/run", "--keep", "1", "--overwrite"])


COMMANDS: dict[str, tuple[list[str], int, str]] = {
    "an empty file": (["score", "--dataset", "empty.jsonl"], 1, "hf-dlc score: empty.jsonl: there are no rows."),
    "a split": (
        ["score", "--dataset", "rows.jsonl", "--split", "test"],
        1,
        "split must be one of train, which rows.jsonl",
    ),
    "a path": (["score", "--dataset", "./rows"], 1, "hf-dlc score: there is no file rows, nor a folder."),
    "a field more": (["score", "--dataset", "more.csv"], 1, "hf-dlc score: more.csv, line 2: 3 fields"),
    "no rows": (
        ["score", "--dataset", "rows.jsonl", "--max_rows", "0"],
        2,
        "max_rows must be at least 1 (a whole number)",
    ),
    "fewer": (
        ["score", "--dataset", "rows.jsonl", "--max_rows", "-1"],
        2,
        "max_rows must be at least 1 (a whole number)",
    ),
    "none of the demo": (["demo", "--max_rows", "0"], 2, "max_rows must be at least 1 (a whole number), got 0"),
    "from YAML": (["score", "--config", "rows.yaml"], 2, "max_rows must be at least 1 (a whole number), got 0"),
    "no number in YAML": (
        ["score", "--config", "half.yaml"],
        2,
        "max_rows must be at least 1 (a whole number), got 2.5",
    ),
    "an estimate": (["estimate", "--dataset", "empty.jsonl"], 1, "hf-dlc estimate: empty.jsonl: there are no rows."),
    "columns": (
        ["score", "--dataset", "rows.jsonl", "--columns", "a=b=c"],
        2,
        "Where a name holds a comma or an equals sign, pass JSON",
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_wrong_is_one_line(name: str, llama_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file, content in (("empty.jsonl", ""), ("rows.jsonl", TEN_LINES), ("more.csv", "a,b\n1,2,3\n")):
        write(file, content)
    write("rows.yaml", "dataset: rows.jsonl\nmax_rows: 0\n")
    write("half.yaml", "dataset: rows.jsonl\nmax_rows: 2.5\n")
    arguments, status, message = COMMANDS[name]
    found = fails(capsys, *arguments, *([] if "demo" in arguments else ["--model", str(llama_folder)]))
    assert found[0] == status
    assert message in found[1]
    assert "\n" not in found[1]


def test_columns_are_named_as_they_are(score: Callable[..., dict[str, Any]]) -> None:
    write("rows.csv", '" a","b,c=d"\nAdd.,5\n')
    write("options.yaml", 'columns: {" a": instruction, "b,c=d": output}\n')
    score("--dataset", "rows.csv", "--config", "options.yaml")
    scores = Path("run/scores.parquet").read_bytes()
    mapping = json.dumps({" a": "instruction", "b,c=d": "output"})
    score("--dataset", "rows.csv", "--columns", mapping, "--overwrite")
    assert Path("run/scores.parquet").read_bytes() == scores
    assert pd.read_parquet("run/scores.parquet")["dlc_status"].tolist() == ["ok"]


def test_csv_answers_that_look_like_nothing_are_scored_as_in_json(score: Callable[..., dict[str, Any]]) -> None:
    answers = ["NA", "None", "null", "nan", "007", "1.0", "True"]
    asked = [{"instruction": "Say it.", "input": "", "output": answer} for answer in answers]
    write("rows.jsonl", json_lines(asked))
    pd.DataFrame(asked).to_csv("rows.csv", index=False)
    columns = ["dlc_loss", "dlc_status"]
    score("--dataset", "rows.jsonl")
    expected = pd.read_parquet("run/scores.parquet")[columns]
    score("--dataset", "rows.csv", "--overwrite")
    assert pd.read_parquet("run/scores.parquet")[columns].equals(expected)
    assert set(expected["dlc_status"]) == {"ok"}


def test_empty_fields_of_csv_are_an_empty_input_and_no_response(score: Callable[..., dict[str, Any]]) -> None:
    write("rows.csv", "instruction,input,output\nSay it.,,Yes\nSay it.,,\n")
    score("--dataset", "rows.csv")
    assert pd.read_parquet("run/scores.parquet")["dlc_status"].tolist() == ["ok", "empty_response"]


def test_numbers_and_flags_of_csv_can_be_used_as_such(
    score: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "".join(f"text {number},{number / 4},{number % 2 == 0}\n" for number in range(8))
    write("rows.csv", "text,quality,is_even\n" + lines)
    score("--dataset", "rows.csv")
    chosen = ["--keep", "3", "--selector", "easiest", "--easy", "high", "--column", "quality"]
    main(["select", "--run_dir", "run", *chosen, "--flag_column", "is_even"])
    assert kept() == ["text 5", "text 6", "text 7"]
    summary = Path("run/summary.md").read_text(encoding="utf-8")
    assert "is_even` kept: 1 of 4; random rows: 1.5 expected" in summary
    wrong = ["select", "--run_dir", "run", "--overwrite", "--keep", "3"]
    message = fails(capsys, *wrong, "--column", "text")[1]
    assert "scores must be one number for each row, got 'text 0' in row 0 of the column 'text'" in message
    message = fails(capsys, *wrong, "--flag_column", "text")[1]
    assert "flag_column must hold true and false, but 'text' holds text 0" in message
