"""Repositories of the Hugging Face hub: names with revisions, and their files, fetched within limits.

All that is fetched from the hub goes through here: every request has a time limit, a revision is resolved to its commit
once, and what a hub, a portal or a broken line answers becomes one line.
"""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import (
    HfApi,
    get_hf_file_metadata,
    get_session,
    hf_hub_download,
    hf_hub_url,
    hf_raise_for_status,
    snapshot_download,
)
from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT, HF_HUB_ETAG_TIMEOUT
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from unified.core.errors import HubError, nearest, quoted
from unified.core.log import logger

FILES = ("*.json", "*.safetensors", "README.md")
"""Of a model; nothing else is fetched, least of all pickles or code."""
AT_ONCE = 8
"""Files that are fetched side by side."""
_NAME = re.compile(r"(?!.*(?:\.\.|--|[.-]$|\.git$))[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
_REVISION = re.compile(r"(?!.*(?:\.\.|//|[/.]$))[\w][\w.+/-]{0,250}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class AbsentError(HubError):
    """There is no model of this name, or not yet."""


@dataclass(frozen=True)
class HubName:
    """A repository on the hub, and which state of it."""

    repository: str
    """`org/name`."""
    revision: str | None = None
    """A branch, tag or commit; None: the main branch."""

    def __str__(self) -> str:
        return self.repository if self.revision is None else f"{self.repository}@{self.revision}"


@dataclass(frozen=True)
class Fetched:
    """Files of a repository on this machine."""

    folder: Path
    name: HubName
    """With the commit as its revision."""


def is_hub_name(reference: str) -> bool:
    """Return whether a reference has the form of a repository on the hub, org/name, without a revision."""
    return _NAME.fullmatch(reference) is not None


def hub_name(reference: str, revision: str | None = None) -> HubName | None:
    """Return the name on the hub that a reference has the form of, `org/name` or `org/name@revision`, else None.

    Args:
        reference: What a user gave; whether a folder of that name is there, the caller has asked before.
        revision: A revision that was given beside it.

    Raises:
        HubError: The revision is none, or two are given.
    """
    repository, at, own = reference.partition("@")
    if not is_hub_name(repository):
        return None
    if at and revision is not None:
        raise HubError(f"revision: expected it once, got {quoted(own)} in the name and {quoted(revision)} beside it")
    asked = own if at else revision
    if asked is not None and not _REVISION.fullmatch(asked):
        raise HubError(
            f"{quoted(reference)}: expected a branch, a tag or a commit after {repository}@, got {quoted(asked)}"
        )
    return HubName(repository, asked)


def fetch_files(name: HubName, patterns: Sequence[str], needed: str, **access: Any) -> Fetched:
    """Return the local copy of a repository's files, fetched where they are not there.

    Without a connection it is the copy of an earlier time, if there is one.

    Args:
        name: The repository and its revision.
        patterns: Names of files, with wildcards, that are fetched; those in folders of the repository never are.
        needed: The file without which the repository is not what is looked for.
        access: `cache_dir` and `token`, as the library takes them.

    Raises:
        AbsentError: The hub does not give it; the message has the hub's reason.
    """
    try:
        commit, names = _listed(name, access.get("token"))
    except RevisionNotFoundError as error:
        known = nearest(str(name.revision), _revisions(name.repository))
        raise AbsentError(
            f"{name.repository}: no revision {name.revision!r}{known}, and the names of commits"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:  # gated ones, too
        raise _absent(name, error) from error
    except Exception as error:  # portals answer in HTML and lines break off, which clients tell in errors of theirs
        cached = _cached(name, needed, access.get("cache_dir"))
        if cached is None:
            raise _absent(name, error) from error
        if not isinstance(error, OfflineModeIsEnabled):
            logger.warning("%s: read as it was fetched before, as the hub gave nothing: %s", cached.name, reason(error))
        return cached
    if not _COMMIT.fullmatch(commit):
        raise HubError(f"{name}: expected the commit of a repository, got {quoted(commit)} from the hub")
    if needed not in names:
        raise AbsentError(f"{str(name)!r}: expected a model with a {needed} on the hub, got a repository without")
    pinned = replace(name, revision=commit)
    # Names with folders in them, and so those that lead out of the repository, are never fetched.
    wanted = [file for file in names if "/" not in file and any(fnmatch(file, pattern) for pattern in patterns)]
    try:
        folder = _transfer(pinned, [file for file in wanted if file != needed], needed, name.revision, **access)
    except Exception as error:
        raise _absent(name, error) from error
    if folder.name != commit:
        raise HubError(f"{name}: expected one state of the repository, got another meanwhile. Hint: load it again")
    return Fetched(folder, pinned)


def fetched_folder(reference: str | Path, options: Mapping[str, Any]) -> Path:
    """Return the folder of a model that transformers is asked for: one of this machine, or fetched from the hub.

    Args:
        reference: A folder, or a name on the hub.
        options: Keywords of `from_pretrained`; `revision`, `subfolder`, `cache_dir` and `token` are followed.

    Raises:
        AbsentError: As of `fetch_files`, or there is nothing of that name.
    """
    inside = options.get("subfolder") or ""
    if Path(reference).exists():
        return Path(reference) / inside
    revision = options.get("revision")
    name = hub_name(str(reference), None if revision is None else str(getattr(revision, "resolved", revision)))
    if name is None:
        raise AbsentError(f"{str(reference)!r} is neither a folder nor a hub name (org/name, org/name@revision)")
    access = {key: options[key] for key in ("cache_dir", "token") if options.get(key) is not None}
    return fetch_files(name, FILES, "config.json", **access).folder / inside


def resolve_revision(name: HubName) -> HubName:
    """Return the name with the commit that its revision is now.

    Raises:
        AbsentError: As of `fetch_files`.
    """
    return fetch_files(name, (), "config.json").name


def check_answers(repository: str) -> None:
    """Ask for a repository, which need not be there: requests without a limit follow where the hub answers alone.

    Raises:
        Exception: What the client raises where it does not.
    """
    try:
        HfApi().model_info(repository, timeout=HF_HUB_ETAG_TIMEOUT)
    except RepositoryNotFoundError as error:
        if isinstance(error, GatedRepoError):
            raise


def _listed(name: HubName, token: Any) -> tuple[str, list[str]]:
    """The commit of a revision, and the names of its files."""
    found = HfApi(token=token).model_info(name.repository, revision=name.revision, timeout=HF_HUB_ETAG_TIMEOUT)
    return str(found.sha), [file.rfilename for file in found.siblings or ()]


def _transfer(name: HubName, files: Sequence[str], needed: str, revision: str | None, **access: Any) -> Path:
    """The folder of files, the needed one among them, at a commit that was asked for as `revision`."""
    # The library tries this request again for minutes where it has no copy; whether the hub answers is seen before.
    address = hf_hub_url(name.repository, needed, revision=name.revision)
    get_hf_file_metadata(address, timeout=HF_HUB_ETAG_TIMEOUT, token=access.get("token"))
    # By the name that was asked for, so that the library keeps which commit that was.
    first = Path(hf_hub_download(name.repository, needed, revision=revision or "main", **access))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda file: hf_hub_download(name.repository, file, revision=name.revision, **access), files))
    return first.parent


def _cached(name: HubName, needed: str, cache: Any) -> Fetched | None:
    """The copy of an earlier time."""
    try:
        kept = snapshot_download(name.repository, revision=name.revision, cache_dir=cache, local_files_only=True)
    except (OSError, ValueError):
        return None
    folder = Path(kept)
    return Fetched(folder, replace(name, revision=folder.name)) if (folder / needed).is_file() else None


def _revisions(repository: str) -> list[str]:
    """Branches and tags of a repository, as far as the hub tells them."""
    address = f"{HfApi().endpoint}/api/models/{repository}/refs"
    try:
        answer = get_session().get(address, headers=build_hf_headers(), timeout=HF_HUB_ETAG_TIMEOUT)
        hf_raise_for_status(answer)
        content = answer.json()
        return [str(ref["name"]) for kind in ("branches", "tags") for ref in content.get(kind) or ()]
    except Exception:  # noqa: BLE001 - they are for a hint: whatever goes wrong, the error that needs it is told
        return []


def _absent(name: HubName, error: Exception) -> AbsentError:
    at = "" if name.revision is None else f", revision {name.revision!r}"
    return AbsentError(
        f"{name.repository!r}{at}: no folder of that name here, and the hub gave none: {reason(error)}. Check the "
        "name, and whether the machine is online and HF_HUB_OFFLINE unset; a private model needs `hf auth login`"
    )


def reason(error: BaseException) -> str:
    """Return why the hub gave nothing, in the words of the hub where it has some."""
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain:
        chain.append(following)
        following = following.__cause__ or following.__context__
    if any("Timeout" in type(one).__name__ for one in chain):
        limits = f"HF_HUB_ETAG_TIMEOUT={HF_HUB_ETAG_TIMEOUT}, HF_HUB_DOWNLOAD_TIMEOUT={HF_HUB_DOWNLOAD_TIMEOUT}"
        return f"no answer within the seconds of {limits}"
    error = next((one for one in reversed(chain) if hasattr(one, "server_message")), error)  # what the hub itself said
    if isinstance(error, ValueError) and not isinstance(error, OSError):
        return f"an answer that is no JSON, as of a portal or a proxy ({first_line(error)})"
    said = getattr(error, "server_message", None)  # such as that a repository is gated
    return f"{first_line(error)}{f' ({said.splitlines()[0]})' if said else ''}"


def first_line(error: BaseException) -> str:
    """Return what an error says, without the rest of a long message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
