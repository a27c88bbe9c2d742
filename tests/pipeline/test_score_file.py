"""Scores apart from their rows find them again, whatever the rows are made of, and no others."""

from __future__ import annotations

import datetime
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value

from hf_dlc.pipeline.score_file import DIGEST, Scores, ScoresError
from hf_dlc.scores.base import Measure
from hf_dlc.scores.columns import OK, score_features, with_columns
from hf_dlc.scores.table import DEFAULT_SCORES, SCORES
from hf_dlc.utils.content import content_digests


def score(rows: Dataset, prefix: str = "dlc", keep_levels: bool = False) -> Dataset:
    """Rows with scores that tell each from all others."""
    count = len(rows)
    numbers = np.arange(count, dtype=np.float32)
    features = score_features(prefix, keep_levels)
    columns: dict[str, Any] = dict.fromkeys(features, np.stack([numbers, numbers], axis=1).tolist())
    columns |= {f"{prefix}_{name}": numbers for name in DEFAULT_SCORES} | {f"{prefix}_loss": numbers + 0.5}
    columns |= {f"{prefix}_tokens": np.arange(count) + 3, f"{prefix}_status": [OK] * count}
    return with_columns(rows, columns, features)


def png(color: int) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (4, 4), (color, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def many_types() -> Dataset:
    features = Features(
        {
            "text": Value("string"),
            "messages": List({"role": Value("string"), "content": Value("string")}),
            "label": ClassLabel(names=["a", "b"]),
            "number": Value("float64"),
            "when": Value("timestamp[us]"),
            "raw": Value("binary"),
        }
    )
    contents = [("é", 1.5), (None, float("nan")), ("🙏", float("inf")), ("", 0.0)]
    rows = [
        {
            "text": text,
            "messages": [{"role": "user", "content": text}],
            "label": i % 2,
            "number": number,
            "when": datetime.datetime(2026, 1, 1 + i),
            "raw": bytes([i]),
        }
        for i, (text, number) in enumerate(contents)
    ]
    return Dataset.from_list(rows, features=features)


def test_written_scores_find_their_rows(tmp_path: Path) -> None:
    rows = many_types()
    Scores.of(score(rows)).write(tmp_path / "scores.parquet")
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    read = Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "cache"))
    for order in ([0, 1, 2, 3], [3, 1], [2, 2, 0], []):
        found = Scores.read(tmp_path / "scores.parquet").join(read.select(order))
        assert found["dlc_tokens"][:] == [row + 3 for row in order]
        assert found.features["dlc_confidence"] == Value("float32")


def test_pandas_reads_them(tmp_path: Path) -> None:
    Scores.of(score(many_types())).write(tmp_path / "scores.parquet")
    table = pd.read_parquet(tmp_path / "scores.parquet")
    assert list(table.columns) == [*score_features(), DIGEST]
    assert table[DIGEST].str.fullmatch("[0-9a-f]{16}").all()
    assert table[DIGEST].nunique() == 4


@pytest.mark.parametrize("keep_levels", [False, True])
def test_levels_and_prefix_come_along(tmp_path: Path, keep_levels: bool) -> None:
    scored = score(many_types(), "easy", keep_levels=True)
    Scores.of(scored, "easy", keep_levels).write(tmp_path / "scores.parquet")
    scores = Scores.read(tmp_path / "scores.parquet")
    assert scores.column_prefix == "easy"
    assert scores.columns == ("label", "messages", "number", "raw", "text", "when")
    found = scores.join(many_types())
    assert ("easy_level_loss" in found.column_names) == keep_levels
    assert found["easy_loss"][:] == scored["easy_loss"][:]


def test_digests_see_every_change() -> None:
    rows = many_types()
    names = rows.column_names
    before = content_digests(rows, names)
    assert len(set(before)) == 4
    changes = {"text": "x", "messages": [], "label": 1, "number": 2.0, "when": datetime.datetime(2027, 1, 1)}
    for name, value in {**changes, "raw": b"\xff"}.items():
        after = content_digests(rows.map(lambda row, i: {name: value} if i == 0 else {}, with_indices=True), names)  # noqa: B023
        assert after[0] != before[0]
        assert after[1:] == before[1:]
    assert content_digests(rows, names[::-1]) == before
    assert content_digests(rows.with_format("numpy"), names) == before


