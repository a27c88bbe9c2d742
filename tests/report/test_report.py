"""Rank statistics against independent ones, and a summary that dataset text cannot break out of."""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import json
import math
import re
import shutil
import subprocess
import unicodedata
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, concatenate_datasets
from scipy import stats

from hf_dlc.report.plots import _kept_share
from hf_dlc.report.render import one_line, unfolded
from hf_dlc.report.report import PruneReport, status_counts
from hf_dlc.report.statistics import auroc, within_groups
from hf_dlc.scores.columns import EMPTY_RESPONSE, OK, TRUNCATED, build_columns, score_features
from hf_dlc.scores.table import DEFAULT_SCORES, SCORES
from hf_dlc.utils.ranks import spearman
from hf_dlc.utils.versions import versions


def scored_dataset(
    columns: dict[str, list[Any]],
    confidence: list[float],
    statuses: list[str] | None = None,
    keep_levels: bool = False,
    prefix: str = "dlc",
    features: dict[str, Any] | None = None,
) -> Dataset:
    """Rows with the score columns that a scorer with two levels writes."""
    statuses = statuses or [OK] * len(confidence)
    values = np.array([confidence, np.array(confidence) / 2], dtype=np.float32)
    names = {measure.name for score in SCORES.values() for measure in score.measures}
    measures = dict.fromkeys(names, 1 - values) | {"confidence": values}
    schedule = np.arange(len(values)) / len(values)
    scores = build_columns(statuses, np.arange(len(confidence)) + 3, measures, schedule, prefix, keep_levels)
    types = {**score_features(prefix, keep_levels), **(features or {})}
    if missing := set(columns) - set(types):
        types |= {name: Dataset.from_dict({name: columns[name]}).features[name] for name in missing}
    return Dataset.from_dict(
        {**columns, **scores}, features=Features({name: types[name] for name in [*columns, *scores]})
    )


# ---- statistics --------------------------------------------------------------------------------------------


def pairwise_auroc(scores: np.ndarray, flags: np.ndarray) -> float:
    pairs = list(itertools.product(scores[flags], scores[~flags]))
    return sum(1.0 if high > low else 0.5 if high == low else 0.0 for high, low in pairs) / len(pairs)


@pytest.mark.parametrize("distinct", [2, 5, 1000])
def test_auroc_is_the_share_of_pairs_in_order(distinct: int) -> None:
    rng = np.random.default_rng(distinct)
    scores, flags = rng.integers(0, distinct, 60).astype(np.float64), rng.random(60) < 0.3
    assert auroc(scores, flags) == pytest.approx(pairwise_auroc(scores, flags), abs=1e-12)
    statistic = stats.mannwhitneyu(scores[flags], scores[~flags]).statistic
    assert auroc(scores, flags) == pytest.approx(statistic / (flags.sum() * (~flags).sum()), abs=1e-12)


def test_auroc_leaves_out_nan_rows() -> None:
    scores = np.array([3.0, np.nan, 1.0, np.nan, 2.0, np.inf])
    flags = np.array([True, True, False, False, False, True])
    known = ~np.isnan(scores)
    assert auroc(scores, flags) == pairwise_auroc(scores[known], flags[known]) == 1.0


@pytest.mark.parametrize(
    ("scores", "flags"),
    [([1.0, 2.0], [True, True]), ([1.0, 2.0], [False, False]), ([np.nan, 2.0], [True, False]), ([], [])],
)
def test_auroc_without_both_kinds(scores: list[float], flags: list[bool]) -> None:
    assert math.isnan(auroc(np.array(scores, dtype=np.float64), np.array(flags, dtype=bool)))


def test_auroc_of_equal_scores_is_a_half() -> None:
    assert auroc(np.ones(5), np.array([True, False, True, False, False])) == 0.5


def test_within_groups_the_groups_do_not_compare() -> None:
    """One group is far above the other; within both the order is turned around."""
    left = np.array([1.0, 2.0, 3.0, 11.0, 12.0, np.nan, 7.0])
    right = np.array([3.0, 2.0, 1.0, 12.0, 11.0, 5.0, 9.0])
    for groups in (["a", "a", "a", None, None, None, "alone"], [0, 0, 0, 1, 1, 1, 2]):
        assert within_groups(spearman, left, right, groups) == pytest.approx(-1.0)
    assert spearman(left, right) > 0.4
    mixed = np.array([1.0, 2.0, 3.0, 11.0, 12.0, 5.0, 9.0])
    assert within_groups(spearman, left, mixed, [0, 0, 0, 1, 1, 1, 2]) == pytest.approx(1.0)
    mixed[3:5] = [12.0, 11.0]
    assert within_groups(spearman, left, mixed, [0, 0, 0, 1, 1, 1, 2]) == pytest.approx((3 - 2) / 5)
    assert np.isnan(within_groups(spearman, left, right, list(range(7))))


def test_status_counts_are_complete_and_ordered() -> None:
    dataset = scored_dataset({}, [0.5, 0.1, 0.2, 0.3], [EMPTY_RESPONSE, OK, OK, TRUNCATED], prefix="x")
    counts = status_counts(dataset, "x")
    assert counts == {OK: 2, EMPTY_RESPONSE: 1, TRUNCATED: 1}
    assert next(iter(counts)) == OK


