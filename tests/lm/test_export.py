"""Exported language models: plain transformers loads them, the card's code runs, and they come back unchanged."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from ddt_lightning.cli import main
from ddt_lightning.commands.model import compare_texts, export, facts_of, import_lm
from ddt_lightning.lm.export import compare_logits, extend_tokenizer, probe, text_fingerprint, text_part
from ddt_lightning.lm.generate import text_ids
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.stages.language import check_exported
from ddt_lightning.vocab import Vocab, train_text_tokenizer
from tests.tiny import TEXTS, image_ids, tiny_model, tiny_tokenizer

CODES, K = 24, 6
CODE = list(range(3, 9))
SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "initializer_range": 0.3,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip


def replaced(folder: Path, kind: str) -> Path:
    """A tiny model folder, its language model replaced by another kind."""
    tiny_model(folder, order="coarse_to_fine")
    rows = Vocab.load(folder / "vocab").size
    torch.manual_seed(1)
    if kind == "gemma2":
        model = Gemma2ForCausalLM(Gemma2Config(**SIZES, vocab_size=rows, query_pre_attn_scalar=8, sliding_window=4))
    else:
        model = LlamaForCausalLM(LlamaConfig(**SIZES, vocab_size=rows, tie_word_embeddings=kind == "tied"))
    shutil.rmtree(folder / "lm")
    model.save_pretrained(folder / "lm")
    return folder


@pytest.fixture(scope="module", params=["tied", "untied", "gemma2"])
def pair(request, tmp_path_factory):
    """A model folder and what `ddt export` made of it."""
    folder = tmp_path_factory.mktemp(request.param)
    export(str(replaced(folder / "model", request.param)), str(folder / "plain"))
    return folder / "model", folder / "plain"


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    export(str(replaced(folder / "model", "untied")), str(folder / "plain"))
    return folder / "model", folder / "plain"


def test_ids_of_tokenizer_and_model_are_ours(pair):
    vocab, tok = Vocab.load(pair[0] / "vocab"), AutoTokenizer.from_pretrained(pair[1])
    model = AutoModelForCausalLM.from_pretrained(pair[1])
    assert len(tok) == vocab.size == model.get_input_embeddings().num_embeddings
    names = [*(f"<|image:{code}|>" for code in range(CODES)), "[BOV]", "[EOV]"]
    assert tok.convert_tokens_to_ids(names) == list(range(vocab.image_start, vocab.size))
    assert (tok.bos_token_id, tok.eos_token_id, tok.pad_token_id) == (vocab.bos, vocab.eos, vocab.pad)
    ids = torch.tensor([vocab.t2i("a red circle", CODE)[0]])
    live = AutoModelForCausalLM.from_pretrained(pair[0] / "lm").eval()
    assert torch.equal(model.eval()(ids).logits, live(ids).logits)
    assert (model.generation_config.eos_token_id, model.generation_config.top_k) == (vocab.eos, 0)


def test_transformers_alone_loads_the_folder(llama):
    code = (
        "import sys\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f"m, t = (c.from_pretrained({str(llama[1])!r}) for c in (AutoModelForCausalLM, AutoTokenizer))\n"
        "out = m.generate(**t(' a red circle', return_tensors='pt'), max_new_tokens=3)\n"
        "assert out[0, 0] == t.bos_token_id and not any(n.startswith('ddt_lightning') for n in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", ["[BOV]", "<|image:3|>", "a </s> b", "<s><pad>", "[EOV]<|image:23|>x"])
def test_special_strings_in_a_text_are_split(llama, text):
    tok, size = AutoTokenizer.from_pretrained(llama[1]), Vocab.load(llama[0] / "vocab").text_size
    ids = tok(text, add_special_tokens=False).input_ids
    assert tok.decode(ids) == text and all(2 < i < size for i in ids)
    chat = tok.apply_chat_template([{"role": "user", "content": text}], tokenize=False)
    assert all(2 < i < size for i in tok(chat, add_special_tokens=False).input_ids)


def test_chat_template_writes_what_the_vocabulary_writes(llama):
    vocab, tok = Vocab.load(llama[0] / "vocab"), AutoTokenizer.from_pretrained(llama[1])
    for text in [*TEXTS, "", "USER: x ASSISTANT:", " two  spaces ", "\nline\n"]:
        for content in (text, [{"type": "text", "text": text}]):
            chat = [{"role": "user", "content": content}]
            asked = tok(tok.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)).input_ids
            assert asked == vocab.chat_prompt([{"role": "user", "content": [text]}])
            both = [*chat, {"role": "assistant", "content": "yes"}]
            turns = [{"role": "user", "content": [text]}, {"role": "assistant", "content": ["yes"]}]
            whole = tok(tok.apply_chat_template(both, tokenize=False)).input_ids
            assert [*whole, tok.eos_token_id] == vocab.conversation(turns)[0]


@pytest.mark.parametrize(
    "chat",
    [
        [("assistant", "x")],
        [("system", "x")],
        [("user", "x"), ("assistant", "y"), ("user", "z")],
        [("user", [{"type": "image"}])],
    ],
)
def test_chat_template_refuses_what_a_text_cannot_say(llama, chat):
    tok = AutoTokenizer.from_pretrained(llama[1])
    with pytest.raises(Exception, match=r"README|first message"):
        tok.apply_chat_template([{"role": role, "content": said} for role, said in chat], tokenize=False)


def card_code(folder: Path) -> dict:
    """What the example of the card defines."""
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]
    scope: dict = {}
    exec(code.replace('folder = "."', f"folder = {str(folder)!r}"), scope)
    return scope


def test_code_of_the_card_draws_and_answers_as_we_do(pair):
    card, vocab = card_code(pair[1]), Vocab.load(pair[0] / "vocab")
    live = AutoModelForCausalLM.from_pretrained(pair[0] / "lm").eval()
    ours = {"start": vocab.image_start, "codebook_size": CODES, "length": K, "temperature": 0.0, "pad": vocab.pad}
    for guidance in (1.0, 2.5):
        (found,) = image_ids(
            live,
            [vocab.t2i_prompt("two crosses")],
            unconditional=[vocab.uncond_prompt()],
            guidance=guidance,
            seeds=[0],
            **ours,
        )
        drawn = card["draw_caption"]("two crosses", guidance=guidance, do_sample=False)
        assert drawn == vocab.reorder(found).tolist()
    turns = [
        {"role": "user", "content": [{"image": 0}, "USER: forged"]},
        {"role": "assistant", "content": ["ok", {"image": 1}]},
        {"role": "user", "content": ["now"]},
    ]
    said = [[[CODE, "USER: forged"], ["ok", CODE[::-1]]], [["now"]]]
    prompt = vocab.chat_prompt(turns, [CODE, CODE[::-1]])
    assert card["chat"](said) == prompt
    assert card["chat"](said, drop_text=True) == vocab.chat_prompt(turns, [CODE, CODE[::-1]], drop_text=True)
    (ids,) = text_ids(
        live, [prompt], text_size=vocab.text_size, eos=vocab.eos, pad=vocab.pad, max_new_tokens=5, temperature=0.0
    )
    assert card["answer"](said, do_sample=False, max_new_tokens=5) == vocab.read_text(ids)


def test_round_trip_returns_the_same_model_vocabulary_and_tokenizer(pair, tmp_path):
    import_lm(str(pair[1]), str(tmp_path / "back"))
    before, after = Vocab.load(pair[0] / "vocab"), Vocab.load(tmp_path / "back" / "vocab")
    assert facts_of(after) == facts_of(before)
    assert after.text.get_vocab() == before.text.get_vocab() and after.words == before.words is not None
    for text in (*TEXTS, "a </s> [BOV] <|image:1|>", "\u732b"):
        assert after.encode_text(text) == before.encode_text(text)
    first, second = (load_file(folder / "lm" / "model.safetensors") for folder in (pair[0], tmp_path / "back"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    again = Pipeline.from_pretrained(tmp_path / "back").text_to_image(["a ring"], seed=3, steps=1)
    assert torch.equal(again, Pipeline.from_pretrained(pair[0]).text_to_image(["a ring"], seed=3, steps=1))


def test_a_folder_that_transformers_saved_again_still_comes_back(llama, tmp_path):
    model, tok = AutoModelForCausalLM.from_pretrained(llama[1]), AutoTokenizer.from_pretrained(llama[1])
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    model.save_pretrained(tmp_path / "tuned")
    tok.save_pretrained(tmp_path / "tuned")
    import_lm(str(tmp_path / "tuned"), str(tmp_path / "back"))
    weights = load_file(tmp_path / "back" / "lm" / "model.safetensors")
    assert torch.equal(weights["lm_head.weight"], model.lm_head.weight)
    assert Vocab.load(tmp_path / "back" / "vocab").order == "coarse_to_fine"


def test_init_from_checks_the_ids(llama, tmp_path):
    vocab = Vocab.load(llama[0] / "vocab")
    check_exported(vocab, str(llama[1]))
    check_exported(vocab, str(llama[0]))  # a folder of ours says nothing
    text = train_text_tokenizer(["other words"] * 9, 300)
    for wrong, message in (
        (Vocab(vocab.text, CODES, K, "fine_to_coarse", vocab.tokenizer), "order=coarse_to_fine"),
        (Vocab(vocab.text, CODES, K, "coarse_to_fine", "0" * 16), "tokenizer="),
        (Vocab(text, CODES, K, "coarse_to_fine", vocab.tokenizer), "text tokenizer"),
    ):
        with pytest.raises(ValueError, match=message):
            check_exported(wrong, str(llama[1]))


def test_differences_are_errors_that_name_the_numbers(llama):
    model = AutoModelForCausalLM.from_pretrained(llama[1])
    expected = probe(model)
    assert torch.equal(probe(model), expected)
    with torch.no_grad():
        model.lm_head.weight[5] += 0.5
    with pytest.raises(ValueError, match=r"differ by \d"):
        compare_logits(probe(model), expected)
    with pytest.raises(ValueError, match="differ by nan"):
        compare_logits(expected * torch.nan, expected)
    vocab = Vocab.load(llama[0] / "vocab")
    parses = AutoTokenizer.from_pretrained(llama[1], split_special_tokens=False)
    with pytest.raises(ValueError, match="has the ids"):
        compare_texts(parses, vocab)


def test_failed_export_leaves_nothing(llama, tmp_path, monkeypatch):
    monkeypatch.setattr("ddt_lightning.lm.export.probe", lambda model: torch.rand(2, 3))
    with pytest.raises(ValueError, match="differ by"):
        export(str(llama[0]), str(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_belong_together_is_refused(llama, tmp_path, capsys):
    tiny_tokenizer(seed=5).save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(ValueError, match="tokenizer="):
        export(str(llama[0]), str(tmp_path / "out"), tokenizer=str(tmp_path / "tokenizer"))
    shutil.copytree(llama[1], tmp_path / "broken")
    config = json.loads((tmp_path / "broken" / "config.json").read_text())
    for change, message in (({"codebook_size": CODES + 1}, "must agree"), ({"K": None}, "lacks K")):
        facts = {name: value for name, value in (config["ddt"] | change).items() if value is not None}
        (tmp_path / "broken" / "config.json").write_text(json.dumps(config | {"ddt": facts}))
        with pytest.raises(ValueError, match=message):
            import_lm(str(tmp_path / "broken"), str(tmp_path / "out"))
    with pytest.raises(SystemExit) as stop:
        main(["export", str(tmp_path / "nothing"), str(tmp_path / "out")])
    assert stop.value.code == 1 and "holds no lm" in capsys.readouterr().err


def test_tokenizers_that_cannot_grow_are_refused():
    text = train_text_tokenizer(TEXTS, 300)
    for names, message in ((["<|image:2|>"], "already"), (["[BOV]"], "already")):
        taken = train_text_tokenizer(TEXTS, 300)
        taken.add_tokens(names)
        with pytest.raises(ValueError, match=message):
            extend_tokenizer(taken, 4)
    state = json.loads(text.backend_tokenizer.to_str())
    state["model"]["vocab"] = {name: i + (i > 100) for name, i in state["model"]["vocab"].items()}
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    holes = PreTrainedTokenizerFast(tokenizer_object=text.backend_tokenizer.from_str(json.dumps(state)), **special)
    with pytest.raises(ValueError, match="but ids up to"):
        extend_tokenizer(holes, 4)


def test_extending_changes_neither_the_given_tokenizer_nor_the_hash():
    text = train_text_tokenizer(TEXTS, 300)
    before, fingerprint = text.backend_tokenizer.to_str(), text_fingerprint(text)
    extended = extend_tokenizer(text, 7)
    assert text.backend_tokenizer.to_str() == before
    assert text_fingerprint(extended) == fingerprint == text_fingerprint(text_part(extended, len(text)))
    assert text_fingerprint(train_text_tokenizer(["other"] * 5, 290)) != fingerprint
    assert text_part(extended, len(text)).get_vocab() == text.get_vocab()
