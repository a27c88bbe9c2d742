"""
The card of a pruned dataset: what was kept of what, how, and how to do it again.

A card may be written by hand as well. Of its text only the part between two marks is ours, one for each subset, and of
its metadata only the fields that are set here.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from hf_dlc.config import DLCConfig
from hf_dlc.report.render import Section, code, to_markdown


_TAGS = ("data-pruning", "hf_dlc")
_SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}
_TEMPLATES = ("auto", "chat", "alpaca")  # others are files, or code
_SELECTORS = ("FlexRandSelector", "RandomSelector", "TopKSelector")
_LARGEST = "10M<n<100M"


@dataclass(frozen=True)
class Subset:
    """
    What a card says of a subset.

    Args:
        name (`str`):
            Its `config_name` on the Hub.
        repo_id (`str`):
            Where it will be.
        rows (`int`):
            Rows that it was chosen from.
        kept_rows (`int`):
            Its rows.
        manifest (`dict`):
            What [`build_manifest`] returned, or a part of it.
        base (`dict`):
            `name`, `config`, `split`, `revision` and `sha256` of the dataset that it was chosen from, as far as known.
        files (`Sequence[str]`):
            Names of the files beside the data, in `folder`.
        scores_digest (`str`):
            Digest of the scores that it was chosen by, which all subsets in a repository share.
        prefix (`str`, *optional*, defaults to `"dlc"`):
            What the names of the score columns begin with.
    """

    name: str
    repo_id: str
    rows: int
    kept_rows: int
    manifest: dict[str, Any]
    base: dict[str, Any]
    files: Sequence[str]
    scores_digest: str
    prefix: str = "dlc"

    @property
    def folder(self) -> str:
        """Where the files beside the data are."""
        return f"hf_dlc/{self.name}"

    @property
    def scorer(self) -> dict[str, Any]:
        """What scored."""
        return self.manifest.get("scorer") or {}

    @property
    def model(self) -> str | None:
        """What the model is called: a repository, a folder, or a GGUF file in one."""
        name, file = self.scorer.get("model"), self.scorer.get("gguf_file")
        is_local = self.manifest.get("model_is_local")
        return "/".join(part for part in (None if file and is_local else name, file) if part) or None

    @property
    def selection(self) -> dict[str, Any]:
        """What selected, and how."""
        return self.manifest.get("selection") or {}

    def record(self) -> dict[str, Any]:
        """For the `dlc` block of the metadata."""
        config = self.scorer.get("config") or {}
        facts = {
            "base": self.base or None,
            "rows": self.rows,
            "kept_rows": self.kept_rows,
            "model": self.model,
            "model_revision": self.scorer.get("revision"),
            "model_digest": self.scorer.get("model_digest"),
            "masking": config.get("masking"),
            "masking_seed": config.get("seed"),
            "masked_fractions": self.manifest.get("schedule"),
            "selection": _known(self.selection) or None,
            "scores_digest": self.scores_digest,
            "hf_dlc": (self.manifest.get("versions") or {}).get("hf_dlc"),
        }
        return _known(facts)


def update_metadata(data: DatasetCardData, subset: Subset, scores: str) -> None:
    """
    Put our fields into the metadata of a card; all others stay.

    Args:
        data (`DatasetCardData`):
            Metadata, changed in place.
        subset ([`Subset`]):
            What is published.
        scores (`str`):
            Path of the scores in the repository.
    """
    subsets = {**_subsets(data), subset.name: subset.record()}
    data["dlc"] = {**_block(data), "scores": scores, "subsets": subsets}
    data["tags"] = list(dict.fromkeys([*(data.get("tags") or []), *_TAGS]))
    sizes = [size_category(one["kept_rows"]) for one in subsets.values()]
    data["size_categories"] = [size for size in (*_SIZES.values(), _LARGEST) if size in sizes]
    others = [one for one in data.get("configs") or [] if one.get("config_name") != "scores"]
    data["configs"] = [*others, {"config_name": "scores", "data_files": scores}]


def subsets_of_other_scores(data: DatasetCardData, subset: Subset) -> list[str]:
    """Names of other subsets on a card that were chosen by other scores, or from other rows."""
    digest = subset.scores_digest
    return [
        name for name, other in _subsets(data).items() if name != subset.name and other.get("scores_digest") != digest
    ]


def is_another_selection(data: DatasetCardData, subset: Subset) -> bool:
    """Whether a subset of this name is on a card that was selected in another way."""
    there = _subsets(data).get(subset.name)
    return there is not None and there.get("selection") != subset.record().get("selection")


def _subsets(data: DatasetCardData) -> dict[str, dict[str, Any]]:
    """What a card, which anybody may have edited, says of subsets."""
    found = _block(data).get("subsets")
    known = found.items() if isinstance(found, dict) else ()
    return {str(name): one for name, one in known if isinstance(one, dict) and isinstance(one.get("kept_rows"), int)}


def _block(data: DatasetCardData) -> dict[str, Any]:
    block = data.get("dlc")
    return block if isinstance(block, dict) else {}


def size_category(rows: int) -> str:
    """The Hub's name for a number of rows."""
    return next((name for limit, name in _SIZES.items() if rows < limit), _LARGEST)


