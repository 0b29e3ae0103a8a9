"""`ddt import-selftok`: weights of others as our release folders."""

import json
from pathlib import Path

from ddt_lightning.commands.staging import staged


def import_selftok(checkpoint: str, folder: str, *, config: str | None = None) -> None:
    """Convert a Selftok tokenizer of the official layout; every tensor is mapped or known to be dead.

    Args:
        checkpoint: its file, safetensors or pickled; a pickled one must hold tensors only.
        folder: folder for config.json and model.safetensors, which `Tokenizer.from_pretrained` reads.
        config: json file with its sizes; not needed for the published file with 512 tokens.
    """
    values = read_sizes(config) if config else None
    from ddt_lightning.tokens.selftok import SelftokSizes, convert, published_sizes, read_checkpoint

    sizes = SelftokSizes.from_dict(values) if values is not None else None
    state = read_checkpoint(checkpoint)
    tokenizer = convert(state, sizes or published_sizes(state))
    with staged(folder) as stage:
        tokenizer.save_pretrained(stage)
    parameters = sum(parameter.numel() for parameter in tokenizer.parameters())
    print(f"{len(state)} tensors, {parameters:,} parameters, {tokenizer.config.tokens} tokens; {folder} is ready")


def read_sizes(path: str) -> dict:
    """The json object of a file of sizes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a json object.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"`--config` ({path}) does not exist.")
    try:
        values = json.loads(Path(path).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"`--config` ({path}) is not json: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"`--config` ({path}) must hold one json object with the sizes.")
    return values
