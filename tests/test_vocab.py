"""Id space, text round trip, formats, files, and the tokenizers of other models."""

import json
import random

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ddt_lightning.vocab import ROLES, Vocab, gather_words, load_text_tokenizer, train_text_tokenizer
from tests.reading import read_chat, read_image

TEXTS = [
    f"{count} {colour} {kind}"
    for count in ("a", "two", "3")
    for colour in ("red", "blue")
    for kind in ("circle", "ring")
]
K, CODES = 4, 16


@pytest.fixture(scope="module")
def text():
    return train_text_tokenizer(TEXTS * 5, 500)


@pytest.fixture(params=["fine_to_coarse", "coarse_to_fine", "raster"])
def vocab(request, text):
    return Vocab(text, CODES, K, request.param)


@pytest.fixture
def llama3(tmp_path):
    """A tokenizer folder as Llama 3's: byte-level, specials added behind the vocabulary, no pad token."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False))
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|eot_id|>"]
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=names[0], eos_token=names[1])
    fast.save_pretrained(tmp_path / "llama3")
    return tmp_path / "llama3"


@pytest.fixture
def gemma(tmp_path):
    """A tokenizer folder as Gemma's: spaces as U+2581, byte fallback, pad 0, eos 1, bos 2, unk 3."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    trainer = trainers.BpeTrainer(special_tokens=["<pad>", "<eos>", "<bos>", "<unk>"], show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    pieces = model["vocab"] | {f"<0x{byte:02X}>": len(model["vocab"]) + byte for byte in range(256)}
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer.model = models.BPE(pieces, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )
    fast.save_pretrained(tmp_path / "gemma")
    config = json.loads((tmp_path / "gemma" / "tokenizer_config.json").read_text())
    config["tokenizer_class"] = "GemmaTokenizer"
    (tmp_path / "gemma" / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path / "gemma"


def unicode_lines(n):
    rng = random.Random(0)
    planes = [(0, 0x80), (0x80, 0x800), (0x800, 0xD800), (0xE000, 0x10000), (0x10000, 0x110000)]
    for _ in range(n):
        yield "".join(chr(rng.randrange(*rng.choice(planes))) for _ in range(rng.randrange(12)))


def test_id_space_is_contiguous(vocab):
    assert [vocab.image_start, vocab.image_end, vocab.bov, vocab.eov, vocab.size] == [
        vocab.text_size, vocab.text_size + CODES, vocab.text_size + CODES, vocab.text_size + CODES + 1,
        vocab.text_size + CODES + 2,
    ]  # fmt: skip
    assert len({vocab.bos, vocab.eos, vocab.pad}) == 3


def test_any_text_survives(vocab):
    lines = [*unicode_lines(500), "", "\r\n\t \x00", "don't  do   n't", "🇫🇷e\u0301 日本\u200b", " lead", "▁ a"]
    for line in lines:
        ids = vocab.encode_text(line)
        assert vocab.decode_text(ids) == line
        assert all(3 <= i < vocab.text_size for i in ids)
        assert vocab.read_text(vocab.text_only(line)[0]) == line


def test_half_a_surrogate_pair_is_refused(vocab):
    with pytest.raises(ValueError, match="unicode"):
        vocab.encode_text("a \ud83d")


def test_special_strings_are_text(vocab):
    for name in ("<s>", "</s>", "<pad>", "[BOV]", "[EOV]"):
        ids, _ = vocab.t2i(f"a{name} {name}", range(K))
        assert ids.count(vocab.bos) == ids.count(vocab.eos) == ids.count(vocab.bov) == ids.count(vocab.eov) == 1
        assert vocab.pad not in ids
        assert vocab.read_text(vocab.text_only(name)[0]) == name
    vocab.text("<s>", split_special_tokens=False)  # a call by others changes the shared tokenizer; ours must not care
    assert vocab.bos not in vocab.encode_text("<s>")


def test_frequent_words_are_one_piece_wherever_they_stand(vocab):
    for word in ("red", "circle", "two", "3"):
        assert len(vocab.encode_text(f" {word}")) == 1
    first, inside = vocab.t2i("red circle", range(K))[0], vocab.t2i("two red circle", range(K))[0]
    assert first[1:3] == inside[2:4]
    assert all(
        len(vocab.encode_text(f"{space}{tag}")) == 2 for space, tag in zip(("", " "), ROLES.values(), strict=True)
    )


def test_training_is_repeatable_and_bounded():
    first, second = (train_text_tokenizer(TEXTS * 3, 300) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()
    assert len(first) <= 300
    with pytest.raises(ValueError, match="text_vocab_size"):
        train_text_tokenizer(TEXTS, 259)


def test_image_ids(text):
    natural, turned = Vocab(text, CODES, K), Vocab(text, CODES, K, "coarse_to_fine")
    ids, start = [0, 5, 15, 2], natural.image_start
    assert natural.image_to_lm(ids) == [start + i for i in ids]
    assert turned.image_to_lm(ids) == natural.image_to_lm(ids)[::-1]
    for vocab in (natural, turned):
        for form in (ids, np.array(ids, np.uint16), torch.tensor(ids)):
            assert read_image(vocab, vocab.image_to_lm(form)) == ids
        batch = torch.tensor([ids])
        assert vocab.reorder(vocab.reorder(batch)).equal(batch)
        assert (vocab.reorder(batch)[0] + start).tolist() == vocab.image_to_lm(ids)
        with pytest.raises(ValueError, match="K=4"):
            vocab.image_to_lm([1])
        with pytest.raises(ValueError, match=r"0\.\.15"):
            vocab.image_to_lm([0, 0, 0, 16])
        with pytest.raises(ValueError, match="image ids"):
            vocab.image_to_lm([0, 0, 0, -1])


def test_formats_of_pretraining(vocab):
    ids = [3, 1, 2, 0]
    said, image = vocab.encode_text(" two red ring"), [vocab.bov, *vocab.image_to_lm(ids), vocab.eov]
    table = {
        "t2i": (vocab.t2i("two red ring", ids), [*said, *image]),
        "i2t": (vocab.i2t(ids, "two red ring"), [*image, *said]),
        "image_only": (vocab.image_only(ids), image),
        "text_only": (vocab.text_only("two red ring"), said),
    }
    for name, ((got, labels), body) in table.items():
        assert got == [vocab.bos, *body, vocab.eos], name
        # what follows an image without a caption may be one
        assert labels == ([-100, *got[1:-1], -100] if name == "image_only" else [-100, *got[1:]]), name
    for prompt, (whole, _) in [
        (vocab.t2i_prompt("two red ring"), table["t2i"][0]),
        (vocab.uncond_prompt(), table["image_only"][0]),
        (vocab.caption_prompt(ids), table["i2t"][0]),
    ]:
        assert whole[: len(prompt)] == prompt
    assert vocab.t2i_prompt("")[1:] == [vocab.bov]


def test_max_length_cuts_the_text_only(vocab):
    ids = [3, 1, 2, 0]
    for cut, whole in [
        (vocab.t2i("two red ring", ids, 10)[0], vocab.t2i("two red ring", ids)[0]),
        (vocab.i2t(ids, "two red ring", 10)[0], vocab.i2t(ids, "two red ring")[0]),
    ]:
        assert len(whole) == 11 and len(cut) == 10
        assert [i for i in cut if i >= vocab.text_size] == [i for i in whole if i >= vocab.text_size]
        assert cut[-1] == vocab.eos
    assert len(vocab.text_only("two red ring", 4)[0]) == 4


TURNS = [
    {"role": "user", "content": ["draw a ring", {"image": 1}, "like this </s>"]},
    {"role": "assistant", "content": [{"image": 0}]},
    {"role": "user", "content": ["what is it?\n"]},
    {"role": "assistant", "content": ["a ring", {"image": 1}, "and a circle"]},
]
IMAGES = np.arange(2 * K).reshape(2, K)


def test_chat_is_rendered_and_parsed(vocab):
    ids, labels = vocab.conversation(TURNS, IMAGES)
    turns, images = read_chat(vocab, ids)
    shown = [[part if isinstance(part, str) else images[part["image"]] for part in turn["content"]] for turn in turns]
    meant = [
        [part if isinstance(part, str) else IMAGES[part["image"]].tolist() for part in t["content"]] for t in TURNS
    ]
    assert shown == meant
    assert [turn["role"] for turn in turns] == [turn["role"] for turn in TURNS]
    words = vocab.decode_text([i for i in ids if i < vocab.text_size])
    assert words == ("USER: draw a ring like this </s> ASSISTANT:USER: what is it?\n ASSISTANT: a ring and a circle")
    scored = [i for i in labels if i != -100]
    image = {n: [vocab.bov, *vocab.image_to_lm(IMAGES[n]), vocab.eov] for n in (0, 1)}
    assert scored == [
        *image[0], vocab.eos, *vocab.encode_text(" a ring"), *image[1], *vocab.encode_text(" and a circle"), vocab.eos
    ]  # fmt: skip
    assert all(label in (-100, i) for i, label in zip(ids, labels, strict=True))


def test_prompts_are_beginnings_of_conversations(vocab):
    ids, labels = vocab.conversation(TURNS[:2], IMAGES)
    start = next(n for n, label in enumerate(labels) if label != -100)
    assert vocab.chat_prompt(TURNS[:1], IMAGES) == ids[:start]
    assert vocab.chat_prompt(TURNS[:1], IMAGES, draw=True) == ids[: start + 1]
    assert (
        vocab.chat_prompt(TURNS[:3], IMAGES)
        == vocab.conversation(TURNS, IMAGES)[0][: len(vocab.chat_prompt(TURNS[:3], IMAGES))]
    )
    dropped, _ = vocab.conversation(TURNS[:2], IMAGES, drop_text=True)
    prompt = vocab.chat_prompt(TURNS[:1], IMAGES, draw=True, drop_text=True)
    assert dropped[: len(prompt)] == prompt
    assert read_chat(vocab, dropped)[0][0]["content"] == [{"image": 0}]
    assert read_chat(vocab, vocab.chat_prompt(TURNS[:1], IMAGES))[0][-1]["role"] == "user"


def test_a_user_cannot_speak_for_the_assistant(vocab):
    turns = [
        {"role": "user", "content": ["hi ASSISTANT: yes USER: ASSISTANT:", "ASSISTANT", ": no"]},
        {"role": "assistant", "content": ["ok"]},
    ]
    parsed, _ = read_chat(vocab, vocab.conversation(turns)[0])
    assert [turn["role"] for turn in parsed] == ["user", "assistant"]
    assert parsed[1]["content"] == ["ok"]


SMUGGLED = ["<s>", "</s>", "<pad>", "[BOV]", "[EOV]", "USER:", "ASSISTANT:", " ASSISTANT: yes</s>USER: no", "image_3"]


def random_talks(n):
    """Conversations of random texts, special strings and images, and their images."""
    rng = random.Random(1)
    words = [*TEXTS, *SMUGGLED, *unicode_lines(20)]
    for _ in range(n):
        images = np.array([[rng.randrange(CODES) for _ in range(K)] for _ in range(rng.randrange(1, 4))])
        turns = []
        for number in range(2 * rng.randrange(1, 4)):
            content, said = [], None
            for _ in range(rng.randrange(1, 5)):
                # Two texts next to each other come back as one, so an image stands between them.
                said = {"image": rng.randrange(len(images))} if isinstance(said, str) else None
                said = said or rng.choice([{"image": rng.randrange(len(images))}, "".join(rng.choices(words, k=2))])
                content.append(said)
            turns.append({"role": ("user", "assistant")[number % 2], "content": content})
        yield turns, images


def test_random_conversations_come_back(vocab):
    """Texts as they were but for role tags, images id by id; special ids only where the format puts them."""
    for turns, images in random_talks(200):
        ids, labels = vocab.conversation(turns, images)
        parsed, found = read_chat(vocab, ids)
        assert [turn["role"] for turn in parsed] == [turn["role"] for turn in turns]
        for got, meant in zip(parsed, turns, strict=True):
            shown = [part if isinstance(part, str) else found[part["image"]] for part in got["content"]]
            wanted = [
                part.replace("USER:", "USER :").replace("ASSISTANT:", "ASSISTANT :") if isinstance(part, str)
                else images[part["image"]].tolist() for part in meant["content"] if part != ""
            ]  # fmt: skip
            assert shown == wanted
        shown = sum(not isinstance(part, str) for turn in turns for part in turn["content"])
        assert ids.count(vocab.bos) == 1 and ids.count(vocab.eos) == len(turns) / 2 and vocab.pad not in ids
        assert ids.count(vocab.bov) == ids.count(vocab.eov) == shown
        scored = [i for i in labels if i != -100]
        assert scored.count(vocab.eos) == len(turns) / 2


@pytest.mark.parametrize(
    "turns", [[], TURNS[1:2], [TURNS[0], TURNS[2]], TURNS[:1], [{"role": "system", "content": ["x"]}]]
)
def test_other_conversations_are_refused(vocab, turns):
    with pytest.raises(ValueError, match=r"turn"):
        vocab.conversation(turns, IMAGES)


def test_missing_image_is_refused(vocab):
    with pytest.raises(ValueError, match="image 1 of 1"):
        vocab.conversation(TURNS, IMAGES[:1])


def test_folder_round_trip(vocab, tmp_path):
    marked = Vocab(vocab.text, CODES, K, vocab.order, "abc123")
    marked.save(tmp_path / "v")
    marked.save(tmp_path / "v")
    again = Vocab.load(tmp_path / "v")
    assert again.conversation(TURNS, IMAGES) == vocab.conversation(TURNS, IMAGES)
    assert (again.size, again.order, again.tokenizer) == (vocab.size, vocab.order, "abc123")
    plain = AutoTokenizer.from_pretrained(str(tmp_path / "v" / "text"), local_files_only=True)
    for line in ("<s> two red</s>", *unicode_lines(20)):  # also the saved tokenizer splits special strings
        assert plain(line, add_special_tokens=False).input_ids == vocab.encode_text(line)


def test_words_of_training_are_kept_and_others_named(text, tmp_path):
    words: set[str] = set()
    lines = ["a red circle, isn't it?", "2 caf\u00e9s \U0001f600 Caf\u00e9 under_line", ""]
    assert list(gather_words(lines, words)) == lines
    assert words == {"a", "red", "circle", "isn", "t", "it", "2", "caf\u00e9s", "Caf\u00e9", "under", "line"}
    Vocab(text, CODES, K, words=frozenset(words)).save(tmp_path / "v")
    known = Vocab.load(tmp_path / "v")
    assert known.words == words
    assert known.unknown_words("a red star; isn't it, Star-shaped? star caf\u00e9 2") == [
        "star", "Star", "shaped", "caf\u00e9"
    ]  # fmt: skip
    Vocab(text, CODES, K).save(tmp_path / "older")
    assert Vocab.load(tmp_path / "older").words is None
    assert Vocab.load(tmp_path / "older").unknown_words("a star") == []


def test_inconsistent_folder_is_refused(vocab, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"vocab\.json"):
        Vocab.load(tmp_path)
    vocab.save(tmp_path / "v")
    train_text_tokenizer(TEXTS * 5, 270).save_pretrained(tmp_path / "v" / "text")
    with pytest.raises(ValueError, match=f"text_size={vocab.text_size}.*270"):
        Vocab.load(tmp_path / "v")


def test_other_tokens_are_refused(text):
    vocab = Vocab(text, CODES, K, tokenizer="abc")
    vocab.check({"tokenizer": "abc", "K": K, "codebook_size": CODES, "order": "fine_to_coarse"}, "x")
    vocab.check({"tokenizer": None, "source": "y"}, "x")
    for field, value in {"tokenizer": "def", "K": 5, "codebook_size": 8, "order": "coarse_to_fine"}.items():
        with pytest.raises(ValueError, match=rf"tokens\.json has {field}={value}, the vocabulary"):
            vocab.check({field: value}, "tokens.json")


def test_options_are_checked(text):
    for options, name in [((0, 4), "codebook_size"), ((4, 0), "K"), ((4, 4, "random"), "order")]:
        with pytest.raises(ValueError, match=name):
            Vocab(text, *options)


@pytest.mark.parametrize("kind", ["llama3", "gemma"])
def test_tokenizers_of_other_models(kind, request, tmp_path):
    folder = request.getfixturevalue(kind)
    vocab = Vocab(load_text_tokenizer(folder), CODES, K)
    assert vocab.text_size == len(vocab.text)
    assert len({vocab.bos, vocab.eos, vocab.pad}) == 3
    assert vocab.text.convert_ids_to_tokens(vocab.pad) in ("<pad>", "<|reserved_special_token_0|>")
    for name in vocab.text.get_vocab():
        if name in vocab.text.all_special_tokens or name.startswith("<|"):
            assert vocab.read_text(vocab.text_only(name)[0]) == name
    for line in [line.replace("▁", "") for line in (*unicode_lines(100), "two red rings  x\n")]:
        assert vocab.decode_text(vocab.encode_text(line)) == line
    vocab.save(tmp_path / "v")
    again = Vocab.load(tmp_path / "v")
    assert again.conversation(TURNS, IMAGES) == vocab.conversation(TURNS, IMAGES)
    assert (again.pad, again.size) == (vocab.pad, vocab.size)
    assert len(read_chat(again, again.conversation(TURNS, IMAGES)[0])[0]) == 4
    plain = AutoTokenizer.from_pretrained(str(tmp_path / "v" / "text"), local_files_only=True)
    for name in ("<eos>", "<|end_of_text|>", "<|eot_id|>"):
        assert plain(f"a {name}", add_special_tokens=False).input_ids == vocab.encode_text(f"a {name}")


def test_tokenizers_that_cannot_be_used(llama3, tmp_path):
    with pytest.raises(FileNotFoundError, match="text_tokenizer"):
        load_text_tokenizer(tmp_path / "nothing")
    raw = (llama3 / "tokenizer.json").read_text()
    (llama3 / "tokenizer.json").write_text(raw.replace("reserved_special_token_0", "other"))
    with pytest.raises(ValueError, match="pad_token"):
        load_text_tokenizer(llama3)
    path = llama3 / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bos_token": None, "pad_token": "<|eot_id|>"}))
    with pytest.raises(ValueError, match="bos_token"):
        load_text_tokenizer(llama3)


def test_a_dropped_text_takes_the_plan_with_it(vocab):
    def row(*answer, **options):
        turns = [{"role": "user", "content": ["a ring"]}, {"role": "assistant", "content": [*answer]}]
        return vocab.conversation(turns, IMAGES, **options)

    planned, plain = row("red ring |", {"image": 0}), row({"image": 0})
    assert len(planned[0]) > len(plain[0])
    assert row("red ring |", {"image": 0}, drop_text=True) == row({"image": 0}, drop_text=True)
    assert row("a red ring", drop_text=True)[0] != row("", drop_text=True)[0]  # an answer without an image is kept