def test_versions_name_what_computes() -> None:
    found = versions()
    assert {"python", "hf_dlc", "torch", "transformers", "datasets", "accelerate"} <= set(found)
    assert all(re.match(r"\d+\.\d+", number) for number in found.values())


def summarize(dataset: Dataset, kept: list[int], **options: Any) -> str:
    return PruneReport.from_datasets(dataset, kept, **options).to_markdown()


# ---- summary -----------------------------------------------------------------------------------------------


def tables(summary: str) -> dict[str, list[list[str]]]:
    """Rows of cells of each table, header first, by the title of their section."""
    found: dict[str, list[list[str]]] = {}
    title = ""
    for line in summary.splitlines():
        if line.startswith("## "):
            title = line.removeprefix("## ")
        elif line.startswith("|") and not line.startswith("|---"):
            found.setdefault(title, []).append([cell.strip() for cell in line.strip("|").split(" | ")])
    return found


def section(summary: str, title: str) -> str:
    [text] = [part for part in summary.split("\n## ") if part.startswith(f"{title}\n")]
    return text


def test_summary_counts() -> None:
    confidence = [0.1, 0.9, 0.5, 0.3, 0.7, 0.2]
    statuses = [OK, OK, TRUNCATED, EMPTY_RESPONSE, OK, EMPTY_RESPONSE]
    dataset = scored_dataset({"output": list("abcdef")}, confidence, statuses)
    summary = summarize(dataset, [0, 4])
    assert "- scored: 4 of 6 rows, 1 truncated\n- skipped: 2 `empty_response`" in summary
    assert "- kept: 2 of 6 rows (33.3%), 10 of 19 target tokens" in summary  # 3 + 7 of 3 + 4 + 5 + 7
    [title] = [title for title in tables(summary) if title.startswith("Kept and dropped")]
    _, *intervals = tables(summary)[title]
    assert sum(int(row[1]) for row in intervals) == 4  # skipped rows are in no interval
    assert sum(int(row[2]) for row in intervals) == 2
    assert [row[0] for row in intervals] == sorted((row[0] for row in intervals), reverse=True)


def test_summary_shows_the_extremes() -> None:
    confidence = [0.1, 0.9, 0.5, float("nan"), 0.7, 0.2]
    dataset = scored_dataset({"output": list("abcdef")}, confidence, [OK] * 3 + [EMPTY_RESPONSE] + [OK] * 2)
    summary = summarize(dataset, [0], examples=2)
    easiest, hardest = (section(summary, f"{kind} rows") for kind in ("Easiest", "Hardest"))
    assert re.findall(r"^row (\d+):", easiest, re.MULTILINE) == ["1", "4"]
    assert re.findall(r"^row (\d+):", hardest, re.MULTILINE) == ["0", "5"]
    assert "    output: b" in easiest
    assert "dlc_" not in easiest  # the scores stand in the first line
    confidence = [0.9, 0.1, *np.linspace(0.2, 0.8, 18)]  # tenths of two rows each
    dataset = scored_dataset({"output": list("abcdefghijklmnopqrst")}, confidence)
    summary = summarize(dataset, [0, 1, 19], examples=1)
    assert re.findall(r"^row 0: .*; (.*)$", section(summary, "Easiest rows"), re.M) == ["kept, like 100% of its tenth"]
    assert re.findall(r"^row 1: .*; (.*)$", section(summary, "Hardest rows"), re.M) == ["kept, like 50% of its tenth"]
    summary = summarize(dataset, [2], examples=1)
    assert re.findall(r"^row 1: .*; (.*)$", section(summary, "Hardest rows"), re.M) == [
        "dropped, like 50% of its tenth"
    ]


def test_summary_of_images(tmp_path: Path) -> None:
    """Scores of a class are near each other, those of classes do not compare, and an image is shown by its place."""
    (tmp_path / "broken.png").write_bytes(b"no image")
    paths = [str(tmp_path / "broken.png")] * 6
    features = {"image": Image(), "label": ClassLabel(names=["cat", "dog"])}
    columns = {"image": paths, "label": [0, 0, 0, 1, 1, 1]}
    confidence = [0.1003, 0.1004, 0.1005, 0.1013, 0.1014, 0.1015]
    dataset = scored_dataset(columns, confidence, features=features)
    dataset = dataset.map(lambda row: {"dlc_tokens": 1}, remove_columns="dlc_tokens")
    summary = summarize(dataset, [0, 3], examples=2, group_by="label")
    easiest, hardest = (section(summary, f"{kind} rows") for kind in ("Easiest", "Hardest"))
    assert re.findall(r"^row (\d)", easiest, re.M) == ["2", "5"]
    assert re.findall(r"^row (\d)", hardest, re.M) == ["3", "0"]
    assert "broken.png" in easiest
    assert "label: dog" in easiest
    assert len(set(re.findall(r"^\| (0\.\d+) to", summary, re.M))) == 6
    assert "kept: 2 of 6 rows (33.3%)\n" in summary
    assert "response length" not in summary
    assert "## Spearman correlation within `label`" in summary


