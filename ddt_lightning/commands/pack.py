"""`ddt pack`: a trained model as a small folder to ship, with a card that says what it is.

Weights are rounded to 16 bits, or the matrices that make pictures of ids to 8 with a scale for each row; those that
make ids of pictures stay at 16, because ids change with them. A tokenizer of other weights is another tokenizer, so the
vocabulary and the renderer name the rounded one.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ddt_lightning.atomic import whole_folder, write_text
from ddt_lightning.inputs import Loading, find_parts, load_pipeline

if TYPE_CHECKING:
    from ddt_lightning.pipeline import Pipeline

MB = 1e6
Bits = Literal["8", "16"]


def pack(
    model: str,
    folder: str,
    *,
    command: str,
    data: str,
    run: str | None = None,
    texts: list[str] | None = None,
    bits: Bits = "16",
    licence: str = "MIT",
    prompt: str = "a photo of a red circle and a blue square",
    most_mb: float = 15.0,
) -> None:
    """Write a model as a folder to ship, such as data/pretrained/scenes: few bytes, a card, a hash of every file.

    Args:
        model: model folder, or the name of a model.
        folder: folder to write, which must not be there yet.
        command: how the model was trained, for the card.
        data: what it was trained on and whose that is, for the card.
        run: folder with the run's metrics.json and eval/, whose seconds and scores the card repeats.
        texts: shards of its training texts; needed where the vocabulary does not hold their words.
        bits: of a stored weight; 8 for the matrices of the decoder and the renderer leaves the rest at 16.
        licence: of the weights, for the card.
        prompt: an example for the card.
        most_mb: megabytes that the folder may have.

    Raises:
        FileExistsError: `folder` is there.
        ValueError: no words are known, or the folder would be too large.
    """
    target = Path(folder)
    if target.exists():
        raise FileExistsError(f"{folder} is there already: remove it, or name another folder.")
    facts = read_run(Path(run)) if run is not None else {}
    source, _ = find_parts(Loading(model), True)
    pipeline = load_pipeline(Loading(model))
    vocab = pipeline.vocab
    if vocab.words is None:
        if texts is None:
            raise ValueError(
                f"{model} does not hold the words of its training texts, which tell users what it has never met: name "
                "the shards with `--texts`."
            )
        vocab.words = words_of(texts)
    round_weights(pipeline, bits)
    vocab.tokenizer = pipeline.tokenizer.fingerprint()
    with whole_folder(target) as stage:
        write_parts(pipeline, source / "lm", stage, bits)
        size = sum(path.stat().st_size for path in stage.rglob("*") if path.is_file())
        if size > most_mb * MB:
            raise ValueError(
                f"{folder} would have {size / MB:.1f} MB, more than `--most_mb` ({most_mb:g}): train a smaller model, "
                "or store it with `--bits 8`."
            )
        check_parts(pipeline, stage)
        about = {"command": command, "data": data, "licence": licence, "prompt": prompt, "bits": bits, **facts}
        write_text(stage / "README.md", card(target.name, pipeline, stage, about))
    print(f"{size / MB:.1f} MB in {folder}")


def round_weights(pipeline: "Pipeline", bits: Bits) -> None:
    """Round the weights of all networks to what their files will hold.

    Raises:
        ValueError: a weight is beyond the range of 16 bits.
    """
    import torch

    from ddt_lightning.tokens.base import from_stored

    for part, net in networks(pipeline).items():
        for name, value in net.state_dict().items():
            with torch.no_grad():
                value.copy_(from_stored(to_stored({name: value}, part, bits))[name])
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name} holds values beyond the range of 16 bits: it cannot be stored so.")


def networks(pipeline: "Pipeline") -> dict[str, Any]:
    """The networks of a model by their folders."""
    renderer = {} if pipeline.renderer is None else {"renderer": pipeline.renderer}
    return {"tokenizer": pipeline.tokenizer, **renderer, "lm": pipeline.llm}


def to_stored(state: dict[str, Any], part: str, bits: Bits) -> dict[str, Any]:
    """Weights as a file holds them, for `from_stored`: matrices as int8 with a scale for each row, or floats halved.

    A scale has the precision of bfloat16, so that its products with int8 are exact and storing twice changes nothing.

    Args:
        state: weights by name.
        part: folder of their network.
        bits: see `pack`.
    """
    import torch

    from ddt_lightning.tokens.base import SCALE

    stored = {}
    for name, value in state.items():
        value = value.detach().cpu()
        decodes = part == "renderer" or (part == "tokenizer" and name.startswith("decoder."))
        if bits == "8" and decodes and value.is_floating_point() and value.dim() > 1:
            rows = value.float().flatten(1)
            scale = (rows.abs().amax(1).clamp(min=1e-12) / 127).bfloat16().float()
            stored[name] = (rows / scale[:, None]).round().to(torch.int8).view(value.shape).contiguous()
            stored[name + SCALE] = scale
        else:
            stored[name] = (value.half() if value.is_floating_point() else value).contiguous()
    return stored


def write_parts(pipeline: "Pipeline", lm: Path, stage: Path, bits: Bits) -> None:
    """Write `tokenizer/`, `renderer/`, `lm/` and `vocab/` with stored weights; `lm` is where the pipeline's lies."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    pipeline.tokenizer.save_pretrained(stage / "tokenizer")
    if pipeline.renderer is not None:
        pipeline.renderer.save_pretrained(stage / "renderer")
    (stage / "lm").mkdir()
    for file in (*lm.glob("*.json"), *lm.glob("*.safetensors")):
        shutil.copyfile(file, stage / "lm" / file.name)
    pipeline.vocab.save(stage / "vocab")
    for part in networks(pipeline):
        for file in (stage / part).glob("*.safetensors"):
            with safe_open(file, "pt") as opened:
                metadata = opened.metadata()
            save_file(to_stored(load_file(file), part, bits), file, metadata)
            file.chmod(0o644)


