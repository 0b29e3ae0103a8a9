"""Solvers of the diffusion decoder: how many calls of the network a picture needs, and how good it is then.

In: images and one tokenizer. Out: for each solver, shift of the times and number of calls the PSNR and LPIPS of
reconstructions, and the distance of the latents from the flow's own solution, which a fine solver gives; for each
solver the fewest calls that are as good as many Euler steps. The one-step renderer stands beside them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from ddt_lightning.latents.pixels import to_float, to_uint8
from ddt_lightning.metrics.cards import Card, mean_card
from ddt_lightning.metrics.features import Lpips, full_precision
from ddt_lightning.metrics.reconstruction import psnr
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.plans.cached_arrays import Arrays, measured
from ddt_lightning.report.findings import Findings, Table
from ddt_lightning.report.style import COLOURS, DARK, SOFT, spread_of, tidy
from ddt_lightning.studies.side_by_side import device_of, digest
from ddt_lightning.tokens.base import weights_hash
from ddt_lightning.tokens.solvers import SOLVERS, network_calls

NAME = "solvers"
CHART = f"{NAME}.png"
FINE = "heun"
"""The solver whose many steps stand for the flow's own solution."""
PSNR_SLACK, LPIPS_SLACK, ERROR_SLACK = 0.1, 1.05, 1.05
"""How much worse still counts as equally good: decibels of PSNR, factors of LPIPS and of the distance."""
PLAIN = (
    "The diffusion decoder asks its network again and again to make one picture. Better solvers of its equation make "
    "the same picture with fewer questions."
)


