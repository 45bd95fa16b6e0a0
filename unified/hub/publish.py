"""The upload of exported folders to the Hugging Face hub."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from unified.core.errors import DataError, HubError, UserError
from unified.core.hub_files import FILES, check_answers, is_hub_name, reason
from unified.core.training_record import FILE, as_text, read_record
from unified.hub.card_head import card_head, for_repository


@dataclass(frozen=True)
class Pushed:
    """Where an upload went."""

    url: str
    """Address of the repository."""
    commit: str
    """Address of the commit."""
    private: bool


def push(folder: str | Path, repository: str, *, private: bool | None = None) -> Pushed:
    """Upload an exported folder to the hub, with a card that names the repository.

    Args:
        folder: What `unified export` wrote.
        repository: `org/name`; it is made where there is none.
        private: Who may see it; None: nobody else where it is new, otherwise as it is.

    Raises:
        HubError: The folder is no exported model, the repository is there with another visibility, or the upload fails.
    """
    folder = Path(folder)
    missing = [name for name in ("config.json", "README.md", "processor_config.json") if not (folder / name).is_file()]
    if missing or not any(folder.glob("*.safetensors")):
        raise HubError(
            f"{folder}: not an exported model ({', '.join(missing or ['model.safetensors'])} missing); "
            "`unified export RUN OUT` makes one"
        )
    if not is_hub_name(repository):
        raise HubError(f"{repository!r}: expected the name of a repository on the hub, org/name")
    hub = HfApi()
    try:
        with tempfile.TemporaryDirectory() as stage:
            _stage(folder, Path(stage), repository)
            check_answers(repository)
            hidden = _make_repository(hub, repository, private)
            commit = hub.upload_folder(repo_id=repository, folder_path=stage, commit_message="Upload model")
    except UserError:
        raise
    except Exception as error:  # portals answer in HTML and lines break off, which clients tell in errors of theirs
        raise HubError(
            f"{repository}: the upload failed: {reason(error)}. Log in with `hf auth login` and a token that may "
            "write there, and unset HF_HUB_OFFLINE"
        ) from error
    return Pushed(f"{hub.endpoint}/{repository}", str(commit.commit_url), hidden)


def _stage(folder: Path, stage: Path, repository: str) -> None:
    """Lay out what is uploaded: a card for the repository, a record without paths of this machine, the other files."""
    record = read_record(folder)
    for path in folder.iterdir():
        if path.is_file() and any(path.match(pattern) for pattern in FILES):
            os.symlink(path.resolve(), stage / path.name)
    text = (folder / "README.md").read_text(encoding="utf-8")
    try:
        card = for_repository(text, repository, card_head(repository, record))
    except DataError as error:
        raise HubError(f"{folder / 'README.md'}: {error}") from error
    for name, content in {"README.md": card, **({} if record is None else {FILE: as_text(record.published())})}.items():
        (stage / name).unlink(missing_ok=True)
        (stage / name).write_text(content, encoding="utf-8")


def _make_repository(hub: HfApi, repository: str, private: bool | None) -> bool:
    """Make the repository where there is none; return whether it is private."""
    try:
        hub.create_repo(repository, private=private is not False)
    except HfHubHTTPError as error:
        try:
            found = bool(hub.model_info(repository).private)
        except HfHubHTTPError:
            raise error from None
        if private is not None and found != private:
            is_now, asked = ("private", "public") if found else ("public", "private")
            raise HubError(
                f"{repository}: expected it to be {asked}, and it is there already and {is_now}. Hint: leave out "
                f"--{asked} to upload it there, change it in its settings on the hub, or name another repository"
            ) from error
        return found
    return private is not False
