"""Publishing a pruned dataset on the Hub with its scores and its card, and getting the scores back from there."""

from __future__ import annotations

import json
import logging
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Any, TypeVar

import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset, DatasetDict
from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    DatasetCard,
    DatasetCardData,
    HfApi,
    get_token,
    hf_hub_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hf_dlc import __version__
from hf_dlc.errors import DLCError
from hf_dlc.pipeline.score_file import SCORES_NAME, Scores, ScoresError
from hf_dlc.report.render import Name, Section, Table
from hf_dlc.report.report import PruneReport
from hf_dlc.utils.files import write_json

from .card import (
    Subset,
    is_another_selection,
    render_section,
    replace_section,
    subsets_of_other_scores,
    update_metadata,
)


logger = logging.getLogger(__name__)

_SCORES_PATH = f"hf_dlc/{SCORES_NAME}"
_CARD = "README.md"
_ATTEMPTS = 5
_LONGEST_WAIT = 300.0
_PASSING = {408, 409, 412, 429, 500, 502, 503, 504}  # another commit came first, or the server is busy
_SUBSET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,89}")
_PATH = re.compile(r"(file:)?[/\\~]|\.\.?[/\\]|[A-Za-z]:[/\\]")
_TAKEN_NAMES = ("scores", "data", "default")
_LICENSE = ("license", "license_name", "license_link")
_PATH_OPTIONS = ("--run_dir", "--output_dir", "--template", "--output")
_QUERY = re.compile(r"(https?://[^\s'\"?]+)\?[^\s'\"]*")  # signatures that let others upload
_BASE_FACTS = ("name", "config", "split", "revision", "sha256")

Result = TypeVar("Result")


