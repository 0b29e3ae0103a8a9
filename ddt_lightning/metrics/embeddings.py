"""Images and texts as vectors of frozen networks: CLIP (images and texts) and DINO (images), by local folder.

Images come as uint8 `[H, W, 3]` of any size and are prepared by hand as the original releases do (PIL bicubic with
antialiasing, centre crop), because transformers' processors resize differently with and without torchvision. Vectors
are unit length, so that a product is a cosine.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from ddt_lightning.metrics.frozen import check_folder, load_frozen

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DINO_SHORT, DINO_SIDE = 256, 224  # shorter side before the crop, and the crop


def crop(image: Image.Image, short: int, side: int) -> NDArray[np.floating]:
    """The centre square `[side, side, 3]` in [0, 1] of an image whose shorter side was scaled to `short`."""
    width, height = image.size
    if width <= height:
        size = (short, int(short * height / width))
    else:
        size = (int(short * width / height), short)
    scaled = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    return np.asarray(scaled.crop((left, top, left + side, top + side)), np.float32) / np.float32(255)


def preprocess(
    images: Sequence[NDArray[np.uint8] | Image.Image],
    short: int,
    side: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> Tensor:
    """Images as a network's input `[B, 3, side, side]`."""
    pictures = [image if isinstance(image, Image.Image) else Image.fromarray(image) for image in images]
    pixels = torch.from_numpy(np.stack([crop(picture, short, side) for picture in pictures]))
    return ((pixels - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2).contiguous()


class Clip:
    """CLIP of a transformers folder, such as a copy of openai/clip-vit-large-patch14.

    Args:
        folder: with the network and its text tokenizer.
        device: where it runs.
        batch: images or texts at a time.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is another network, or lacks weights or the text tokenizer.
    """

    def __init__(self, folder: str, device: str = "cpu", batch: int = 64) -> None:
        check_folder(folder, "clip")
        from transformers import AutoTokenizer, CLIPModel  # seconds to import

        self.model = load_frozen(CLIPModel, folder, "clip", device)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        rows = self.model.config.text_config.vocab_size
        if len(self.tokenizer) != rows:  # without its files transformers makes up an empty one
            raise ValueError(
                f"`--clip` ({folder}) has a text tokenizer of {len(self.tokenizer)} ids for {rows} rows: "
                "copy vocab.json and merges.txt (or tokenizer.json) beside the weights."
            )
        self.device, self.batch = device, batch
        self.side = int(self.model.config.vision_config.image_size)
        self.length = int(self.model.config.text_config.max_position_embeddings)

    @torch.no_grad()
    def images(self, images: Sequence[NDArray[np.uint8] | Image.Image]) -> Tensor:
        """Unit vectors `[N, d]` of images."""
        parts = []
        for start in range(0, len(images), self.batch):
            pixels = preprocess(images[start : start + self.batch], self.side, self.side, CLIP_MEAN, CLIP_STD)
            parts.append(unit_vectors(self.model.get_image_features(pixel_values=pixels.to(self.device))))
        return torch.cat(parts)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors `[N, d]` of texts, each cut at the model's length."""
        parts = []
        for start in range(0, len(texts), self.batch):
            part = list(texts[start : start + self.batch])
            encoded = self.tokenizer(part, padding=True, truncation=True, max_length=self.length, return_tensors="pt")
            ids, mask = encoded["input_ids"].to(self.device), encoded["attention_mask"].to(self.device)
            parts.append(unit_vectors(self.model.get_text_features(input_ids=ids, attention_mask=mask)))
        return torch.cat(parts)


def unit_vectors(output: object) -> Tensor:
    """Unit vectors on the CPU of what CLIP's feature functions return: a tensor, or since transformers 5 an object."""
    features = output if torch.is_tensor(output) else output.pooler_output  # type: ignore[attr-defined]
    return normalize(features.float(), dim=-1).cpu()


class Dino:
    """DINO of a transformers folder, such as a copy of facebook/dino-vits16 or facebook/dinov2-small.

    Args:
        folder: with a ViT or Dinov2 network.
        device: where it runs.
        batch: images at a time.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is another network, or lacks weights.
    """

    def __init__(self, folder: str, device: str = "cpu", batch: int = 64) -> None:
        check_folder(folder, "dino")
        from transformers import AutoConfig, Dinov2Model, ViTModel  # seconds to import

        name = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
        kinds = {"vit": ViTModel, "dinov2": Dinov2Model}
        if name not in kinds:
            raise ValueError(f"`--dino` ({folder}) is a {name}, not one of {', '.join(kinds)}.")
        self.model = load_frozen(kinds[name], folder, "dino", device, unused="pooler")
        self.device, self.batch = device, batch

    @torch.no_grad()
    def images(self, images: Sequence[NDArray[np.uint8] | Image.Image]) -> Tensor:
        """Unit vectors `[N, d]` of images: the class token after the last layer's norm."""
        parts = []
        for start in range(0, len(images), self.batch):
            part = images[start : start + self.batch]
            pixels = preprocess(part, DINO_SHORT, DINO_SIDE, IMAGENET_MEAN, IMAGENET_STD).to(self.device)
            parts.append(normalize(self.model(pixel_values=pixels).last_hidden_state[:, 0].float(), dim=-1).cpu())
        return torch.cat(parts)
