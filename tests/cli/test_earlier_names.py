"""Options that were renamed: their earlier names work, and a warning tells the new ones."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from hf_dlc.cli.parse import parse_config_and_args
from hf_dlc.pipeline.options import PruneArguments


@pytest.mark.parametrize("words", [["--split_share", "0.75"], ["--split-share=0.75"]])
def test_an_earlier_flag(words: list[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        [options] = parse_config_and_args([PruneArguments], words)
    assert options.selection_split == 0.75
    assert caplog.messages == ["the option split_share is called selection_split now"]


def test_an_earlier_name_in_yaml(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "options.yaml").write_text("split_share: 0.25\n", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        [options] = parse_config_and_args([PruneArguments], ["--config", str(tmp_path / "options.yaml")])
    assert options.selection_split == 0.25
    assert caplog.messages == ["the option split_share is called selection_split now"]


def test_a_value_is_no_name(caplog: pytest.LogCaptureFixture) -> None:
    [options] = parse_config_and_args([PruneArguments], ["--dataset", "split_share"])
    assert options.dataset == "split_share"
    assert caplog.messages == []


def test_both_names_in_yaml_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "options.yaml").write_text("split_share: 0.25\nselection_split: 0.75\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        parse_config_and_args([PruneArguments], ["--config", str(tmp_path / "options.yaml")])
    assert "split_share is called selection_split now, got both" in capsys.readouterr().err
