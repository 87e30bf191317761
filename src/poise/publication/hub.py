"""Exported folders on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

from poise.errors import ConfigError, ServerError
from poise.publication.folder import Export


def check_repo(repo_id: str) -> None:
    """Refuse (``ConfigError``) a name that the hub would not take, before anything is written."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ConfigError(f"{repo_id!r} is no repository of the hub ({error}); give OWNER/NAME") from None


def push(exports: Sequence[Export], repo_id: str, *, private: bool = True, api: Any = None) -> list[str]:
    """Upload each exported folder as a model repository and return the addresses.

    Of two forms the parameters get a repository of their own, ``REPO_ID-params``: engines read the root of one only. Raises
    ``ServerError`` with what the hub said.
    """
    hub = HfApi() if api is None else api
    addresses = []
    for one in exports:
        name = f"{repo_id}-params" if one.form == "params" and len(exports) > 1 else repo_id
        try:
            address = str(hub.create_repo(name, repo_type="model", private=private, exist_ok=True))
            hub.upload_folder(
                repo_id=name, repo_type="model", folder_path=str(one.folder), commit_message="Exported by poise"
            )
        except OSError as error:  # every error of the hub's client is one
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ServerError(f"{name}: the hub refused ({reason}); check `hf auth login` and the network") from None
        addresses.append(address)
    return addresses
