from __future__ import annotations

import json
import logging
from dataclasses import FrozenInstanceError, dataclass, field, fields
from pathlib import Path
from typing import Any

import pytest
from transformers import HfArgumentParser

from hf_dlc import DLCConfig, MaskSchedule, __version__
from hf_dlc.cli.parse import parse_config_and_args
from hf_dlc.config import CONFIG_NAME
from hf_dlc.masking.targets import find_targets
from hf_dlc.pipeline.command_line import command_line
from hf_dlc.pipeline.options import PruneArguments
from tests.conftest import build_model


@dataclass
class Other:
    keep: float = field(default=0.5, metadata={"help": "Share."})
    name: str | None = field(default=None, metadata={"help": "Name."})


class TestMaskSchedule:
    @pytest.mark.parametrize(
        ("schedule", "fractions"),
        [
            (MaskSchedule((0.05, 0.11)), (0.0, 0.05, 0.11)),
            (MaskSchedule((0.0, 0.05)), (0.0, 0.05)),
            (MaskSchedule([0, 0.5]), (0.0, 0.5)),
            (MaskSchedule(()), (0.0,)),
            (MaskSchedule.linear(0.3, 3), (0.0, 0.3, 0.6)),
            (MaskSchedule.linear(0.3, 1), (0.0,)),
            (MaskSchedule.geometric(0.2, 3), (0.0, 0.2, 0.36)),
            (MaskSchedule.geometric(0.5, 4), (0.0, 0.5, 0.75, 0.875)),
            (MaskSchedule.parse("0.05,0.11"), (0.0, 0.05, 0.11)),
            (MaskSchedule.parse(" [0, .05, 1e-1] "), (0.0, 0.05, 0.1)),
            (MaskSchedule.parse("(0, 0.5)"), (0.0, 0.5)),
            (MaskSchedule.parse("linear(0.3, 3)"), (0.0, 0.3, 0.6)),
            (MaskSchedule.parse(" geometric(0.2,3) "), (0.0, 0.2, 0.36)),
        ],
    )
    def test_fractions(self, schedule: MaskSchedule, fractions: tuple[float, ...]) -> None:
        assert schedule.fractions == fractions
        assert len(schedule) == len(fractions)

    def test_paper_schedule(self) -> None:
        fractions = MaskSchedule.linear(0.02, 50).fractions
        assert (len(fractions), fractions[1], fractions[3], fractions[-1]) == (50, 0.02, 0.06, 0.98)

    def test_text(self) -> None:
        assert str(MaskSchedule((0.05, 0.125))) == "0, 0.05, 0.125"

    @pytest.mark.parametrize("fractions", [(0.2, 0.1), (0.1, 0.1), (-0.1,), (0.5, 1.0), (float("nan"),), (0, 0)])
    def test_what_does_not_ascend_in_range_is_refused(self, fractions: tuple[float, ...]) -> None:
        with pytest.raises(ValueError, match=r"must ascend strictly within \[0, 1\)"):
            MaskSchedule(fractions)

    @pytest.mark.parametrize("levels", [0, -3])
    @pytest.mark.parametrize("kind", [MaskSchedule.linear, MaskSchedule.geometric])
    def test_no_level_is_refused(self, kind: Any, levels: int) -> None:
        with pytest.raises(ValueError, match=f"at least 1 level.*levels={levels}"):
            kind(0.1, levels)

    @pytest.mark.parametrize("text", ["", "a, b", "cubic(0.1, 3)", "linear(0.1)", "linear(0.1, x)", "0.1; 0.2"])
    def test_what_is_no_schedule_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="schedule must be a list of masked fractions such as"):
            MaskSchedule.parse(text)