def test_summary_of_flags_knows_which_way_is_hard() -> None:
    flags = [True, True, False, False, False]
    dataset = scored_dataset({"wrong": flags}, [0.1, 0.2, 0.7, 0.8, 0.9], keep_levels=True)
    summary = summarize(dataset, [0], flag_column="wrong")
    [title] = [title for title in tables(summary) if "wrong" in title]
    assert "(2 of 5)" in title
    assert "- rows with `wrong` kept: 1 of 2; random rows: 0.4 expected" in summary
    _, *rows = tables(summary)[title]
    assert [row[0] for row in rows] == [*DEFAULT_SCORES, "plain_loss"]
    assert {row[0]: row[1] for row in rows}.items() >= dict.fromkeys(("confidence", "loss", "gain"), "1.000").items()
    assert rows[-1][1] == "1.000"
    reversed_flags = scored_dataset({"wrong": flags[::-1]}, [0.1, 0.2, 0.7, 0.8, 0.9])
    summary = summarize(reversed_flags, [0], flag_column="wrong")
    assert tables(summary)[title][1][1] == "0.000"


def test_summary_counts_the_flagged_among_as_many_of_the_hardest() -> None:
    """Low confidence is hard, and high loss. Ties come in the order of the rows, and rows without a score never."""
    nan = float("nan")
    columns = {
        "wrong": [True, False, True, False, True, False],
        "dlc_confidence": [0.2, 0.1, 0.2, 0.2, 0.9, nan],  # hardest: row 1, and then rows 0 and 2 of three that tie
        "dlc_loss": [0.1, 2.0, 2.0, 3.0, 2.0, nan],  # row 3, and then rows 1 and 2 of three that tie
        "dlc_ifd": [nan, nan, nan, 0.9, 0.7, nan],  # rows 3 and 4, since no other has it
        "dlc_tokens": [3] * 5 + [0],
        "dlc_status": [OK] * 5 + [EMPTY_RESPONSE],
    }
    found = tables(summarize(Dataset.from_dict(columns), [0], flag_column="wrong"))["Rows with `wrong` (3 of 6)"]
    assert found[0][3] == "among the 3 hardest"
    assert found[1:] == [
        ["confidence", "0.167", "60%", "2"],  # one of the six pairs, as two halves
        ["loss", "0.167", "60%", "1"],
        ["ifd", "0.000", "50%", "1"],
    ]


def test_what_no_row_tells_is_a_dash() -> None:
    """No flagged row has the score, or no two rows have it and another one."""
    columns = {
        "wrong": [True, False],
        "dlc_confidence": [0.2, 0.1],
        "dlc_loss": [2.0, 3.0],
        "dlc_ifd": [float("nan"), 0.5],
        "dlc_tokens": [3, 3],
        "dlc_status": ["partly_no_prompt", OK],
    }
    summary = summarize(Dataset.from_dict(columns), [0], flag_column="wrong")
    assert "| ifd | - | - | 0 |" in summary
    assert "nan" not in summary.lower()


def test_summary_says_what_scores_are() -> None:
    summary = summarize(scored_dataset({"output": list("ab")}, [0.1, 0.2], keep_levels=True), [0])
    lines = section(summary, "Scores").splitlines()[2:]
    assert [line.split(":")[0] for line in lines if line] == [f"- {name}" for name in (*DEFAULT_SCORES, "plain_loss")]
    assert f"- confidence: {SCORES['confidence'].text} (0 to 1, high values are easy rows)" in lines
    assert f"- loss: {SCORES['loss'].text} (0 or more nats, low values are easy rows)" in lines
    assert f"- plain_loss: {SCORES['plain_loss'].text} (0 or more nats, low values are easy rows)" in lines


def test_a_range_without_ends_is_told_in_words() -> None:
    columns = {"dlc_prompt_gain": [0.5], "dlc_target_shift": [0.5], "dlc_tokens": [3], "dlc_status": [OK]}
    lines = section(summarize(Dataset.from_dict(columns), [0], column="dlc_prompt_gain"), "Scores").splitlines()
    assert all(line.endswith("(any nats, high values are easy rows)") for line in lines if line.startswith("- "))
    assert "inf" not in "".join(lines)


def test_a_new_score_is_in_all_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = [True, True, False, False, False]
    dataset = scored_dataset({"wrong": flags}, [0.1, 0.2, 0.7, 0.8, 0.9], keep_levels=True)
    dataset = dataset.add_column("dlc_doubt", [9.0, 8.0, 7.0, 6.0, 5.0]).add_column(
        "dlc_level_doubt", [[1.0, 2.0]] * 5
    )
    measure = SimpleNamespace(name="doubt")
    facts = {"easy": "low", "low": 0.0, "high": 9.0, "unit": "bits", "text": "how much the model doubts"}
    monkeypatch.setitem(
        SCORES, "doubt", SimpleNamespace(name="doubt", **facts, measures=(measure,), passes=SCORES["loss"].passes)
    )
    found = report(dataset, [0], flag_column="wrong")
    summary = found.to_markdown()
    assert "- doubt: how much the model doubts (0 to 9 bits, low values are easy rows)" in summary
    rows = {title: {row[0]: row[1:] for row in cells} for title, cells in tables(summary).items()}
    assert rows["Score quantiles"]["doubt"][0] == "5.000"
    assert rows["Spearman correlation"]["doubt"] == ["-1.000", "+1.000"]
    assert rows["Rows with `wrong` (2 of 5)"]["doubt"][0] == "1.000"
    assert ", doubt 5.000, " in section(summary, "Easiest rows")
    [panel] = [axes for axes in found.plot().axes if axes.get_title() == "Doubt along the levels"]
    assert (panel.get_ylabel(), panel.get_ylim()) == ("doubt in bits", (0.0, 9.0))


