"""Every shipped YAML parses; every stage trains, stops, resumes to equal weights, and re-runs from its own config."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from ddt_lightning import cli
from ddt_lightning.shards.write import pack_ids, write_shards, write_tokens_json
from ddt_lightning.training.run import StageCLI
from ddt_lightning.vocab import Vocab
from tests.tiny import tiny_tokenizer

ROOT = Path(__file__).parents[2]
BASE = {
    "tokenizer": "stages/tok.yaml",
    "renderer": "stages/renderer.yaml",
    "pretrain": "stages/pretrain.yaml",
    "instruct": "stages/instruct.yaml",
    "rl": "stages/rl.yaml",
}
OVERLAYS = {
    "stages/cpu2.yaml": ["tokenizer", "renderer", "pretrain", "instruct"],
    "stages/fsdp.yaml": ["tokenizer", "pretrain", "instruct"],
    "stages/multinode.yaml": ["tokenizer", "renderer", "pretrain", "instruct"],
    "stages/geneval.yaml": ["pretrain"],
    "stages/fid.yaml": ["tokenizer"],
    "stages/tensorboard.yaml": ["tokenizer", "renderer", "pretrain", "instruct"],
    "stages/paper/imagenet.yaml": ["tokenizer"],
    "data/cifar10.yaml": ["tokenizer"],
    "data/emoji.yaml": ["tokenizer"],
    "data/flickr8k.yaml": ["tokenizer"],
    "data/instructpix2pix.yaml": ["tokenizer"],
    "data/laion.yaml": ["tokenizer"],
}
PAPER = {f"stages/paper/tok-{name}.yaml": "tokenizer" for name in ("ddt", "selftok512", "selftok1024")}
PAPER |= {f"stages/paper/{stage}-{llm}.yaml": stage for stage in ("pretrain", "instruct") for llm in
          ("llama3-8b", "gemma2-2b")}  # fmt: skip
SPATIAL = {f"stages/{kind}.yaml": "tokenizer" for kind in ("vqgan", "var")}
PAPER |= {f"stages/gpu/{name}-{data}.yaml": stage for name, stage in
          (("tok", "tokenizer"), ("renderer", "renderer"), ("pretrain", "pretrain")) for data in
          ("scenes128", "photos64")}  # fmt: skip
PAPER["stages/gpu/instruct-scenes128.yaml"] = "instruct"
SHIPPED = sorted(str(p.relative_to(ROOT)) for folder in ("stages", "data") for p in (ROOT / folder).rglob("*.yaml"))
# those of studies and plans are read by tests/studies and tests/plans
SHIPPED = [path for path in SHIPPED if not path.startswith(tuple(f"stages/{kind}" for kind in (
           "study-", "demo", "photos-", "evidence-", "emoji")))]  # fmt: skip
K, CODES = 6, 24


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def required(stage: str) -> list[str]:
    """Options that a stage's YAML leaves to the user."""
    given = {
        "renderer": ["--model.tokenizer", "x"],
        "pretrain": ["--data.shards", "[x.tar]"],
        "instruct": ["--data.vocab", "x", "--init_from", "x"],
        "rl": ["--data.vocab", "x", "--init_from", "x", "--model.tokenizer", "x"],
    }
    return given.get(stage, [])


def parse(stage: str, *configs: str, monkeypatch):
    """The parsed configuration; nothing is built, so that no GPU is asked for, and no run of the checkout goes on."""
    monkeypatch.setattr(StageCLI, "instantiate_classes", lambda self: None)
    monkeypatch.setattr("ddt_lightning.training.run.check_unchanged", lambda *settings: None)
    module, data = (cli.locate(target) for target in cli.STAGES[stage])
    args = [word for config in configs for word in ("--config", config)] + required(stage)
    return StageCLI(module, data, args=args, stage=stage).config