class TestOptions:
    @pytest.mark.parametrize(
        ("given", "canonical"),
        [
            (None, None),
            ("calibrated", None),
            ([0.05, 0.11], "0, 0.05, 0.11"),
            ((0, 0.05), "0, 0.05"),
            (MaskSchedule((0.5,)), "0, 0.5"),
            ("0.05,0.110", "0, 0.05, 0.11"),
            ("geometric(0.2, 3)", "0, 0.2, 0.36"),
            ([1 / 3], "0, 0.3333333333333333"),
        ],
    )
    def test_schedule_has_one_text(self, given: Any, canonical: str | None) -> None:
        assert DLCConfig(schedule=given).schedule == canonical
        assert DLCConfig(schedule=canonical).schedule == canonical

    def test_options_do_not_change(self) -> None:
        # A scorer is built from them once: a later change would enter the fingerprint and not the scores.
        with pytest.raises(FrozenInstanceError):
            DLCConfig().seed = 5

    def test_schedule_text_loses_nothing(self) -> None:
        assert DLCConfig(schedule=[1 / 3, 0.7000000000000001]).mask_schedule.fractions == (
            0,
            1 / 3,
            0.7000000000000001,
        )
        assert DLCConfig().mask_schedule is None

    @pytest.mark.parametrize(
        ("given", "parsed"),
        [
            (None, None),
            ({"a": "b"}, {"a": "b"}),
            ("src=instruction, pos =output", {"src": "instruction", " pos ": "output"}),
            (" answer= output ", {" answer": "output"}),
            ('{"a,b": "instruction", "c=d": "output"}', {"a,b": "instruction", "c=d": "output"}),
        ],
    )
    def test_columns(self, given: Any, parsed: dict[str, str] | None) -> None:
        assert DLCConfig(columns=given).columns == parsed

    @pytest.mark.parametrize(("given", "parsed"), [("auto", "auto"), (2048, 2048), ("2048", 2048)])
    def test_tokens_per_batch(self, given: Any, parsed: str | int) -> None:
        assert DLCConfig(tokens_per_batch=given).tokens_per_batch == parsed

    def test_lists(self) -> None:
        config = DLCConfig(calibration_shares=("1", 0.5), target_modules=("q_proj", "k_proj"))
        assert config.calibration_shares == [1.0, 0.5]
        assert config.target_modules == ["q_proj", "k_proj"]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"masking": "gradient"}, "masking must be one of 'random', 'magnitude', got 'gradient'"),
            ({"scope": "layer"}, "scope must be one of 'module', 'global', got 'layer'"),
            ({"levels": "some"}, "levels must be one of 'exact', 'fast', 'single', got 'some'"),
            ({"token_mean": "harmonic"}, "token_mean must be one of 'arithmetic', 'geometric', got 'harmonic'"),
            ({"dtype": "int8"}, "dtype must be one of 'auto', 'float32', 'bfloat16', 'float16', got 'int8'"),
            ({"max_length": 1}, "max_length must be at least 2 .* got 1"),
            ({"prefix": ""}, "prefix must consist of letters, digits and underscores, got ''"),
            ({"prefix": "a-b"}, "prefix must consist of letters, digits and underscores, got 'a-b'"),
            ({"columns": "src"}, "columns must look like 'src=instruction,pos=output', got 'src'"),
            ({"columns": "a=b=c"}, 'columns must look like .*pass JSON: \'{"a,b": "instruction"}\''),
            ({"columns": "=b"}, "columns must look like"),
            ({"columns": "a=b,a=c"}, "columns must map each name once, got 'a' twice"),
            ({"columns": '{"a": "b", "a": "c"}'}, "columns must map each name once, got 'a' twice"),
            ({"columns": '{"a": "b"'}, "columns is no valid JSON"),
            ({"columns": {1: "text"}}, r"columns must map names to names, both text, got \{1: 'text'\}"),
            ({"columns": '{"a": 1}'}, "columns must map names to names"),
            ({"columns": ["a"]}, "columns must map names to names"),
            ({"tokens_per_batch": 0}, "tokens_per_batch must be 'auto' or a positive number of tokens, got 0"),
            ({"tokens_per_batch": "many"}, "tokens_per_batch must be .* got 'many'"),
            ({"tokens_per_batch": -5}, "tokens_per_batch must be .* got -5"),
            ({"schedule": "often"}, "schedule must be a list of masked fractions .* got 'often'"),
            ({"schedule": [0.5, 0.2]}, "must ascend strictly"),
        ],
    )
    def test_a_wrong_value_is_named(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            DLCConfig(**options)


class TestFiles:
    def test_round_trip(self, tmp_path: Path) -> None:
        config = DLCConfig(
            masking="magnitude", schedule=[0.05], columns={"a": "text"}, tokens_per_batch=99, target_modules=["q_proj"]
        )
        config.save_pretrained(tmp_path / "made" / "here")
        assert DLCConfig.from_pretrained(tmp_path / "made" / "here") == config

    def test_file_is_plain_json(self, tmp_path: Path) -> None:
        DLCConfig(schedule=[0.05]).save_pretrained(tmp_path)
        assert json.loads((tmp_path / CONFIG_NAME).read_text()) == {
            "hf_dlc_version": __version__,
            "masking": "random",
            "schedule": "0, 0.05",
            "calibration_shares": [1.0, 0.75, 0.5, 0.25],
            "levels": "exact",
            "scope": "module",
            "target_modules": "all-linear",
            "seed": 0,
            "token_mean": "arithmetic",
            "max_length": 1024,
            "template": "auto",
            "layout": "auto",
            "columns": None,
            "tokens_per_batch": "auto",
            "scores": ["confidence", "loss", "gain"],
            "alone": "header",
            "first_tokens": 16,
            "encoder": "sentence-transformers/all-MiniLM-L6-v2",
            "features": None,
            "features_size": None,
            "keep_levels": False,
            "prefix": "dlc",
            "dtype": "auto",
            "head": "auto",
            "pooling": "auto",
            "prototype_logits": "inverse",
            "knn_neighbours": 10,
        }

    def test_unknown_newer_option_warns(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, "hf_dlc"):
            config = DLCConfig.from_dict({"hf_dlc_version": "9.1.0", "seed": 3, "warp": True})
        assert config == DLCConfig(seed=3)
        [record] = caplog.records
        assert "['warp'], written by hf_dlc 9.1.0" in record.getMessage()

    def test_known_options_do_not_warn(self, caplog: pytest.LogCaptureFixture) -> None:
        DLCConfig.from_dict(DLCConfig().to_dict())
        assert not caplog.records

    def test_a_wrong_value_in_a_file_is_refused(self) -> None:
        with pytest.raises(ValueError, match="masking must be one of"):
            DLCConfig.from_dict({"masking": "gradient"})

    def test_callable_template_is_refused(self, tmp_path: Path) -> None:
        def my_template(row: dict[str, Any]) -> dict[str, Any]:
            return {"text": row["a"]}

        with pytest.raises(ValueError, match=r"a template function cannot be written to JSON, got .*my_template"):
            DLCConfig(template=my_template).save_pretrained(tmp_path)
        assert list(tmp_path.iterdir()) == []


class TestCommandLine:
    def test_hf_argument_parser(self) -> None:
        arguments = (
            "--masking magnitude --schedule linear(0.1,3) --calibration_shares 1 0.5 --seed 7 --columns src=text "
            "--tokens_per_batch 512 --keep_levels --prefix easy --max_length 64 --dtype float32"
        )
        [config] = HfArgumentParser(DLCConfig).parse_args_into_dataclasses(arguments.split())
        assert config == DLCConfig(
            masking="magnitude",
            schedule=[0.1, 0.2],
            calibration_shares=[1, 0.5],
            seed=7,
            columns={"src": "text"},
            tokens_per_batch=512,
            keep_levels=True,
            prefix="easy",
            max_length=64,
            dtype="float32",
        )

    def test_defaults(self) -> None:
        assert parse_config_and_args([DLCConfig, Other], []) == (DLCConfig(), Other())

    def test_every_option_has_help(self, capsys: pytest.CaptureFixture) -> None:
        with pytest.raises(SystemExit, match="0"):
            parse_config_and_args([DLCConfig], ["--help"], description="Prunes.")
        shown = capsys.readouterr().out
        assert "Prunes." in shown
        assert all(f"--{name.replace('_', '-')}" in shown for name in vars(DLCConfig()))
        assert "(default: None)" not in shown

    def test_help_shows_a_default_of_the_file_as_it_is(self, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
        """A percent sign means something to argparse."""
        with pytest.raises(SystemExit, match="0"):
            parse_config_and_args([DLCConfig], ["--config", self._write(tmp_path, "prefix: a%sb 30%\n"), "--help"])
        assert "(default: a%sb 30%)" in " ".join(capsys.readouterr().out.split())

    def test_yaml_gives_defaults_and_the_command_line_wins(self, tmp_path: Path) -> None:
        path = self._write(
            tmp_path, "seed: 5\nschedule: 0, 0.1\nkeep: 0.25\ncolumns: {src: text}\nkeep_levels: true\n"
        )
        config, other = parse_config_and_args([DLCConfig, Other], ["--seed", "6", "--config", path, "--name", "x"])
        assert config == DLCConfig(seed=6, schedule=[0.1], columns={"src": "text"}, keep_levels=True)
        assert other == Other(keep=0.25, name="x")

    def test_yaml_lists_and_numbers(self, tmp_path: Path) -> None:
        path = self._write(tmp_path, "schedule: [0, 0.1]\ncalibration_shares: [1, 0.5]\ntokens_per_batch: 100\n")
        [config] = parse_config_and_args([DLCConfig], [f"--config={path}"])
        assert config == DLCConfig(schedule=[0.1], calibration_shares=[1, 0.5], tokens_per_batch=100)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("sed: 5\n", "unknown options ['sed'] (did you mean seed?); see --help"),
            ("seed: [1\n", "not valid YAML"),
            ("- seed\n", "must hold 'option: value' lines, got list"),
            ("", "must hold 'option: value' lines, got NoneType"),
            ("seed: !!python/object/apply:os.system ['exit 3']\n", "not valid YAML"),
            ("seed: !!python/object:os.environ {}\n", "not valid YAML"),
            ("seed: five\n", "invalid int value: 'five'"),
            ("schedule: often\n", "schedule must be a list of masked fractions"),
            ("masking: gradient\n", "masking must be one of 'random', 'magnitude', got 'gradient'"),
        ],
    )
    def test_a_bad_file_is_one_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture, text: str, message: str
    ) -> None:
        self._refuse(["--config", self._write(tmp_path, text)], message, capsys)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("--config missing.yaml", "--config missing.yaml: "),
            ("--sed 5", "unknown options: --sed 5 (did you mean --seed?);"),
            ("--see 5", "unknown options: --see 5 (did you mean --seed?);"),
            ("--max-lengt=5", "(did you mean --max-length?)"),
            ("--blue 5", "unknown options: --blue 5;"),
            ("--no-keep-level", "unknown options: --no-keep-level;"),  # which does not mean --keep-levels
            ("max_length", "unknown options: max_length;"),
            ("--seed five", "invalid int value: 'five'"),
            ("--masking gradient", "invalid choice: 'gradient'"),
            ("--max_length 1", "max_length must be at least 2"),
        ],
    )
    def test_bad_arguments_are_one_line(self, capsys: pytest.CaptureFixture, arguments: str, message: str) -> None:
        self._refuse(arguments.split(), message, capsys)

    def _write(self, folder: Path, text: str) -> str:
        path = folder / "prune.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    def _refuse(self, arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
        with pytest.raises(SystemExit, match="2"):
            parse_config_and_args([DLCConfig, Other], arguments)
        shown = capsys.readouterr().err
        assert message in shown
        assert "Traceback" not in shown


