"""shapes-GenEval while a language model trains: draw prompts at a validation and score them.

In: a module with `llm` and `vocab`, the tokenizer stage's release, prompts as GenEval metadata (JSON Lines). Out:
`val/shapes_geneval/TAG` and `.../overall` in the log, and `<run_dir>/geneval/step-001000.jsonl`, rows of the official
`results.jsonl`. The checker knows rendered shapes only: this is never a GenEval number. Prompts are dealt out to the
processes; where the weights are sharded, every process draws all of them, because each forward needs all.
"""

import json
from pathlib import Path

import lightning.pytorch as pl
import torch.distributed as dist
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

from ddt_lightning.metrics.geneval import read_metadata, score, summary
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.sampling import Sampling
from ddt_lightning.training.parallel import refuse_divided


class ShapesGenEval(pl.Callback):
    """Draw prompts at a validation and score them by shapes-GenEval.

    Args:
        prompts: JSON Lines file of GenEval metadata (tag, include, prompt).
        release: folder with the `tokenizer/` (and `vae/`) whose ids the model writes, e.g. runs/tokenizer/release.
        images: how many for each prompt.
        every: draw at every this many-th validation.
        chat: ask in the chat format (instruct), not in the caption format (pretrain).
        guidance: of the language model; 1 for none.
        temperature: of the language model; 0 takes the likeliest id.
        steps: Euler steps of the diffusion decoder.
        decode_guidance: of the diffusion decoder; 1 for none.
        batch: images at a time.
        seed: of the images.

    Raises:
        FileNotFoundError: where prompts or release are missing.
        ValueError: where a number is below 1 or a line is not GenEval metadata.
    """

    def __init__(
        self,
        prompts: str,
        release: str,
        images: int = 1,
        every: int = 1,
        chat: bool = False,
        guidance: float | None = Sampling.guidance,
        temperature: float | None = Sampling.temperature,
        steps: int = Sampling.steps,
        decode_guidance: float = Sampling.decode_guidance,
        batch: int = 64,
        seed: int = 0,
    ) -> None:
        for name, value in (("images", images), ("every", every), ("steps", steps), ("batch", batch)):
            if value < 1:
                raise ValueError(f"`{name}` ({value}) of ShapesGenEval must be at least 1.")
        self.metadata = read_metadata(prompts)
        self.images_of = Pipeline.from_pretrained(release, llm=False)
        self.images, self.every, self.chat, self.batch, self.seed = images, every, chat, batch, seed
        self.sampling = Sampling(
            guidance=guidance, temperature=temperature, steps=steps, decode_guidance=decode_guidance
        )
        self.validations = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what it cannot draw with."""
        refuse_divided(trainer.strategy, "ShapesGenEval draws")

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw, score, gather, log."""
        self.validations += 1
        if (self.validations - 1) % self.every:
            return
        sharded = isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy)
        rank, world = (0, 1) if sharded else (trainer.global_rank, trainer.world_size)
        tokenizer = self.images_of.tokenizer.to(pl_module.device)
        pipeline = Pipeline(tokenizer, pl_module.llm, pl_module.vocab, vae=self.images_of.latents)
        numbers = range(rank, len(self.metadata) * self.images, world)
        rows: list[tuple[int, dict]] = []
        for start in range(0, len(numbers), self.batch):
            part = numbers[start : start + self.batch]
            asked = [self.metadata[n // self.images] for n in part]
            seeds = [self.seed + n for n in part]
            prompts = [prompt["prompt"] for prompt in asked]
            drawn = pipeline.text_to_image(prompts, self.sampling, seed=seeds, chat=self.chat)
            scored = score(drawn.permute(0, 2, 3, 1).numpy(), asked)
            rows += [(n, {**row, "filename": self.filename(n)}) for n, row in zip(part, scored, strict=True)]
        if world > 1:
            gathered: list[list[tuple[int, dict]]] = [[] for _ in range(world)]
            dist.all_gather_object(gathered, rows)
            rows = sorted((row for own in gathered for row in own), key=lambda row: row[0])
        results = [row for _, row in rows]
        values = {f"val/shapes_geneval/{tag}": value for tag, value in summary(results).items()}
        pl_module.log_dict(values, batch_size=1)  # the same on every process
        if trainer.is_global_zero:
            path = Path(trainer.default_root_dir) / "geneval" / f"step-{trainer.global_step:06d}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in results), encoding="utf-8")

    def filename(self, number: int) -> str:
        """GenEval's name of image `number`; the images themselves are not kept."""
        return f"{number // self.images:05d}/samples/{number % self.images:04d}.png"
