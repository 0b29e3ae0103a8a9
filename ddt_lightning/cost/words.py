"""A budget in words, and as a row of a table."""

from collections.abc import Sequence

from ddt_lightning.cost.budget import CONTEXT, FRAGMENTS, GIB, Budget, Fit, needed, same_step
from ddt_lightning.cost.ledger import KINDS, PHASES

WIDE = 13
NAMES = {"language": "row", "rl": "prompt", "renderer": "image", "tokenizer": "image"}
"""What is counted as an item of a batch."""
COLUMNS = ("configuration", "GPUs", "weights", "batch", "GiB a process", "TFLOP a step", "s a step", "images a day",
           "days", "checkpoint")  # fmt: skip


def line(name: str, text: str) -> str:
    """A fact under its name."""
    return f"{name:<{WIDE}} {text}"


def size(number: float) -> str:
    """Bytes in GiB or TiB."""
    return f"{number / GIB:,.1f} GiB" if number < 1024 * GIB else f"{number / 1024 / GIB:,.1f} TiB"


def memory_lines(budget: Budget) -> list[str]:
    """Memory of a process by phase and kind."""
    peaks = budget.step.peaks
    kinds = [kind for kind in KINDS if any(peaks[phase].get(kind, 0) for phase in PHASES)]
    lines = [line("memory", "GiB of a process at the fullest moment of each phase")]
    width = max(map(len, PHASES))
    lines.append(" ".join([line("", " " * width), *(f"{kind:>16}" for kind in kinds), f"{'sum':>10}"]))
    for phase in PHASES:
        held = [peaks[phase].get(kind, 0) for kind in kinds]
        numbers = [f"{number / GIB:>16,.3f}" for number in held]
        lines.append(" ".join([line("", f"{phase:<{width}}"), *numbers, f"{sum(held) / GIB:>10,.3f}"]))
    verdict = "fits" if budget.fits else "does not fit"
    text = (
        f"{size(needed(budget.step.peak))} with {FRAGMENTS:.0%} for fragmentation and {size(CONTEXT)} for CUDA, cuBLAS "
        f"and NCCL: {verdict} into {budget.gpu.memory:.1f} GiB"
    )
    return [*lines, line("", text)]


def fit_lines(budget: Budget, fits: Sequence[Fit]) -> list[str]:
    """The largest batches that fit."""
    settings, lines = budget.settings, []
    for number, fit in enumerate(fits):
        how = {None: "", True: "activations recomputed: ", False: "activations kept: "}[fit.checkpointing]
        text = f"{how}at most {fit.items:,} {NAMES[settings.kind]}s a process, `data.batch_size` {fit.batch:,}"
        same = same_step(settings, fit)
        if not fit.items:
            text = f"{how}not even one {NAMES[settings.kind]} a process"
        elif same is not None and same != (settings.batch, settings.accumulate):
            text += f"; the same step: `data.batch_size` {same[0]}, `trainer.accumulate_grad_batches` {same[1]}"
        lines.append(line("fits" if number == 0 else "", text))
    return lines


def time_lines(budget: Budget) -> list[str]:
    """Arithmetic, time and network of a step, and days to the end."""
    settings, step = budget.settings, budget.step
    own = sum(step.flops.values())
    again = f", {step.recomputed / 1e12:,.4g} recomputed" if step.recomputed else ""
    peak = budget.gpu.peak(settings.precision) / 1e12
    lines = [
        line("arithmetic", f"{budget.flops / 1e12:,.4g} TFLOP a step; {own / 1e12:,.4g} a process and batch{again}"),
        line("time", f"{budget.seconds:,.3g} s a step at an assumed MFU of {budget.mfu:.0%} of {peak:,.1f} TFLOP/s"),
    ]
    if budget.drawing:
        lines.append(line("", f"of it {budget.drawing:,.3g} s for drawing, which reads the weights for every id"))
    day = f"{budget.a_day(budget.ids):,.3g} ids and {budget.a_day(budget.samples * settings.images):,.3g} images a day"
    lines.append(line("", day))
    if settings.steps:
        lines.append(line("", f"{budget.days:,.2f} days to step {settings.steps:,}"))
    if step.network:
        sent = step.network * settings.accumulate
        apart, rate = "", f"{budget.link:g} GB/s"
        if step.between:
            those = "groups" if settings.tensor_parallel > 1 else "copies of the weights"
            apart = f" ({size(step.between * settings.accumulate)} of it between the {those})"
            rate = f"{budget.inside or budget.link:g} GB/s within and {rate} between {those.split()[0]}"
        text = f"{size(sent)} a process and step{apart}, {budget.network_seconds:,.3g} s at {rate}"
        share = budget.network_seconds / budget.seconds
        lines.append(line("network", f"{text}: {share:.0%} of the step, at best behind the products"))
    return lines