@pytest.mark.parametrize("path", SHIPPED)
def test_every_shipped_yaml_parses(path, monkeypatch):
    whole = {base: stage for stage, base in BASE.items()} | PAPER | SPATIAL
    for stage in [whole[path]] if path in whole else OVERLAYS[path]:
        configs = [path] if path in whole else [BASE[stage], path]
        config = parse(stage, *configs, monkeypatch=monkeypatch)
        for section, value in yaml.safe_load(Path(path).read_text()).items():
            if section in ("run_dir",):
                assert config[section] == value


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Token shards of twelve images with captions, three edits and three questions."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)

    def ids(*shape):
        return pack_ids(rng.integers(CODES, size=shape), CODES)

    def samples(count, make):
        return [{"__key__": f"{n:06d}", **make(n)} for n in range(count)]

    def conversation(question, *answer):
        turns = [
            {"role": "user", "content": [{"image": 0}, question]},
            {"role": "assistant", "content": list(answer)},
        ]
        return {"turns": turns}

    write_shards(folder, "images", samples(24, lambda n: {"ids.npy": ids(K), "txt": f"a photo of {n} circles"}), 12)
    edit = conversation("make it red", {"image": 1})
    write_shards(folder, "edits", samples(8, lambda n: {"ids.npy": ids(2, K), "json": edit}), 4)
    asked = conversation("what colour is it?", "red")
    write_shards(folder, "questions", samples(8, lambda n: {"ids.npy": ids(1, K), "json": asked}), 4)
    write_tokens_json(
        folder, tokenizer="t" * 16, K=K, codebook_size=CODES, order="fine_to_coarse", transform="none", source="test"
    )
    return folder


@pytest.fixture(scope="session")
def pretrained(world, tmp_path_factory):
    """A finished pretrain run."""
    run = tmp_path_factory.mktemp("pretrained") / "run"
    cwd = Path.cwd()
    import os

    os.chdir(ROOT)
    try:
        cli.fit("pretrain", arguments("pretrain", run, world))
    finally:
        os.chdir(cwd)
    return run


def arguments(stage: str, run: Path, world: Path | None = None, pretrained: Path | None = None) -> list[str]:
    smoke = {"tokenizer": "tests/smoke/tokenizer.yaml", "renderer": "tests/smoke/renderer.yaml"}
    smoke = smoke.get(stage, "tests/smoke/language.yaml")
    args = ["--config", BASE[stage], "--config", smoke, "--run_dir", str(run)]
    if stage == "renderer":
        args += ["--model.tokenizer", str(run.parent / "tokenizer")]
    if stage == "pretrain":
        args += [f"--data.shards=[{world}/images-*.tar]", f"--data.val_shards=[{world}/images-*.tar]"]
        args += [f"--data.texts=[{world}/edits-*.tar,{world}/questions-*.tar]"]
    if stage == "instruct":
        args += ["--init_from", str(pretrained), "--data.vocab", f"{pretrained}/vocab"]
        args += [f"--data.{kind}=[{world}/{kind}-*.tar]" for kind in ("images", "edits", "questions")]
    return args


def weights(run: Path, stage: str) -> dict[str, torch.Tensor]:
    part = stage if stage in ("tokenizer", "renderer") else "lm"
    return load_file(run / "release" / part / "model.safetensors")


