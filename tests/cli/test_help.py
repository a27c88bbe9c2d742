"""Help shows every option once, in a group that is the same for all programs."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from hf_dlc.cli.commands import COMMANDS, main
from hf_dlc.config import DLCConfig


def help_of(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "110")
    with pytest.raises(SystemExit):
        main([name, "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_shown_once_with_one_spelling(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = help_of(name, capsys, monkeypatch).partition("\noptions:")[0].partition("options:\n")[2]
    shown = re.findall(r"^  (--[\w-]+)", text, re.MULTILINE)
    known = {option.name for kind in COMMANDS[name].arguments for option in fields(kind)} | {"json"}
    assert sorted(shown) == sorted(f"--{option.replace('_', '-')}" for option in known)


def test_options_stand_in_groups(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = help_of("score", capsys, monkeypatch)
    groups = re.findall(r"^(.+) options:$", text, re.MULTILINE)
    assert groups == ["data", "model", "score", "masking", "image", "output"]
    parts = dict(zip(groups, re.split(r"^.*options:$", text, flags=re.MULTILINE)[1:], strict=False))
    assert all(flag in parts["data"] for flag in ("--dataset ", "--max-rows N", "--columns "))
    assert all(flag in parts["model"] for flag in ("--model ", "--trust-remote-code  ", "--dtype "))
    assert "--measure-training, --no-measure-training\n" in parts["output"]
    assert "--chunk-seconds X" in parts["output"]
    assert "None" not in text
    assert "SUPPRESS" not in text
    assert text.index("examples:") < text.index("data options:")


def test_an_option_stands_in_the_same_group_everywhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[str]] = {}
    for name in set(COMMANDS) - {"push"}:  # its --features publishes those that the others compute
        group = ""
        for line in help_of(name, capsys, monkeypatch).splitlines():
            if line.endswith("options:"):
                group = line
            elif found := re.match(r"  (--[\w-]+)", line):
                seen.setdefault(found[1], set()).add(group)
    common = [option.name for option in fields(DLCConfig)] + ["model", "split", "num_threads", "overwrite"]
    groups = {name: seen[f"--{name.replace('_', '-')}"] for name in common}
    assert {name: found for name, found in groups.items() if len(found) > 1} == {}
