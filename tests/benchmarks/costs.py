"""What a training step costs against each size that one may choose: seconds and memory, beside those of a plan.

Each point is a step of a stage at its default sizes but for one, in a process of its own, in fp32 on one thread. The
plan of the same step (`ddt_lightning/cost`) counts its products and its tensors, so the exponent of a curve has one to
be compared with, fitted over the same points: seconds should grow as the products or slower, memory as the plan's.

`make costs` writes the table and the figure.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from timing import alone, forget_peak, resident
from torch import Tensor

from ddt_lightning.cost.networks import Trained, trained
from ddt_lightning.cost.settings import Settings, assembled, read_settings
from ddt_lightning.cost.trial import measure
from ddt_lightning.studies.powerlaw import fit
from ddt_lightning.training.optim import OptimConfig, build_optimizer

ROUNDS = 4
LATE = 0.15
"""How much larger than the plan's an exponent may be before the table says so."""
TOKENIZER, LANGUAGE = "stages/tok.yaml", "stages/pretrain.yaml"
ALWAYS = {"trainer.precision": "32-true"}
QUANTIZING = {"model.tokenizer.quantizer.warmup_steps": 0}
"""A step that quantises, as all but the first ones of a run do."""


@dataclass(frozen=True)
class Curve:
    """Steps of a stage that differ in one size.

    Args:
        name: of the size.
        stage: YAML of the stage.
        size: dotted name of the option; `length` and `image` are ids of a row and codes of an image in the vocabulary.
        values: of the size.
        batch: samples or rows; None where it is the size.
    """

    name: str
    stage: str
    size: str
    values: tuple[int, ...]
    batch: int | None = 32

    def settings(self, value: int) -> Settings:
        """The stage with the size at a value."""
        changes = {**ALWAYS, **(QUANTIZING if self.stage == TOKENIZER else {"data.packing": False})}
        changes |= {"data.batch_size": self.batch} if self.batch else {}
        changes |= {self.size: value} if "." in self.size else {}
        found = read_settings(assembled([self.stage], changes), 1)
        if self.size == "length":
            network = {**found.model["network"], "max_length": value}
            return replace(found, length=value, document=value, model={**found.model, "network": network})
        return replace(found, ids=replace(found.ids, image=value)) if self.size == "image" else found


CURVES = (
    Curve("tokenizer: images of a batch", TOKENIZER, "data.batch_size", (8, 16, 32, 64, 128), None),
    Curve("tokenizer: tokens of an image", TOKENIZER, "model.tokenizer.tokens", (16, 32, 64, 128, 256)),
    Curve("tokenizer: codes", TOKENIZER, "model.tokenizer.codebook_size", (1024, 4096, 16384, 65536)),
    Curve("language model: rows of a batch", LANGUAGE, "data.batch_size", (16, 32, 64, 128, 256), None),
    Curve("language model: ids of a row", LANGUAGE, "length", (128, 256, 512, 1024, 2048), 8),
    Curve("language model: vocabulary", LANGUAGE, "image", (1024, 4096, 16384, 65536)),
)


@dataclass(frozen=True)
class Point:
    """A step at one value.

    Args:
        value: of the size.
        seconds: of the step.
        memory: bytes at its fullest moment, weights and the optimiser's state among them.
        products: floating-point operations that the plan counts.
        planned: bytes that it plans.
    """

    value: int
    seconds: float
    memory: float
    products: float
    planned: float


def filled(found: Trained, settings: Settings) -> tuple:
    """The inputs of a step with numbers in them."""
    inputs = found.inputs(settings.items)
    for part in inputs:
        for leaf in [part] if isinstance(part, Tensor) else vars(part).values() if part is not None else ():
            if isinstance(leaf, Tensor):
                leaf.uniform_() if leaf.is_floating_point() else leaf.random_(0, settings.ids.size)
    return inputs


def step(found: Trained, optimizer: torch.optim.Optimizer, settings: Settings) -> None:
    """A real training step."""
    optimizer.zero_grad()
    inputs = filled(found, settings)
    made = found.forward(*inputs)
    loss = found.loss(made, *inputs)
    del made
    loss.backward()
    optimizer.step()