def test_runs_without_some_of_the_scores() -> None:
    """An earlier version has scored them, or another one will: the first score that is there stands for the row."""
    columns, statuses = {"output": list("abcde")}, [OK, OK, EMPTY_RESPONSE, TRUNCATED, OK]
    dataset = scored_dataset(columns, [0.1, 0.5, 0.2, 0.9, 0.3], statuses, keep_levels=True)
    last = list(DEFAULT_SCORES)[-1]
    whole = tables(summarize(dataset, [3]))["Score quantiles"]
    without = tables(summarize(dataset.remove_columns(f"dlc_{last}"), [3]))["Score quantiles"]
    assert without == [row for row in whole if row[0] != last]
    loss_only = dataset.remove_columns([f"dlc_{name}" for name in DEFAULT_SCORES if name != "loss"])
    found = report(loss_only, [3], column="dlc_loss")
    summary = found.to_markdown()
    assert [row[0] for row in tables(summary)["Score quantiles"]] == ["score", "loss", "plain_loss"]
    assert re.findall(r"^row (\d)", section(summary, "Easiest rows"), re.M) == ["3", "1", "4", "0"]
    assert re.findall(r"^row (\d): (.*)$", section(summary, "Rows without a score"), re.M) == [
        ("2", "`empty_response`")
    ]
    assert "Loss along the levels" in {axes.get_title() for axes in found.plot().axes}


def test_a_measure_takes_no_range_of_a_score_of_another_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = scored_dataset({"output": ["a", "b"]}, [0.1, 0.2], keep_levels=True)
    facts = {"easy": "low", "low": 0.0, "high": 9.0, "unit": "bits", "text": "what it is"}
    score = SimpleNamespace(
        **facts, **{name: getattr(SCORES["confidence"], name) for name in ("measures", "passes")}, name="loss"
    )
    monkeypatch.setitem(SCORES, "loss", score)
    [panel] = [axes for axes in report(dataset, [0]).plot().axes if axes.get_title() == "Loss along the levels"]
    assert panel.get_ylabel() == "loss"
    assert panel.get_ylim()[1] < 2


def test_summary_compares_plain_loss_where_levels_are_known() -> None:
    columns, confidence = {"output": list("abc")}, [0.1, 0.5, 0.9]
    with_levels = tables(summarize(scored_dataset(columns, confidence, keep_levels=True), [0]))
    assert with_levels["Spearman correlation"][0] == ["score", "response length", "plain_loss"]
    assert with_levels["Spearman correlation"][1] == ["confidence", "+1.000", "-1.000"]
    without = tables(summarize(scored_dataset(columns, confidence), [0]))
    assert without["Spearman correlation"][0] == ["score", "response length"]


HOSTILE = [
    "<script>alert(1)</script>",
    "```\n# Not a heading\n```",
    "~~~\n<img src=x onerror=alert(1)>",
    "\x1b[2J\x1b[31mred\x07\x08",
    "line\r\n\r\nbreak | cell | cell\n| --- | --- |",
    "\u2028paragraph\u2029\x85next\x0b\x0c",
    "\u202egnp.exe\u200b\ufeff",
    "\n\n</code></pre>\n\n## Injected\n\n- scored: 0 of 0 rows",
    "`tick` $math$ [link](javascript:alert(1)) ![](http://example.invalid/x.png)",
    "\t\ttab\x00nul\udcff".encode("utf-8", "replace").decode(),
    "\U000e0041\U0001f600",
    "x" * 5000,
]

# What may stand outside of the code blocks: our own words, names of scores and numbers.
OURS = re.compile(r"|row \d+: [a-z0-9 .,;%-]+|row \d+: `\w+`|- [\w %,.:;()-]+|\|[ \w%.+,|=()-]*\|")
FLAGGED = re.compile(r"^- rows with `[^`\n]*` kept: ", re.MULTILINE)  # with the name of a column


def check_contained(summary: str) -> None:
    for line in summary.split("\n"):
        assert not [character for character in line if unicodedata.category(character)[0] == "C"]
        assert not set(line) & {"\u2028", "\u2029"}
        if not line.startswith("    "):
            assert OURS.fullmatch(line) or line.startswith("## "), line
    assert len([line for line in summary.split("\n") if line.startswith("## ")]) <= 9
    assert "## Injected" not in summary.split("\n")


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_stays_in_its_block(text: str) -> None:
    columns = {"output": [text] * 3, "messages": [[{"role": text, "content": text}]] * 3}
    columns[text.replace("\0", "")] = [text] * 3  # Arrow ends a name at a NUL
    dataset = scored_dataset(columns, [0.2, 0.4, 0.6])
    summary = summarize(dataset, [0, 1])
    check_contained(summary)
    blocks = [line for line in summary.split("\n") if line.startswith("    ")]
    assert len(blocks) == 2 * 3 * 3  # two lists of three rows of three fields, a line each
    assert max(map(len, blocks)) < 400


