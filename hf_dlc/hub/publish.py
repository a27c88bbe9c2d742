"""Publishing a pruned dataset on the Hub with its scores and its card, and getting the scores back from there."""

from __future__ import annotations

import json
import logging
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset, DatasetDict
from huggingface_hub import CommitOperationAdd, DatasetCard, HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hf_dlc.pipeline.folder import make_report
from hf_dlc.pipeline.record import DatasetRecord, RunRecord
from hf_dlc.pipeline.score_file import SCORES_NAME, Scores, ScoresError
from hf_dlc.report.report import PruneReport
from hf_dlc.scores.columns import vector_features
from hf_dlc.utils.content import content_digests
from hf_dlc.utils.files import write_json
from hf_dlc.utils.hub_commits import Push, Refusal, hub_client, reason_without_token

from .card import (
    LICENSE_FIELDS,
    Subset,
    is_another_selection,
    merged_fields,
    render_section,
    replace_section,
    study_sections,
    subset_name,
    subsets_of_other_scores,
    update_metadata,
)


logger = logging.getLogger(__name__)

SCORES_PATH = f"hf_dlc/{SCORES_NAME}"  # in a repository

_CARD = "README.md"
_SUBSET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,89}")
_TAKEN_NAMES = ("scores", "data", "default")
_PATH = re.compile(r"(file:)?[/\\~]|\.\.?[/\\]|[A-Za-z]:[/\\]")
_DATA_FILE = re.compile(r"\.(jsonl?|ndjson|csv|tsv|parquet|arrow|feather|txt)(\.\w+)?$", re.IGNORECASE)
_MAYBE_PATHS = ("--target", "--encoder", "--dataset", "--model")  # or repositories
_PATH_OPTIONS = ("--run-dir", "--output-dir", "--template", "--output")
_BASE_FACTS = ("name", "config", "split", "revision", "sha256")


def push_pruned(
    pruned: Dataset,
    repo_id: str,
    scored: Dataset,
    manifest: dict[str, Any] | str | Path | None = None,
    private: bool = True,
    create_pr: bool = False,
    config_name: str | None = None,
    revision: str | None = None,
    license: str | list[str] | None = None,
    language: str | list[str] | None = None,
    study: str | Path | None = None,
    prefix: str | None = None,
    token: str | None = None,
    features: bool = False,
) -> str:
    """
    Publish a pruned dataset on the Hub, with the scores of all rows, the manifest, the report and a card.

    The subset becomes a configuration of the dataset repository, so that several budgets can stand side by side. Files
    that are there already and have not changed are not uploaded again. Of a card that somebody has written, only the
    part about this subset is replaced.

    Args:
        pruned ([`~datasets.Dataset`]):
            The kept rows, as a selector returns them.
        repo_id (`str`):
            Dataset repository, such as `"me/alpaca-half"`; it is made if it is not there.
        scored ([`~datasets.Dataset`]):
            All rows with their scores, from which the selector chose. Only scores and digests of the rows are
            published, and the rows that the report shows.
        manifest (`dict`, `str` or `Path`, *optional*):
            The return value of [`build_manifest`], or the path of a `manifest.json`, of this very subset. Without it
            the card cannot say how the rows were chosen.
        private (`bool`, *optional*, defaults to `True`):
            Whether the repository is private. A public one is written into only with `private=False`.
        create_pr (`bool`, *optional*, defaults to `False`):
            Open a pull request in the place of writing into the branch.
        config_name (`str`, *optional*):
            Name of the subset, by default made of selector and budget, such as `"random-keep-0.5"`. Pass it to replace
            a subset that was selected in another way.
        revision (`str`, *optional*):
            Branch, or pull request (`"refs/pr/1"`), to write into.
        license (`str` or `list[str]`, *optional*):
            Licence for the card, by default that of the card or of the dataset that the rows are from.
        language (`str` or `list[str]`, *optional*):
            Language for the card, by default as for the licence.
        study (`str` or `Path`, *optional*):
            `study.json` of `compare_selectors.py`; its differences from random rows go into the card.
        prefix (`str`, *optional*):
            Beginning of the names of the score columns, by default that of the manifest, else `"dlc"`.
        features (`bool`, *optional*, defaults to `False`):
            Whether the features of the kept rows are published with them, where there are any.
        token (`str`, *optional*):
            Token, by default the one that the Hub client knows.

    Returns:
        `str`: Address of the repository, or of the pull request.

    Raises:
        PublishError: If something could not be published. The message says what is there by then; calling again
            completes it.
        ValueError: If an argument is wrong; nothing has been published then.

    Example:
    ```python
    >>> from hf_dlc import FlexRandSelector, push_pruned

    >>> pruned = FlexRandSelector(keep=0.5)(scored)
    >>> push_pruned(pruned, "me/alpaca-half", scored)
    'https://huggingface.co/datasets/me/alpaca-half'
    ```
    """
    manifest = public_manifest(manifest)
    record = RunRecord.from_json(manifest, "manifest")
    if prefix is not None:
        config = record.scorer.config.having(prefix=prefix)
        record = record.having(scorer=record.scorer.having(config=config))
    name = _checked_name(config_name or subset_name(record.selection, len(pruned), len(scored)))
    report = make_report(scored, pruned, record)
    _check_rows(record, scored, report.kept)
    scores = Scores.of(_without_vectors(scored, record), record.column_prefix)
    if not features:
        pruned = _without_vectors(pruned, record)
    sections = [*report.sections, *study_sections(study)]
    push = Push(hub_client(token), repo_id, private, revision, create_pr)
    with tempfile.TemporaryDirectory() as folder:
        files = _write_files(Path(folder), report, manifest)
        scores.write(Path(folder, SCORES_NAME))
        push.step("the repository", push.open)
        base, fields = push.step("the card of the source", lambda: source_facts(push.api, record.dataset, private))
        subset = Subset(
            name,
            push.repo_id,
            rows=len(scored),
            kept_rows=len(pruned),
            record=record,
            columns=scores.table.column_names,
            base=base,
            files=[path.name for path in files],
            scores_digest=scores.digest(),
        )
        content = {SCORES_PATH: Path(folder, SCORES_NAME), **{f"{subset.folder}/{one.name}": one for one in files}}
        fill = partial(
            _fill_card, subset, render_section(subset, sections), {"license": license, "language": language}, fields
        )
        _commit_all(push, subset, pruned, content, fill, may_replace=config_name is not None)
    return push.address


