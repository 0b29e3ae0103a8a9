"""Latents [B,c,h,w] to ids [B,K] and back: the diffusion timestep tokenizer."""