@pytest.mark.parametrize("name", ["a|b", "a\n\n## Injected\n", "`a` <b>c</b>", "\x1b[31ma", "a\u202eb"])
def test_hostile_names_of_the_columns_that_are_summarised(name: str) -> None:
    dataset = scored_dataset({name: [True, False, False]}, [0.2, 0.4, 0.6])
    dataset = dataset.add_column(name + "score", [3.0, 2.0, 1.0])
    summary = summarize(dataset, [0], column=name + "score", flag_column=name)
    assert len(FLAGGED.findall(summary)) == 1
    check_contained(FLAGGED.sub("- rows kept: ", summary))
    for title in (line for line in summary.split("\n") if line.startswith("## ")):
        assert title.count("`") in (0, 2), title  # no more than ours
        outside = "".join(title.split("`")[::2])
        assert re.fullmatch(r"## [\w (),.;]+", outside), title
    # A table row has as many cells as its header.
    for section in re.findall(r"(?:^\|.*\n?)+", summary, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in section.splitlines()}) == 1


def test_hostile_status_of_a_dataset_from_elsewhere() -> None:
    dataset = scored_dataset({"output": ["a", "b"]}, [0.2, 0.4], ["\n\n## Injected\n<b>|", OK])
    check_contained(re.sub(r"`[^`\n]*`", "name", summarize(dataset, [1])))


def test_text_can_be_read_back() -> None:
    text = 'He said: "Größe ≥ 3,\nnot 4" \\o/'
    summary = summarize(scored_dataset({"output": [text]}, [0.5]), [0])
    [line] = {line.strip() for line in summary.split("\n") if line.startswith("    ")}
    assert json.loads(line.removeprefix("output: ")) == text


def test_empty_dataset() -> None:
    dataset = scored_dataset(
        {"output": [], "flag": []}, [], features={"output": Value("string"), "flag": Value("bool")}
    )
    summary = summarize(dataset, [], flag_column="flag")
    assert "- scored: 0 of 0 rows\n" in summary
    assert "- kept: 0 of 0 rows (-), 0 of 0 target tokens" in summary


@pytest.mark.parametrize("keep_levels", [False, True])
@pytest.mark.filterwarnings("error")
def test_all_rows_skipped(keep_levels: bool) -> None:
    dataset = scored_dataset({"flag": [True, False]}, [0.1, 0.2], [EMPTY_RESPONSE] * 2, keep_levels=keep_levels)
    summary = summarize(dataset, [], flag_column="flag")
    assert "- scored: 0 of 2 rows\n" in summary
    assert "- skipped: 2 `empty_response`" in summary
    assert "row 0: confidence" not in summary
    assert "row 0: `empty_response`" in summary
    check_contained(re.sub(r"`[^`\n]*`", "name", summary))


@pytest.mark.filterwarnings("error")
def test_one_row() -> None:
    summary = summarize(scored_dataset({"output": ["a"]}, [0.5], keep_levels=True), [0])
    assert "- scored: 1 of 1 rows\n" in summary
    assert "- kept: 1 of 1 rows (100.0%), 3 of 3 target tokens" in summary
    values = r"row 0: confidence 0\.375, loss 0\.625, gain 0\.333, (.*, )?plain_loss 0\.500;"
    assert len(re.findall(values, summary)) == 2
    assert "ranks otherwise" not in summary


def test_another_prefix() -> None:
    dataset = scored_dataset({"output": ["a", "b"]}, [0.5, 0.6], prefix="easy")
    summary = summarize(dataset, [0], column="easy_loss", prefix="easy")
    assert "- scored: 2 of 2 rows\n" in summary
    assert "easy_confidence" not in summary


# ---- report --------------------------------------------------------------------------------------------------------


def report(dataset: Dataset, pruned: Dataset | list[int], **options: Any) -> PruneReport:
    return PruneReport.from_datasets(dataset, pruned, schedule=(0.0, 0.1), **options)


def rows_of_all_kinds(count: int = 40) -> Dataset:
    rng = np.random.default_rng(0)
    columns = {"output": [f"text {i}" for i in range(count)], "topic": [f"topic {i % 3}" for i in range(count)]}
    statuses = [EMPTY_RESPONSE if i == 7 else OK for i in range(count)]
    return scored_dataset(columns, rng.random(count).tolist(), statuses, keep_levels=True)


def test_pruned_rows_are_found_again() -> None:
    dataset = rows_of_all_kinds()
    doubled = concatenate_datasets([dataset, dataset])  # the same rows twice
    for kept in ([0, 3, 39, 40, 79], [5], []):
        assert report(doubled, doubled.select(kept)).kept.tolist() == kept
    assert report(doubled, doubled.select([45])).kept.tolist() == [5]  # which of two equal rows does not matter
    for wrong in (dataset.select([3, 0]), rows_of_all_kinds(41).select([40])):
        with pytest.raises(ValueError, match="must hold rows of scored, in their order, but its row"):
            report(dataset, wrong)