def take(curve: Curve, value: int, rounds: int = ROUNDS) -> Point:
    """Measure a point in this process, then plan it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    settings = curve.settings(value)
    (torch.ones(64, 64, requires_grad=True) @ torch.ones(64, 64)).sum().backward()  # libraries make room for themselves
    forget_peak()
    before = resident("VmRSS")
    found = trained(settings, None)
    for weight in (*found.net.parameters(), *found.net.buffers()):  # a language model comes without values
        if curve.stage == LANGUAGE and weight.is_floating_point():
            torch.nn.init.normal_(weight, std=0.02)
    optimizer = build_optimizer(found.net, OptimConfig(**settings.model["optim"]), 10**6, found.undecayed)["optimizer"]
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        step(found, optimizer, settings)
        seconds.append(time.perf_counter() - start)
    memory = resident("VmHWM") - before
    planned = measure(settings, [settings.items], foreach=False)[0]
    return Point(value, statistics.median(seconds[1:]), memory, sum(planned.flops.values()), planned.peak)


def exponent(points: Sequence[Point], quantity: str) -> tuple[float, float]:
    """Exponent of a power law through points, and half the width of its 95 % interval."""
    values = {"value": [one.value for one in points]}
    law = fit(values, [getattr(one, quantity) for one in points])
    low, high = law.intervals["value"]
    return -law.exponents["value"], (high - low) / 2


def row(curve: Curve, points: Sequence[Point]) -> str:
    """A line of the table."""
    cells = [curve.name, f"{points[0].value} to {points[-1].value}"]
    for measured, counted in (("seconds", "products"), ("memory", "planned")):
        (found, half), (expected, _) = exponent(points, measured), exponent(points, counted)
        late = " grows faster" if found - half > expected + LATE else ""
        cells += [f"{found:.2f} ± {half:.2f}{late}", f"{expected:.2f}"]
    last = points[-1]
    cells += [f"{last.seconds:.2f} s", f"{last.memory / 2**20:.0f} MiB", f"{last.planned / 2**20:.0f} MiB"]
    return f"| {' | '.join(cells)} |"


HEAD = """\
| size | values | exponent of seconds | of products | exponent of memory | planned | largest: time | memory | planned |
|---|---|---|---|---|---|---|---|---|"""


def draw(found: dict[Curve, list[Point]], path: Path) -> None:
    """Write the figure: a column for each size, seconds above memory, measured and planned."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    from ddt_lightning.report.style import COLOURS, tidy

    figure = Figure(figsize=(2.4 * len(found), 5.6), layout="constrained")
    grid = figure.subplots(2, len(found), sharey="row", squeeze=False)
    for number, (curve, points) in enumerate(found.items()):
        values = [one.value for one in points]
        rate = statistics.geometric_mean(one.products / one.seconds for one in points)
        lines = {
            "seconds": ([one.seconds for one in points], [one.products / rate for one in points]),
            "MiB": ([one.memory / 2**20 for one in points], [one.planned / 2**20 for one in points]),
        }
        for place, (unit, (measured, counted)) in enumerate(lines.items()):
            axes = grid[place, number]
            axes.loglog(values, counted, color=COLOURS[1], label="products, at one rate" if place == 0 else "planned")
            axes.loglog(values, measured, "o", color=COLOURS[0], label="measured")
            axes.set_xticks(values, [f"{value:,}" for value in values], rotation=45, fontsize=7)
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.minorticks_off()
            axes.set_title(curve.name if place == 0 else "", fontsize=9)
            axes.set_ylabel(unit if number == 0 else "")
            tidy(axes)
            if number == 0:
                axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def table(found: dict[Curve, list[Point]]) -> str:
    """The table of all curves."""
    return "\n".join([HEAD, *(row(curve, points) for curve, points in found.items())])


def run(curves: Sequence[Curve] = CURVES) -> dict[Curve, list[Point]]:
    """Measure every point of some curves, each in a process of its own."""
    found: dict[Curve, list[Point]] = {}
    for curve in curves:
        found[curve] = []
        for value in curve.values:
            words = json.dumps([asdict(curve), value])
            found[curve].append(Point(value, *alone(__file__, words)))
            print(f"{curve.name} {value}: {found[curve][-1].seconds:.3f} s", file=sys.stderr, flush=True)
    return found


def main(out: str | None = None, picture: str | None = None) -> None:
    """Print the table, or write it and the figure.

    Args:
        out: file of the table.
        picture: file of the figure.
    """
    found = run()
    text = f"One step in fp32 on one thread, medians of {ROUNDS}; 95 % intervals of the exponents.\n\n{table(found)}"
    if out is None or picture is None:
        print(f"\n{text}")
        return
    draw(found, Path(picture))
    intro = (__doc__ or "").partition("\n\n")
    lines = ["# What sizes cost", "", "By `make costs`.", "", intro[2].partition("\n\n`make")[0], "", text, ""]
    Path(out).write_text("\n".join([*lines, f"![seconds and memory by size](../pictures/{Path(picture).name})", ""]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("point", nargs="?")
    parser.add_argument("--out")
    parser.add_argument("--picture")
    given = parser.parse_args()
    if given.point:
        fields, value = json.loads(given.point)
        point = take(Curve(**{**fields, "values": tuple(fields["values"])}), value)
        print(point.seconds, point.memory, point.products, point.planned)
    else:
        main(given.out, given.picture)
