"""The tokenizers that DDT is compared with: ids that stand for places (VQGAN) or for scales (VAR)."""