def test_pruned_rows_without_a_column_of_single_values() -> None:
    dataset = rows_of_all_kinds()
    dataset = dataset.add_column("messages", [[{"role": "user", "content": text}] for text in dataset["output"]])
    alone = dataset.select([3, 39]).select_columns(["messages"])
    assert report(dataset, alone).kept.tolist() == [3, 39]


def test_rows_that_were_kept_can_be_indices_or_booleans() -> None:
    dataset = rows_of_all_kinds()
    mask = np.isin(np.arange(40), [3, 5, 39])
    for kept in ([3, 5, 39], np.array([3, 5, 39]), mask, mask.tolist()):
        assert report(dataset, kept).kept.tolist() == [3, 5, 39]


@pytest.mark.parametrize("kept", [[-1], [40], [3, 3], [0.5], ["3"], [True, False], [[1], [2]]])
def test_rows_that_none_can_be(kept: list[Any]) -> None:
    with pytest.raises(ValueError, match="pruned must be rows of scored"):
        report(rows_of_all_kinds(), kept)


def test_columns_that_cannot_be_used() -> None:
    dataset = rows_of_all_kinds().add_column("tags", [["a"]] * 40)
    for name in ("confidence", "tokens", "status"):  # confidence is what rows were selected by
        with pytest.raises(ValueError, match=f"must have the columns dlc_{name}, got output, topic"):
            report(dataset.remove_columns(f"dlc_{name}"), [0])
    scores = [f"dlc_{name}" for name in DEFAULT_SCORES]
    with pytest.raises(ValueError, match=f"must have the columns {', '.join(scores)}, got output, topic"):
        report(dataset.remove_columns(scores), [0], column="dlc_tokens")
    with pytest.raises(ValueError, match="group_by must be a column, got 'size'; there are output, topic"):
        report(dataset, [0], group_by="size")
    with pytest.raises(ValueError, match="group_by must hold single values, but 'tags'"):
        report(dataset, [0], group_by="tags")
    with pytest.raises(ValueError, match="flag_column must hold true and false"):
        report(dataset, [0], flag_column="topic")
    with pytest.raises(TypeError, match="must be a Dataset, got DatasetDict"):
        report(DatasetDict(train=dataset), [0])


def test_schedule_can_be_an_array() -> None:
    found = PruneReport.from_datasets(rows_of_all_kinds(), [0], schedule=np.array([0.0, 0.25]))
    assert found.schedule == (0.0, 0.25)
    assert found.plot().axes[2].get_xlabel() == "masked fraction of the weights"


def test_overlap_with_simpler_rules() -> None:
    dataset = scored_dataset({"output": list("abcdefgh")}, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], keep_levels=True)
    found = dict(tables(report(dataset, [4, 5, 6, 0]).to_markdown())["Kept rows that other rules would keep"])
    assert found.pop("random rows (expected)") == "50%"
    # The rows become longer and easier one by one: the last four, the last four and the first four.
    assert found == {
        "rule": "overlap",
        "longest responses": "75%",
        "lowest plain loss": "75%",
        "highest plain loss": "25%",
    }


def test_groups_are_counted() -> None:
    dataset = rows_of_all_kinds()
    topics = [i % 3 for i in (0, 3, 4)]
    text = report(dataset, [0, 3, 4], group_by="topic").to_markdown()
    _, *rows = tables(text)["Kept and dropped by `topic`"] if "Kept and dropped by `topic`" in text else []
    found = {row[0].strip('`"'): row[1:4] for row in rows}
    assert found == {
        f"topic {i}": [str(size), str(topics.count(i)), str(size - topics.count(i))]
        for i, size in ((0, 14), (1, 13), (2, 13))
    }


def test_kept_rows_are_told_from_others_with_the_same_scores() -> None:
    """Also where they have none."""
    features = {"label": ClassLabel(names=["cat", "dog"])}
    confidence = [1.0, 1.0, 1.0, 1.0, float("nan")]
    statuses = [OK] * 4 + [EMPTY_RESPONSE]
    dataset = scored_dataset({"label": [0, 1, 0, 1, 0]}, confidence, statuses, features=features)
    dataset = dataset.map(lambda row: {"dlc_tokens": 1}, remove_columns="dlc_tokens")
    assert report(dataset, dataset.select([1, 3, 4])).kept.tolist() == [1, 3, 4]


