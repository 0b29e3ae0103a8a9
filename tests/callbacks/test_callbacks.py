"""Callbacks inside real trainings of tiny models: what they write and log, against the pipeline called by hand."""

import json
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from ddt_lightning import cli
from ddt_lightning.callbacks.codebook import CodebookMonitor
from ddt_lightning.callbacks.geneval import ShapesGenEval
from ddt_lightning.callbacks.samples import ReconstructionGrid, tile
from ddt_lightning.latents.pixels import PixelLatents, to_uint8
from ddt_lightning.metrics.codebook import code_counts, perplexity, perplexity_by_position, usage
from ddt_lightning.metrics.geneval import read_metadata, score, summary
from ddt_lightning.metrics.reconstruction import psnr
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.report.charts import read_curves
from ddt_lightning.report.codebook import CHARTS
from ddt_lightning.scenes.suite import suite
from tests.tiny import tiny_model

ROOT = Path(__file__).parents[2]
SIDE = 32


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), side=SIDE)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps(prompt) + "\n" for prompt in suite()[::40]))
    return path


class Still(pl.LightningModule):
    """Holds the parts of a stage and trains nothing that they use."""

    def __init__(self, parts: Pipeline, *, language: bool) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.tokenizer = parts.tokenizer
        self.latents = PixelLatents()
        if language:
            self.llm, self.vocab = parts.llm, parts.vocab

    def training_step(self, batch: dict, _: int) -> torch.Tensor:
        return self.weight.square().sum()

    def validation_step(self, batch: dict, _: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.weight], 0.1)


def images(count: int = 6) -> torch.Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2)) * 2 - 1


def run(folder: Path, module: pl.LightningModule, callbacks: list, **options) -> pl.Trainer:
    loader = torch.utils.data.DataLoader([{"image": image} for image in images()], batch_size=4)
    trainer = pl.Trainer(
        default_root_dir=folder,
        logger=CSVLogger(folder, name="", version=""),
        callbacks=callbacks,
        max_steps=2,
        val_check_interval=1,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        **{"accelerator": "cpu", "devices": 1, **options},
    )
    trainer.fit(module, loader, loader)
    return trainer


def test_reconstruction_grid(model, tmp_path):
    parts = Pipeline.from_pretrained(model)
    run(tmp_path, Still(parts, language=False), [ReconstructionGrid(images=2, tokens=[3, 6], steps=2)])
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == ["step-000001.png", "step-000002.png"]
    saved = np.asarray(Image.open(tmp_path / "samples" / "step-000002.png"))
    originals = to_uint8(images()[:2])
    whole = parts.reconstruct(originals, steps=2)
    assert np.array_equal(saved, tile([originals, parts.reconstruct(originals, 3, steps=2), whole]).numpy())
    assert np.array_equal(saved[SIDE:, :SIDE], originals[1].permute(1, 2, 0).numpy())
    logged = read_curves(tmp_path / "metrics.csv")["val/psnr"]
    assert logged[1] == pytest.approx([float(psnr(whole, originals).mean())] * 2)


def test_grid_every_second_validation(model, tmp_path):
    module = Still(Pipeline.from_pretrained(model), language=False)
    run(tmp_path, module, [ReconstructionGrid(images=1, steps=1, every=2)])
    assert [p.name for p in (tmp_path / "samples").iterdir()] == ["step-000001.png"]


def test_codebook_monitor_counts_the_whole_validation_set(model, tmp_path):
    parts = Pipeline.from_pretrained(model)
    run(tmp_path, Still(parts, language=False), [CodebookMonitor(alarm=0)])
    counts = code_counts(parts.tokenizer.encode(images()), 24)
    logged = read_curves(tmp_path / "metrics.csv")
    assert logged["val/codebook_usage"][1] == pytest.approx([usage(counts)] * 2)
    assert logged["val/codebook_perplexity"][1] == pytest.approx([perplexity(counts)] * 2, rel=1e-5)
    quarters = perplexity_by_position(parts.tokenizer.encode(images()), 24)
    for number, quarter in enumerate(quarters, 1):
        assert logged[f"val/codebook_perplexity_{number}"][1] == pytest.approx([quarter] * 2, rel=1e-5)


def collapsed(model: Path) -> Pipeline:
    """A warmed-up tokenizer whose codes are all the same: only the first is ever chosen."""
    parts = Pipeline.from_pretrained(model)
    quantizer = parts.tokenizer.quantizer
    with torch.no_grad():
        quantizer.codebook[:] = quantizer.codebook[0].clone()
        quantizer.steps.fill_(quantizer.config.warmup_steps)
    return parts


def test_codebook_monitor_warns_of_a_collapse(model, tmp_path):
    parts = collapsed(model)
    with pytest.warns(UserWarning, match=r"Only 4\.2 % .* step [12]: .*collapsing"):  # one of 24
        run(tmp_path, Still(parts, language=False), [CodebookMonitor(alarm=0.5, max_batches=1)])


def test_codebook_monitor_stops_a_collapse_where_asked(model, tmp_path):
    with pytest.raises(ValueError, match=r"collapsing.*diversity_weight"):
        run(tmp_path, Still(collapsed(model), language=False), [CodebookMonitor(alarm=0.1, stop=True)])