class PublishError(DLCError):
    """What could not be published, what was before, and what to do about it."""


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
) -> str:
    """
    Publish a pruned dataset on the Hub, with the scores of all rows, the manifest, the report and a card.

    The subset becomes a configuration of the dataset repository, so that several budgets can stand side by side. What
    is there already and has not changed is not uploaded again, and of a card that somebody has written only the part
    about this subset is replaced.

    Args:
        pruned ([`~datasets.Dataset`]):
            What a selector returned.
        repo_id (`str`):
            Dataset repository, such as `"me/alpaca-half"`; it is made if it is not there.
        scored ([`~datasets.Dataset`]):
            What the selector was called with: all rows with their scores. Only scores and digests of the rows are
            published, and the rows that the report shows.
        manifest (`dict`, `str` or `Path`, *optional*):
            What [`build_manifest`] returned, or the path of a `manifest.json`. Without it the card cannot say how the
            rows were chosen.
        private (`bool`, *optional*, defaults to `True`):
            Whether the repository is private. A public one is written into only with `private=False`.
        create_pr (`bool`, *optional*, defaults to `False`):
            Open a pull request in the place of writing into the branch.
        config_name (`str`, *optional*):
            Name of the subset, by default made of the budget, such as `"keep-0.5"`. Pass it to replace a subset that
            was selected in another way.
        revision (`str`, *optional*):
            Branch, or pull request (`"refs/pr/1"`), to write into.
        license (`str` or `list[str]`, *optional*):
            Licence for the card, by default that of the card or of the dataset that the rows are from.
        language (`str` or `list[str]`, *optional*):
            Language for the card, by default as for the licence.
        study (`str` or `Path`, *optional*):
            `study.json` of `compare_selectors.py`; its differences from random rows go into the card.
        prefix (`str`, *optional*):
            What the names of the score columns begin with, by default what the manifest says, else `"dlc"`.
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
    selection = manifest.get("selection") or {}
    name = _checked_name(config_name or subset_name(selection, len(pruned), len(scored)))
    prefix = prefix or ((manifest.get("scorer") or {}).get("config") or {}).get("prefix") or "dlc"
    column, groups = selection.get("column") or f"{prefix}_confidence", selection.get("group_by")
    report = PruneReport.from_datasets(scored, pruned, column, prefix, manifest.get("schedule"), groups)
    sections = [*report.sections, *_study_sections(study)]
    scores = Scores.of(scored, prefix)
    push = _Push(_api(token), repo_id, private, revision, create_pr)
    with tempfile.TemporaryDirectory() as folder:
        files = _write_files(Path(folder), report, manifest)
        scores.write(Path(folder, SCORES_NAME))
        push.step("the repository", push.open)
        source = manifest.get("dataset") or {}
        base, fields = push.step("the card of the source", lambda: source_facts(push.api, source, private))
        names = [path.name for path in files]
        subset = Subset(name, push.repo_id, len(scored), len(pruned), manifest, base, names, scores.digest(), prefix)
        section = render_section(subset, sections)
        push.step("the card that is there", lambda: push.check(subset, may_replace=config_name is not None))
        push.step("the rows", lambda: push.rows(pruned, name), commits=True)
        wanted = {"license": license, "language": language}
        content = {_SCORES_PATH: Path(folder, SCORES_NAME), **{f"{subset.folder}/{one.name}": one for one in files}}
        write = partial(push.files, subset, section, content, fields, wanted)
        push.step("the scores and the card", write, commits=True)
    return push.address


def push_folder(
    folder: Path, repo_id: str, private: bool, create_pr: bool, revision: str | None, token: str | None
) -> str:
    """Publish the files in a folder as a model repository, which is made if it is not there; return its address."""
    push = _Push(_api(token), repo_id, private, revision, create_pr, kind="model")
    push.step("the repository", push.open)
    push.step("the scorer", lambda: push.folder(folder), commits=True)
    return push.address


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
        found = [path / name for name in (SCORES_NAME, _SCORES_PATH) if (path / name).is_file()]
        if not found:
            raise ScoresError(f"there is no {SCORES_NAME} in {path}. Pass the output folder of a recipe.")
        return found[0]
    try:
        return Path(
            hf_hub_download(str(repo_id_or_path), _SCORES_PATH, repo_type="dataset", revision=revision, token=token)
        )
    except (LocalEntryNotFoundError, GatedRepoError) as error:  # before those that they are kinds of
        raise ScoresError(f"the scores of {repo_id_or_path} cannot be fetched: {_reason(error, token)}") from None
    except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        reason = _reason(error, token)
        raise ScoresError(
            f"{repo_id_or_path} is neither a file, a folder nor a dataset with scores: {reason}"
        ) from None
    except (HTTPError, RuntimeError) as error:
        raise ScoresError(f"the scores of {repo_id_or_path} cannot be fetched: {_reason(error, token)}") from None


# ---- what is published ------------------------------------------------------------------------------------------


def public_manifest(manifest: dict[str, Any] | str | Path | None) -> dict[str, Any]:
    """A manifest, read if it is a path, in which of paths of this machine only the last part is left."""
    if isinstance(manifest, str | Path):
        manifest = json.loads(Path(manifest).read_text(encoding="utf-8"))
    if not isinstance(manifest, dict | None):
        raise ValueError(f"manifest must be what build_manifest returns, or its file, got {type(manifest).__name__}.")
    manifest = manifest or {}
    options, dataset = manifest.get("options") or {}, manifest.get("dataset") or {}
    local = {options.get(name) for name in ("output_dir", "run_dir")}
    if dataset.get("is_local"):
        local.add(dataset.get("name"))
    if manifest.get("model_is_local"):
        local |= {options.get("model"), (manifest.get("scorer") or {}).get("model")}
    commands = [_without_paths_of_options(words) for words in manifest.get("commands") or []]
    return _without_folders({**manifest, "commands": commands} if commands else manifest, local - {None})


def _without_paths_of_options(words: Sequence[str]) -> list[str]:
    """A command in which files and folders that only an option names have lost their folders."""
    return [
        PurePath(word).name if before in _PATH_OPTIONS else word
        for before, word in zip(["", *words], words, strict=False)
    ]


def _without_folders(value: Any, local: set[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without_folders(one, local) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(one, local) for one in value]
    is_path = isinstance(value, str) and (value in local or _PATH.match(value))
    return PurePath(value.replace("\\", "/")).name if is_path else value


def subset_name(selection: dict[str, Any], kept: int, rows: int) -> str:
    """Name of a subset by its budget, and by its selector if that is not FlexRand: `keep-0.5`, `random-keep-1000`."""
    keep, tokens = selection.get("keep"), selection.get("keep_tokens")
    share = f"{kept / max(rows, 1):.3g}" if keep is None else keep
    budget = f"keep-{tokens}-tokens" if tokens else f"keep-{share}"
    kinds = {"RandomSelector": "random-", "TopKSelector": f"{selection.get('which')}-"}
    return kinds.get(selection.get("selector", ""), "") + budget


def _checked_name(name: str) -> str:
    if not _SUBSET_NAME.fullmatch(name) or name in _TAKEN_NAMES:
        raise ValueError(
            f"config_name must be letters, digits, '.', '_' and '-', and not scores or data, got {name!r}."
        )
    return name


def source_facts(api: HfApi, dataset: dict[str, Any], private: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is known of the dataset that rows are from, and what of its card goes into ours."""
    base = {name: value for name in _BASE_FACTS if (value := dataset.get(name)) is not None}
    name = base.get("name")
    if not name or base.get("sha256") or dataset.get("is_local"):
        return base, {}
    try:
        info = api.dataset_info(name, revision=base.get("revision"))
    except GatedRepoError:
        logger.warning("%s is gated, and this token may not read its card: pass license= and language=", name)
        return base, {"source_datasets": [name]}
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
        logger.warning(
            "%s is not on the Hub: pass license= and language=, which the card cannot take from there", name
        )
        return base, {}
    if info.gated and not private:
        logger.warning("%s is gated: see whether its licence lets you publish rows of it for everybody", name)
    card = info.card_data or {}
    fields = {key: card.get(key) for key in (*_LICENSE, "language") if card.get(key)}
    return base, {**fields, "source_datasets": [name]}


