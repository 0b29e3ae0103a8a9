"""The callback ReconstructionDistance inside real trainings: what it logs, in one process and in two."""

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from ddt_lightning import cli
from ddt_lightning.callbacks import distribution
from ddt_lightning.callbacks.distribution import ReconstructionDistance
from ddt_lightning.latents.pixels import to_uint8
from ddt_lightning.metrics.distribution import frechet
from ddt_lightning.metrics.picture_encoder import SHIPPED, PictureEncoder, file_hash
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.report.charts import read_curves
from ddt_lightning.studies.picture_encoder import tensor
from tests.callbacks.test_callbacks import SIDE, Still
from tests.metrics.test_distribution import inception_file, scenes  # noqa: F401 - a fixture
from tests.stages.test_stages import ROOT, arguments
from tests.tiny import tiny_model, tiny_tokenizer

NAME = f"FD-{file_hash(SHIPPED)}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), side=SIDE)


@pytest.fixture(scope="module")
def lively(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer whose decoder has left its start at zero: reconstructions differ with image and noise."""
    folder, tokenizer = tmp_path_factory.mktemp("lively"), tiny_tokenizer(SIDE)
    with torch.no_grad():
        for weight in tokenizer.decoder.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder


class Sampled(torch.utils.data.Dataset):
    """Validation images with their numbers."""

    def __init__(self, number: int) -> None:
        self.images = tensor(scenes(number, side=SIDE)).float() / 127.5 - 1

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, n: int) -> dict[str, torch.Tensor]:
        return {"image": self.images[n], "sample": torch.tensor(n)}


class Numbered(Still):
    """Validates on numbered images, each process on its share."""

    def val_dataloader(self) -> torch.utils.data.DataLoader:
        world, rank = self.trainer.world_size, self.trainer.global_rank
        part = torch.utils.data.Subset(Sampled(40), range(rank, 40, world))
        return torch.utils.data.DataLoader(part, batch_size=4)


def train(folder: Path, model: Path, callback: ReconstructionDistance, **options) -> dict[str, list[float]]:
    module = Numbered(Pipeline.from_pretrained(model), language=False)
    options = {"enable_checkpointing": False, **options}
    trainer = pl.Trainer(
        default_root_dir=folder,
        logger=CSVLogger(folder, name="", version=""),
        callbacks=[callback],
        max_steps=2,
        val_check_interval=1,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **{"accelerator": "cpu", "devices": 1, **options},
    )
    trainer.fit(module, torch.utils.data.DataLoader(Sampled(4), batch_size=2))
    trainer.save_checkpoint(folder / "last.ckpt")
    log = folder / "metrics.csv"
    return {name: values for name, (_, values) in read_curves(log).items()} if log.is_file() else {}


@pytest.mark.filterwarnings("ignore")
def test_two_processes_log_what_one_does(lively, tmp_path):
    one = train(tmp_path / "1", lively, ReconstructionDistance(steps=1))
    layout = {"devices": 2, "strategy": "ddp_fork_find_unused_parameters_true"}
    two = train(tmp_path / "2", lively, ReconstructionDistance(steps=1), **layout)
    key = f"val/{NAME}@40"
    assert len(one[key]) == 2 and one[key] == pytest.approx(two[key], rel=1e-6)
    assert one[key][0] == pytest.approx(one[key][1], rel=1e-9)  # nothing was trained, the originals' sums were kept
    originals = to_uint8(Sampled(40).images)
    made = Pipeline.from_pretrained(lively).reconstruct(originals, steps=1, seed=0)
    assert made.float().std(0).mean() > 1  # 8-bit levels
    network = PictureEncoder.load()
    assert one[key][0] == pytest.approx(frechet(network(made), network(originals)), rel=1e-3)
    held = torch.load(tmp_path / "1" / "last.ckpt", weights_only=True)
    assert not any("Distance" in name for name in held["callbacks"])
    assert not any("trunk" in name or "inception" in name for name in held["state_dict"])


@pytest.mark.filterwarnings("ignore")
def test_callback_without_weights_or_with_few_images(model, inception_file, tmp_path, monkeypatch):  # noqa: F811
    said: list[str] = []
    monkeypatch.setattr(distribution, "rank_zero_info", said.append)
    missing = ReconstructionDistance(inception=str(tmp_path / "none.pth"), steps=1, every=2)
    curves = train(tmp_path / "missing", model, missing)
    assert len(said) == 1 and "none.pth) of ReconstructionDistance does not exist" in said[0]
    assert len(curves[f"val/{NAME}@40"]) == 1 and not any("fid" in name for name in curves)
    with pytest.raises(FileNotFoundError, match="none"):
        ReconstructionDistance(inception=str(tmp_path / "none.pth"), strict=True)
    few = ReconstructionDistance(inception=str(inception_file), scenes=False, steps=1, max_batches=1, every=2)
    assert train(tmp_path / "few", model, few) == {}
    assert "4 validation images are fewer than 2048" in said[-1]
    with pytest.raises(ValueError, match=r"`every` \(0\)"):
        ReconstructionDistance(every=0)


@pytest.mark.filterwarnings("ignore")
def test_fid_yaml_in_a_real_training(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    extra = ["--config", "stages/fid.yaml", "--trainer.limit_val_batches=null", "--data.val_samples=48"]
    cli.fit("tokenizer", [*arguments("tokenizer", tmp_path / "run"), *extra])
    curves = read_curves(tmp_path / "run" / "metrics.csv")
    assert f"val/{NAME}@48" in curves and "val/codebook_usage" in curves