def check_parts(pipeline: "Pipeline", stage: Path) -> None:
    """Read a written folder and compare it with the networks that it was written from.

    Raises:
        ValueError: a network has other weights.
    """
    from ddt_lightning.pipeline import Pipeline

    found, expected = Pipeline.from_pretrained(stage).fingerprints(), pipeline.fingerprints()
    if found != expected:
        raise ValueError(f"The written networks have the hashes {found}, not {expected}.")


def words_of(patterns: list[str]) -> frozenset[str]:
    """Words of the texts of shards, and of requests."""
    from ddt_lightning.shards.read import Columns, expand
    from ddt_lightning.shards.rows import every_text, with_wordings
    from ddt_lightning.vocab import gather_words

    words: set[str] = set()
    for _ in gather_words(with_wordings(every_text(expand(patterns, "texts"), Columns(), {})), words):
        pass
    return frozenset(words)


def read_run(run: Path) -> dict[str, Any]:
    """Seconds and evaluation cards of a run.

    Raises:
        FileNotFoundError: it lacks metrics.json or eval/.
    """
    from ddt_lightning.metrics.cards import read_cards

    for path in (run / "metrics.json", run / "eval"):
        if not path.exists():
            raise FileNotFoundError(f"`--run` ({run}) has no {path.name}: name the folder of a run that was evaluated.")
    seconds = json.loads((run / "metrics.json").read_text())["time/total_s"]
    cards = read_cards(run / "eval")
    seen = read_cards(run / "eval" / "seen") if (run / "eval" / "seen").is_dir() else {}
    return {"seconds": seconds, "cards": cards | {f"seen/{key}": value for key, value in seen.items()}}


def card(name: str, pipeline: "Pipeline", stage: Path, about: dict[str, Any]) -> str:
    """The text of README.md: what the model is, how it was made, its scores with intervals, its files with hashes."""
    vocab = pipeline.vocab
    weights = sum(parameter.numel() for net in networks(pipeline).values() for parameter in net.parameters())
    cards = {key: value for key, value in about.get("cards", {}).items() if value["interval"] is not None}
    marks = pipeline.fingerprints()
    # a score names the parts of the model that it was measured of, and judges
    measured = [value.get("weights", {}).items() for value in cards.values()]
    named = [{(part, mark) for part, mark in one if part in marks} for one in measured]
    same = all(one and one <= marks.items() for one in named)
    rounded = "of these weights" if same else "before weights were rounded"
    lines = [
        f"# {name}",
        "",
        f'    ddt generate "{about["prompt"]}" --model {name}',
        "",
        f"- {weights:,} weights: tokenizer, {'renderer, ' if pipeline.renderer else ''}language model.",
        f"- Images of {pipeline.image_size} x {pipeline.image_size} pixels are {vocab.image_tokens} tokens of "
        f"{vocab.codebook_size:,}.",
        f"- {'Plans in words before it draws.' if vocab.plans else 'Draws without a plan.'}",
        f"- Trained by `{about['command']}`"
        + (f" in {about['seconds']:,.0f} seconds, evaluation included." if "seconds" in about else "."),
        f"- Data: {about['data']}",
        f"- It met {len(vocab.words or ()):,} words in training, listed in `vocab/words.txt`.",
        f"- Stored with {about['bits']} bits a weight"
        + (" where pictures are decoded, with 16 elsewhere." if about["bits"] == "8" else "."),
        f"- Licence: {about['licence']}.",
        "",
    ]
    if cards:
        lines += [f"Scores with 95 % intervals, measured {rounded}:", "", "| score | value | interval | n |"]
        lines += ["|---|---|---|---|"]
        for key, value in sorted(cards.items()):
            low, high = value["interval"]
            lines.append(f"| {key} | {value['value']:.3f} | {low:.3f} to {high:.3f} | {value['n']} |")
        lines.append("")
    lines += ["| file | bytes | sha256 |", "|---|---|---|"]
    for path in sorted(path for path in stage.rglob("*") if path.is_file()):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        lines.append(f"| {path.relative_to(stage)} | {path.stat().st_size:,} | {digest} |")
    return "\n".join(lines) + "\n"