def storage_lines(budget: Budget) -> list[str]:
    """Storage of checkpoints and shards."""
    text = f"{size(budget.checkpoint)} a checkpoint, {size(budget.release)} the released weights"
    lines = [line("storage", text)]
    if budget.settings.kind == "language" and budget.shards:
        images = round(budget.settings.steps * budget.samples * budget.settings.images)
        lines.append(line("", f"{size(budget.shards)} of token shards for {images:,} images with a text each"))
    return lines


def describe(budget: Budget, fits: Sequence[Fit], notes: Sequence[str]) -> list[str]:
    """Everything that is known of a run, in lines.

    Args:
        budget: of the run.
        fits: the largest batches.
        notes: what the numbers leave out.
    """
    settings, step = budget.settings, budget.step
    large = {name: count for name, count in step.parts.items() if count > 0.01 * step.parameters}
    parts = ", ".join(f"{name} {count / 1e6:,.1f} M" for name, count in large.items())
    frozen = f", {step.frozen / 1e6:,.1f} M frozen" if step.frozen else ""
    share = "sharded over them" if settings.sharded else "whole in each"
    if settings.tensor_parallel > 1:
        share += f", layers divided among {settings.tensor_parallel} each"
    if settings.replicas > 1:
        share = f"in {settings.replicas} copies, each sharded over {settings.processes // settings.replicas}"
    lines = [
        line("model", f"{step.parameters / 1e6:,.1f} M trained weights{frozen}: {parts}"),
        line("processes", f"{settings.processes}, weights {share}, {settings.precision}"),
    ]
    ids = settings.ids
    if settings.kind in ("language", "rl"):
        text = f"{ids.size:,}: {ids.text:,} of text, {ids.image:,} of images, {ids.tokens} an image"
        lines.append(line("ids", f"{text}; documents of {settings.document}, rows of {settings.length}"))
    else:
        lines.append(line("ids", f"{ids.tokens} of {ids.image:,} codes an image"))
    batches = f" in {settings.accumulate} batches" if settings.accumulate > 1 else ""
    name = NAMES[settings.kind]
    lines.append(line("step", f"{budget.samples:,} samples{batches}; {step.items} {name}s a process and batch"))
    lines += [*memory_lines(budget), *fit_lines(budget, fits), *time_lines(budget), *storage_lines(budget)]
    return [*lines, *(line("note", note) for note in notes)]


def table_row(name: str, budget: Budget, gpus: str) -> list[str]:
    """The budget as cells of `COLUMNS`."""
    settings = budget.settings
    accumulate = f" x {settings.accumulate}" if settings.accumulate > 1 else ""
    fits = "" if budget.fits else " (too much)"
    return [
        name, gpus, f"{budget.step.parameters / 1e9:.2f} B", f"{settings.batch}{accumulate}",
        f"{needed(budget.step.peak) / GIB:.1f}{fits}", f"{budget.flops / 1e12:,.0f}", f"{budget.seconds:.2f}",
        f"{budget.a_day(budget.samples * settings.images) / 1e6:.2f} M", f"{budget.days:.1f}", size(budget.checkpoint),
    ]  # fmt: skip


def markdown(row: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(row)} |"
