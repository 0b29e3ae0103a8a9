"""Prompts of a command line: one as it is typed, those of a file, or names of classes."""

import os
from pathlib import Path

from ddt_lightning.texts import as_texts, parse_json, read_json_file, read_lines

ENDINGS = (".txt", ".md", ".jsonl", ".json")  # a word that ends so is the name of a file, not a prompt


def read_prompts(prompt: str) -> list[str]:
    """One prompt as it is, or those of a file that exists under this name.

    A `.jsonl` file has an object with a "prompt" on each line, a `.json` file a list of prompts or such objects, and
    any other text file a prompt on each line.

    Raises:
        FileNotFoundError: the name of a prompt file is given and there is none.
        ValueError: naming a file and line without a prompt, or an empty prompt.
    """
    path = existing(prompt)
    if path is None:
        if os.sep in prompt and Path(prompt).is_dir():
            raise ValueError(f"{prompt} is a folder: name a file of prompts in it.")
        ends = prompt.strip().lower().endswith(ENDINGS)
        if ends and (not any(map(str.isspace, prompt.strip())) or os.sep in prompt):
            raise FileNotFoundError(f"No file of prompts {prompt}: check the name, or write the prompt as a sentence.")
        if not prompt.strip():
            raise ValueError("The prompt is empty.")
        return [prompt]
    if path.suffix.lower() == ".jsonl":
        found = [from_line(prompt, number, line) for number, line in read_lines(path)]
    elif path.suffix.lower() == ".json":
        found = from_list(prompt, read_json_file(path))
    else:
        found = [line.strip() for _, line in read_lines(path)]
    if not found:
        raise ValueError(f"{prompt} holds no prompt.")
    return found


def existing(prompt: str) -> Path | None:
    """The file of this name, if there is one; long sentences are no names."""
    path = Path(prompt).expanduser() if prompt.startswith("~/") else Path(prompt)
    try:
        return path if path.is_file() else None
    except (OSError, ValueError):  # the system takes no name that is so long, or with a zero byte
        return None


def from_line(file: str, number: int, line: str) -> str:
    """The prompt of a line of JSON.

    Raises:
        ValueError: naming the file and the line.
    """
    try:
        entry = parse_json(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict) or "prompt" not in entry:
        raise ValueError(f'{file}, line {number} is not a JSON object with a "prompt".')
    return single(entry["prompt"], f'{file}, line {number}: "prompt"')


def from_list(file: str, data: object) -> list[str]:
    """The prompts of a JSON list.

    Raises:
        ValueError: naming the file and the entry.
    """
    if not isinstance(data, list):
        raise ValueError(f'{file} must be a JSON list of prompts, or of objects with a "prompt".')
    entries = [entry["prompt"] if isinstance(entry, dict) and "prompt" in entry else entry for entry in data]
    return [single(entry, f"{file}, entry {number}") for number, entry in enumerate(entries, 1)]


def single(value: object, where: str) -> str:
    """A prompt of a JSON value: a text that is not empty, or a number.

    Raises:
        ValueError: naming where it stands.
    """
    texts = as_texts(value, where, "prompt") if not isinstance(value, list | dict) else []
    if not texts:
        raise ValueError(f"{where} must be one text that is not empty.")
    return texts[0]


def class_names(classes: str, prompts: list[str]) -> list[str]:
    """Prompts that are classes, by name or by number from 0, as names.

    Args:
        classes: a file with a name on each line, or a .json list of names.
        prompts: the classes that are asked for.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming a prompt that is no class, or a .json file that is no list of names.
    """
    path = existing(classes)
    if path is None:
        raise FileNotFoundError(f"`--classes` ({classes}) is not a file.")
    json = path.suffix.lower() == ".json"
    names = read_json_file(path) if json else [line.strip() for _, line in read_lines(path)]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"`--classes` ({classes}) must be a list of names.")
    numbered = {str(number): name for number, name in enumerate(names)}
    for prompt in prompts:
        if prompt not in numbered and prompt not in names:
            raise ValueError(f"`{prompt}` is not a class: `--classes` ({classes}) has 0..{len(names) - 1} and names.")
    return [prompt if prompt in names else numbered[prompt] for prompt in prompts]
