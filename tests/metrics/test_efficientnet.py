"""EfficientNet-Lite0 against torch's own padding, and its real weights against photos with known classes."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ddt_lightning.metrics.efficientnet import EfficientNetLite0, SameConv


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "left"), [(9, 3, 1, 1), (8, 3, 2, 0), (9, 3, 2, 1), (12, 5, 2, 1)]
)
def test_padding_is_tensorflows(side, kernel, stride, left):
    torch.manual_seed(0)
    convolution, x = SameConv(2, 3, kernel, stride), torch.randn(1, 2, side, side)
    wide = torch.zeros(1, 2, side + kernel, side + kernel)
    wide[:, :, left : left + side, left : left + side] = x
    whole = torch.nn.functional.conv2d(wide, convolution.weight, stride=stride)
    outputs = -(-side // stride)
    assert torch.allclose(convolution(x), whole[:, :, :outputs, :outputs], atol=1e-5)


def test_real_weights_name_photos(ddt_judges, ddt_data):
    network = EfficientNetLite0(ddt_judges / "efficientnet_lite0.safetensors")
    images, classes = [], []
    with tarfile.open(ddt_data / "optional" / "imagenet256" / "imagenet256-val-000000.tar") as tar:
        for member in tar:
            data = tar.extractfile(member).read()
            if member.name.endswith(".jpg"):
                images.append(np.array(Image.open(io.BytesIO(data)).convert("RGB"))[16:240, 16:240])
            elif member.name.endswith(".cls"):
                classes.append(int(data))
            if len(images) == len(classes) == 24:
                break
    logits = network.logits(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))
    best = logits.topk(5).indices
    assert (best[:, 0] == torch.tensor(classes)).float().mean() >= 0.75  # 0.88 of 100 photos
    assert (best == torch.tensor(classes)[:, None]).any(1).float().mean() >= 0.9
    assert network.train().training is False


def test_other_files_are_refused(ddt_judges, tmp_path):
    state = load_file(ddt_judges / "efficientnet_lite0.safetensors")
    del state["_fc.bias"]
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match="is not EfficientNet-Lite0"):
        EfficientNetLite0(tmp_path / "part.safetensors")
    with pytest.raises(FileNotFoundError, match="`backbone`"):
        EfficientNetLite0(tmp_path / "none.safetensors")
