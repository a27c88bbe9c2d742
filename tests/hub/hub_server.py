"""
A small stand-in for the Hub on the loopback address: what the real clients ask of it, kept in memory.

It knows repositories, branches, pull requests, commits, LFS uploads and the files in them, who may write, and it fails
on purpose: `server.fail(...)` makes the next matching request go wrong.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import datasets
import huggingface_hub
import pytest
import yaml


TOKEN = "hf_writes0secret0token"
READ_TOKEN = "hf_reads0secret0token"
SIGNATURE = "0signature0that0lets0others0upload"
_LICENSES = ["apache-2.0", "cc-by-nc-4.0", "mit", "other"]
_LFS_SUFFIXES = (".parquet", ".png", ".safetensors")


@dataclass
class Repo:
    """A repository: commits are whole trees, and a branch names one."""

    private: bool
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, bytes], message: str, branch: str = "main") -> str:
        sha = hashlib.sha1(f"{len(self.messages)} {message}".encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        self.messages.append(message)
        return sha

    def sha(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.commits else None)


@dataclass
class Fault:
    """What goes wrong with the next `times` requests that match."""

    method: str
    path: str
    status: int  # 0 cuts the connection
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "no"


class HubServer(ThreadingHTTPServer):
    """Serves on a free port of 127.0.0.1 while it is used as a context manager."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}  # by "datasets/me/name"
        self.blobs: dict[str, bytes] = {}  # uploaded, by SHA-256
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.lock = threading.Lock()

    def __enter__(self) -> HubServer:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.shutdown()
        self.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fail(self, method: str, path: str, status: int, **options: Any) -> None:
        self.faults.append(Fault(method, path, status, **options))

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        found = self.repos[repo]
        return found.commits[found.branches[revision]]

    def add_repo(self, repo: str, files: dict[str, bytes], private: bool = False) -> str:
        self.repos[repo] = Repo(private)
        return self.repos[repo].commit(files, "initial")

    def serve_clients(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        """Let the clients in this process take this for the Hub, with a token that may write and an empty cache."""
        template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        for module, name, value in (
            (huggingface_hub.constants, "ENDPOINT", self.url),
            (huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template),
            (huggingface_hub.constants, "HF_HUB_OFFLINE", False),
            (huggingface_hub.constants, "HF_HUB_DISABLE_XET", True),
            (huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "hub")),
            (datasets.config, "HF_ENDPOINT", self.url),
            (datasets.config, "HF_HUB_OFFLINE", False),
            (datasets.config, "HF_DATASETS_CACHE", folder / "datasets"),
        ):
            patch.setattr(module, name, value)
        patch.setenv("HF_TOKEN", TOKEN)

    def environment(self, folder: Path) -> dict[str, str]:
        """The same for the clients in another process."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(folder),
        }


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer is written in two pieces, and each would wait for the other side

    def log_message(self, *_: Any) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, BrokenPipeError):
            self.close_connection = True

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_HEAD = do_GET

    def _serve(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or self._chunks()
        parts = urlsplit(self.path)
        path, self.query = unquote(parts.path), parse_qs(parts.query)
        with self.server.lock:
            self.server.requests.append(f"{self.command} {path}")
            if self._goes_wrong(path):
                return
            for methods, pattern, serve in _ROUTES:
                found = re.fullmatch(pattern, path)
                if found and self.command in methods:
                    serve(self, **{name: value for name, value in found.groupdict().items() if value is not None})
                    return
        self._error(404, "EntryNotFound", f"nothing is served at {path}")

    def _chunks(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return b""
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _goes_wrong(self, path: str) -> bool:
        for fault in self.server.faults:
            if fault.times and fault.method == self.command and re.search(fault.path, path):
                fault.times -= 1
                if fault.status:
                    self._error(fault.status, "Fault", fault.message, **fault.headers)
                else:
                    self.close_connection = True
                    self.connection.close()
                return True
        return False

    # ---- answers -------------------------------------------------------------------------------------------------

    def _answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: Any, status: int = 200) -> None:
        self._answer(json.dumps(value).encode(), status, Content_Type="application/json")

    def _error(self, status: int, code: str, message: str, **headers: str) -> None:
        body = json.dumps({"error": message}).encode()
        known = {"Content_Type": "application/json", "X_Error_Code": code, "X_Error_Message": message}
        self._answer(body, status, **{**known, **headers})

    # ---- who may -------------------------------------------------------------------------------------------------

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _may_write(self) -> bool:
        if self._token() == TOKEN:
            return True
        if self._token() == READ_TOKEN:
            self._error(403, "", "you don't have the rights to create or change this repository")
        else:
            self._error(401, "", "Invalid username or password.")
        return False

    def _readable(self, kind: str, repo: str) -> Repo | None:
        found = self.server.repos.get(f"{kind}/{repo}")
        if found is None or (found.private and self._token() not in (TOKEN, READ_TOKEN)):
            self._error(404 if self._token() else 401, "RepoNotFound", "Repository not found")
            return None
        return found

    def _commit_of(self, found: Repo, revision: str) -> str | None:
        sha = found.sha(revision)
        if sha is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha

    # ---- endpoints -----------------------------------------------------------------------------------------------

    def info(self, kind: str, repo: str, revision: str = "main") -> None:
        if (found := self._readable(kind, repo)) is None or (sha := self._commit_of(found, revision)) is None:
            return
        files = found.commits[sha]
        card = re.match(r"---\n(.*?)\n---", files.get("README.md", b"").decode(), re.DOTALL)
        self._json(
            {
                "id": repo,
                "sha": sha,
                "private": found.private,
                "gated": found.gated,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
                "cardData": _metadata(card[1]) if card else {},
                "siblings": [{"rfilename": name} for name in files],
            }
        )

    def create(self) -> None:
        if not self._may_write():
            return
        asked = json.loads(self.body)
        owner = asked.get("organization") or "me"
        name = f"{owner}/{asked['name'].rpartition('/')[2]}"
        kind = f"{asked.get('type', 'model')}s"
        key = f"{kind}/{name}"
        if key in self.server.repos:
            url = f"{self.server.url}/{'' if kind == 'models' else kind + '/'}{name}"
            self._json({"error": "You already created this repo", "url": url}, 409)
            return
        self.server.repos[key] = Repo(asked.get("visibility") == "private" or bool(asked.get("private")))
        self.server.repos[key].commit({".gitattributes": b""}, "initial commit")
        self._json({"url": f"{self.server.url}/{'' if kind == 'models' else kind + '/'}{name}", "name": name})

    def validate_yaml(self) -> None:
        card = re.match(r"---\n(.*?)\n---", json.loads(self.body)["content"], re.DOTALL)
        license = yaml.safe_load(card[1]).get("license") if card else None
        if license in (None, *_LICENSES):
            self._json({"errors": [], "warnings": []})
        else:
            self._json({"errors": [{"message": f'"license" must be one of {_LICENSES}'}], "warnings": []}, 400)

    def branch(self, kind: str, repo: str, revision: str) -> None:
        if not self._may_write() or (found := self._readable(kind, repo)) is None:
            return
        if revision in found.branches:
            self._error(409, "", "Reference already exists")
            return
        found.branches[revision] = found.branches["main"]
        self._json({})

    def preupload(self, kind: str, repo: str, revision: str) -> None:
        if not self._may_write() or (found := self._readable(kind, repo)) is None:
            return
        if (sha := self._commit_of(found, revision)) is None:
            return
        files = found.commits[sha]
        self._json(
            {
                "files": [
                    {
                        "path": one["path"],
                        "uploadMode": "lfs" if one["path"].endswith(_LFS_SUFFIXES) else "regular",
                        "shouldIgnore": False,
                        "oid": _oid(one["path"], files[one["path"]]) if one["path"] in files else None,
                    }
                    for one in json.loads(self.body)["files"]
                ]
            }
        )

    def lfs_batch(self, repo: str, kind: str = "models") -> None:
        if not self._may_write():
            return
        objects = []
        for one in json.loads(self.body)["objects"]:
            known = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.server.blobs:
                signed = f"{self.server.url}/upload/{one['oid']}?X-Amz-Signature={SIGNATURE}"
                known["actions"] = {"upload": {"href": signed}}
            objects.append(known)
        self._json({"transfer": "basic", "objects": objects})

    def upload(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            self._error(400, "", "the digest is that of another file")
            return
        self.server.blobs[oid] = self.body
        self._answer(b"")

    def commit(self, kind: str, repo: str, revision: str) -> None:
        if not self._may_write() or (found := self._readable(kind, repo)) is None:
            return
        if (sha := self._commit_of(found, revision)) is None:
            return
        lines = [json.loads(line) for line in self.body.decode().splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit", sha) != sha:
            self._error(412, "", "A commit has happened since. Please refresh and try again.")
            return
        files = dict(found.commits[sha])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        branch, pull_request = revision, None
        if self.query.get("create_pr") == ["1"]:
            number = 1 + sum(name.startswith("refs/pr/") for name in found.branches)
            branch = f"refs/pr/{number}"
            pull_request = f"{self.server.url}/{kind}/{repo}/discussions/{number}"
        oid = found.commit(files, header["summary"], branch)
        url = f"{self.server.url}/{kind}/{repo}/commit/{oid}"
        self._json({"commitUrl": url, "commitOid": oid, "pullRequestUrl": pull_request})

    def tree(self, kind: str, repo: str, revision: str, folder: str = "") -> None:
        if (found := self._readable(kind, repo)) is None or (sha := self._commit_of(found, revision)) is None:
            return
        prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
        files = {name: data for name, data in found.commits[sha].items() if name.startswith(prefix)}
        if prefix and not files:
            self._error(404, "EntryNotFound", f"{folder} does not exist")
            return
        is_recursive = self.query.get("recursive", [""])[0].lower() in ("true", "1")
        entries = {name: _file(name, data) for name, data in files.items()}
        for name in files:
            steps = name[len(prefix) :].split("/")[:-1]
            for depth in range(1, 1 + len(steps)):
                path = prefix + "/".join(steps[:depth])
                entries[path] = {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
        if not is_recursive:
            entries = {name: one for name, one in entries.items() if "/" not in name[len(prefix) :]}
        self._json(list(entries.values()))

    def paths_info(self, kind: str, repo: str, revision: str) -> None:
        if (found := self._readable(kind, repo)) is None or (sha := self._commit_of(found, revision)) is None:
            return
        is_json = "json" in self.headers.get("Content-Type", "")
        asked = json.loads(self.body)["paths"] if is_json else parse_qs(self.body.decode()).get("paths", [])
        files, entries = found.commits[sha], []
        for path in asked:
            if path in files:
                entries.append(_file(path, files[path]))
            elif any(name.startswith(f"{path}/") for name in files):
                entries.append({"type": "directory", "path": path, "oid": "0" * 40, "size": 0})
        self._json(entries)

    def resolve(self, repo: str, revision: str, path: str, kind: str = "models") -> None:
        if (found := self._readable(kind, repo)) is None or (sha := self._commit_of(found, revision)) is None:
            return
        data = found.commits[sha].get(path)
        if data is None:
            self._error(404, "EntryNotFound", f"{path} does not exist")
            return
        etag = f'"{_oid(path, data)}"'
        status, headers = 200, {"X_Repo_Commit": sha, "ETag": etag, "Accept_Ranges": "bytes"}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(asked[1]), int(asked[2] or len(data) - 1)
            headers["Content_Range"] = f"bytes {start}-{end}/{len(data)}"
            status, data = 206, data[start : end + 1]
        self._answer(data, status, **headers)

    def who_am_i(self) -> None:
        self._json({"name": "me", "type": "user", "orgs": []})


def _metadata(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return {}


def _oid(path: str, data: bytes) -> str:
    """As git names a file, or as LFS does."""
    if path.endswith(_LFS_SUFFIXES):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


def _file(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": _oid(path, data)[:40]}
    if path.endswith(_LFS_SUFFIXES):
        entry["lfs"] = {"oid": _oid(path, data), "size": len(data), "pointerSize": 134}
    return entry


_API = r"/api/(?P<kind>datasets|models)/(?P<repo>[\w.\-]+(?:/[\w.\-]+)?)"
_REVISION = r"(?P<revision>refs/pr/\d+|[^/]+)"
_ROUTES: list[tuple[tuple[str, ...], str, Callable[..., None]]] = [
    (("POST",), "/api/repos/create", _Handler.create),
    (("POST",), "/api/validate-yaml", _Handler.validate_yaml),
    (("GET",), "/api/whoami-v2", _Handler.who_am_i),
    (("POST",), f"{_API}/branch/{_REVISION}", _Handler.branch),
    (("POST",), f"{_API}/preupload/{_REVISION}", _Handler.preupload),
    (("POST",), f"{_API}/commit/{_REVISION}", _Handler.commit),
    (("POST",), f"{_API}/paths-info/{_REVISION}", _Handler.paths_info),
    (("GET",), f"{_API}/tree/{_REVISION}(?P<folder>/.*)?", _Handler.tree),
    (("GET",), f"{_API}/revision/{_REVISION}", _Handler.info),
    (("GET",), _API, _Handler.info),
    (("POST",), r"/(?:(?P<kind>datasets)/)?(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    (("PUT",), r"/upload/(?P<oid>[0-9a-f]{64})", _Handler.upload),
    (
        ("GET", "HEAD"),
        rf"/(?:(?P<kind>datasets)/)?(?P<repo>[^/]+/[^/]+)/resolve/{_REVISION}/(?P<path>.+)",
        _Handler.resolve,
    ),
]