class Tags(HTMLParser):
    """Collects all tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)


OUR_TAGS = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "pre", "code", "img"}
OUR_TAGS |= {"table", "thead", "tbody", "tr", "th", "td", "ul", "li", "section", "div", "figure", "figcaption"}
OUR_TAGS |= {"details", "summary", "b", "input", "script"}
OUR_ATTRIBUTES = {"lang", "charset", "http-equiv", "content", "name", "src", "alt", "class"}
OUR_ATTRIBUTES |= {"type", "placeholder", "aria-label", "hidden"}


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_text_in_html(text: str) -> None:
    columns = {"output": [text] * 4, text.replace("\0", ""): [text] * 4, "topic": [text.replace("\0", "")] * 4}
    dataset = scored_dataset(columns, [0.2, 0.4, 0.6, 0.8], keep_levels=True)
    page = Tags(report(dataset, [0, 1], group_by="topic").to_html(title=text))
    assert set(page.tags) <= OUR_TAGS
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert {name for name, _ in page.attributes} <= OUR_ATTRIBUTES
    assert page.tags.count("script") == 1  # ours, which the test below names
    sources = [value for name, value in page.attributes if name == "src"]
    assert len(sources) == page.tags.count("img") > 3
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert any(one_line(text) in part for part in page.text)


def find_browser() -> str:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("there is no chromium")
    return browser


def in_browser(browser: str, page: str, folder: Path) -> str:
    """What a browser has made of a page, after all that wanted to run has run."""
    (folder / "report.html").write_text(page, encoding="utf-8")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder}",
        "--virtual-time-budget=2000",
    ]
    command = [browser, *options, "--dump-dom", (folder / "report.html").as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.browser
def test_hostile_text_is_text_in_a_browser(tmp_path: Path) -> None:
    browser = find_browser()
    payload = "document.title = 'run'; document.body.append(document.createElement('form'))"
    hostile = [
        *HOSTILE,
        f"</pre><script>{payload}</script>",
        f'<img src=x onerror="{payload}">',
        f"<svg onload={payload}>",
    ]
    scores = list(np.linspace(0.1, 0.9, len(hostile)))
    texts = [text.replace("\0", "") for text in hostile]
    dataset = scored_dataset({"output": texts, "topic": texts}, scores, keep_levels=True)
    shown = report(dataset, [0, 1, 2], group_by="topic", examples=len(texts))
    found = in_browser(browser, shown.to_html(title="What was kept"), tmp_path)
    page = Tags(found)
    assert set(page.tags) <= OUR_TAGS
    assert "<title>What was kept</title>" in found
    assert any(payload in part for part in page.text)


def test_a_notebook_shows_the_page_in_a_frame_of_its_own() -> None:
    """Which runs no scripts, and out of which no text of the dataset comes."""
    scores = np.linspace(0.1, 0.9, len(HOSTILE)).tolist()
    shown = report(scored_dataset({"output": list(HOSTILE)}, scores), [0, 1], examples=len(HOSTILE))
    frame = Tags(shown._repr_html_())
    assert frame.tags == ["iframe"]
    attributes = dict(frame.attributes)
    assert attributes.keys() == {"srcdoc", "sandbox", "style"}
    assert attributes["sandbox"] == "allow-scripts"  # in an origin of its own, which reaches nothing of the notebook
    assert not frame.text
    assert set(Tags(attributes["srcdoc"]).tags) <= OUR_TAGS


def test_without_matplotlib_a_notebook_shows_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = report(rows_of_all_kinds(), [0, 1, 2])
    assert repr(shown) == "PruneReport(3 of 40 rows kept, by dlc_confidence)"
    monkeypatch.setattr("hf_dlc.report.report.find_spec", lambda _: None)
    assert shown._repr_html_() is None


def test_a_report_is_saved_as_its_name_says(tmp_path: Path) -> None:
    shown = report(rows_of_all_kinds(), [0, 1, 2])
    shown.save(tmp_path / "report.md")
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == shown.to_markdown()
    shown.save(str(tmp_path / "report.html"))
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(ValueError, match=r"saved as \.html or \.md, got .*report\.pdf"):
        shown.save(tmp_path / "report.pdf")


def test_html_loads_nothing() -> None:
    page = report(rows_of_all_kinds(), [0, 1, 2]).to_html()
    assert "default-src 'none'" in page
    assert not re.findall(r"https?://|<script |<link|@import|url\(", page)
    [script] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'\"" in page  # this one, and no other


@pytest.mark.browser
def test_rows_are_sorted_and_searched(tmp_path: Path) -> None:
    browser = find_browser()
    dataset = scored_dataset({"output": ["apple", "Pear\nand plum", "apple\npie"]}, [0.3, 0.1, 0.2])
    page = report(dataset, [0]).to_html()
    actions = """<script>
      const table = document.querySelector("table.rows");
      const shown = () => [...table.tBodies[0].rows].filter(row => !row.hidden).map(row => row.cells[0].textContent);
      const column = [...table.tHead.rows[0].cells].find(cell => cell.textContent === "confidence");
      const found = [shown()];
      column.click(); found.push(shown());
      column.click(); found.push(shown());
      const search = document.querySelector("input");
      search.value = "PLUM pear"; search.dispatchEvent(new Event("input")); found.push(shown());
      document.title = JSON.stringify(found);
    </script></body>"""
    page = re.sub(r'<meta http-equiv="Content-Security-Policy".*?>', "", page).replace("</body>", actions)
    title = re.findall(r"<title>(.*?)</title>", in_browser(browser, page, tmp_path))
    assert json.loads(title[0]) == [["0", "1", "2"], ["1", "2", "0"], ["0", "2", "1"], ["1"]]


def test_a_response_unfolds_to_its_full_length_with_its_line_breaks() -> None:
    text = "First line.\n\tSecond <b>line</b>.\u202e\x07\n" + "word " * 400
    page = report(scored_dataset({"output": [text, "short"]}, [0.3, 0.1]), [0]).to_html()
    shown = html.unescape(page)
    assert "First line.\n\tSecond <b>line</b>.\\u202e\\u0007\n" + "word " * 400 in shown
    assert "<b>line" not in page
    assert '<p class="field"><b>output</b> short</p>' in page
    assert unfolded("x" * 5001) == "x" * 5000 + "… (1 more characters)"
    assert unfolded([{"role": "user"}]) == '[\n {\n  "role": "user"\n }\n]'


def test_the_table_of_rows_is_drawn_where_there_are_many() -> None:
    few, many = (report(rows_of_all_kinds(count), [0]).to_html() for count in (40, 400))
    assert "Rows to look through (all 40)" in few
    assert "Rows to look through (300 of 400, drawn at random)" in many
    assert "Rows to look through" not in report(rows_of_all_kinds(), [0]).to_markdown()


def test_what_was_run_is_told_and_no_text_of_it_acts() -> None:
    facts = {"model": "a/b", "command": "hf-dlc select\n## Injected"}
    shown = report(rows_of_all_kinds(), [0], run=facts)
    assert section(shown.to_markdown(), "Run").splitlines()[2:4] == [
        "- model: `a/b`",
        "- command: `hf-dlc select\\u000a## Injected`",
    ]
    assert "hf-dlc select\\u000a## Injected" in html.unescape(shown.to_html())
    words = "hf-dlc score --model " + "x" * 300 + " `--keep` | 0.5"
    told = section(report(rows_of_all_kinds(), [0], run={"command": words}).to_markdown(), "Run")
    assert f"- command: `{words.replace('`', chr(92) + 'u0060').replace('|', chr(92) + 'u007c')}`" in told


def test_where_the_rule_changes_is_drawn() -> None:
    dataset = rows_of_all_kinds()
    [plain, with_split] = (report(dataset, [0], bounds=bounds).plot().axes[0] for bounds in ({}, {"split": 0.25}))
    assert len(with_split.lines) == len(plain.lines) + 1
    assert with_split.lines[0].get_xdata() == [0.25, 0.25]
    assert [text.get_text() for text in with_split.texts] == ["split"]


def test_the_kept_share_is_that_of_ten_rows_at_least() -> None:
    rng = np.random.default_rng(0)
    for count in (0, 5, 47, 5000):
        score, is_kept = rng.random(count), rng.random(count) < 0.5
        where, share = _kept_share(score, is_kept)
        assert len(where) == len(share) <= 30
        assert len(share) <= max(1, count // 10)
        if count:
            assert share.mean() == pytest.approx(is_kept.mean(), abs=0.1)


def test_no_panel_is_empty_and_none_is_shown_twice() -> None:
    dataset = rows_of_all_kinds()
    figure = report(dataset, [0, 3, 4]).plot()
    assert len([axes for axes in figure.axes if axes.get_title()]) % 2 == 1
    assert all(axes.get_visible() and (axes.has_data() or axes.get_ylabel() == "kept share") for axes in figure.axes)
    dataset = dataset.add_column("dlc_plain_loss", [levels[0] for levels in dataset["dlc_level_loss"]])
    titles = [axes.get_title() for axes in report(dataset, [0], column="dlc_plain_loss").plot().axes]
    assert "Score against plain loss" not in titles


def test_plot_has_a_panel_for_everything() -> None:
    dataset = rows_of_all_kinds()
    titles = [axes.get_title() for axes in report(dataset, [0, 3, 4], group_by="topic").plot().axes]
    measures = {measure.name for score in SCORES.values() for measure in score.measures}
    others = {f"{name.capitalize()} along the levels" for name in measures - {"confidence", "loss"}}
    assert [title for title in titles if title not in {"", *others}] == [
        "Scores, and what was kept",
        "Confidence along the levels",
        "Loss along the levels",
        "Score against response length",
        "Score against plain loss",
        "Groups",
    ]
    bare = scored_dataset({"output": list("ab")}, [0.1, 0.2])
    titles = [axes.get_title() for axes in report(bare, [0]).plot().axes]
    assert [title for title in titles if title] == ["Scores, and what was kept", "Score against response length"]


@pytest.mark.filterwarnings("error")
def test_levels_at_which_nothing_is_measured() -> None:
    """A score may ask for some of the levels only: a measure has no path of one level, and no gap in its path."""
    dataset = scored_dataset({"output": ["a", "b"]}, [0.1, 0.2], keep_levels=True)
    levels = {"dlc_level_loss": [0.5, float("nan"), float("nan")], "dlc_level_confidence": [0.5, float("nan"), 0.25]}
    dataset = dataset.map(lambda row: levels)
    drawn = PruneReport.from_datasets(dataset, [0], schedule=(0.0, 0.1, 0.2)).plot().axes
    panels = {axes.get_title(): axes for axes in drawn}
    assert "Loss along the levels" not in panels
    [path] = panels["Confidence along the levels"].lines
    assert path.get_xydata().tolist() == [[0.0, 0.5], [0.2, 0.25]]


@pytest.mark.filterwarnings("error")
def test_plot_of_hardly_anything() -> None:
    nothing = scored_dataset({"output": ["a", "b"]}, [0.1, 0.2], [EMPTY_RESPONSE] * 2, keep_levels=True)
    one = scored_dataset({"output": ["$a_b$"]}, [0.1], keep_levels=True)
    for dataset, kept in ((nothing, []), (one, [0])):
        assert report(dataset, kept, group_by="output").to_html()
