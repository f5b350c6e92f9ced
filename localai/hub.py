"""Talks to a Hugging Face-compatible hub: which files a repository has, and their bytes from any offset.

Names enter; listings and byte streams leave, or errors of `localai.errors`. Redirects are followed only to places that
are no less safe, and the token stays with the hub. Importing this loads huggingface_hub; writes nothing to the disk.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2
import huggingface_hub
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

import localai
from localai.errors import BadRequest, DownloadFailed, LocalaiError, NotFound, Unauthorized

TIMEOUT_S = 30.0
TRY_LATER = frozenset({408, 429, 500, 502, 503, 504})

_NAME = "localai"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")


class TransferInterrupted(Exception):
    """The connection failed or the hub is busy; trying again from the same offset may help. `reason` is a phrase."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository; `bytes` and `sha256` are None where the hub does not say."""

    name: str
    bytes: int | None
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at one commit."""

    id: str
    revision: str
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of a file from `offset` on; 0 where the hub did not honour the one asked for."""

    offset: int
    chunks: Iterator[bytes]


class Hub:
    """One hub. `endpoint` and `token` default to what huggingface_hub takes from environment and login."""

    def __init__(self, endpoint: str | None = None, token: str | None = None) -> None:
        _install_client()
        self._token = token
        self._endpoint = (endpoint or huggingface_hub.constants.ENDPOINT).rstrip("/")
        self._api = huggingface_hub.HfApi(
            endpoint=self._endpoint, token=token, library_name=_NAME, library_version=localai.__version__
        )

    @property
    def offline(self) -> bool:
        return huggingface_hub.is_offline_mode()

    def repository(self, repo: str, revision: str) -> Repository:
        """List a repository. Raises NotFound, Unauthorized, BadRequest, DownloadFailed."""
        with _translated(repo):
            info = self._api.model_info(repo, revision=revision, files_metadata=True, timeout=TIMEOUT_S)
        files = tuple(
            RemoteFile(file.rfilename, file.size, file.lfs.sha256 if file.lfs else None) for file in info.siblings or ()
        )
        return Repository(info.id, info.sha or revision, files)

    def described(self, repo: Repository, file: RemoteFile) -> RemoteFile:
        """Complete and confirm a listed file from the hub's own headers. Raises as `repository`.

        The digest in the headers and the one in the listing must agree.
        """
        with _translated(repo.id):
            found = huggingface_hub.get_hf_file_metadata(
                self._url(repo, file),
                token=self._token,
                timeout=TIMEOUT_S,
                endpoint=self._endpoint,
                library_name=_NAME,
                library_version=localai.__version__,
            )
        etag = found.etag if found.etag and _SHA256.fullmatch(found.etag) else None
        if etag and file.sha256 and etag != file.sha256:
            raise DownloadFailed(f"{repo.id} gives two digests for {file.name}", "the hub is inconsistent; try later")
        return RemoteFile(file.name, found.size if file.bytes is None else file.bytes, file.sha256 or etag)

    @contextmanager
    def open(self, repo: Repository, file: RemoteFile, offset: int, length: int | None = None) -> Iterator[Body]:
        """Stream a file from `offset`, `length` bytes of it where the hub honours that, else to its end.

        Raises as `repository`, and TransferInterrupted, which is worth a retry.
        """
        headers = build_hf_headers(token=self._token, library_name=_NAME, library_version=localai.__version__) | {
            "Accept-Encoding": "identity"
        }
        if offset or length is not None:
            headers["Range"] = f"bytes={offset}-" + ("" if length is None else str(offset + length - 1))
        session = huggingface_hub.get_session()
        with (
            _translated(repo.id, interruptible=True),
            session.stream("GET", self._url(repo, file), headers=headers, timeout=TIMEOUT_S) as response,
        ):
            hf_raise_for_status(response)
            yield Body(_start(response, offset), response.iter_raw())

    def _url(self, repo: Repository, file: RemoteFile) -> str:
        return huggingface_hub.hf_hub_url(repo.id, file.name, revision=repo.revision, endpoint=self._endpoint)


def check_redirect(source: str, target: str) -> None:
    """Raise DownloadFailed unless `target` is https, or http from http on the same host or on this machine."""
    old, new = httpx2.URL(source), httpx2.URL(target)
    if new.scheme == "https":
        return
    if new.scheme == "http" == old.scheme and (_is_loopback(new.host) or new.host == old.host):
        return
    raise DownloadFailed(
        f"{old.host} redirects to {new.scheme}://{new.host}, which is not safe", "check HF_ENDPOINT and your proxy"
    )


@functools.cache
def _install_client() -> None:
    """Give huggingface_hub a client that checks each redirect; every call that it makes goes through it."""
    huggingface_hub.set_client_factory(_client)


def _client() -> httpx2.Client:
    return httpx2.Client(
        event_hooks={"request": [_refuse_offline], "response": [_check_response]},
        follow_redirects=True,
        timeout=TIMEOUT_S,
    )


def _refuse_offline(request: httpx2.Request) -> None:
    if huggingface_hub.is_offline_mode():
        raise hub_errors.OfflineModeIsEnabled("HF_HUB_OFFLINE is set")


def _check_response(response: httpx2.Response) -> None:
    if response.has_redirect_location:
        target = response.url.join(response.headers["Location"])
        check_redirect(str(response.url), str(target))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _start(response: httpx2.Response, offset: int) -> int:
    if response.status_code != 206:
        return 0
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != offset:
        raise DownloadFailed("the hub answered with another range than asked for", "try again, or another mirror")
    return offset


@contextmanager
def _translated(repo: str, *, interruptible: bool = False) -> Iterator[None]:
    """Turn the errors of huggingface_hub and its HTTP client into ours, without addresses that may carry secrets."""
    try:
        yield
    except hub_errors.OfflineModeIsEnabled as error:
        raise DownloadFailed("the hub is not asked: HF_HUB_OFFLINE is set", "unset it to download") from error
    except hub_errors.HfHubHTTPError as error:
        if interruptible and error.response.status_code in TRY_LATER:
            raise TransferInterrupted(f"the hub answers {error.response.status_code}") from error
        raise _http_error(repo, error) from error
    except hub_errors.HFValidationError as error:
        raise BadRequest(f"{repo!r} is no repository name", "write hf:owner/repo", param="model") from error
    except hub_errors.FileMetadataError as error:
        raise DownloadFailed("the server does not answer like a hub", "check HF_ENDPOINT and your proxy") from error
    except httpx2.HTTPError as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        if interruptible:
            raise TransferInterrupted(reason) from error
        raise DownloadFailed(f"the hub cannot be reached ({reason})", "check the network and HF_ENDPOINT") from error


def _http_error(repo: str, error: hub_errors.HfHubHTTPError) -> LocalaiError:
    status = error.response.status_code
    if isinstance(error, hub_errors.GatedRepoError):
        return Unauthorized(
            f"{repo} is gated", "accept its licence on the hub's page, then set HF_TOKEN or run `hf auth login`"
        )
    if isinstance(error, hub_errors.RevisionNotFoundError | hub_errors.EntryNotFoundError):
        return NotFound(f"{repo} does not have that file or revision", "see the files on the hub's page")
    if isinstance(error, hub_errors.RepositoryNotFoundError) or status == 404:
        return NotFound(f"the hub has no repository {repo}", "check the spelling; a private one needs HF_TOKEN")
    if status in (401, 403):
        return Unauthorized(f"the hub refuses access to {repo}", "set HF_TOKEN to a token that may read it")
    return DownloadFailed(f"the hub answers {status}", "try again later")
