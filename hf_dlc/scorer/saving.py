"""Saved scorers: what `save_pretrained` writes, and what `from_pretrained` makes of it. There are no weights in it."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from huggingface_hub import hf_hub_download, is_offline_mode
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from hf_dlc.config import CONFIG_NAME, DLCConfig
from hf_dlc.utils.files import write_json

from .fingerprint import ScorerState, calibration_key, fit_key
from .fitting import Fit
from .model import ModelSource, looks_like_a_path
from .schedule import Schedule


logger = logging.getLogger(__name__)

STATE_NAME = "dlc_state.safetensors"

# What is remembered of how a model was loaded; never a token, never the leave to run code.
_SAVED_KWARGS = ("attn_implementation", "gguf_file", "subfolder")


class Found(NamedTuple):
    """A model, and what stands beside it or in the place of it."""

    model_id: str | Path
    revision: str | None
    model_kwargs: dict[str, Any]
    record: dict[str, Any] = {}  # noqa: RUF012  (what is saved there: options, and of a scorer its model)
    state: Path | None = None  # file of a saved scorer, which need not be there

    @property
    def config(self) -> DLCConfig:
        """Options that are saved there, else the defaults; read now, since those of a caller may replace them."""
        return DLCConfig.from_dict(self.record) if self.record else DLCConfig()


def find(model_id: str | Path, revision: str | None, model_kwargs: dict[str, Any]) -> Found:
    """
    Look for a saved scorer.

    Args:
        model_id (`str` or `Path`):
            Repository or folder of a model or of a saved scorer.
        revision (`str`, *optional*):
            Branch, tag or commit.
        model_kwargs (`dict`):
            Further arguments with which the model is loaded.

    Returns:
        [`Found`]: Of a saved scorer its base model, else the model itself.
    """
    folder = _find_saved(model_id, revision, model_kwargs)
    if folder is None:
        return Found(model_id, revision, model_kwargs)
    record = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    if "base_model_name_or_path" not in record:
        return Found(model_id, revision, model_kwargs, record)  # a model with options beside it
    revision = (Path(model_id).exists() and revision) or record["revision"]  # else that of the scorer
    model_kwargs = {**_only_saved(record.get("model_kwargs", {})), **model_kwargs}
    return Found(record["base_model_name_or_path"], revision, model_kwargs, record, folder / STATE_NAME)


def _find_saved(model_id: str | Path, revision: str | None, model_kwargs: dict[str, Any]) -> Path | None:
    """The folder with the options that `save_pretrained` wrote, fetched if it is a repository; None without any."""
    path = Path(model_id).expanduser()
    if path.exists() or looks_like_a_path(str(model_id)):
        return path if (path / CONFIG_NAME).is_file() else None
    known = {name: model_kwargs[name] for name in ("cache_dir", "local_files_only", "token") if name in model_kwargs}
    try:
        found = hf_hub_download(str(model_id), CONFIG_NAME, revision=revision, **known)
    except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
        return None  # a model, or nothing at all, which loading it will say
    with suppress(RemoteEntryNotFoundError):  # there is none before `fit` or `calibrate`
        try:
            hf_hub_download(str(model_id), STATE_NAME, revision=revision, **known)
        except LocalEntryNotFoundError:
            if not (is_offline_mode() or known.get("local_files_only")):
                raise  # it may well be there
    return Path(found).parent


def _only_saved(model_kwargs: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in model_kwargs.items() if key in _SAVED_KWARGS}


def save(state: ScorerState, schedule: Schedule, fit: Fit, folder: Path) -> None:
    """
    Write options, the name of the base model, and what was calibrated and fitted.

    Args:
        state ([`ScorerState`]):
            The scorer as it is now.
        schedule ([`Schedule`]):
            Its schedule.
        fit ([`Fit`]):
            What its task has learned.
        folder (`Path`):
            Where to write.

    Raises:
        ValueError: If the model was handed over in memory, if the template is a function, if there are adapters, or if
            the weights have changed since they were fitted with.
    """
    source = state.handle.source
    if source is None:
        raise ValueError(
            "a scorer can be saved only with a base model that can be loaded again, got a model in memory. Save "
            "the model, then make the scorer by DLCScorer.from_pretrained(folder)."
        )
    if state.engine.adapters is not None:
        raise ValueError(
            f"adapters are not saved, and this scorer has some ({state.engine.adapters.described}). Save the scorer "
            "that adapt was called on, and call it again."
        )
    fit.check(lambda: fit_key(state))
    kwargs = _only_saved(source.model_kwargs)
    base = {"base_model_name_or_path": source.model_id, "revision": source.revision, "model_kwargs": kwargs}
    write_json(folder / CONFIG_NAME, {**state.config.to_dict(), **base})
    tensors, texts = fit.saved()
    if texts:
        texts["fit"] = fit_key(state)
    if schedule.calibrated is not None:
        tensors["schedule"] = np.array(schedule.calibrated, dtype=np.float64)
        texts["calibration"] = calibration_key(state)
    (folder / STATE_NAME).unlink(missing_ok=True)  # of another scorer, perhaps
    if tensors:
        save_file(tensors, folder / STATE_NAME, metadata=texts)


def restore(state: ScorerState, source: ModelSource, schedule: Schedule, fit: Fit, path: Path | None) -> None:
    """
    Take what was calibrated and fitted from a state file, as far as it is of these weights and options.

    Args:
        state ([`ScorerState`]):
            The scorer, of which the model was loaded.
        source ([`ModelSource`]):
            Where it was loaded from.
        schedule ([`Schedule`]):
            Its schedule.
        fit ([`Fit`]):
            What its task has learned.
        path (`Path`, *optional*):
            What [`save`] wrote beside it; `None` if it is no saved scorer.
    """
    state.handle.source = source
    if path is None or not path.is_file():
        return
    tensors = load_file(path)
    with safe_open(path, "np") as file:
        texts = file.metadata() or {}
    if "schedule" in tensors and schedule.fixed is None:
        fractions = schedule.picked(tensors["schedule"].tolist())
        if texts.get("calibration") == calibration_key(state) and len(fractions) == schedule.levels:
            schedule.calibrated = fractions
        else:
            logger.warning("the schedule in %s was calibrated for other weights or options; calibrating anew", path)
    if "classes" in texts:
        key = fit_key(state)
        if texts.get("fit") != key or not fit.restore(tensors, texts, key):
            logger.warning("%s was fitted with other weights or options: call fit again", path)


def push(
    state: ScorerState,
    write: Callable[[Path], None],
    repo_id: str,
    private: bool,
    create_pr: bool,
    revision: str | None,
    token: str | None,
) -> str:
    """
    Publish what `save` writes as a model repository.

    Args:
        state ([`ScorerState`]):
            The scorer as it is now.
        write (`Callable`):
            Saves the scorer to a folder.
        repo_id (`str`):
            Model repository; it is made if it is not there.
        private (`bool`):
            Whether the repository is private.
        create_pr (`bool`):
            Whether a pull request is opened in the place of writing into the branch.
        revision (`str`, *optional*):
            Branch to write into.
        token (`str`, *optional*):
            Token, by default the one that the Hub client knows.

    Returns:
        `str`: Address of the repository, or of the pull request.

    Raises:
        PublishError: If it could not be published.
        ValueError: If the base model or the template is a file of this machine, or as for `save`.
    """
    from hf_dlc.utils.hub_commits import push_folder

    if state.handle.source is not None and state.handle.is_local:
        raise ValueError(
            "a scorer can be published only with a base model that is on the Hub, got the folder "
            f"{state.handle.source.model_id}. Push the model first, and load it from there."
        )
    if Path(str(state.config.template)).is_file():
        raise ValueError(
            "a scorer can be published only with a template that comes with the model or with hf_dlc, got the "
            f"file {state.config.template}."
        )
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        return push_folder(Path(folder), repo_id, private, create_pr, revision, token)
