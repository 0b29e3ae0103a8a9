"""`ddt plan`: memory, time, network and storage of a training run before it is submitted, without a GPU.

Out: facts as lines on stdout, or a row of a Markdown table. Nothing is read but YAML and the `config.json` of a
language model; the networks are of fake tensors, so that the plan of 8 billion weights takes seconds.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddt_lightning.cost.budget import Fit
    from ddt_lightning.cost.settings import Settings
    from ddt_lightning.cost.trial import Measured


def plan(
    *,
    config: list[str],
    set: dict[str, str] | None = None,
    nodes: int | None = None,
    gpus: int | None = None,
    gpu: str = "h100",
    memory: float | None = None,
    mfu: float = 0.4,
    link: float | None = None,
    tokenizer: str | None = None,
    document: int | None = None,
    row: bool = False,
) -> None:
    """Say what training a configuration takes: memory by phase and kind, time, network, storage, and what fits.

    Args:
        config: YAML of a stage, and overlays, in one list or each behind a `--config` of its own.
        set: single settings changed by dotted name, e.g. `model.llm=FOLDER data.batch_size=512`.
        nodes: machines; by default `trainer.num_nodes`, else 1.
        gpus: GPUs of a machine; by default `trainer.devices`, else 1.
        gpu: their kind: b200, h200, h100, h100-pcie, a100, a100-40, l40s, l4 or rtx4090.
        memory: GiB of one, where it is another than of its kind.
        mfu: assumed share of the peak of dense products that training reaches.
        link: GB/s at which a GPU sends; by default NVLink's within a machine and 50 (400 Gbit/s) between machines. Of
            weights in copies, only sums of gradients go between machines where each holds whole copies.
        tokenizer: YAML of the tokenizer stage whose ids a later stage works with; by default `stages/tok.yaml`.
        document: ids of a document; by default an image and a caption of 40.
        row: print a row of the table of `stages/paper/README.md` instead.
    """
    from dataclasses import replace

    from ddt_lightning.cost.budget import Budget
    from ddt_lightning.cost.hardware import GPUS
    from ddt_lightning.cost.settings import assembled, read_settings
    from ddt_lightning.cost.trial import measure
    from ddt_lightning.cost.words import describe, markdown, table_row

    if gpu not in GPUS:
        raise ValueError(f"`--gpu` ({gpu}) must be one of {', '.join(GPUS)}; `--memory` changes its size.")
    for option, value in {"mfu": mfu, "nodes": nodes, "gpus": gpus, "memory": memory, "link": link}.items():
        if value is not None and (value <= 0 or (option == "mfu" and value > 1)):
            raise ValueError(f"`--{option}` ({value}) must be above 0{' and at most 1' if option == 'mfu' else ''}.")
    values = assembled(config, set or {})
    trainer = values.get("trainer") or {}
    nodes = nodes or int(trainer.get("num_nodes") or 1)
    gpus = gpus or (trainer["devices"] if isinstance(trainer.get("devices"), int) else 1)
    kind = replace(GPUS[gpu], memory=memory) if memory else GPUS[gpu]
    settings = read_settings(values, nodes * gpus, tokenizer, document)
    if gpus % settings.tensor_parallel:
        raise ValueError(
            f"`trainer.strategy.init_args.tensor_parallel` ({settings.tensor_parallel}) must divide the {gpus} GPUs of "
            "a machine: change it or `--gpus`."
        )
    rate = link or (kind.link if nodes == 1 else min(kind.link, 50.0))
    inside = kind.link if link is None and gpus % settings.neighbours == 0 else rate  # they are in one machine
    step = measure(settings, [settings.items])[0]
    budget = Budget(settings, step, kind, mfu, rate, inside)
    if row:
        print(markdown(table_row(f"`{config[0].split('/')[-1]}`", budget, f"{nodes} x {gpus} {gpu}")))
        return
    print("\n".join(describe(budget, fitting(settings, step, kind.memory), notes(settings))))


def fitting(settings: "Settings", step: "Measured", memory: float) -> "list[Fit]":
    """The largest batches that fit, with the activations of blocks kept and recomputed where that is a choice."""
    from ddt_lightning.cost.budget import largest
    from ddt_lightning.cost.depth import extrapolated

    other = extrapolated(settings, [1 if step.items > 1 else 2])[0]
    pair = sorted((step, other), key=lambda one: one.items)
    if settings.kind not in ("language", "rl"):
        return [largest(settings, pair, memory, None)]
    now = bool((settings.model.get("parallel") or {}).get("activation_checkpointing"))
    changed = extrapolated(settings.with_checkpointing(not now), [1, 2])
    return [largest(settings, pair, memory, now), largest(settings, changed, memory, not now)]


def notes(settings: "Settings") -> list[str]:
    """What the numbers of some settings leave out or take as given."""
    found = []
    model, (sizes,) = settings.model, settings.tokenizer.values()
    if (model.get("loss") or {}).get("lpips"):
        found.append("the network of the perceptual loss (`model.loss.lpips`) is left out")
    if settings.kind != "language" and sizes.get("latent_channels", 3) > 3:
        found.append("the frozen VAE (`model.vae`) is left out")
    if settings.kind == "tokenizer" and sizes.get("prefix_groups", 1) > 1:
        found.append("every prefix is taken as whole: `prefix_groups` saves some of it")
    if model.get("compile") or (model.get("parallel") or {}).get("compile"):
        found.append("torch.compile is left out: it needs less memory and time")
    if settings.kind == "rl":
        found.append("decoding and rewarding the drawn images, and the cache of keys and values, are left out")
    return found
