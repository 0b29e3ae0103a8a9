"""LPIPS of real weights on photos: nothing for equal ones, and more the more a photo is changed."""

import torch
from torch.nn.functional import interpolate

from ddt_lightning.metrics.features import Lpips
from ddt_lightning.shards.images import read_images


def test_real_weights_order_changes_of_photos(ddt_judges, ddt_data):
    metric = Lpips(ddt_judges / "alexnet.safetensors")
    shard = str(ddt_data / "flickr8k_224" / "flickr8k224-val-000000.tar")
    samples = [sample for _, sample in zip(range(16), read_images([shard], image_size=224), strict=False)]
    photos = torch.stack([torch.from_numpy(one.images[0].copy()) for one in samples]).permute(0, 3, 1, 2) / 127.5 - 1
    noise = torch.randn(photos.shape, generator=torch.Generator().manual_seed(0))
    blurred = interpolate(interpolate(photos, scale_factor=0.25, mode="area"), photos.shape[-2:], mode="bilinear")
    with torch.no_grad():
        same, noisy, soft, other = (
            float(metric(changed, photos).mean())
            for changed in (photos, photos + 0.1 * noise, blurred, photos.roll(1, 0))
        )
    assert abs(same) < 1e-6 and 0.05 < noisy < 0.3 and 0.4 < soft < 0.7 and 0.65 < other < 0.9
    assert same < noisy < soft < other