# One value of each option that is not its default.
OTHERS = {
    "masking": "magnitude",
    "schedule": "0, 0.05, 0.1",
    "calibration_shares": [1.0, 0.5],
    "levels": "fast",
    "target_modules": r".*\.(q|k)_proj",
    "scope": "global",
    "seed": 3,
    "token_mean": "geometric",
    "max_length": 99,
    "template": "chat",
    "layout": "text",
    "columns": {"src": "instruction", "pos": "output"},
    "tokens_per_batch": 512,
    "scores": ("confidence", "ifd"),
    "alone": "raw",
    "first_tokens": 8,
    "encoder": "sentence-transformers/all-mpnet-base-v2",
    "features": "response",
    "features_size": 64,
    "keep_levels": True,
    "prefix": "easy",
    "dtype": "float32",
    "head": "prototype",
    "pooling": "mean@layers.8",
    "prototype_logits": "temperature",
    "knn_neighbours": 3,
}


@pytest.mark.parametrize("name", [option.name for option in fields(DLCConfig)])
def test_command_line_is_read_as_it_was_written(name: str) -> None:
    config = DLCConfig(**{name: OTHERS[name]})
    assert config != DLCConfig()
    assert parse_config_and_args([DLCConfig], command_line([], config)) == (config,)


@pytest.mark.parametrize("name", ["a,b", "a=b", " a", "a ", "{a", "-a", "--seed", '"', "\n", "\u00e9", "a.b"])
def test_command_line_of_columns_is_read_as_it_was_written(name: str) -> None:
    for columns in ({name: "instruction"}, {"pos": "output", name: "instruction"}):
        config = DLCConfig(columns=columns)
        assert parse_config_and_args([DLCConfig], command_line([], config)) == (config,)


