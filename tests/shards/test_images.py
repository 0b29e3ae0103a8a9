"""Images: decoding, loaders inside a trainer, resume, ranks, errors before training, real data."""

import io
import json
import logging
import os
from itertools import islice
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from PIL import Image

from ddt_lightning.images import square
from ddt_lightning.scenes.render import render
from ddt_lightning.scenes.suite import train_scene
from ddt_lightning.seeding import numpy_rng
from ddt_lightning.shards.images import ImageShards, decode_image, read_images
from ddt_lightning.shards.read import Columns
from ddt_lightning.shards.write import write_shards

DATA = os.environ.get("DDT_DATA", "")
needs_data = pytest.mark.skipif(not os.path.isdir(DATA), reason="DDT_DATA (real shards) is not set")


def png(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def colour(number, side=8):
    """A plain image that names its number."""
    return np.full((side, side, 3), (number, 255 - number, 7), np.uint8)


def make(folder, counts=(10, 14), *, side=8, bad=()):
    number = 0
    for shard, count in enumerate(counts):
        samples = []
        for _ in range(count):
            data = b"broken" if number in bad else png(colour(number, side))
            samples.append({"__key__": f"{number:03d}", "png": data, "txt": f"image {number}"})
            number += 1
        write_shards(folder, f"s{shard}", samples, 1000)
    return [str(folder / "s*.tar")]


def shards(tmp_path, **options):
    settings = {"image_size": 8, "batch_size": 12, "buffer": 5, "workers": 0}
    return ImageShards(make(tmp_path), **{**settings, **options})


class Keeps(pl.LightningModule):
    """Records what it is trained on."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []
        self.validated = []

    def training_step(self, batch, _):
        self.seen.append((batch["sample"].tolist(), batch["image"][:, 0, 0, 0].tolist()))
        return self.weight.sum()

    def validation_step(self, batch, _):
        self.validated.append(batch["sample"].tolist())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(folder, data, steps, ckpt=None, **options):
    module = Keeps()
    settings = {"max_epochs": -1, "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        default_root_dir=folder,
        max_steps=steps,
        accelerator="cpu",
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,
        use_distributed_sampler=False,
        **settings,
        **{"enable_checkpointing": False, **options},
    )
    trainer.fit(module, data, ckpt_path=ckpt, weights_only=True)
    return module, trainer


def test_batches_are_what_the_shards_hold(tmp_path):
    data = shards(tmp_path)
    data.setup("fit")
    first, second = islice(data.train_dataloader(), 2)
    assert first["image"].dtype == torch.float32 and first["image"].shape == (12, 3, 8, 8)
    assert first["sample"].tolist() == list(range(12)) and first.keys() == {"image", "sample"}
    numbers = torch.cat([first["image"], second["image"]])[:, 0, 0, 0].add(1).mul(127.5).round().tolist()
    assert sorted(numbers) == list(range(24))
    assert torch.allclose(first["image"][0, :, 0, 0].mul(127.5).add(127.5)[2], torch.tensor(7.0), atol=1e-3)


def test_a_resumed_run_reads_on_where_it_stopped(tmp_path):
    whole, _ = train(tmp_path / "a", shards(tmp_path / "s"), 9, accumulate_grad_batches=2)
    _, trainer = train(tmp_path / "b", shards(tmp_path / "s"), 4, accumulate_grad_batches=2)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    rest, _ = train(tmp_path / "b", shards(tmp_path / "s"), 9, tmp_path / "last.ckpt", accumulate_grad_batches=2)
    assert len(whole.seen) == 18
    assert rest.seen == whole.seen[8:]


def test_limited_epochs_go_on_through_the_data(tmp_path):
    whole, _ = train(tmp_path, shards(tmp_path / "s"), 6)
    parts, _ = train(tmp_path, shards(tmp_path / "s"), 6, limit_train_batches=2)
    assert parts.seen == whole.seen


def test_validation_within_training(tmp_path):
    data = shards(tmp_path / "s")
    data.val_shards = make(tmp_path / "v", (9, 10))
    module, _ = train(tmp_path, data, 4, val_check_interval=2)
    assert module.validated == [list(range(12)), list(range(12, 19))] * 2
    assert len(module.seen) == 4


def test_without_validation_shards_there_is_no_validation(tmp_path):
    module, _ = train(tmp_path, shards(tmp_path / "s"), 2, val_check_interval=1)
    assert module.validated == [] and len(module.seen) == 2


def test_skipped_samples_are_reported_at_the_end(tmp_path, caplog):
    make(tmp_path / "s", bad=(3, 15))
    data = ImageShards([str(tmp_path / "s" / "*.tar")], image_size=8, batch_size=12, workers=1)
    with caplog.at_level(logging.WARNING, "ddt_lightning"):
        train(tmp_path, data, 3)
    (message,) = [record.getMessage() for record in caplog.records if record.name.startswith("ddt_lightning")]
    assert message.startswith("skipped 2 samples: s0-000000.tar:003 (png is not a readable image")
    assert "s1-000000.tar:015" in message


@pytest.mark.parametrize("workers", [0, 1])
def test_rendered_scenes_are_keyed_by_sample(workers):
    data = ImageShards(batch_size=6, image_size=32, workers=workers, seed=5, val_samples=8)
    data.setup("fit")
    first, second = islice(data.train_dataloader(), 2)
    expected = render(train_scene(numpy_rng("scene", 5, 7)), 32)
    found = second["image"][1].add(1).mul(127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert second["sample"].tolist() == list(range(6, 12)) and np.array_equal(found, expected)
    assert not torch.equal(first["image"], second["image"])
    held = list(data.val_dataloader())
    assert [batch["sample"].tolist() for batch in held] == [list(range(6)), [6, 7]]
    again = ImageShards(batch_size=8, image_size=32, workers=0, seed=6, val_samples=8)
    again.setup("fit")
    assert torch.equal(torch.cat([batch["image"] for batch in held]), next(iter(again.val_dataloader()))["image"])


def test_rendered_scenes_on_ranks_are_those_of_one_process(monkeypatch):
    data = ImageShards(batch_size=8, workers=0, val_samples=13)
    (whole,) = islice(data.train_dataloader(), 1)
    for rank in range(2):
        monkeypatch.setattr(data, "ranks", lambda rank=rank: (rank, 2))
        (part,) = islice(data.train_dataloader(), 1)
        assert torch.equal(part["image"], whole["image"][rank::2])
        assert [len(batch["sample"]) for batch in data.val_dataloader()] == [4, 2]


def test_augmentation_belongs_to_the_sample(tmp_path):
    urls = make(tmp_path, (24,))
    array = np.random.default_rng(0).integers(0, 255, (16, 24, 3), np.uint8)
    write_shards(tmp_path, "s0", [{"__key__": str(i), "png": png(array)} for i in range(24)], 100)
    settings = {"image_size": 8, "batch_size": 12, "augment": "crop_flip"}
    images = []
    for workers in (0, 1):
        data = ImageShards(urls, **settings, workers=workers)
        data.setup("fit")
        images.append(next(iter(data.train_dataloader()))["image"])
    assert torch.equal(*images)
    assert len({image.numpy().tobytes() for image in images[0]}) == 12
    data = ImageShards(urls, **{**settings, "augment": "flip"}, workers=0)
    data.setup("fit")
    image = next(iter(data.train_dataloader()))["image"]
    assert len({one.numpy().tobytes() for one in image}) == 2
    plain = torch.from_numpy(decode_image(png(array), 8).copy()).permute(2, 0, 1) / 127.5 - 1
    assert all(min((one - plain).abs().max(), (one.flip(-1) - plain).abs().max()) < 1e-5 for one in image)


def test_images_are_scaled_by_the_shorter_side_and_cut_in_the_middle():
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255
    assert (decode_image(png(wide), 10)[:, 1:-1] > 250).all()
    assert decode_image(png(wide)).shape == (20, 60, 3)
    right = np.asarray(square(Image.fromarray(wide), 10, (1.0, 0.5)))
    assert (right[:, 1:-1] < 5).all()
    assert np.array_equal(decode_image(png(wide[:20, :20]), 20), wide[:20, :20])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_other_image_modes_become_rgb(mode):
    stream = io.BytesIO()
    Image.fromarray(colour(40)).convert(mode).save(stream, "JPEG" if mode == "CMYK" else "PNG")
    assert decode_image(stream.getvalue(), 8).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("option", "value", "world"), [("lanes", 3, 2), ("batch_size", 9, 2), ("lanes", 4, 3), ("batch_size", 0, 1)]
)
def test_sizes_that_do_not_fit_are_named(tmp_path, option, value, world):
    class Strategy:
        distributed_sampler_kwargs = {"rank": 0, "num_replicas": world}  # noqa: RUF012

    class Trainer:
        strategy = Strategy()

    with pytest.raises(ValueError, match=rf"`data\.{option}` \({value}\)"):
        data = shards(tmp_path, **{option: value})
        data.trainer = Trainer()
        data.setup("fit")


def test_errors_come_before_training(tmp_path):
    module = Keeps()
    bad = write_shards(tmp_path, "bad", [{"__key__": "0", "txt": "no image"}], 1)
    few = write_shards(tmp_path, "few", [{"__key__": str(i), "png": png(colour(i))} for i in range(3)], 9)
    for urls, error, message in (
        ([str(tmp_path / "none.tar")], FileNotFoundError, r"`data\.shards`.*none\.tar"),
        ([str(tmp_path / "no*.tar")], FileNotFoundError, r"`data\.shards`.*matches no shard"),
        ([str(bad[0])], ValueError, r"no sample in shard .*bad-000000\.tar has an image \(jpg.*they have txt"),
        ([str(few[0])], ValueError, r"`data\.shards` holds 3 samples, fewer than `data\.lanes` \(4\)"),
    ):
        trainer = pl.Trainer(max_steps=1, logger=False, enable_checkpointing=False, accelerator="cpu")
        with pytest.raises(error, match=message):
            trainer.fit(module, ImageShards(urls, workers=0))
    assert module.seen == []


def test_options_are_read_from_yaml(tmp_path):
    parser = ArgumentParser()
    parser.add_class_arguments(ImageShards, "data")
    config = {"data": {"shards": ["a.tar"], "columns": {"image": "photo.jpg"}, "augment": "flip"}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    parser.add_argument("--config", action="config")
    data = parser.instantiate(parser.parse_args(["--config", str(tmp_path / "c.yaml")])).data
    assert data.shards == ["a.tar"] and data.decoder.columns == Columns(image="photo.jpg")


def test_columns_rename_members(tmp_path):
    sample = {"__key__": "0", "before.png": png(colour(1)), "after.png": png(colour(2)), "json": {"do": "change it"}}
    (url,) = write_shards(tmp_path, "e", [sample], 1)
    columns = Columns(image="before.png", source="before.png", target="after.png", text="json.do")
    (found,) = read_images([str(url)], columns=columns)
    assert found.texts == ("change it",)
    assert [image[0, 0, 0] for image in found.images] == [1, 2]


def test_read_images_gives_questions_and_skips_damage(tmp_path):
    samples = [
        {"__key__": "a", "png": png(colour(1)), "json": {"question": "how many?", "answers": ["two"]}},
        {
            "__key__": "b",
            "png": png(colour(2)),
            "json": [{"question": "x?", "answer": "1"}, {"question": "y?", "answers": ["2", "3"]}],
        },
        {"__key__": "c", "png": b"broken", "txt": "c"},
        {
            "__key__": "d",
            "png": png(colour(3)),
            "txt": "why?\nso",
            "json": {"vqa": [{"question": "why?", "answer": "so"}]},
        },
        {"__key__": "e", "txt": "no image"},
        {"__key__": "f", "png": png(colour(4)), "txt": "one", "json": {"caption": "one", "captions": ["one", "two"]}},
    ]
    (url,) = write_shards(tmp_path, "q", samples, 10)
    problems = {}
    found = {sample.key: sample for sample in read_images([str(url)], image_size=4, problems=problems)}
    assert [len(found[key].questions) for key in "abdf"] == [1, 2, 1, 0]
    assert found["b"].questions[1]["answers"] == ["2", "3"] and found["b"].questions[0]["answers"] == ["1"]
    assert found["d"].texts == () and found["f"].texts == ("one", "two")
    assert found["a"].images[0].shape == (4, 4, 3)
    assert problems.keys() == {"q-000000.tar:c", "q-000000.tar:e"}


class Writes(Keeps):
    """Writes down what each process has seen."""

    def on_train_end(self):
        path = f"{self.trainer.default_root_dir}/rank{self.trainer.global_rank}.json"
        with open(path, "w") as file:
            json.dump([dict(zip(map(str, samples), values, strict=True)) for samples, values in self.seen], file)


@pytest.mark.slow
def test_two_processes_read_what_one_reads(tmp_path):
    alone, _ = train(tmp_path, shards(tmp_path / "s"), 5)
    trainer = pl.Trainer(
        default_root_dir=tmp_path,
        max_steps=5,
        accelerator="cpu",
        devices=2,
        strategy="ddp_spawn",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
    )
    trainer.fit(Writes(), shards(tmp_path / "s"))
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    for number, (samples, values) in enumerate(alone.seen):
        assert [len(rank[number]) for rank in ranks] == [6, 6]
        assert ranks[0][number] | ranks[1][number] == dict(zip(map(str, samples), values, strict=True))


@needs_data
@pytest.mark.parametrize(
    ("pattern", "count", "side"),
    [("cifar10/cifar10-val-*.tar.gz", 2000, 32), ("flickr8k_64/flickr8k64-val-000000.tar.gz", 1000, 64)],
)
def test_real_images_load(pattern, count, side):
    urls = ["${DDT_DATA}/" + pattern]
    data = ImageShards(urls, urls, image_size=side, batch_size=100, workers=0, val_samples=count)
    data.setup("fit")
    held = list(data.val_dataloader())
    assert sum(len(batch["image"]) for batch in held) == count
    (batch,) = islice(data.train_dataloader(), 1)
    assert batch["image"].shape == (100, 3, side, side) and 0.2 < batch["image"].std() < 1
    assert data.skipped == {}


@needs_data
@pytest.mark.parametrize(
    ("pattern", "samples", "images", "questions"),
    [
        ("edit/aurora-val-000000.tar", 51, 102, 0),
        ("vqa/vqav2coco-val-000000.tar", 35, 35, 52),
        ("vqa/easyvqa-val-000000.tar.gz", 200, 200, 1957),
    ],
)
def test_real_edits_and_questions_load(pattern, samples, images, questions):
    problems = {}
    found = list(read_images(["${DDT_DATA}/" + pattern], image_size=64, problems=problems))
    assert problems == {} and len(found) == samples
    assert sum(len(sample.images) for sample in found) == images
    assert sum(len(sample.questions) for sample in found) == questions
    assert all(sample.texts for sample in found if len(sample.images) == 2)


OVERLAYS = sorted((Path(__file__).parents[2] / "data").glob("*.yaml"))


@pytest.mark.parametrize("path", OVERLAYS, ids=[path.stem for path in OVERLAYS])
def test_overlays_fit_the_data_module(path, monkeypatch, tmp_path):
    options = yaml.safe_load(path.read_text())["data"]
    data = ImageShards(**options, workers=0)
    if "shards" not in options:  # a layout alone
        return
    monkeypatch.delenv("DDT_DATA", raising=False)
    if "DDT_DATA" not in options["shards"][0]:  # shards that a converter makes, in the folder one works in
        monkeypatch.chdir(tmp_path)
        with pytest.raises(FileNotFoundError, match="matches no shard"):
            data.setup("fit")
        return
    with pytest.raises(ValueError, match="needs the environment variable DDT_DATA"):
        data.setup("fit")
    if (Path(DATA) / options["shards"][0].split("/")[1]).is_dir():
        monkeypatch.setenv("DDT_DATA", DATA)
        data.setup("fit")
        assert next(iter(data.train_dataloader()))["image"].shape[-1] == options["image_size"]


@needs_data
def test_shards_of_others_load_unchanged():
    urls = [f"{DATA}/thirdparty_wds/clip-retrieval-image{{1..4}}.tar", f"{DATA}/thirdparty_wds/webdataset-sample.tgz"]
    assert [sum(1 for _ in read_images([url], image_size=32)) for url in urls] == [11, 90]
    with pytest.raises(ValueError, match=r"webdataset-mpdata\.tar is empty or no tar"):
        ImageShards([f"{DATA}/thirdparty_wds/webdataset-mpdata.tar"]).setup("fit")