@dataclass(frozen=True)
class Plan:
    """Settings of a call.

    Args:
        calls: numbers of network calls, rising.
        shifts: of the times; solvers other than Heun's are tried with each.
        euler_steps: of the reference.
        fine_steps: of the solution.
        decode_guidance: of the decoder; each call asks the network twice where it is not 1.
        seed: of the decoder's noise.
        batch: images at a time.
        lpips: torchvision's weights of AlexNet or VGG-16; LPIPS is left out without.
    """

    calls: list[int]
    shifts: list[float]
    euler_steps: int
    fine_steps: int
    decode_guidance: float
    seed: int
    batch: int
    lpips: str | None

    def __post_init__(self) -> None:
        if not self.calls or min(self.calls) < 2 or sorted(set(self.calls)) != self.calls:
            raise ValueError(f"`--calls` ({self.calls}) must name numbers from 2 on, rising.")
        if not self.shifts or min(self.shifts) <= 0:
            raise ValueError(f"`--shifts` ({self.shifts}) must name at least one number above 0.")
        for name in ("euler_steps", "fine_steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"`--{name}` ({getattr(self, name)}) must be at least 1.")

    @property
    def ways(self) -> "list[Way]":
        """Everything that is measured, the reference first."""
        found = [Way("euler", self.euler_steps, 1.0)]
        for solver in SOLVERS:
            for shift in self.shifts if solver != "heun" else [1.0]:
                for calls in self.calls:
                    found.append(Way(solver, (calls + 1) // 2 if solver == "heun" else calls, shift))
        return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Way:
    """A way from noise to a picture: the solver, its steps and the shift of its times."""

    solver: str
    steps: int
    shift: float

    @property
    def calls(self) -> int:
        """Calls of the network."""
        return network_calls(self.solver, self.steps)

    @property
    def line(self) -> str:
        """The solver and its shift in words."""
        return self.solver if self.shift == 1 else f"{self.solver}, shift {self.shift:g}"


@dataclass(frozen=True)
class Score:
    """Scores of one way.

    Args:
        way: in words.
        calls: of the network.
        psnr: of the pictures against the originals.
        lpips: the same; None without its weights.
        error: root of the mean squared distance of the latents from the fine solution; None of the renderer.
    """

    way: str
    calls: int
    psnr: Card
    lpips: Card | None
    error: Card | None


def measure(pipeline: Pipeline, images: torch.Tensor, plan: Plan, out: Path) -> tuple[list[Score], dict[str, str]]:
    """Scores of every way, the reference first and the renderer last, and hashes of the weights.

    Args:
        pipeline: with a tokenizer whose decoder is a flow.
        images: uint8 `[N, 3, H, W]`.
        plan: what to measure.
        out: the study's folder.
    """
    tokenizer, device = pipeline.tokenizer, device_of(pipeline)
    judge = None if plan.lpips is None else Lpips(plan.lpips).to(device)

    def quality(latents: torch.Tensor, truth: torch.Tensor) -> dict[str, np.ndarray]:
        made = to_uint8(pipeline.latents.decode(latents))
        found = {"psnr": psnr(made.cpu(), truth).numpy()}
        if judge is not None:
            with full_precision(device):
                found["lpips"] = judge(to_float(made.to(device)), to_float(truth.to(device))).cpu().numpy()
        return found

    @torch.no_grad()
    def make(rows: slice) -> Arrays:
        truth = images[rows]
        ids = pipeline.encode(truth)
        draws = [torch.Generator().manual_seed(1_000_000 * plan.seed + n) for n in range(rows.start, rows.stop)]
        noise = torch.stack([torch.randn(tokenizer.latent_shape, generator=draw) for draw in draws])

        def decoded(way: Way) -> torch.Tensor:
            solver, guidance = SOLVERS[way.solver], plan.decode_guidance
            return tokenizer.decode(
                ids, steps=way.steps, decode_guidance=guidance, solver=solver, shift=way.shift, noise=noise
            )

        solution = decoded(Way(FINE, plan.fine_steps, 1.0))
        found: Arrays = {}
        for place, way in enumerate(plan.ways):
            latents = decoded(way)
            scores = quality(latents, truth)
            scores["error"] = (latents - solution).square().flatten(1).mean(1).sqrt().cpu().numpy()
            found |= {f"{place}.{name}": values for name, values in scores.items()}
        if pipeline.renderer is not None:
            found |= {f"renderer.{name}": v for name, v in quality(pipeline.renderer.decode(ids), truth).items()}
        return found

    weights = {"tokenizer": tokenizer.fingerprint()}
    if pipeline.renderer is not None:
        weights["renderer"] = weights_hash(pipeline.renderer)
    if judge is not None:
        weights["lpips"] = weights_hash(judge)
    facts = {"images": digest(images), "weights": weights, **asdict(plan)}
    arrays = measured(out, NAME, facts, len(images), plan.batch, make)
    scores = [score(way.line, way.calls, f"{place}", arrays) for place, way in enumerate(plan.ways)]
    if pipeline.renderer is not None:
        scores.append(score("renderer", 1, "renderer", arrays))
    return scores, weights


def score(way: str, calls: int, prefix: str, arrays: Arrays) -> Score:
    """Means over the images with their intervals."""
    texts = {
        "psnr": "PSNR of each uint8 image against the raw original, in dB",
        "lpips": "LPIPS against the raw original",
        "error": "root of the mean squared distance of an image's latents from the flow's fine solution",
    }
    cards = {
        name: mean_card(arrays[f"{prefix}.{name}"].tolist(), f"{text}, mean over images")
        for name, text in texts.items()
        if f"{prefix}.{name}" in arrays
    }
    return Score(way, calls, cards["psnr"], cards.get("lpips"), cards.get("error"))


def as_good(one: Score, reference: Score) -> bool:
    """Whether pictures are as good as the reference's by PSNR and, where it is measured, LPIPS."""
    enough = one.psnr["value"] >= reference.psnr["value"] - PSNR_SLACK
    if one.lpips is None or reference.lpips is None:
        return enough
    return enough and one.lpips["value"] <= LPIPS_SLACK * reference.lpips["value"]


def as_near(one: Score, reference: Score) -> bool:
    """Whether latents are as near to the flow's solution as the reference's."""
    if one.error is None or reference.error is None:
        return False
    return bool(one.error["value"] <= ERROR_SLACK * reference.error["value"])


def fewest(scores: Sequence[Score], good: Sequence[bool]) -> str:
    """The fewest calls from which on all larger numbers are good too; a dash where there is none."""
    found = "-"
    for one, fine in sorted(zip(scores, good, strict=True), key=lambda pair: -pair[0].calls):
        if not fine:
            break
        found = str(one.calls)
    return found


def findings(scores: Sequence[Score], plan: Plan, source: str, pictures: dict[str, str]) -> Findings:
    """The outcome of the study.

    Args:
        scores: of all ways, the reference first.
        plan: what was measured.
        source: the images in words.
        pictures: {file: caption} of what was drawn.
    """
    reference, number = scores[0], scores[0].psnr["n"]
    lines = list(dict.fromkeys(one.way for one in scores[1:]))
    reached = []
    for line in lines:
        own = [one for one in scores[1:] if one.way == line]
        good, near = ([test(one, reference) for one in own] for test in (as_good, as_near))
        reached.append([line, fewest(own, good), fewest(own, near)])
    head = [f"{number} {source}", "calls", "PSNR, dB", "LPIPS", "distance from the solution"]
    rows = [
        [
            f"{one.way}, the reference" if one is reference else one.way,
            str(one.calls),
            spread_of(one.psnr, 2),
            "-" if one.lpips is None else spread_of(one.lpips, 4),
            "-" if one.error is None else spread_of(one.error, 4),
        ]
        for one in scores
    ]
    explained = (
        f"Calls of the network for one picture, guidance {plan.decode_guidance:g}"
        f"{' (a call asks the network twice)' if plan.decode_guidance != 1 else ''}. As good: PSNR at most "
        f"{PSNR_SLACK} dB below and LPIPS at most {LPIPS_SLACK - 1:.0%} above that of {plan.euler_steps} Euler steps. "
        "As near: the distance of the latents from the flow's own solution, which "
        f"{plan.fine_steps} steps of {FINE} stand for, at most {ERROR_SLACK - 1:.0%} above that of {plan.euler_steps} "
        "Euler steps. Both hold for all larger numbers of calls that were tried. ±: 95 % of the mean over images."
    )
    tables = [
        Table(["solver", "calls to be as good", "calls to be as near"], reached,
              title=f"Fewest network calls to match {plan.euler_steps} Euler steps"),
        Table(head, rows, title="All that was measured"),
    ]  # fmt: skip
    numbers = {"source": source, "settings": asdict(plan), "scores": [asdict(one) for one in scores]}
    return Findings(NAME, "Solvers of the diffusion decoder", PLAIN, explained, tables, pictures, numbers)


def chart(scores: Sequence[Score], plan: Plan, path: Path) -> None:
    """PSNR, LPIPS and the distance from the solution against the number of calls."""
    from matplotlib.figure import Figure

    titles = {
        "psnr": "PSNR, dB, higher is better",
        "lpips": "LPIPS, lower is better",
        "error": "Distance from the flow's solution",
    }
    names = [name for name in titles if getattr(scores[0], name) is not None]
    figure = Figure(figsize=(4.4 * len(names), 3.8), layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    lines = [line for line in dict.fromkeys(one.way for one in scores[1:]) if line != "renderer"]
    for axes, name in zip(panels, names, strict=True):
        for at, line in enumerate(lines):
            own = [one for one in scores[1:] if one.way == line]
            axes.plot(
                [one.calls for one in own], [getattr(one, name)["value"] for one in own], color=COLOURS[at % 10],
                linewidth=1.6, marker="o", markersize=4, label=line,
            )  # fmt: skip
        level = getattr(scores[0], name)["value"]
        axes.axhline(level, color=SOFT, linewidth=1.2, linestyle="--", label=f"{plan.euler_steps} Euler steps")
        if scores[-1].way == "renderer" and name != "error":
            axes.plot([1], [getattr(scores[-1], name)["value"]], "*", color=DARK, markersize=10, label="renderer")
        axes.set_title(titles[name], loc="left", fontsize=10.5, color=DARK)
        axes.set_xlabel("network calls")
        axes.set_xscale("log", base=2)
        axes.set_xticks([1, *plan.calls], [str(calls) for calls in (1, *plan.calls)])
        if name == "error":
            axes.set_yscale("log")
        tidy(axes)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9, labelcolor=DARK)
    figure.savefig(path, dpi=130)