def merged_fields(*cards: DatasetCardData | dict[str, Any]) -> dict[str, Any]:
    """Licence, language and source, each from the first card that has it; a licence with its own name and link."""
    found: dict[str, Any] = {}
    licensed = next((card for card in cards if card.get("license")), {})
    for name in (*_LICENSE, "language", "source_datasets"):
        sources = [licensed] if name in _LICENSE else cards
        found[name] = next((card.get(name) for card in sources if card.get(name)), None)
    return found


def _write_files(folder: Path, report: PruneReport, manifest: dict[str, Any]) -> list[Path]:
    write_json(folder / "manifest.json", manifest)
    (folder / "summary.md").write_text(report.to_markdown(), encoding="utf-8")
    files = [folder / "manifest.json", folder / "summary.md"]
    if find_spec("matplotlib"):
        (folder / "report.html").write_text(report.to_html(), encoding="utf-8")
        report.plot().savefig(folder / "report.png", dpi=100)
        files += [folder / "report.html", folder / "report.png"]
    return files


def _study_sections(path: str | Path | None) -> list[Section]:
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
                f"{one['difference']:+.4f}",
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


# ---- commits ----------------------------------------------------------------------------------------------------


@dataclass
class _Push:
    """Commits into one repository, one after the other."""

    api: HfApi
    repo_id: str
    private: bool
    revision: str | None
    create_pr: bool
    kind: str = "dataset"
    done: tuple[str, ...] = ()
    address: str = ""

    def step(self, what: str, act: Callable[[], Result], commits: bool = False) -> Result:
        """Do one step, again where what went wrong may pass, and say what was done before if it does not."""
        opens = commits and self.create_pr  # twice would open another pull request
        try:
            found = _retried(act, self.api.token, 1 if opens else _ATTEMPTS)
        except _Refusal as error:
            raise ValueError(str(error)) from None
        except Exception as error:
            done = f"{', '.join(self.done)}: done" if self.done else "nothing was published"
            again = "the same call completes it"
            if self.revision and self.revision.startswith("refs/pr/"):
                again = f"the same call with revision={self.revision!r} completes the pull request"
            raise PublishError(
                f"{what}: not published to {self.repo_id}. {_reason(error, self.api.token)} ({done}; {again}.)"
            ) from None  # the cause may hold what the message must not
        self.done += (what,)
        return found

    def open(self) -> None:
        """Find the repository, or make it."""
        try:
            info = self.api.repo_info(self.repo_id, repo_type=self.kind)
        except RepositoryNotFoundError:
            url = self.api.create_repo(self.repo_id, repo_type=self.kind, private=self.private, exist_ok=True)
            info = self.api.repo_info(url.repo_id, repo_type=self.kind)  # one of mine, perhaps, that was there
        if self.private and not info.private:
            raise _Refusal(
                f"{info.id} is public. Pass private=False (--public true) to publish there, or another repo_id."
            )
        if self.revision and not self.revision.startswith("refs/"):
            self.api.create_branch(info.id, branch=self.revision, repo_type=self.kind, exist_ok=True)
        folder = "datasets/" if self.kind == "dataset" else ""
        self.repo_id, self.address = info.id, f"{self.api.endpoint}/{folder}{info.id}"

    def check(self, subset: Subset, may_replace: bool) -> None:
        """Refuse to replace another subset, or the scores that others in the repository were chosen by."""
        card = self._card(self.api.repo_info(self.repo_id, repo_type="dataset", revision=self.revision).sha)
        if card is None:
            return
        if others := subsets_of_other_scores(card.data, subset):
            raise _Refusal(
                f"{self.repo_id} holds {', '.join(others)}, chosen by other scores or from other rows, whose scores "
                "these would replace. Push to another repository."
            )
        if not may_replace and is_another_selection(card.data, subset):
            raise _Refusal(
                f"{self.repo_id} holds a subset {subset.name} that was selected in another way. Pass config_name "
                f"(--config_name): {subset.name!r} to replace it, another to put this beside it."
            )

    def _card(self, revision: str) -> DatasetCard | None:
        try:
            path = hf_hub_download(self.repo_id, _CARD, repo_type="dataset", revision=revision, token=self.api.token)
        except EntryNotFoundError:
            return None
        return DatasetCard(Path(path).read_text(encoding="utf-8"))

    def folder(self, folder: Path) -> None:
        """Commit the files of a folder."""
        self._committed(
            self.api.upload_folder(
                repo_id=self.repo_id,
                folder_path=folder,
                repo_type=self.kind,
                commit_message="Scorer",
                revision=self.revision,
                create_pr=self.create_pr,
            )
        )

    def rows(self, pruned: Dataset, name: str) -> None:
        """Commit the subset as a configuration."""
        self._committed(
            pruned.push_to_hub(
                self.repo_id,
                config_name=name,
                split="train",
                commit_message=f"Rows of {name}",
                token=self.api.token,
                revision=self.revision,
                create_pr=self.create_pr,
            )
        )

    def files(
        self,
        subset: Subset,
        section: str,
        content: dict[str, Path],
        source: dict[str, Any],
        wanted: dict[str, Any],
    ) -> None:
        """Commit all else at once, with the card as it is by then: what stands there wins over its source."""
        parent = self.api.repo_info(self.repo_id, repo_type="dataset", revision=self.revision).sha
        card = self._card(parent) or DatasetCard("---\n{}\n---\n")
        for name, value in merged_fields(wanted, card.data, source).items():
            card.data[name] = value
        update_metadata(card.data, subset, _SCORES_PATH)
        card.text = replace_section(card.text, subset, section)
        operations = [CommitOperationAdd(name, file) for name, file in content.items()]
        self._committed(
            self.api.create_commit(
                self.repo_id,
                [*operations, CommitOperationAdd(_CARD, str(card).encode())],
                commit_message=f"Scores and card of {subset.name}",
                repo_type="dataset",
                revision=self.revision,
                create_pr=self.create_pr,
                parent_commit=parent,
            )
        )

    def _committed(self, info: CommitInfo) -> None:
        """What comes next goes into the pull request that this has opened."""
        if self.create_pr and info.pr_revision:
            self.revision, self.create_pr, self.address = info.pr_revision, False, info.pr_url


