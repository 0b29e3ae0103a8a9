"""Tiny scorers with random weights in transformers' format: a Mask2Former of COCO, a CLIP, a DINO."""

import string
from pathlib import Path

import torch

from ddt_lightning.metrics.detection import NAMES


def tiny_mask2former(folder: Path, *, sure_of: int | None = None, labels: dict[int, str] | None = None) -> Path:
    """`sure_of`: the class that every query is sure to see."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    torch.manual_seed(0)
    names = labels or dict(enumerate(NAMES))
    stages = ["stage1", "stage2", "stage3", "stage4"]
    swin = SwinConfig(image_size=32, embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=4, out_features=stages)
    config = Mask2FormerConfig(
        backbone_config=swin, feature_size=32, mask_feature_size=16, hidden_dim=32, encoder_feedforward_dim=16,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=16, num_queries=6,
        num_labels=len(names), id2label=names, label2id={name: number for number, name in names.items()},
    )  # fmt: skip
    model = Mask2FormerForUniversalSegmentation(config)
    if sure_of is not None:
        with torch.no_grad():
            model.class_predictor.bias[sure_of] += 20
    model.save_pretrained(folder)
    return folder


def tiny_clip(folder: Path) -> Path:
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    torch.manual_seed(1)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53}
    config = CLIPConfig(
        text_config={**small, **special, "vocab_size": 54, "max_position_embeddings": 77},
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    letters = string.ascii_lowercase
    vocab = {letter: n for n, letter in enumerate(letters)} | {
        f"{letter}</w>": 26 + n for n, letter in enumerate(letters)
    }
    vocab |= {"<|startoftext|>": 52, "<|endoftext|>": 53}
    CLIPTokenizer(vocab=vocab, merges=[]).save_pretrained(folder)
    return folder


def tiny_dino(folder: Path) -> Path:
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(2)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ViTModel(ViTConfig(**small, image_size=224, patch_size=32), add_pooling_layer=False).save_pretrained(folder)
    return folder
