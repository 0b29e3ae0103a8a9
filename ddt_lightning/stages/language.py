"""Base of pretraining and instruction tuning: a causal language model over rows of text and image ids."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from ddt_lightning.distributed import summed
from ddt_lightning.lm.code_regression import CodeRegression
from ddt_lightning.lm.export import text_fingerprint
from ddt_lightning.lm.llm import LlmConfig, build_llm, hidden_states, softcap, tables
from ddt_lightning.lm.lora import LoraConfig, add_lora, base_name, merged, reader
from ddt_lightning.lm.loss import LossSums, global_mean, split_loss
from ddt_lightning.lm.weights import FolderWeights
from ddt_lightning.load_tokenizer import load_tokenizer
from ddt_lightning.model_folder import find_part
from ddt_lightning.training.checkpoint import exported_facts, load_strictly, read_weights
from ddt_lightning.training.logs import log_ratios, log_step
from ddt_lightning.training.optim import OptimConfig, build_optimizer
from ddt_lightning.training.parallel import (
    ParallelConfig,
    dividing_groups,
    forward_method,
    materialise,
    shard,
    weights_mesh,
    whole_state_dict,
)
from ddt_lightning.training.sharded import clip_by_norm, zero_gradient
from ddt_lightning.training.tensor_parallel import divide, evened
from ddt_lightning.vocab import Vocab


class LanguageModule(pl.LightningModule):
    """Trains a causal transformer on rows `{"ids": [B,T], "labels": [B,T]}`; label -100 is not scored.

    Packed rows also have `positions` `[B,T]`, which restart at 0 with every document.

    Args:
        network: sizes of a fresh small Llama; unused when `llm` names a folder.
        optim: optimiser and schedule.
        llm: folder of a local Llama or Gemma to start from; its vocabulary is grown by the image ids.
        parallel: checkpointing, compilation and precision of the blocks.
        init_from: start from these weights: a run, a release folder or a `.ckpt`.
        seed: of the fresh weights.
        lora: train low-rank adapters in place of the weights; they are merged on release.
        freeze_text_embeddings: leave the text ids' rows of embedding and head as they are; the others then have no
            weight decay either.
        codebook: start the rows of the image ids from the code vectors of this image tokenizer, a run or a release
            folder; null starts them from noise.
        z_weight: weight of the squared log-partition in the training loss; 1e-4 keeps the logits of a large run small.
        text_weight: weight of a text id in the training loss, an image id's being 1. An answer has few ids and an image
            many: at 1 a model that learns both hardly learns to answer.
        code_weight: weight of the squared error of the next image id's code vector, regressed from the hidden state, in
            the training loss; above 0 it needs `codebook`.
    """

    llm: PreTrainedModel
    vocab: Vocab
    fresh = True  # whether random weights will do

    def __init__(
        self,
        network: LlmConfig,
        optim: OptimConfig,
        llm: str | None = None,
        parallel: ParallelConfig | None = None,
        init_from: str | None = None,
        seed: int = 0,
        lora: LoraConfig | None = None,
        freeze_text_embeddings: bool = False,
        codebook: str | None = None,
        z_weight: float = 0.0,
        text_weight: float = 1.0,
        code_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if not self.fresh and not init_from and not llm:
            raise ValueError(
                "`init_from` is needed: instruction tuning starts from a pretrain run, e.g. runs/pretrain."
            )
        if z_weight < 0:
            raise ValueError(f"`model.z_weight` ({z_weight}) must be 0 or more.")
        if text_weight <= 0:
            raise ValueError(f"`model.text_weight` ({text_weight}) must be above 0.")
        if code_weight < 0 or (code_weight and not codebook):
            raise ValueError(
                f"`model.code_weight` ({code_weight}) must be 0 or more, and above 0 it needs `model.codebook`, the "
                "image tokenizer of the ids."
            )
        if lora is not None and not lora.tables and not init_from:
            raise ValueError("`model.lora.tables` (false) leaves the new rows untrained: set it, or give `init_from`.")
        self.network = network
        self.optim = optim
        self.folder = llm
        self.parallel = parallel or ParallelConfig()
        self.init_from = init_from
        self.seed = seed
        self.lora = lora
        self.freeze_text_embeddings = freeze_text_embeddings
        self.codebook = codebook
        self.z_weight = z_weight
        self.text_weight = text_weight
        self.code_weight = code_weight

    def configure_model(self) -> None:
        """Build the language model once for the data's vocabulary, load `init_from`, and shard."""
        if hasattr(self, "llm"):
            return
        torch.manual_seed(self.seed)
        self.vocab = self.trainer.datamodule.vocab
        if self.init_from:
            check_exported(self.vocab, self.init_from)
        self.llm = self.built()
        self.hidden_states = forward_method(self.llm, hidden_states)
        if self.code_weight:
            if self.device_mesh is not None:
                raise ValueError("`model.code_weight` cannot be used where the weights are sharded: set it to 0.")
            self.regression = CodeRegression(self.llm.config.hidden_size, self.codes())

    def built(self) -> PreTrainedModel:
        """A language model with the weights that training starts from.

        A model from a folder is built on the meta device where it is to be sharded: no process ever holds all of it.
        """
        vocab = self.vocab
        mesh = weights_mesh(self.trainer.strategy)
        codes = self.codes() if self.codebook else None
        special = {"bos": vocab.bos, "eos": vocab.eos, "pad": vocab.pad}
        parts = self.folder is not None and mesh is not None
        with torch.device("meta") if parts else nullcontext():
            llm = build_llm(self.network, vocab.size, **special, folder=self.folder, text_size=vocab.text_size,
                            codes=codes)  # fmt: skip
        if self.init_from and not parts:
            load_strictly(llm, read_weights(self.init_from, "lm", "llm."), self.init_from)
        if self.lora is not None:
            add_lora(llm, self.lora)
        read = None
        if self.folder is not None and parts:
            source = find_part("lm", self.init_from, "init_from") if self.init_from else self.folder
            weights = FolderWeights(source, vocab.size, vocab.text_size, codes)
            names = {base_name(name) for name, _ in llm.named_parameters()}
            weights.check({name for name in names if name is not None})
            read = reader(llm, weights.read)
        self.groups = dividing_groups(self.trainer.strategy)
        if self.groups is not None:
            divide(llm, self.groups)
        shard(llm, llm.model.layers, self.parallel, mesh)
        if read is not None:
            materialise(llm, self.trainer.strategy.root_device, read)
        return llm

    def codes(self) -> Tensor:
        """Code vectors `[C, d]` of the image tokenizer that made the data's ids.

        Raises:
            ValueError: `codebook` is another tokenizer.
        """
        tokenizer = load_tokenizer(find_part("tokenizer", str(self.codebook), "model.codebook"))
        if tokenizer.fingerprint() != self.vocab.tokenizer:
            raise ValueError(
                f"`model.codebook` ({self.codebook}) is tokenizer {tokenizer.fingerprint()}: name the one that made "
                f"the ids, {self.vocab.tokenizer}."
            )
        return tokenizer.quantizer.lookup(torch.arange(self.vocab.codebook_size))

    def hidden(self, batch: dict[str, Tensor]) -> Tensor:
        """Hidden states `[B, T, D]` of a batch."""
        ids, positions = batch["ids"], batch.get("positions")
        rows, length = ids.shape
        if self.groups is not None:
            ids, positions = evened(ids, positions, self.groups)
        return self.hidden_states(ids, positions)[:rows, :length]

    def sums(self, batch: dict[str, Tensor], hidden: Tensor) -> LossSums:
        """Summed losses of a batch, in all and apart for text and image ids."""
        head = self.llm.get_output_embeddings().weight
        z_weight, text_weight = (self.z_weight, self.text_weight) if self.training else (0.0, 1.0)
        image = self.vocab.image_start, self.vocab.image_end
        return split_loss(hidden, head, batch["labels"], *image, softcap(self.llm), z_weight, text_weight)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """Cross-entropy per scored token of the global batch, text weighted, and the error of the regressed codes."""
        hidden = self.hidden(batch)
        sums = self.sums(batch, hidden)
        loss = global_mean(sums.total, sums.count)
        parts = {"text_loss": (sums.text, sums.text_count), "image_loss": (sums.image, sums.image_count)}
        if self.code_weight:
            errors, number = self.regression(hidden, batch["labels"], self.vocab.image_start)
            parts["code_loss"] = errors.detach(), number
            loss = loss + self.code_weight * global_mean(errors, number)
        log_ratios(self, {"loss": (loss, torch.ones_like(loss)), **parts}, self.trainer.log_every_n_steps)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Held-out text begins anew."""
        self.text_nats = torch.zeros(2, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: dict[str, Tensor], _: int, dataloader_idx: int = 0) -> None:
        """The same loss on held-out rows, apart for text and image ids: means over the labels of all processes."""
        sums = self.sums(batch, self.hidden(batch))
        if dataloader_idx == self.trainer.datamodule.text_loader:
            self.text_nats += torch.stack([sums.text, sums.text_count])
            return
        for name, total, count in (
            ("loss", sums.total, sums.count),
            ("text_loss", sums.text, sums.text_count),
            ("image_loss", sums.image, sums.image_count),
        ):
            # every process logs every name, if with no weight: the sums over processes must meet. The weight is no int:
            # Lightning rounds the mean over processes of one down
            weight: Any = float(count)
            mean = total / count.clamp_min(1)
            self.log(f"val/{name}", mean, batch_size=weight, on_epoch=True, sync_dist=True, add_dataloader_idx=False)

    def on_validation_epoch_end(self) -> None:
        """Perplexity of the held-out text per piece: what learning images does to it."""
        log_step(self)
        if self.trainer.datamodule.text_loader is not None:
            nats, pieces = summed(self.text_nats)
            self.log("val/text_ppl", (nats / pieces).exp().float(), rank_zero_only=True)

    def configure_optimizers(self) -> dict:
        """See `training/optim.py`."""
        # a decay would shrink rows that get no gradient
        undecayed = tables(self.llm) if self.freeze_text_embeddings else []
        trained = self if self.code_weight else self.llm
        return build_optimizer(trained, self.optim, self.trainer.max_steps, undecayed)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """As Lightning does, and by norm where weights are dealt out in two ways, over all of them."""
        if self.groups is None or not gradient_clip_val or gradient_clip_algorithm == "value":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        else:
            clip_by_norm(self.llm.parameters(), gradient_clip_val)

    def on_before_optimizer_step(self, _: Optimizer) -> None:
        """Keep the text rows of embedding and head as they are, if they are frozen."""
        if self.freeze_text_embeddings:
            for table in tables(self.llm):
                zero_gradient(table, self.vocab.text_size)

    def release(self, folder: Path) -> None:
        """Write `lm/` as a plain transformers folder and `vocab/`; collective when the weights are sharded."""
        state = whole_state_dict(self.llm)
        if self.lora is not None:
            state = merged(state, self.lora)
        if state:
            self.llm.save_pretrained(folder / "lm", state_dict=state)
            self.vocab.save(folder / "vocab")


def check_exported(vocab: Vocab, source: str) -> None:
    """Refuses weights of an exported folder that were trained on other ids than the data's.

    Raises:
        ValueError: naming the image or text tokenizer, K, codebook size or order of both.
    """
    facts = exported_facts(source)
    vocab.check(facts, f"`init_from` ({source})")
    text = text_fingerprint(vocab.text)
    if facts.get("text_tokenizer") not in (None, text):
        raise ValueError(
            f"`init_from` ({source}) has the text tokenizer {facts['text_tokenizer']}, the vocabulary {text}: "
            "`ddt import` writes the one that fits, for `data.vocab`."
        )
