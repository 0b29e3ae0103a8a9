"""Image [B,3,H,W] in [-1,1] to latents [B,c,h,w] and back."""