def _check_rows(record: RunRecord, scored: Dataset, kept: np.ndarray) -> None:
    """Refuse the manifest of another subset: its card would say of these rows how others were chosen."""
    told = set(record.kept_indices)
    number = len(told) or record.kept_rows
    if number is None:
        return
    is_same = number == len(kept)
    if is_same and told:  # of rows that are the same, either may be meant
        only_told, only_kept = sorted(told - set(kept.tolist())), sorted(set(kept.tolist()) - told)
        is_same = all(place in range(len(scored)) for place in only_told)
        is_same = is_same and _contents(scored, only_told) == _contents(scored, only_kept)
    if not is_same:
        raise ValueError(
            f"manifest must be that of pruned, but tells of {number} rows, and pruned has {len(kept)}"
            f"{' others' if number == len(kept) else ''}. Pass the manifest.json that was written with this subset, "
            "or none."
        )


def _contents(rows: Dataset, places: Sequence[int]) -> Counter[Any]:
    return Counter(content_digests(rows.select(places), rows.column_names))


def _without_vectors(rows: Dataset, record: RunRecord) -> Dataset:
    return rows.remove_columns([name for name in vector_features(record.column_prefix) if name in rows.column_names])


def load_scores(
    repo_id_or_path: str | Path,
    dataset: Dataset | DatasetDict | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> Dataset | DatasetDict:
    """
    Get scores that were published or written by a recipe, to select another subset without scoring again.

    Args:
        repo_id_or_path (`str` or `Path`):
            Dataset repository that [`push_pruned`] wrote, output folder of a recipe, or a `scores.parquet`.
        dataset ([`~datasets.Dataset`] or [`~datasets.DatasetDict`], *optional*):
            The rows that were scored, or some of them, in any order, from wherever they are; also in splits.
        revision (`str`, *optional*):
            Branch, tag or commit of the repository.
        token (`str`, *optional*):
            Token, by default the one that the Hub client knows.

    Returns:
        [`~datasets.Dataset`] or [`~datasets.DatasetDict`]: `dataset` with the score columns, for a selector; without
        `dataset`, the scores alone, in the order in which the rows were scored, and the digests of the rows.

    Raises:
        ScoresError: If there are no scores, or none can be fetched, or if a row of `dataset` is not one that was
            scored, such as that of another revision.

    Example:
    ```python
    >>> from datasets import load_dataset
    >>> from hf_dlc import FlexRandSelector, load_scores

    >>> dataset = load_dataset("yahma/alpaca-cleaned", split="train")
    >>> scored = load_scores("me/alpaca-half", dataset)
    >>> pruned = FlexRandSelector(keep=0.1)(scored)
    ```
    """
    scores, source = Scores.read(_find_scores(repo_id_or_path, revision, token)), f"the scores of {repo_id_or_path}"
    if isinstance(dataset, dict):
        return type(dataset)({name: scores.join(split, source) for name, split in dataset.items()})
    return scores.table if dataset is None else scores.join(dataset, source)


def _find_scores(repo_id_or_path: str | Path, revision: str | None, token: str | None) -> Path:
    path = Path(repo_id_or_path)
    if path.is_file():
        return path
    if path.is_dir():
        found = [path / name for name in (SCORES_NAME, SCORES_PATH) if (path / name).is_file()]
        if not found:
            raise ScoresError(f"there is no {SCORES_NAME} in {path}. Pass the output folder of a recipe.")
        return found[0]
    try:
        return Path(
            hf_hub_download(str(repo_id_or_path), SCORES_PATH, repo_type="dataset", revision=revision, token=token)
        )
    except (LocalEntryNotFoundError, GatedRepoError) as error:  # before those that they are kinds of
        raise ScoresError(
            f"the scores of {repo_id_or_path} cannot be fetched: {reason_without_token(error, token)}"
        ) from None
    except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        reason = reason_without_token(error, token)
        raise ScoresError(
            f"{repo_id_or_path} is neither a file, a folder nor a dataset with scores: {reason}"
        ) from None
    except (HTTPError, RuntimeError) as error:
        raise ScoresError(
            f"the scores of {repo_id_or_path} cannot be fetched: {reason_without_token(error, token)}"
        ) from None


# ---- what is published ------------------------------------------------------------------------------------------


def public_manifest(manifest: dict[str, Any] | str | Path | None) -> dict[str, Any]:
    """
    Read a manifest, and leave of each path of this machine only the last part.

    Args:
        manifest (`dict`, `str` or `Path`, *optional*):
            The return value of [`build_manifest`], or its file.

    Returns:
        `dict`: The manifest.

    Raises:
        ValueError: If it is no manifest.
    """
    if isinstance(manifest, str | Path):
        manifest = json.loads(Path(manifest).read_text(encoding="utf-8"))
    if not isinstance(manifest, dict | None):
        raise ValueError(f"manifest must be what build_manifest returns, or its file, got {type(manifest).__name__}.")
    manifest = manifest or {}
    record = RunRecord.from_json(manifest, "manifest")
    local = [record.options.get("output_dir"), record.options.get("run_dir")]
    named = [record.options.get("target"), record.config.get("encoder"), *_values(record.commands, _MAYBE_PATHS)]
    local += [name for name in named if _is_file(name)]
    if (template := record.config.get("template")) not in ("auto", "chat", "alpaca"):
        local.append(template)
    if record.dataset.is_local:
        local += [record.dataset.name, *_values(record.commands, ["--dataset"])]
    if record.model_is_local:
        local += [record.options.get("model"), record.scorer.model, *_values(record.commands, ["--model"])]
    if record.commands:
        manifest = {**manifest, "commands": [_without_paths_of_options(words) for words in record.commands]}
    return _without_folders(manifest, {path for path in local if isinstance(path, str)})


def _values(commands: Sequence[Sequence[str]], flags: Sequence[str]) -> list[str]:
    """Values of some options of the commands."""
    return [word for words in commands for before, word in pairwise(words) if before.replace("_", "-") in flags]


def _is_file(name: Any) -> bool:
    """Whether a name is that of a file or a folder, and not of a repository, which has one slash at most."""
    if not isinstance(name, str):
        return False
    return name.count("/") > 1 or _DATA_FILE.search(name) is not None or Path(name).expanduser().exists()


def _without_paths_of_options(words: Sequence[str]) -> list[str]:
    """A command in which files and folders that only an option names have lost their folders."""
    return [
        PurePath(word).name if before.replace("_", "-") in _PATH_OPTIONS else word  # either spelling
        for before, word in zip(["", *words], words, strict=False)
    ]


def _without_folders(value: Any, local: set[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without_folders(one, local) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(one, local) for one in value]
    is_path = isinstance(value, str) and (value in local or _PATH.match(value))
    return PurePath(value.replace("\\", "/")).name if is_path else value


def _checked_name(name: str) -> str:
    if not _SUBSET_NAME.fullmatch(name) or name in _TAKEN_NAMES:
        raise ValueError(
            f"config_name must be letters, digits, '.', '_' and '-', and not scores or data, got {name!r}."
        )
    return name


def source_facts(api: HfApi, dataset: DatasetRecord, private: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    Ask the Hub about the dataset that rows are from.

    Args:
        api ([`~huggingface_hub.HfApi`]):
            Client of the Hub.
        dataset ([`DatasetRecord`]):
            Identity of the rows.
        private (`bool`):
            Whether what is published is private; else the user is warned of a gated source.

    Returns:
        `tuple[dict, dict]`: The identity, as far as it is known, and fields of its card for ours.
    """
    base = {name: value for name in _BASE_FACTS if (value := getattr(dataset, name)) is not None}
    if not dataset.name or dataset.sha256 or dataset.is_local:
        return base, {}
    try:
        info = api.dataset_info(dataset.name, revision=dataset.revision)
    except GatedRepoError:
        logger.warning("%s is gated, and this token may not read its card: pass license= and language=", dataset.name)
        return base, {"source_datasets": [dataset.name]}
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
        logger.warning(
            "%s is not on the Hub: pass license= and language=, which the card cannot take from there", dataset.name
        )
        return base, {}
    if info.gated and not private:
        logger.warning("%s is gated: see whether its licence lets you publish rows of it for everybody", dataset.name)
    card = info.card_data or {}
    fields = {key: card.get(key) for key in (*LICENSE_FIELDS, "language") if card.get(key)}
    return base, {**fields, "source_datasets": [dataset.name]}


def _write_files(folder: Path, report: PruneReport, manifest: dict[str, Any]) -> list[Path]:
    write_json(folder / "manifest.json", manifest)
    (folder / "summary.md").write_text(report.to_markdown(), encoding="utf-8")
    files = [folder / "manifest.json", folder / "summary.md"]
    if find_spec("matplotlib"):
        (folder / "report.html").write_text(report.to_html(), encoding="utf-8")
        report.plot().savefig(folder / "report.png", dpi=100)
        files += [folder / "report.html", folder / "report.png"]
    return files


# ---- commits ----------------------------------------------------------------------------------------------------


def _check(push: Push, subset: Subset, may_replace: bool) -> None:
    """Refuse to replace another subset, or the scores that others in the repository were chosen by."""
    card = _card(push, push.head())
    if card is None:
        return
    if others := subsets_of_other_scores(card.data, subset):
        raise Refusal(
            f"{push.repo_id} holds {', '.join(others)}, chosen by other scores or from other rows, whose scores "
            "these would replace. Push to another repository."
        )
    if not may_replace and is_another_selection(card.data, subset):
        raise Refusal(
            f"{push.repo_id} holds a subset {subset.name} that was selected in another way. Pass config_name "
            f"(--config-name): {subset.name!r} to replace it, another to put this beside it."
        )


def _card(push: Push, revision: str) -> DatasetCard | None:
    try:
        path = hf_hub_download(push.repo_id, _CARD, repo_type="dataset", revision=revision, token=push.api.token)
    except EntryNotFoundError:
        return None
    return DatasetCard(Path(path).read_text(encoding="utf-8"))


def _commit_all(
    push: Push,
    subset: Subset,
    pruned: Dataset,
    content: dict[str, Path],
    fill: Callable[[DatasetCard], None],
    may_replace: bool,
) -> None:
    """Commit the rows, then the scores, the other files and the card, if no other subset would be harmed."""
    push.step("the card that is there", lambda: _check(push, subset, may_replace))
    push.step("the rows", lambda: _commit_rows(push, pruned, subset.name), commits=True)
    push.step("the scores and the card", lambda: _commit_files(push, subset.name, content, fill), commits=True)


def _commit_rows(push: Push, pruned: Dataset, name: str) -> None:
    """Commit the subset as a configuration."""
    push.committed(
        pruned.push_to_hub(
            push.repo_id,
            config_name=name,
            split="train",
            commit_message=f"Rows of {name}",
            token=push.api.token,
            revision=push.revision,
            create_pr=push.create_pr,
        )
    )


def _commit_files(push: Push, name: str, content: dict[str, Path], fill: Callable[[DatasetCard], None]) -> None:
    """Commit all else at once, with the card as it is by then."""
    parent = push.head()
    card = _card(push, parent) or DatasetCard("---\n{}\n---\n")
    fill(card)
    operations = [CommitOperationAdd(path, file) for path, file in content.items()]
    push.committed(
        push.api.create_commit(
            push.repo_id,
            [*operations, CommitOperationAdd(_CARD, str(card).encode())],
            commit_message=f"Scores and card of {name}",
            repo_type="dataset",
            revision=push.revision,
            create_pr=push.create_pr,
            parent_commit=parent,
        )
    )


def _fill_card(
    subset: Subset, section: str, wanted: dict[str, Any], source: dict[str, Any], card: DatasetCard
) -> None:
    """Put the subset into a card: what the user wants comes first, then the card's own fields, then its source's."""
    for name, value in merged_fields(wanted, card.data, source).items():
        card.data[name] = value
    update_metadata(card.data, subset, SCORES_PATH)
    card.text = replace_section(card.text, subset, section)
