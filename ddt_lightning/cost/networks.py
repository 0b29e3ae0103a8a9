"""What a stage's settings train, built as the stage builds it, with the inputs of a step and its two halves.

A `Trained` is made of fake tensors (`trial.py`); of a language model only its `config.json` is read. Masks are full:
all ids of a row are scored, all tokens of an image are visible.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedModel

from ddt_lightning.cost.settings import Settings
from ddt_lightning.lm.llm import LlmConfig, build_llm, hidden_states, softcap, tables
from ddt_lightning.lm.lora import LoraConfig, add_lora
from ddt_lightning.lm.loss import split_loss
from ddt_lightning.lm.policy import exact_kl, policy_loss, scored
from ddt_lightning.spatial.autoencoder import SpatialTokenizer
from ddt_lightning.spatial.var import Var, VarConfig
from ddt_lightning.spatial.vqgan import Vqgan, VqganConfig
from ddt_lightning.tokens.base import Draws, ImageTokenizer
from ddt_lightning.tokens.decoder import DecoderConfig
from ddt_lightning.tokens.renderer import Renderer, RendererConfig
from ddt_lightning.tokens.tokenizer import Tokenizer, TokenizerConfig
from ddt_lightning.training.discriminator import Adversary, AdversaryConfig
from ddt_lightning.training.parallel import ParallelConfig, forward_method, shard
from ddt_lightning.training.tensor_parallel import Groups, divide


@dataclass
class Trained:
    """What a step works with.

    Args:
        net: what the optimiser trains.
        forward: inputs to what the loss is made of.
        loss: that and the inputs to a loss.
        inputs: number of items of this process to inputs.
        frozen: networks beside it that stay as they are.
        vocabulary: elements of the embedding; 0 where there is none.
        undecayed: matrices without weight decay.
    """

    net: nn.Module
    forward: Callable[..., Any]
    loss: Callable[..., Tensor]
    inputs: Callable[[int], tuple]
    frozen: list[nn.Module] = field(default_factory=list)
    vocabulary: int = 0
    undecayed: list[nn.Parameter] = field(default_factory=list)


def trained(settings: Settings, mesh: DeviceMesh | None, groups: Groups | None = None) -> Trained:
    """What the stage of some settings trains.

    Args:
        settings: of the stage.
        mesh: of the processes that share the weights; None leaves them whole.
        groups: of those that divide the layers of a language model; None leaves them whole.
    """
    if settings.kind == "language":
        return language(settings, mesh, groups)
    makers = {"rl": practice, "renderer": renderer, "tokenizer": tokenizer}
    return makers[settings.kind](settings, mesh)


def built_llm(settings: Settings, mesh: DeviceMesh | None, groups: Groups | None = None) -> PreTrainedModel:
    """The language model, in the order of `LanguageModule.built`."""
    model, ids = settings.model, settings.ids
    with unset_fake_temporarily(), torch.device("meta"):  # of a number, `torch.tensor` makes no fake one on "meta"
        llm = build_llm(LlmConfig(**model.get("network") or {}), ids.size, 0, 1, 2, folder=model.get("llm"),
                        text_size=ids.text)  # fmt: skip
        if model.get("lora"):
            add_lora(llm, LoraConfig(**model["lora"]))
    llm.model.layers = llm.model.layers[: settings.layers]
    allocate(llm)
    with unset_fake_temporarily():  # the meshes of weights that are dealt out twice are made of numbers
        if groups is not None:
            divide(llm, groups)
        shard(llm, llm.model.layers, ParallelConfig(**model.get("parallel") or {}), mesh)
    return llm


def allocate(net: nn.Module) -> None:
    """Put a network on the meta device onto the CPU, tied weights once; `to_empty` refuses fake tensors."""
    made: dict[int, Any] = {}
    for module in net.modules():
        for held in (module._parameters, module._buffers):
            for name, value in held.items():
                if value is None:
                    continue
                if id(value) not in made:
                    empty = torch.empty(value.shape, dtype=value.dtype)
                    wanted = nn.Parameter(empty, value.requires_grad) if isinstance(value, nn.Parameter) else empty
                    made[id(value)] = wanted, value  # the old one is kept, or its id could be given to another
                held[name] = made[id(value)][0]


def of_language(llm: PreTrainedModel, settings: Settings, **parts: Any) -> Trained:
    """A language model as what is trained."""
    embedding = llm.get_input_embeddings()
    undecayed = list(tables(llm)) if settings.model.get("freeze_text_embeddings") else []
    vocabulary = embedding.num_embeddings * embedding.embedding_dim
    return Trained(llm, vocabulary=vocabulary, undecayed=undecayed, **parts)


def language(settings: Settings, mesh: DeviceMesh | None, groups: Groups | None) -> Trained:
    """Pretrain and instruct, on rows of ids."""
    llm = built_llm(settings, mesh, groups)
    states = forward_method(llm, hidden_states)
    ids = settings.ids

    def inputs(rows: int) -> tuple[Tensor, Tensor | None]:
        shape = (rows, settings.length)
        made = torch.zeros(shape, dtype=torch.long)
        return made, torch.zeros(shape, dtype=torch.long) if settings.packed else None

    def loss(hidden: Tensor, rows: Tensor, _: Tensor | None) -> Tensor:
        head, image = llm.get_output_embeddings().weight, (ids.text, ids.text + ids.image)
        sums = split_loss(hidden, head, rows, *image, softcap(llm), settings.model.get("z_weight", 0.0))
        return sums.total / sums.count

    return of_language(llm, settings, forward=states, loss=loss, inputs=inputs)


def practice(settings: Settings, mesh: DeviceMesh | None) -> Trained:
    """Practice with a reward: the update of the policy on what it drew, beside the frozen model of its start."""
    llm = built_llm(settings, mesh)
    states = forward_method(llm, hidden_states)
    options = settings.model.get("practice") or {}
    weight = options.get("kl_weight", 0.02)
    start = built_llm(settings, mesh).requires_grad_(False) if weight else None
    start_states = forward_method(start, hidden_states) if start is not None else None
    decoder = image_tokenizer(settings.tokenizer).requires_grad_(False)
    ids = settings.ids

    def inputs(prompts: int) -> tuple[Tensor]:
        return (torch.zeros(prompts * options.get("group", 12), settings.length, dtype=torch.long),)

    def at(model: PreTrainedModel, hidden: Tensor, rows: Tensor) -> Any:  # noqa: ANN401 - a `Scored`
        head = model.get_output_embeddings().weight[ids.text : ids.text + ids.image]
        return scored(hidden[:, -ids.tokens - 1 : -1].flatten(0, 1), head, rows[:, -ids.tokens :].flatten(),
                      temperature=options.get("temperature", 1.0), softcap=softcap(model))  # fmt: skip

    def loss(hidden: Tensor, rows: Tensor) -> Tensor:
        policy = at(llm, hidden, rows)
        kl = torch.zeros_like(policy.chosen)
        if start is not None and start_states is not None:
            with torch.no_grad():
                before = at(start, start_states(rows), rows)
            kl = exact_kl(policy.all, before.all)
        row = torch.arange(len(rows)).repeat_interleave(ids.tokens)
        total, count = policy_loss(policy.chosen, torch.zeros(len(row)), kl, row, len(rows), kl_weight=weight)
        return total / count

    frozen = [decoder, *([start] if start is not None else [])]
    return of_language(llm, settings, forward=states, loss=loss, inputs=inputs, frozen=frozen)


def image_tokenizer(model: dict[str, Any]) -> ImageTokenizer:
    """The tokenizer of one entry of `TOKENIZERS` and its sizes."""
    if model.get("vqgan"):
        return Vqgan(VqganConfig.from_dict(model["vqgan"]))
    if model.get("var"):
        return Var(VarConfig.from_dict(model["var"]))
    return Tokenizer(TokenizerConfig.from_dict(model["tokenizer"]))


def adversary(settings: Settings) -> Adversary | None:
    """The discriminator of a run, where it has one."""
    terms = settings.model.get("loss") or {}
    if terms.get("gan_from") is None:
        return None
    return Adversary(AdversaryConfig(**terms.get("adversary") or {}), torch.device("cpu"), 0)


def with_adversary(decoded: Tensor, image: Tensor, judge: Adversary | None) -> Tensor:
    """The GAN loss of decoded images and the step of the discriminator; 0 where there is none."""
    if judge is None:
        return decoded.new_zeros(())
    judge.update(image, decoded)
    return judge.loss(decoded)


def tokenizer(settings: Settings, mesh: DeviceMesh | None) -> Trained:
    """An image tokenizer, on latents; DDT and those that it is compared with."""
    net = image_tokenizer(settings.tokenizer)
    if isinstance(net, Tokenizer):
        parallel = ParallelConfig(**settings.model.get("parallel") or {})
        shard(net, net.blocks(), parallel, mesh, apart=net.tables(), methods=["loss"])
    judge = adversary(settings)

    def inputs(images: int) -> tuple[Tensor, Draws]:
        latents = torch.zeros(images, *net.latent_shape)
        return latents, Draws(torch.zeros_like(latents), torch.zeros(images), torch.zeros(images), torch.Generator())

    def forward(latents: Tensor, draws: Draws) -> tuple[Tensor, Tensor | None]:
        if not isinstance(net, SpatialTokenizer):
            return net.loss(latents, draws)[0], None
        decoded, loss, _ = net.outcome(latents, draws)
        return loss, decoded

    def loss(made: tuple[Tensor, Tensor | None], latents: Tensor, _: Draws) -> Tensor:
        total, decoded = made
        return total if decoded is None else total + with_adversary(decoded, latents, judge)

    return Trained(net, forward, loss, inputs, frozen=[judge.net] if judge is not None else [])


def renderer(settings: Settings, _: DeviceMesh | None) -> Trained:
    """The renderer of a frozen tokenizer, on images whose ids it renders."""
    frozen = Tokenizer(TokenizerConfig.from_dict(settings.tokenizer["tokenizer"])).requires_grad_(False)
    sizes = dict(settings.model.get("renderer") or {})
    if sizes.get("decoder"):
        sizes["decoder"] = DecoderConfig(**sizes["decoder"])
    net = Renderer(RendererConfig(**sizes), frozen)
    judge = adversary(settings)

    def inputs(images: int) -> tuple[Tensor]:
        return (torch.zeros(images, *frozen.latent_shape),)

    def forward(latents: Tensor) -> Tensor:
        return net(frozen.embed(frozen.encode(latents)))

    def loss(rendered: Tensor, latents: Tensor) -> Tensor:
        return (rendered - latents).square().mean() + with_adversary(rendered, latents, judge)

    return Trained(net, forward, loss, inputs, frozen=[frozen, *([judge.net] if judge is not None else [])])
