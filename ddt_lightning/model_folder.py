"""Parts of a model folder: which files belong to each, and where each may lie.

A model folder holds `tokenizer/`, `lm/` and `vocab/`, and perhaps `renderer/`. The run of a stage holds the parts it
trained in `release/`. Whoever names a part may name its own folder, a model folder, a release, a run, or a model as
`pretrained.py` knows it.
"""

from pathlib import Path

from ddt_lightning.pretrained import locate

PARTS = {
    "tokenizer": ("config.json", "model.safetensors"),
    "renderer": ("config.json", "model.safetensors"),
    "lm": ("config.json", "*.safetensors"),  # large ones come in several files
    "vocab": ("vocab.json",),
}
"""Files of each part; of a pattern at least one."""


def lacking(part: str, folder: Path) -> list[str]:
    """Files of a part, as in `PARTS`, that are not in its folder."""
    return [name for name in PARTS[part] if not any(folder.glob(name))]


def holds(part: str, folder: Path) -> bool:
    """Whether the folder `folder/part/` holds all files of the part."""
    return not lacking(part, folder / part)


def find_part(part: str, given: str | Path, option: str | None = None) -> Path:
    """The folder of a part: `given/release/part/`, `given/part/` or `given` itself, in this order.

    Args:
        part: a key of `PARTS`.
        given: a run, a release, a model folder or its name, or the part's own folder.
        option: the option that gave it, for the error; `--part` if not given.

    Raises:
        FileNotFoundError: none of these folders holds the files of the part.
    """
    home = locate(given)
    places = [home / "release" / part, home / part, home]
    for folder in places:
        if not lacking(part, folder):
            return folder
    begun = next((folder for folder in places if len(lacking(part, folder)) < len(PARTS[part])), None)
    if begun is not None:
        raise FileNotFoundError(
            f"`{option or f'--{part}'}` ({given}): {begun} lacks {', '.join(lacking(part, begun))} of the {part}: "
            "copy all of its files."
        )
    raise FileNotFoundError(
        f"`{option or f'--{part}'}` ({given}) holds no {part}: {' or '.join(PARTS[part])} is neither in it nor in "
        f"{part}/ or release/{part}/; name a run of `ddt-fit` or a model folder."
    )
