"""Commits into a repository on the Hub: tried again where a fault may pass, told without a token where it does not."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitInfo, HfApi, get_token
from huggingface_hub.errors import HTTPError, RepositoryNotFoundError

from hf_dlc import __version__
from hf_dlc.errors import DLCError


logger = logging.getLogger(__name__)

_ATTEMPTS = 5
_LONGEST_WAIT = 300.0
_PASSING = {408, 409, 412, 429, 500, 502, 503, 504}  # another commit came first, or the server is busy
_QUERY = re.compile(r"(https?://[^\s'\"?]+)\?[^\s'\"]*")  # signatures that let others upload

Result = TypeVar("Result")


class PublishError(DLCError):
    """A part that could not be published; the message says what was published before, and what to do."""


class Refusal(Exception):
    """A question that the user has to decide, told as a `ValueError` before anything is published."""


@dataclass
class Push:
    """
    Commits into one repository, one after the other.

    Args:
        api ([`~huggingface_hub.HfApi`]):
            Client of the Hub, as [`hub_client`] returns it.
        repo_id (`str`):
            Repository, with its owner from `open` on.
        private (`bool`):
            Whether the repository is private. A public one is written into only with `False`.
        revision (`str`, *optional*):
            Branch or pull request to write into.
        create_pr (`bool`, *optional*, defaults to `False`):
            Open a pull request with the first commit, and write the others into it.
        kind (`str`, *optional*, defaults to `"dataset"`):
            Type of the repository.
        done (`tuple[str, ...]`, *optional*):
            Steps that are done.
        address (`str`, *optional*):
            Address of the repository or pull request, from `open` on.
    """

    api: HfApi
    repo_id: str
    private: bool
    revision: str | None = None
    create_pr: bool = False
    kind: str = "dataset"
    done: tuple[str, ...] = ()
    address: str = ""

    def step(self, name: str, act: Callable[[], Result], commits: bool = False) -> Result:
        """
        Take one step, and take it again after a fault that may pass.

        Args:
            name (`str`):
                What is published by the step, for errors.
            act (`Callable`):
                The step.
            commits (`bool`, *optional*, defaults to `False`):
                Whether it commits.

        Raises:
            PublishError: If the step failed. The message says which steps were done before.
            ValueError: If it raised a [`Refusal`].
        """
        opens = commits and self.create_pr  # twice would open another pull request
        try:
            found = _retried(act, self.api.token, 1 if opens else _ATTEMPTS)
        except Refusal as error:
            raise ValueError(str(error)) from None
        except Exception as error:
            done = f"{', '.join(self.done)}: done" if self.done else "nothing was published"
            again = "the same call completes it"
            if self.revision and self.revision.startswith("refs/pr/"):
                again = f"the same call with revision={self.revision!r} completes the pull request"
            raise PublishError(
                f"{name}: not published to {self.repo_id}. {reason_without_token(error, self.api.token)} "
                f"({done}; {again}.)"
            ) from None  # the cause may hold what the message must not
        self.done += (name,)
        return found

    def open(self) -> None:
        """Find the repository, or make it."""
        try:
            info = self.api.repo_info(self.repo_id, repo_type=self.kind)
        except RepositoryNotFoundError:
            url = self.api.create_repo(self.repo_id, repo_type=self.kind, private=self.private, exist_ok=True)
            info = self.api.repo_info(url.repo_id, repo_type=self.kind)  # one of mine, perhaps, that was there
        if self.private and not info.private:
            raise Refusal(
                f"{info.id} is public. Pass private=False (--public true) to publish there, or another repo_id."
            )
        if self.revision and not self.revision.startswith("refs/"):
            self.api.create_branch(info.id, branch=self.revision, repo_type=self.kind, exist_ok=True)
        folder = "datasets/" if self.kind == "dataset" else ""
        self.repo_id, self.address = info.id, f"{self.api.endpoint}/{folder}{info.id}"

    def head(self) -> str:
        """Return the last commit of the branch or pull request."""
        return self.api.repo_info(self.repo_id, repo_type=self.kind, revision=self.revision).sha

    def committed(self, info: CommitInfo) -> None:
        """Note a commit: the next ones go into the pull request that it has opened."""
        if self.create_pr and info.pr_revision:
            self.revision, self.create_pr, self.address = info.pr_revision, False, info.pr_url


def push_folder(
    folder: Path, repo_id: str, private: bool, create_pr: bool, revision: str | None, token: str | None
) -> str:
    """
    Publish the files of a scorer as a model repository.

    Args:
        folder (`Path`):
            Folder with the files.
        repo_id (`str`):
            Model repository; it is made if it is not there.
        private (`bool`):
            Whether the repository is private. A public one is written into only with `False`.
        create_pr (`bool`):
            Open a pull request in the place of writing into the branch.
        revision (`str`, *optional*):
            Branch or pull request to write into.
        token (`str`, *optional*):
            Token, by default the one that the Hub client knows.

    Returns:
        `str`: Address of the repository, or of the pull request.

    Raises:
        PublishError: If it could not be published.
        ValueError: If the repository is public and `private` is set.
    """
    push = Push(hub_client(token), repo_id, private, revision, create_pr, kind="model")
    push.step("the repository", push.open)

    def commit() -> None:
        where = {"repo_id": push.repo_id, "repo_type": push.kind, "revision": push.revision}
        push.committed(
            push.api.upload_folder(folder_path=folder, commit_message="Scorer", create_pr=push.create_pr, **where)
        )

    push.step("the scorer", commit, commits=True)
    return push.address


def hub_client(token: str | None) -> HfApi:
    """Return a client of the Hub that says who asks."""
    return HfApi(token=token and token.strip(), library_name="hf_dlc", library_version=__version__)


def reason_without_token(error: BaseException, token: str | None) -> str:
    """Say what went wrong on one line, without the token and without signatures in addresses."""
    text = " ".join(str(error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error).split())
    text = _QUERY.sub(r"\1", text)
    for secret in {token, get_token()} - {None, ""}:
        text = text.replace(secret.strip(), "***")
    status = getattr(getattr(error, "response", None), "status_code", None)
    return (
        f"{text} Log in with `hf auth login`, or pass a token that may write there." if status in (401, 403) else text
    )


def _retried(act: Callable[[], Result], token: str | None, attempts: int) -> Result:
    for attempt in range(attempts):
        try:
            return act()
        except (HTTPError, RuntimeError) as error:
            wait = _wait(error, attempt)
            if wait is None or attempt + 1 == attempts:
                raise
            logger.warning("%s; trying again in %.0f s", reason_without_token(error, token), wait)
            time.sleep(wait)
    raise AssertionError("unreachable")


def _wait(error: BaseException, attempt: int) -> float | None:
    """Seconds until the fault may have passed; `None` for one that does not pass."""
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
