"""`ddt export` and `ddt import`: our language model as a plain transformers folder, and back."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddt_lightning.atomic import staged, write_text
from ddt_lightning.model_folder import find_part, holds

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from ddt_lightning.vocab import Vocab


CAPTIONS = (
    "a photo of a red circle and a blue square",
    "Draw two cats, please:  one (left) & one \u2013 right\u2026",
    "\u00e4\u00f6\u00fc \u732b \U0001f600 tabs\tand\nlines",
    "USER: forge a turn ASSISTANT: yes",
    "x",
)
"""Texts whose ids are compared; those of the special tokens come on top."""


def export(run: str, folder: str, *, tokenizer: str | None = None) -> None:
    """Write a language model as a folder that transformers loads without this project.

    The folder is read back and compared with the model: logits of random rows, ids of texts, of a chat, of every token.

    A run that has not ended is exported from its last checkpoint, also a sharded one.

    Args:
        run: the run of `ddt-fit pretrain` or `instruct`, its release, or a model folder.
        folder: folder to write: safetensors, tokenizer with the image ids, generation config, README.md.
        tokenizer: tokenizer folder or run to add as `tokenizer/`; by default the one in `run`, if any.

    Raises:
        FileNotFoundError: `run` holds no language model, or `tokenizer` no tokenizer.
        ValueError: the parts do not belong together, or what was written differs from the model.
    """
    from ddt_lightning.training.checkpoint import last_checkpoint

    lm: Path | None = None
    if last_checkpoint(run).exists() and not holds("lm", Path(run) / "release"):
        vocab_folder = vocab_of_run(Path(run))
    else:
        lm, vocab_folder = find_part("lm", run, "run"), find_part("vocab", run, "run")
    images = find_part("tokenizer", tokenizer) if tokenizer is not None else None
    if images is None and (holds("tokenizer", Path(run)) or holds("tokenizer", Path(run) / "release")):
        images = find_part("tokenizer", run)

    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    from ddt_lightning.lm import export as plain
    from ddt_lightning.lm.card import model_card
    from ddt_lightning.vocab import Vocab, write_words

    disable_progress_bar()
    vocab = Vocab.load(vocab_folder)
    if images is not None:
        check_tokenizer(vocab, images)
    if lm is None:
        model = unfinished(Path(run), vocab).eval()
    else:
        model = AutoModelForCausalLM.from_pretrained(str(lm), local_files_only=True, use_safetensors=True).eval()
    facts = facts_of(vocab)
    expected = plain.probe(model)
    parameters, limit = model.num_parameters(), int(model.config.max_position_embeddings)
    with staged(folder) as stage:
        plain.write_model(stage, model, plain.extend_tokenizer(vocab.text, vocab.codebook_size), facts)
        family = model.config.model_type
        del model
        if images is not None:
            shutil.copytree(images, stage / "tokenizer")
        card = model_card(
            facts, family=family, parameters=parameters, max_length=limit, folder=".", images=images is not None
        )
        write_text(stage / "README.md", card)
        if vocab.words is not None:
            write_words(stage, vocab.words)
        again, extended, _ = plain.read_model(stage)
        difference = plain.compare_logits(plain.probe(again), expected)
        texts = compare_texts(extended, vocab)
    shown = "with its image tokenizer" if images is not None else "without an image tokenizer (`--tokenizer` adds it)"
    print(
        f"{parameters:,} parameters, {vocab.size} ids, {shown}; logits differ by {difference:.2g}, {texts} texts equal"
    )


def vocab_of_run(run: Path) -> Path:
    """The folder of the vocabulary that a run of a language model learns."""
    from ddt_lightning.training.continuation import read_settings

    return find_part("vocab", (read_settings(run / "config.yaml").get("data") or {}).get("vocab") or run, "run")


def unfinished(run: Path, vocab: "Vocab") -> "PreTrainedModel":
    """The language model in the newest whole checkpoint of a run, with its adapters merged.

    Raises:
        ValueError: all checkpoints are damaged, or the run's settings do not describe the weights.
    """
    from ddt_lightning.lm.llm import LlmConfig, build_llm
    from ddt_lightning.lm.lora import LoraConfig, merged
    from ddt_lightning.training.checkpoint import load_strictly, read_weights, resume_step
    from ddt_lightning.training.continuation import read_settings
    from ddt_lightning.training.kept import whole_checkpoint

    checkpoint, problems = whole_checkpoint(run)
    assert checkpoint is not None
    print("".join(f"{problem}\n" for problem in problems) + f"of {checkpoint}, step {resume_step(checkpoint)}")
    settings = read_settings(run / "config.yaml").get("model") or {}
    weights = read_weights(checkpoint, "lm", "llm.")
    if settings.get("lora"):
        weights = merged(weights, LoraConfig(**settings["lora"]))
    special = {"bos": vocab.bos, "eos": vocab.eos, "pad": vocab.pad}
    model = build_llm(LlmConfig(**settings.get("network") or {}), vocab.size, **special, folder=settings.get("llm"),
                      text_size=vocab.text_size)  # fmt: skip
    load_strictly(model, weights, checkpoint)
    return model


def import_lm(exported: str, folder: str) -> None:
    """Turn a folder of `ddt export`, perhaps trained on since, into a model folder of lm/, vocab/ and tokenizer/.

    Args:
        exported: what `ddt export` or transformers' save_pretrained wrote.
        folder: model folder, for `ddt generate --model` or `--init_from`.

    Raises:
        FileNotFoundError: no model in it.
        ValueError: model, text tokenizer and image tokenizer do not belong together.
    """
    from transformers.utils.logging import disable_progress_bar

    from ddt_lightning.lm.export import PLANS, read_model, text_part
    from ddt_lightning.vocab import Vocab, read_words

    disable_progress_bar()
    model, extended, facts = read_model(exported)
    text = text_part(extended, facts["text_size"])
    plans, words = {name: facts.get(name, False) for name in PLANS}, read_words(Path(exported))
    ids = facts["codebook_size"], facts["K"], facts["order"], facts["tokenizer"]
    vocab = Vocab(text, *ids, words=words, **plans)
    texts = compare_texts(extended, vocab)
    images = Path(exported) / "tokenizer"
    if images.is_dir():
        check_tokenizer(vocab, images)
    with staged(folder) as stage:
        model.save_pretrained(stage / "lm")
        vocab.save(stage / "vocab")
        if images.is_dir():
            shutil.copytree(images, stage / "tokenizer")
    print(f"{model.num_parameters():,} parameters, {vocab.size} ids, {texts} texts equal; {folder} is ready")


def facts_of(vocab: "Vocab") -> dict[str, Any]:
    """Facts that config.json of an exported model holds under `ddt`."""
    from ddt_lightning.lm.export import text_fingerprint

    return {
        "K": vocab.image_tokens,
        "codebook_size": vocab.codebook_size,
        "order": vocab.order,
        "tokenizer": vocab.tokenizer,
        "text_size": vocab.text_size,
        "text_tokenizer": text_fingerprint(vocab.text),
        "plans": vocab.plans,
        "answer_plans": vocab.answer_plans,
    }


def check_tokenizer(vocab: "Vocab", folder: Path) -> None:
    """Refuses an image tokenizer that the vocabulary's ids do not come from; a ValueError names what differs."""
    from ddt_lightning.load_tokenizer import load_tokenizer

    images = load_tokenizer(folder)
    sizes = {"K": images.config.tokens, "codebook_size": images.config.codebook_size}
    vocab.check({**sizes, "tokenizer": images.fingerprint()}, str(folder))


def compare_texts(extended: "PreTrainedTokenizerFast", vocab: "Vocab") -> int:
    """Compare the ids that an extended tokenizer gives texts and chats with the vocabulary's; how many were compared.

    Raises:
        ValueError: naming a text and both ids.
    """
    from ddt_lightning.lm.export import BOV, EOV, image_token

    special = [token.content for token in vocab.text.added_tokens_decoder.values() if token.special]
    forged = [
        f"a {name} b{name}" for name in (*special, BOV, EOV, image_token(0), image_token(vocab.codebook_size - 1))
    ]
    texts = [*CAPTIONS, *forged]
    for text in texts:
        chat = [{"role": "user", "content": text}]
        asked = extended.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        turns = [{"role": "user", "content": [text]}]
        for found, expected in (
            (extended(f" {text}").input_ids, [vocab.bos, *vocab.encode_text(f" {text}")]),
            (extended(asked).input_ids, vocab.chat_prompt(turns)),
        ):
            if found != expected:
                raise ValueError(f"{text!r} has the ids {found} in the exported tokenizer, {expected} in ours.")
    return len(texts)


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
