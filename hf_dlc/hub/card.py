"""
The card of a pruned dataset: which rows were kept, how they were chosen, and how to do it again.

A card may be written by hand as well. Of its text only the part between two marks is ours, one for each subset, and of
its metadata only the fields that are set here.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from hf_dlc.config import DLCConfig
from hf_dlc.pipeline.record import ExtrapolationRecord, HeldOutRecord, RunRecord, SelectionRecord
from hf_dlc.report.render import Name, Section, Table, code, to_markdown
from hf_dlc.scores.base import Score
from hf_dlc.scores.table import SCORES
from hf_dlc.selection import FlexRandSelector
from hf_dlc.selection import __all__ as public_selectors
from hf_dlc.selection.base import Selector
from hf_dlc.selection.targeted import TargetedSelector
from hf_dlc.tasks.kinds import TARGETS


LICENSE_FIELDS = ("license", "license_name", "license_link")

_TAGS = ("data-pruning", "hf_dlc")
_SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}
_TEMPLATES = ("auto", "chat", "alpaca")  # others are files, or code
_LARGEST = "10M<n<100M"


@dataclass(frozen=True)
class Subset:
    """
    A subset that a card describes.

    Args:
        name (`str`):
            Its `config_name` on the Hub.
        repo_id (`str`):
            Its repository.
        rows (`int`):
            Number of rows that it was chosen from.
        kept_rows (`int`):
            Number of its rows.
        record ([`RunRecord`]):
            Record of scoring and selection, as far as they are known.
        columns (`Sequence[str]`):
            Columns of the scores that are published.
        base (`dict`):
            `name`, `config`, `split`, `revision` and `sha256` of the dataset that it was chosen from, as far as known.
        files (`Sequence[str]`):
            Names of the files beside the data, in `folder`.
        scores_digest (`str`):
            Digest of the scores that it was chosen by, which all subsets in a repository share.
    """

    name: str
    repo_id: str
    rows: int
    kept_rows: int
    record: RunRecord
    columns: Sequence[str]
    base: dict[str, Any]
    files: Sequence[str]
    scores_digest: str

    @property
    def folder(self) -> str:
        """Folder of the files beside the data."""
        return f"hf_dlc/{self.name}"

    @property
    def model(self) -> str | None:
        """Name of the model: a repository, a folder, or a GGUF file in one."""
        name, file = self.record.scorer.model, self.record.scorer.gguf_file
        return "/".join(part for part in (None if file and self.record.model_is_local else name, file) if part) or None

    @property
    def scores(self) -> dict[str, Score]:
        """The scores that are published, by their columns."""
        named = {f"{self.record.column_prefix}_{name}": score for name, score in SCORES.items()}
        return {column: score for column, score in named.items() if column in self.columns}

    def metadata(self) -> dict[str, Any]:
        """Return the entry of the subset in the `dlc` block of the metadata."""
        scorer = self.record.scorer
        facts = {
            "base": self.base or None,
            "rows": self.rows,
            "kept_rows": self.kept_rows,
            "model": self.model,
            "model_revision": scorer.revision,
            "model_digest": scorer.model_digest,
            "masking": scorer.config.masking,
            "masking_seed": scorer.config.seed,
            "masked_fractions": list(self.record.schedule) or None,
            "selection": _known(self.record.selection.to_json()) or None,
            "scores_digest": self.scores_digest,
            "hf_dlc": self.record.versions.get("hf_dlc"),
        }
        return _known(facts)


def subset_name(selection: SelectionRecord, kept: int, rows: int) -> str:
    """
    Name a subset by its budget, and by its selector if that is not FlexRand: `keep-0.5`, `random-keep-1000`.

    Args:
        selection ([`SelectionRecord`]):
            Record of the selection, as far as it is known.
        kept (`int`):
            Number of kept rows.
        rows (`int`):
            Number of rows.
    """
    share = f"{kept / max(rows, 1):.3g}" if selection.keep is None else selection.keep
    budget = f"keep-{selection.keep_tokens}-tokens" if selection.keep_tokens else f"keep-{share}"
    selector = selection.known()
    # Subsets of FlexRand were published without its name, and the same name replaces them.
    return budget if selector is None or selector.name == FlexRandSelector.name else f"{selector.name}-{budget}"


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
    subsets = {**_subsets(data), subset.name: subset.metadata()}
    data["dlc"] = {**_block(data), "scores": scores, "subsets": subsets}
    data["tags"] = list(dict.fromkeys([*(data.get("tags") or []), *_TAGS]))
    sizes = [size_category(one["kept_rows"]) for one in subsets.values()]
    data["size_categories"] = [size for size in (*_SIZES.values(), _LARGEST) if size in sizes]
    others = [one for one in data.get("configs") or [] if one.get("config_name") != "scores"]
    data["configs"] = [*others, {"config_name": "scores", "data_files": scores}]


def merged_fields(*cards: DatasetCardData | dict[str, Any]) -> dict[str, Any]:
    """Take licence, language and source from the first card that has each; a licence keeps its own name and link."""
    found: dict[str, Any] = {}
    licensed = next((card for card in cards if card.get("license")), {})
    for name in (*LICENSE_FIELDS, "language", "source_datasets"):
        sources = [licensed] if name in LICENSE_FIELDS else cards
        found[name] = next((card.get(name) for card in sources if card.get(name)), None)
    return found


def subsets_of_other_scores(data: DatasetCardData, subset: Subset) -> list[str]:
    """Names of other subsets on a card that were chosen by other scores, or from other rows."""
    digest = subset.scores_digest
    return [
        name for name, other in _subsets(data).items() if name != subset.name and other.get("scores_digest") != digest
    ]


def is_another_selection(data: DatasetCardData, subset: Subset) -> bool:
    """Whether a subset of this name is on a card that was selected in another way."""
    there = _subsets(data).get(subset.name)
    return there is not None and there.get("selection") != subset.metadata().get("selection")


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
    """
    Describe a subset and how it came about, as Markdown in which text from a dataset is nothing but text.

    Args:
        subset ([`Subset`]):
            The subset.
        sections (`Sequence[Section]`):
            Sections of its report.

    Returns:
        `str`: The section of the card.
    """
    record, selector = subset.record, subset.record.selection.known()
    another = _another_budget(selector, subset)
    rendered = _template().render(
        subset=subset,
        scoring=_scoring(subset),
        scores=[_meaning(column, score) for column, score in subset.scores.items()],
        selection=None if selector is None else selector.sentence(code),
        imports=_imports("load_scores", another),
        another=None if another is None else _selector_call(another),
        python=None if selector is None else _python(subset, selector),
        commands=[_command(words) for words in record.commands],
        report=to_markdown(sections, heading="###"),
        code=code,
    )
    return rendered.replace("<!--", "<\u200b!--").strip()  # no text may end our part of the card


def study_sections(path: str | Path | None) -> list[Section]:
    """
    Show how models that were trained on subsets differ from those trained on random rows.

    Args:
        path (`str` or `Path`, *optional*):
            `study.json` of `compare_selectors.py`.

    Raises:
        ValueError: If it is no such file.
    """
    if path is None:
        return []
    try:
        study = json.loads(Path(path).read_text(encoding="utf-8"))
        rows = [
            [
                Name(one["arm"]),
                "all" if one["matching"] is None else Name(one["matching"]),
                "all" if one["budget"] is None else f"{one['budget']:g}",
                Name(one["metric"]),
                f"{one['difference']:+.4f} {one.get('unit', '')}".strip(),
                "-" if one["low"] is None else f"{one['low']:+.4f} to {one['high']:+.4f}",
                f"{one['p']:.3f}",
                f"{one['seeds']:d}",
            ]
            for one in [*study["overall"], *study["comparisons"]]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"study must be a study.json that compare_selectors.py wrote, got {path}.") from error
    header = ["arm", "equal", "keep", "metric", "difference from random rows", "95% interval", "p (Holm)", "seeds"]
    return [Table(["Models trained on subsets, against random rows"], header, rows)]


def _scoring(subset: Subset) -> str | None:
    """How the rows were scored."""
    config, fractions, run = subset.record.scorer.config, subset.record.schedule, subset.record.run
    if not fractions or not subset.model:
        return None
    order = "in a pseudo-random order" if config.masking == "random" else "smallest first"
    masked = ", ".join(f"{fraction:.3g}" for fraction in fractions[1:])
    masks = f" and with shares of its weights set to zero, {order}: {masked}" if masked else ""
    is_geometric = config.token_mean == "geometric"
    who = "Each row was" if subset.record.extrapolation is None else "Rows were"
    sentences = [
        f"{who} scored by {code(subset.model)}, as it is{masks}. {_trained(subset.record.scorer.adapters)}",
        *([TARGETS[kind]] if (kind := subset.record.scorer.kind) in TARGETS else []),
        *(["The mean of their probabilities is geometric."] if is_geometric else []),
        *_extrapolation(subset.record.extrapolation),
        *([f"Cost: {run.price}."] if run.price else []),
        *([f"The cost beside training is not known: {code(run.price_unknown)}."] if run.price_unknown else []),
    ]
    return " ".join(sentences)


def _trained(adapters: str | None) -> str:
    if not adapters:
        return "Nothing was trained."
    return f"For a second pass adapters were trained ({code(adapters)}); the model's own weights were not."


def _extrapolation(found: ExtrapolationRecord | None) -> list[str]:
    """Sentences of how many scores were predicted, and how well; none where all rows were scored."""
    if found is None or found.scored is None or found.predicted is None:
        return []
    method = f" by {code(found.method)}" if found.method else ""
    agreements = [_agreement(name, one) for name, one in found.agreements.items() if one.spearman is not None]
    told = f" Their Spearman correlation with the true scores of held-out rows: {', '.join(agreements)}."
    return [
        f"Only {found.scored:,} rows were scored at all levels. The scores of {found.predicted:,} others were "
        f"predicted{method}, and they say `predicted` in their status.{told if agreements else ''}"
    ]


def _agreement(name: str, found: HeldOutRecord) -> str:
    is_known = found.low is not None and found.high is not None
    interval = f" (95% interval {found.low:.3f} to {found.high:.3f})" if is_known else ""
    return f"{code(name)} {found.spearman:.3f}{interval}"


def _meaning(column: str, score: Score) -> str:
    """Sentence of what a score column holds."""
    low, high = math.isfinite(score.low), math.isfinite(score.high)
    bounds = [f"from {score.low:g} to {score.high:g}"] if low and high else [f"at least {score.low:g}"] if low else []
    unit = [f"in {score.unit}"] if score.unit else []
    easy = "higher = easier" if score.easy == "high" else "higher = harder"
    return f"{code(column)}: {score.text} ({', '.join([*unit, *bounds, easy])})."


def _another_budget(selector: Selector | None, subset: Subset) -> Selector | None:
    """The selector with another budget; `None` where it goes by more than the published scores and the rows."""
    if selector is None or _is_of_a_later_version(subset, selector) or selector.drop_duplicates:
        return None
    is_published = selector.column is None or selector.column in subset.columns
    if isinstance(selector, TargetedSelector) or not is_published or not set(selector.needs) <= {"scores"}:
        return None
    return replace(selector, keep=max(1, subset.kept_rows // 2), keep_tokens=None)


def _is_of_a_later_version(subset: Subset, selector: Selector) -> bool:
    """Whether the record has parameters that the selector does not know."""
    return bool(subset.record.selection.to_json().keys() - {"selector"} - selector.parameters().keys())


def _selector_call(selector: Selector) -> str:
    """Python that makes the selector, with every option that is not the default."""
    default = type(selector)().parameters()
    options = {key: value for key, value in selector.parameters().items() if value != default[key] or key == "keep"}
    return f"{type(selector).__name__}({_call(**options)})"


def _python(subset: Subset, selector: Selector) -> str | None:
    """
    The steps in Python, with every option that is not the default; `None` where others could not take them.

    They cannot without what is not told here: files of one's own, wanted rows, or adapters that were trained.
    """
    record, base = subset.record, subset.base
    scorer, options, config = record.scorer, record.options, record.config
    is_local = record.model_is_local or record.dataset.is_local or scorer.gguf_file
    is_known = scorer.model and base.get("name") and base.get("split") and config.get("template") in _TEMPLATES
    goes_by_more = isinstance(selector, TargetedSelector) or scorer.adapters
    if is_local or goes_by_more or not is_known or _is_of_a_later_version(subset, selector):
        return None
    changed = {key: config[key] for key, value in vars(DLCConfig()).items() if config.get(key, value) != value}
    changed |= {"schedule": ", ".join(map(repr, record.schedule)) or None, "dtype": scorer.dtype}
    changed.pop("keep_levels", None)
    model_kwargs = {key: options[key] for key in ("trust_remote_code", "attn_implementation") if options.get(key)}
    changed["model_kwargs"] = model_kwargs or None
    rows = {"name": base.get("config"), "split": base["split"], "revision": base.get("revision")}
    few = [] if options.get("max_rows") is None else [f"dataset = dataset.select(range({subset.rows}))"]
    return "\n".join(
        [
            "from datasets import load_dataset",
            *_imports("DLCScorer", selector),
            "",
            f"dataset = load_dataset({_call(base['name'], **rows)})",
            *few,
            f"scorer = DLCScorer.from_pretrained({_call(scorer.model, revision=scorer.revision, **changed)})",
            *(["scorer.fit(dataset)"] if scorer.is_fitted else []),
            "scored = dataset.map(scorer, batched=True)",
            f"pruned = {_selector_call(selector)}(scored)",
        ]
    )


def _imports(name: str, selector: Selector | None) -> list[str]:
    """Lines that import a name of ours and the selector, from where others have them."""
    if selector is None:
        return [f"from hf_dlc import {name}"]
    kind = type(selector)
    if kind.__name__ in public_selectors:
        return [f"from hf_dlc import {', '.join(sorted([name, kind.__name__]))}"]
    return [f"from hf_dlc import {name}", f"from {kind.__module__} import {kind.__name__}"]


def _call(*values: Any, **options: Any) -> str:
    named = [f"{name}={value!r}" for name, value in options.items() if value is not None]
    return ", ".join([*map(repr, values), *named])


def _command(words: Sequence[str]) -> str:
    """The text quoted for a shell, on one line."""
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