def test_a_run_shorter_than_the_interval_of_saves_goes_on_from_its_weights_and_not_from_their_averages(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    rarely = "--checkpoint.every_n_train_steps=100"
    cli.fit("tokenizer", [*arguments("tokenizer", whole), rarely])
    cli.fit("tokenizer", [*arguments("tokenizer", parts), rarely, "--trainer.max_steps=2"])
    cli.fit("tokenizer", [*arguments("tokenizer", parts), rarely])
    reference, same = weights(whole, "tokenizer"), weights(parts, "tokenizer")
    assert reference.keys() == same.keys() and all(value.equal(same[name]) for name, value in reference.items())


@pytest.mark.parametrize("stage", [stage for stage in BASE if stage != "rl"])  # practice: test_rl.py
def test_stop_and_resume_equals_uninterrupted_and_config_reruns(stage, tmp_path, world, pretrained):
    whole, parts, again = tmp_path / "whole", tmp_path / "parts", tmp_path / "again"
    if stage == "renderer":
        tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    cli.fit(stage, arguments(stage, whole, world, pretrained))
    stopped = cli.fit(stage, [*arguments(stage, parts, world, pretrained), "--trainer.max_steps=2"])
    assert stopped.global_step == 2
    shutil.rmtree(parts / "release")
    resumed = cli.fit(stage, arguments(stage, parts, world, pretrained))
    assert resumed.global_step == 4
    cli.fit(stage, ["--config", str(whole / "config.yaml"), "--run_dir", str(again)])
    for other in (parts, again):
        reference, same = weights(whole, stage), weights(other, stage)
        assert reference.keys() == same.keys()
        assert all(torch.equal(reference[name], same[name]) for name in reference)
    steps = [int(row["step"]) for row in csv_rows(parts / "metrics.csv") if row["train/loss"]]
    assert steps == sorted(set(steps))
    losses = {
        run: {int(r["step"]): float(r["train/loss"]) for r in csv_rows(run / "metrics.csv") if r["train/loss"]}
        for run in (whole, parts)
    }
    assert losses[whole] == losses[parts]


@pytest.mark.parametrize("stage", ["pretrain", "instruct"])
def test_packed_rows_train_as_padded_ones_and_resume(stage, tmp_path, world, pretrained):
    packed = ["--data.packing=true", "--data.row_length=256"]
    losses = {}
    for name, more in (
        ("padded", []),
        ("whole", packed),
        ("parts", [*packed, "--trainer.max_steps=2"]),
        ("parts", packed),
    ):
        run = tmp_path / name
        cli.fit(stage, [*arguments(stage, run, world, pretrained), *more])
        losses[name] = [float(r["train/loss"]) for r in csv_rows(run / "metrics.csv") if r["train/loss"]]
    assert losses["whole"] == losses["parts"] and len(losses["whole"]) == 4
    assert losses["whole"] == pytest.approx(losses["padded"], rel=1e-4)


@pytest.mark.parametrize("stage", ["pretrain", "instruct"])
def test_perplexity_of_held_out_text(stage, tmp_path, world, pretrained):
    texts = ["a photo of 3 circles", "make it red", "what colour is it?"]
    write_shards(tmp_path, "texts", [{"__key__": f"{n}", "txt": text} for n, text in enumerate(texts)], 3)
    more = [f"--data.val_text_shards=[{tmp_path}/texts-*.tar]", "--data.batch_size=4", "--data.val_samples=3"]
    if stage == "instruct":
        more += [f"--data.val_images=[{world}/images-*.tar]"]
    run = tmp_path / "run"
    cli.fit(stage, [*arguments(stage, run, world, pretrained), *more])
    rows = csv_rows(run / "metrics.csv")
    found = [float(row["val/text_ppl"]) for row in rows if row.get("val/text_ppl")]
    assert len(found) == len([row for row in rows if row.get("val/loss")]) == 2
    vocab = Vocab.load(pretrained / "vocab")
    model = LlamaForCausalLM.from_pretrained(run / "release" / "lm").eval()
    with torch.no_grad():
        ids = [torch.tensor([vocab.text_only(text)[0]]) for text in texts]
        nats = sum(model(row, labels=row).loss.double() * (row.shape[1] - 1) for row in ids)
    pieces = sum(row.shape[1] - 1 for row in ids)
    assert found[-1] == pytest.approx((nats / pieces).exp().item(), rel=1e-4)


def test_image_rows_can_start_from_the_codebook(capsys, tmp_path, world):
    tokenizer, shards = tiny_tokenizer(), shutil.copytree(world, tmp_path / "shards")
    tokenizer.quantizer.codebook[1] = tokenizer.quantizer.codebook[0]
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    still = ["--trainer.max_steps=1", "--model.optim.lr=1e-30", f"--model.codebook={tmp_path}"]
    assert "`model.codebook`" in failure(capsys, "pretrain", *arguments("pretrain", tmp_path / "other", shards), *still)
    write_tokens_json(
        shards, tokenizer=tokenizer.fingerprint(), K=K, codebook_size=CODES, order="fine_to_coarse", transform="none",
        source="test",
    )  # fmt: skip
    cli.fit("pretrain", [*arguments("pretrain", tmp_path / "run", shards), *still])
    rows = weights(tmp_path / "run", "pretrain")["model.embed_tokens.weight"]
    first = Vocab.load(tmp_path / "run" / "vocab").image_start
    assert rows[first].allclose(rows[first + 1]) and not rows[first].allclose(rows[first + 2])


def test_codes_can_be_regressed_beside_the_ids(capsys, tmp_path, world):
    """The map is trained and resumed with the run, changes what the model learns, and is not released."""
    tokenizer, shards = tiny_tokenizer(), shutil.copytree(world, tmp_path / "shards")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert "`model.codebook`" in failure(
        capsys, "pretrain", *arguments("pretrain", tmp_path / "no", shards), "--model.code_weight=1"
    )
    write_tokens_json(
        shards, tokenizer=tokenizer.fingerprint(), K=K, codebook_size=CODES, order="fine_to_coarse", transform="none",
        source="test",
    )  # fmt: skip
    option = f"--model.codebook={tmp_path}"
    for name, weight, steps in (("plain", 0, 2), ("whole", 0.5, 4), ("resumed", 0.5, 2), ("resumed", 0.5, 4)):
        words = [*arguments("pretrain", tmp_path / name, shards), option, f"--model.code_weight={weight}"]
        cli.fit("pretrain", [*words, f"--trainer.max_steps={steps}", "--model.optim.total_steps=4"])
    made = {name: weights(tmp_path / name, "pretrain") for name in ("plain", "whole", "resumed")}
    assert made["plain"].keys() == made["whole"].keys()
    assert all(made["whole"][key].equal(made["resumed"][key]) for key in made["whole"])
    first = {name: csv_rows(tmp_path / name / "metrics.csv")[0] for name in made}
    assert "train/code_loss" not in first["plain"]
    assert float(first["whole"]["train/code_loss"]) == pytest.approx(1.3, abs=0.7)
    excess = float(first["whole"]["train/loss"]) - float(first["plain"]["train/loss"])
    assert excess == pytest.approx(0.5 * float(first["whole"]["train/code_loss"]), rel=1e-3)


def csv_rows(path: Path) -> list[dict[str, str]]:
    import csv

    with path.open() as file:
        return list(csv.DictReader(file))


def test_checkpoint_holds_plain_data(pretrained):
    state = torch.load(pretrained / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 4


@pytest.mark.parametrize("stage", ["pretrain", "instruct"])
def test_language_loss_falls(stage, tmp_path, world, pretrained):
    args = [*arguments(stage, tmp_path / "run", world, pretrained), "--trainer.max_steps=40"]
    cli.fit(stage, [*args, "--model.optim.total_steps=40", "--model.optim.lr=5e-3"])
    losses = [float(row["train/loss"]) for row in csv_rows(tmp_path / "run" / "metrics.csv") if row["train/loss"]]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def usage_error(capsys, *args: str) -> str:
    with pytest.raises(SystemExit) as left:
        cli.fit_main(list(args))
    assert left.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    return lines[-1]


def failure(capsys, *args: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        cli.fit_main(list(args))
    assert left.value.code == 1
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("ddt-fit")][-1]


def test_usage_errors(capsys, tmp_path):
    base = ["tokenizer", "--config", BASE["tokenizer"], "--run_dir", str(tmp_path / "run")]
    overlay = tmp_path / "typo.yaml"
    overlay.write_text("model:\n  tokenizer:\n    tokns: 8\n")
    assert "tokns" in usage_error(capsys, *base, "--config", str(overlay))
    assert "batch_size" in usage_error(capsys, *base, "--data.batch_size", "many")
    assert "unknown stage 'tokeniser'" in usage_error(capsys, "tokeniser")
    assert "nothing.yaml" in usage_error(capsys, "tokenizer", "--config", "nothing.yaml")
    assert not (tmp_path / "run").exists()


def test_failures_name_option_value_and_fix(capsys, tmp_path, world, pretrained):
    run = tmp_path / "run"
    tokenizer, pretrain = arguments("tokenizer", run), arguments("pretrain", run, world)
    odd = failure(capsys, "tokenizer", *tokenizer, "--model.tokenizer.latent_size=18")
    assert "`tokenizer.latent_size` (18)" in odd
    assert "`tokenizer.quantizer.warmup_steps` (4)" in failure(
        capsys, "tokenizer", *tokenizer, "--model.tokenizer.quantizer.warmup_steps=4"
    )
    assert "missing.tar" in failure(capsys, "tokenizer", *tokenizer, f"--data.shards=[{tmp_path}/missing.tar]")
    assert "`ckpt_path`" in failure(capsys, "tokenizer", *tokenizer, "--ckpt_path", str(tmp_path / "none.ckpt"))
    assert "`init_from`" in failure(capsys, "tokenizer", *tokenizer, "--init_from", str(tmp_path / "none"))
    assert "`init_from` is needed" in failure(
        capsys, "instruct", *arguments("instruct", run, world, pretrained), "--init_from=null"
    )
    for option in ("text_weight", "z_weight"):
        assert f"`model.{option}` (-1" in failure(capsys, "pretrain", *pretrain, f"--model.{option}=-1")
    other = shutil.copytree(world, tmp_path / "other")
    write_tokens_json(
        other, tokenizer="u" * 16, K=K, codebook_size=CODES, order="fine_to_coarse", transform="none", source="test"
    )
    message = failure(capsys, "pretrain", *pretrain, f"--data.shards=[{world}/images-*.tar,{other}/images-*.tar]")
    assert "t" * 16 in message and "u" * 16 in message
    assert not (run / "release").exists()


def test_checkpoint_of_other_sizes_is_refused(capsys, tmp_path):
    run = tmp_path / "run"
    cli.fit("tokenizer", [*arguments("tokenizer", run), "--trainer.max_steps=2"])
    wider = [*arguments("tokenizer", run), "--model.tokenizer.codebook_size=48"]
    assert "`ckpt_path`" in failure(capsys, "tokenizer", *wider)
    elsewhere = arguments("tokenizer", tmp_path / "new")
    message = failure(capsys, "tokenizer", *elsewhere, "--init_from", str(run), "--model.tokenizer.codebook_size=48")
    assert "`init_from`" in message and "48" in message


def test_init_from_starts_a_new_run_from_weights(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    cli.fit("tokenizer", [*arguments("tokenizer", first), "--trainer.max_steps=2"])
    frozen = ["--model.optim.lr=1e-30", "--model.optim.matrix_lr=1e-30", "--trainer.max_steps=1"]
    trainer = cli.fit("tokenizer", [*arguments("tokenizer", second), "--init_from", str(first), *frozen])
    assert trainer.global_step == 1
    before, after = weights(first, "tokenizer"), weights(second, "tokenizer")
    assert torch.allclose(before["encoder.query_tokens"], after["encoder.query_tokens"], atol=1e-6)


def test_help_is_quick_to_reach(capsys):
    with pytest.raises(SystemExit) as left:
        cli.fit_main(["--help"])
    assert left.value.code == 0
    assert "tokenizer, renderer, pretrain, instruct, rl" in capsys.readouterr().out


def test_installed_package_finds_the_shipped_yaml(tmp_path, monkeypatch):
    packaged = Path(cli.__file__).parent / "configs"
    assert cli.shipped("stages/tok.yaml") == "stages/tok.yaml"  # a checkout's own file comes first
    monkeypatch.chdir(tmp_path)
    assert cli.shipped("mine.yaml") == "mine.yaml"
    monkeypatch.setattr(Path, "exists", lambda self: str(self).startswith(str(packaged)))
    assert cli.shipped("stages/tok.yaml") == str(packaged / "stages" / "tok.yaml")


def test_a_broken_loss_stops_before_the_good_checkpoint_is_replaced(capsys, tmp_path):
    run = tmp_path / "run"
    args = [*arguments("tokenizer", run), "--trainer.max_steps=3"]
    cli.fit("tokenizer", args)
    state = (run / "checkpoints" / "last.ckpt").read_bytes()
    broken = ["--trainer.max_steps=40", "--trainer.callbacks+=tests.ranks.Poison", "--resume_with_changes=true"]
    message = failure(capsys, "tokenizer", *args, *broken, "--checkpoint.every_n_train_steps=1000")
    assert "loss is not finite" in message and "last.ckpt (step 3) is the last good checkpoint" in message
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == state