def test_images_count_by_their_bytes(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    paths = [str(tmp_path / f"{i}.png") for i in range(3)]
    features = Features({"image": Image()})
    files = Dataset.from_dict({"image": [*paths, None]}, features=features)
    inside = Dataset.from_dict(
        {"image": [*({"bytes": png(i), "path": f"other/{i}.png"} for i in range(3)), None]}, features=features
    )
    digests = content_digests(files, ["image"])
    assert digests == content_digests(inside, ["image"])
    assert len(set(digests)) == 4
    lists = Features({"images": List(Image())})
    nested = [
        Dataset.from_dict({"images": [[path] for path in paths]}, features=lists),
        Dataset.from_dict({"images": [[{"bytes": png(i), "path": None}] for i in range(3)]}, features=lists),
    ]
    assert content_digests(nested[0], ["images"]) == content_digests(nested[1], ["images"])
    for i in (1, 2):
        (tmp_path / f"{i}.png").unlink()
    assert content_digests(files, ["image"])[0] == digests[0]
    assert len(set(content_digests(files, ["image"]))) == 4  # those that are gone are not the same, either


@pytest.mark.parametrize("content", [b"", b"no Parquet", None])
def test_files_that_hold_no_scores(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "scores.parquet"
    if content is None:
        many_types().to_parquet(str(path))
    else:
        path.write_bytes(content)
    with pytest.raises(ScoresError, match="holds no scores that hf_dlc wrote"):
        Scores.read(path)


def test_scores_need_rows() -> None:
    scored = score(many_types())
    with pytest.raises(ValueError, match="must have columns beside the scores"):
        Scores.of(scored.select_columns(list(score_features())))
    for name in ("dlc_tokens", "dlc_status"):
        with pytest.raises(ValueError, match=f"must have the columns {name}, got"):
            Scores.of(scored.remove_columns(name))
    with pytest.raises(ValueError, match="must have the columns dlc_confidence, dlc_loss, dlc_gain"):
        Scores.of(scored.remove_columns([f"dlc_{name}" for name in DEFAULT_SCORES]))
    with pytest.raises(ValueError, match="must have the columns dlc_level_confidence, dlc_level_loss"):
        Scores.of(scored, keep_levels=True)


@pytest.mark.parametrize("keep_levels", [False, True])
def test_scores_of_a_version_that_knew_fewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep_levels: bool
) -> None:
    rows, path = many_types(), tmp_path / "scores.parquet"
    scored = score(rows, keep_levels=True)
    before = Scores.of(scored, keep_levels=keep_levels)
    before.write(path)

    class Entropy(type(SCORES["loss"])):
        name = "entropy"
        measures = (Measure("entropy", of_distribution=abs),)

    monkeypatch.setitem(SCORES, "entropy", Entropy())
    assert "dlc_entropy" in score_features(scores=SCORES)
    read = Scores.read(path)
    assert read.digest() == before.digest()
    found = read.join(rows)
    assert list(found.column_names) == [*rows.column_names, *before.table.column_names[:-1]]
    again = Scores.of(scored, keep_levels=keep_levels)
    assert again.columns == before.columns
    assert again.digest() == before.digest()


def test_a_file_without_scores_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    scores = Scores.of(score(many_types()))
    for names, missing in (([DIGEST], "content_digest"), (["dlc_status"], "dlc_status")):
        replace(scores, table=scores.table.remove_columns(names)).write(path)
        with pytest.raises(ScoresError, match=f"must have the columns {missing}, and has not"):
            Scores.read(path)
    replace(scores, table=scores.table.remove_columns([f"dlc_{name}" for name in DEFAULT_SCORES])).write(path)
    with pytest.raises(ScoresError, match="must have the columns dlc_confidence"):
        Scores.read(path)


def test_columns_of_an_earlier_scorer_are_no_content() -> None:
    rows = many_types()
    earlier = score(rows, "easy", keep_levels=True).remove_columns(["easy_gain", "easy_level_confidence"])
    assert Scores.of(score(earlier)).columns == tuple(sorted(rows.column_names))


def test_columns_of_another_scorer_are_no_content(tmp_path: Path) -> None:
    rows = many_types()
    Scores.of(score(score(rows, "easy", keep_levels=True))).write(tmp_path / "scores.parquet")
    assert Scores.read(tmp_path / "scores.parquet").join(rows)["dlc_tokens"][:] == [3, 4, 5, 6]
    lonely = rows.add_column("my_confidence", [0.1, 0.2, 0.3, 0.4])  # no scorer's, but the dataset's own
    assert "my_confidence" in Scores.of(score(lonely)).columns


def test_digest_of_scores() -> None:
    scored = score(many_types())
    digest = Scores.of(scored).digest()
    assert Scores.of(scored.select([2, 0, 3, 1])).digest() == digest
    assert Scores.of(scored.select([0, 1, 2])).digest() != digest
    tokens = scored["dlc_tokens"][:]
    for name, values in (("dlc_loss", [9.0, 1.5, 2.5, 3.5]), ("dlc_tokens", [tokens[1], *tokens[1:]])):
        changed = with_columns(scored, {name: values}, Features({name: scored.features[name]}))
        assert Scores.of(changed).digest() != digest
    other = scored.map(lambda row: {"text": f"{row['text']}!"})
    assert Scores.of(other).digest() != digest