class _Refusal(Exception):
    """Something that the user has to decide; it is told as a ValueError, before anything is published."""


def _api(token: str | None) -> HfApi:
    return HfApi(token=token and token.strip(), library_name="hf_dlc", library_version=__version__)


def _retried(act: Callable[[], Result], token: str | None, attempts: int) -> Result:
    for attempt in range(attempts):
        try:
            return act()
        except (HTTPError, RuntimeError) as error:
            wait = _wait(error, attempt)
            if wait is None or attempt + 1 == attempts:
                raise
            logger.warning("%s; trying again in %.0f s", _reason(error, token), wait)
            time.sleep(wait)
    raise AssertionError("unreachable")


def _wait(error: BaseException, attempt: int) -> float | None:
    """Seconds until what went wrong may have passed; None where it does not pass."""
    if isinstance(error, RuntimeError):  # what the client makes of an upload that has failed
        return None if error.__cause__ is None else _wait(error.__cause__, attempt)
    if not isinstance(error, HTTPError):
        return None
    response = getattr(error, "response", None)
    if response is not None and response.status_code not in _PASSING:
        return None
    asked = "" if response is None else response.headers.get("retry-after", "")
    wait = float(asked) if asked.isdecimal() else 2.0**attempt
    return wait if wait <= _LONGEST_WAIT else None


def _reason(error: BaseException, token: str | None) -> str:
    """What went wrong, on one line, without the token."""
    text = " ".join(str(error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error).split())
    text = _QUERY.sub(r"\1", text)
    for secret in {token, get_token()} - {None, ""}:
        text = text.replace(secret.strip(), "***")
    status = getattr(getattr(error, "response", None), "status_code", None)
    return (
        f"{text} Log in with `hf auth login`, or pass a token that may write there." if status in (401, 403) else text
    )
