"""Names of models: those that are shipped, and those of the Hugging Face hub.

`scenes` stands for `data/pretrained/scenes`, inside the installed package or beside it in a checkout. A folder of the
same name in the working directory is `./scenes`. `hf://OWNER/NAME`, perhaps with `@REVISION`, is fetched where it is
named and kept in the hub's cache; no other name is ever looked up in a network.
"""

from pathlib import Path

from ddt_lightning.settings import own_file

HUB = "hf://"
FILES = ("*.json", "*.safetensors", "README.md", "LICENSE")
"""Files that are fetched: settings and weights that run no code when they are read."""


def shipped_models() -> list[str]:
    """Names of the models that are shipped, in alphabetic order."""
    folder = own_file("data/pretrained")
    return [] if folder is None else sorted(path.name for path in folder.iterdir() if path.is_dir())


def locate(given: str | Path) -> Path:
    """The folder that a name stands for; anything else is a path, and a `Path` always is, whatever lies there.

    Raises:
        ConnectionError: a repository of the hub cannot be fetched.
        ValueError: what follows `hf://` is no name of a repository.
    """
    if isinstance(given, Path):
        return given
    if given.startswith(HUB):
        return fetch(given)
    folder = own_file(f"data/pretrained/{given}") if given in shipped_models() else None
    return folder or Path(given)


def find_model(given: str | Path, option: str = "--model") -> Path:
    """The folder of a model by its name or path; errors as `locate`.

    Args:
        given: name of a shipped model, `hf://OWNER/NAME` or a folder.
        option: the option that gave it, for the error.

    Raises:
        FileNotFoundError: there is no such folder; the error lists the names.
    """
    folder = locate(given)
    if folder.is_dir():
        return folder
    known = ", ".join(shipped_models()) or "none in this copy"
    raise FileNotFoundError(
        f"`{option}` ({given}) is neither a folder nor a shipped model ({known}): name one of them or hf://OWNER/NAME, "
        "or train one with `make demo`."
    )


def fetch(given: str) -> Path:
    """The folder of a repository of the hub, fetched unless it lies in the hub's cache.

    Args:
        given: `hf://OWNER/NAME` or `hf://OWNER/NAME@REVISION`.

    Raises:
        ConnectionError: there is no network, or the hub refuses; the error names the reason.
        ValueError: this is no name of a repository.
    """
    repository, _, revision = given.removeprefix(HUB).partition("@")
    if len([part for part in repository.split("/") if part]) != 2 or repository.count("/") != 1:
        raise ValueError(f"`{given}` is no name of a repository: write hf://OWNER/NAME.")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ConnectionError(f"`{given}` needs a package: pip install huggingface_hub.") from None
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(FILES)))
    except HFValidationError as error:
        raise ValueError(f"`{given}` is no name of a repository: {error}") from None
    except GatedRepoError:
        reason = "its owner gives access on request: ask there, then log in with `hf auth login`"
    except RepositoryNotFoundError:
        reason = "the hub has no such repository, or it is private: check the name"
    except RevisionNotFoundError:
        reason = f"it has no revision {revision}"
    except LocalEntryNotFoundError:
        reason = "no network, and it has not been fetched before: go online, unset HF_HUB_OFFLINE, or name a folder"
    except OSError as error:  # other answers of the hub, a full disk
        reason = " ".join(str(error).split())[:200]
    raise ConnectionError(f"`{given}` cannot be fetched: {reason}.")