def test_columns_of_yaml_are_named_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    path.write_text('columns: {" a": instruction, "b,c=d": output}\n', encoding="utf-8")
    [config] = parse_config_and_args([DLCConfig], ["--config", str(path)])
    assert config.columns == {" a": "instruction", "b,c=d": "output"}


def test_files_of_options_and_templates_may_be_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "options.yaml").write_text("template: ~/chat.jinja\n", encoding="utf-8")
    [config] = parse_config_and_args([DLCConfig], ["--config=~/options.yaml"])
    assert config.template == str(tmp_path / "chat.jinja")


def test_command_line_of_several_modules_means_the_same() -> None:
    model, names = build_model("llama"), ["q_proj", "layers.1.mlp.up_proj"]
    [config] = parse_config_and_args([DLCConfig], command_line([], DLCConfig(target_modules=names)))
    targets = [target.name for target in find_targets(model, config.target_modules)]
    assert targets == [target.name for target in find_targets(model, names)]
    assert len(targets) == 3


def test_command_line_of_a_run_is_read_as_it_was_written() -> None:
    options = PruneArguments(
        dataset="a b.jsonl",
        dataset_config="main",
        max_rows=7,
        model="it's",
        trust_remote_code=True,
        num_threads=2,
        keep="0.25",
        selector="hardest",
        easy="low",
        html_report=False,
        overwrite=True,
        chunk_seconds=1.5,
    )
    config = DLCConfig(**{name: value for name, value in OTHERS.items() if name != "template"})
    assert parse_config_and_args([PruneArguments, DLCConfig], command_line([], options, config)) == (options, config)