def test_codebook_monitor_is_silent_while_codes_are_used_or_the_quantizer_warms_up(model, tmp_path, recwarn):
    healthy = Pipeline.from_pretrained(model)
    healthy.tokenizer.quantizer.steps.fill_(healthy.tokenizer.quantizer.config.warmup_steps)
    run(tmp_path / "healthy", Still(healthy, language=False), [CodebookMonitor(alarm=0.1, stop=True)])
    warming = collapsed(model)
    warming.tokenizer.quantizer.steps -= 1
    run(tmp_path / "warming", Still(warming, language=False), [CodebookMonitor(alarm=0.1, stop=True)])
    run(tmp_path / "off", Still(collapsed(model), language=False), [CodebookMonitor(alarm=0, stop=True)])
    assert not [w for w in recwarn if "collapsing" in str(w.message)]


@pytest.mark.parametrize("chat", [True, False])
def test_geneval_rows_are_those_of_the_pipeline(model, prompts, tmp_path, chat):
    parts = Pipeline.from_pretrained(model)
    callback = ShapesGenEval(str(prompts), str(model), images=2, chat=chat, steps=1, batch=3, seed=5)
    run(tmp_path, Still(parts, language=True), [callback])
    metadata = [prompt for prompt in suite()[::40] for _ in range(2)]
    drawn = parts.text_to_image([m["prompt"] for m in metadata], seed=5, steps=1, chat=chat)
    expected = score(drawn.permute(0, 2, 3, 1).numpy(), metadata)
    rows = [json.loads(line) for line in (tmp_path / "geneval" / "step-000002.jsonl").read_text().splitlines()]
    assert [row["filename"] for row in rows][:3] == [
        "00000/samples/0000.png",
        "00000/samples/0001.png",
        "00001/samples/0000.png",
    ]
    for name in ("tag", "correct", "metadata"):
        assert [row[name] for row in rows] == [row[name] for row in expected]
    logged = read_curves(tmp_path / "metrics.csv")
    assert logged["val/shapes_geneval/overall"][1] == pytest.approx([summary(expected)["overall"]] * 2)


@pytest.mark.filterwarnings("ignore")
def test_two_processes_give_the_rows_of_one(model, prompts, tmp_path):
    for devices in (1, 2):
        callbacks = [
            ShapesGenEval(str(prompts), str(model), images=2, steps=1, batch=3),
            ReconstructionGrid(images=2, steps=1),
            CodebookMonitor(alarm=0),
        ]
        module = Still(Pipeline.from_pretrained(model), language=True)
        layout = {"devices": devices, "strategy": "ddp_fork_find_unused_parameters_true"} if devices == 2 else {}
        run(tmp_path / str(devices), module, callbacks, **layout)
    for name in ("geneval/step-000002.jsonl", "samples/step-000001.png"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    one, two = (read_curves(tmp_path / str(n) / "metrics.csv") for n in (1, 2))
    assert one["val/codebook_usage"][1] == two["val/codebook_usage"][1]  # both ranks validate on the same images
    assert one["val/shapes_geneval/overall"][1] == two["val/shapes_geneval/overall"][1]


def test_callbacks_in_the_yaml_of_a_real_stage(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    overlay = {
        "trainer": {
            "callbacks": [
                {"class_path": "ddt_lightning.callbacks.samples.ReconstructionGrid", "init_args": {"steps": 1}},
                {"class_path": "ddt_lightning.callbacks.codebook.CodebookMonitor"},
            ]
        }
    }
    (tmp_path / "overlay.yaml").write_text(yaml.safe_dump(overlay))
    configs = ["stages/tok.yaml", "tests/smoke/tokenizer.yaml", str(tmp_path / "overlay.yaml")]
    args = [word for config in configs for word in ("--config", config)]
    cli.fit("tokenizer", [*args, "--run_dir", str(tmp_path / "run")])
    assert Image.open(tmp_path / "run" / "samples" / "step-000004.png").size == (5 * 16, 8 * 16)
    curves = read_curves(tmp_path / "run" / "metrics.csv")
    assert "val/psnr" in curves
    assert {column for columns in CHARTS.values() for column in columns} <= set(curves)  # all that the report draws


def test_wrong_options_are_named(tmp_path, model, prompts):
    for wrong, message in (
        (lambda: ReconstructionGrid(every=0), "`every` (0)"),
        (lambda: CodebookMonitor(alarm=2), "`alarm` (2)"),
        (lambda: CodebookMonitor(max_batches=-1), "`max_batches` (-1)"),
        (lambda: ShapesGenEval(str(prompts), str(model), images=0), "`images` (0)"),
        (lambda: ShapesGenEval(str(tmp_path / "none"), str(model)), "none"),
        (lambda: ShapesGenEval(str(prompts), str(tmp_path)), "tokenizer"),
    ):
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            wrong()
        assert message in str(error.value)
    (tmp_path / "bad.jsonl").write_text('{"tag": "colors", "prompt": "x", "include": [1]}\n{"tag": "other"}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_metadata(str(tmp_path / "bad.jsonl"))