def replace_section(text: str, subset: Subset, section: str) -> str:
    """The text of a card with the section of a subset in the place of the old one, or at the end."""
    begin, end = f"<!-- hf_dlc {subset.name} -->", f"<!-- /hf_dlc {subset.name} -->"
    section = f"{begin}\n{section}\n{end}"
    # The last mark before the end: were one of them removed by hand, all up to the next would be replaced.
    before, closed, tail = text.partition(end)
    head, opened, _ = before.rpartition(begin)
    if opened and closed:
        return head + section + tail
    title = "" if text.strip() else f"# {subset.repo_id.rpartition('/')[2]}\n\n"
    return f"{text.rstrip()}\n\n{title}{section}\n".lstrip("\n")


def render_section(subset: Subset, sections: Sequence[Section]) -> str:
    """What was kept of what and how, as Markdown in which text from a dataset is nothing but text."""
    rendered = _template().render(
        subset=subset,
        how=[*_scored_how(subset), *_selected_how(subset.selection)],
        python=_python(subset),
        commands=[_command(words) for words in subset.manifest.get("commands") or []],
        report=to_markdown(sections, heading="###"),
        code=code,
    )
    return rendered.replace("<!--", "<\u200b!--").strip()  # no text may end our part of the card


def _scored_how(subset: Subset) -> list[str]:
    fractions, config = subset.manifest.get("schedule"), subset.scorer.get("config") or {}
    if not fractions or not subset.scorer:
        return []
    order = "in a pseudo-random order" if config.get("masking") == "random" else "smallest first"
    prefix = subset.prefix
    masked = ", ".join(f"{fraction:.3g}" for fraction in fractions[1:]) or "none"
    what = "the label of the image" if "images" in config else "the tokens that training would learn from"
    mean = "geometric mean of the probabilities" if config.get("token_mean") == "geometric" else "mean probability"
    return [
        f"Each row was scored by {code(subset.model)}, as it is and with shares of its weights set to "
        f"zero, {order}: {masked}. Nothing was trained. {code(f'{prefix}_confidence')} is the {mean} of {what} "
        f"(higher = easier), {code(f'{prefix}_loss')} the mean loss in nats (higher = harder)."
    ]


def _selected_how(selection: dict[str, Any]) -> list[str]:
    name, column = selection.get("selector"), code(selection.get("column") or "dlc_confidence")
    groups = f", within the groups of {code(selection['group_by'])}" if selection.get("group_by") else ""
    if name == "FlexRandSelector" and isinstance(selection.get("split"), float):
        split = f"{selection['split']:.0%}"
        return [
            f"Half of the budget was drawn at random from the easiest {split} of the rows by {column}, half from the "
            f"others{groups}."
        ]
    if name == "TopKSelector" and selection.get("which") in ("easiest", "hardest"):
        return [f"The {selection['which']} rows by {column} were taken{groups}."]
    return [f"Rows were drawn at random{groups}."] if name == "RandomSelector" else []


def _python(subset: Subset) -> str | None:
    """The steps in Python, with every option that is not the default; None where others could not take them."""
    selection, config = dict(subset.selection), subset.manifest.get("config") or {}
    name, model, split = selection.pop("selector", None), subset.scorer.get("model"), subset.base.get("split")
    is_local = subset.manifest.get("model_is_local") or (subset.manifest.get("dataset") or {}).get("is_local")
    is_known = (
        name in _SELECTORS
        and config
        and not subset.scorer.get("gguf_file")
        and all(key.isidentifier() for key in selection)
    )
    if is_local or not is_known or not model or not split or config.get("template") not in _TEMPLATES:
        return None
    changed = {key: value for key, value in config.items() if value != vars(DLCConfig()).get(key)}
    changed |= {"schedule": ", ".join(map(repr, subset.manifest["schedule"])), "dtype": subset.scorer.get("dtype")}
    changed.pop("keep_levels", None)
    rows = {"name": subset.base.get("config"), "split": split}
    options = subset.manifest.get("options") or {}
    max_rows = options.get("max_rows")
    model_kwargs = {key: options[key] for key in ("trust_remote_code", "attn_implementation") if options.get(key)}
    changed["model_kwargs"] = model_kwargs or None
    return "\n".join(
        [
            "from datasets import load_dataset",
            f"from hf_dlc import DLCScorer, {name}",
            "",
            f"dataset = load_dataset({_call(subset.base.get('name'), **rows, revision=subset.base.get('revision'))})",
            *([] if max_rows is None else [f"dataset = dataset.select(range({subset.rows}))"]),
            f"scorer = DLCScorer.from_pretrained({_call(model, revision=subset.scorer.get('revision'), **changed)})",
            "scored = dataset.map(scorer, batched=True)",
            f"pruned = {name}({_call(**selection)})(scored)",
        ]
    )


def _call(*values: Any, **options: Any) -> str:
    named = [f"{name}={value!r}" for name, value in options.items() if value is not None]
    return ", ".join([*map(repr, values), *named])


def _command(words: Sequence[str]) -> str:
    """For a shell, on one line."""
    return shlex.join("".join(c for c in str(word) if c.isprintable()) for word in words)


def _known(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown: what is not our own stands in code, which `code` and `to_markdown` see to
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("dataset_card.md.jinja")
