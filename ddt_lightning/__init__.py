"""Discrete diffusion timestep tokens, and a LLaMA that reads, draws and edits with them.

The tree is the flow::

    image --latents--> tokens.encoder, tokens.quantizer --ids--> shards --> lm (pretrain, instruct)
    prompt --> vocab --> lm.generate --ids--> tokens.decoder, tokens.flow --latents--> image

`stages` trains each arrow with Lightning, `pipeline` composes them, `commands` puts them on the command line.
"""

__version__ = "0.1.0"
