"""`ddt study renderers`: short runs of the one-step decoder of one tokenizer over axes of settings and losses.

In: a study, read from YAML, as for `ddt study schedule`, with the tokenizer that all runs decode for. Out: what that
study writes, but for the chart; the table compares closeness, perceptual distance and the seams between patches.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from ddt_lightning.metrics.intervals import Mean, spread_title
from ddt_lightning.model_folder import find_part
from ddt_lightning.plans.fingerprint import weights_mark
from ddt_lightning.plans.recipes import fit_step, overlaid, verb_step
from ddt_lightning.plans.step import Chain
from ddt_lightning.report.findings import Findings, Table
from ddt_lightning.studies.schedule import ScheduleStudy, Variant
from ddt_lightning.studies.schedule_table import REFERENCE, Outcome

PLAIN = (
    "Short runs of the one-step decoder that differ in a few settings, for the ids of one tokenizer and measured on "
    "the same images: they show what makes its pictures sharp, and what hides the borders of its patches."
)
SCORES = {"ssim": ("SSIM", "{:.3f}"), "lpips": ("LPIPS", "{:.3f}"), "seams": ("seams", "{:+.2f}")}


@dataclass(frozen=True, kw_only=True)
class RendererStudy(ScheduleStudy):
    """Short renderer runs over axes of settings. `configs` are those of `ddt-fit renderer`.

    Args:
        tokenizer: run or folder of the tokenizer that all of them decode for.
    """

    CONFIG: ClassVar[str] = "stages/study-renderers.yaml"

    tokenizer: str

    def chain_of(self, variant: Variant, seed: int, out: Path) -> Chain:
        """Training and measuring of one run."""
        name, folder = f"{variant.name}.{seed}", out / "runs" / variant.name / f"seed-{seed}"
        overlay = overlaid(variant.overlay, {"model": {"tokenizer": self.tokenizer}})
        mark = weights_mark(find_part("tokenizer", self.tokenizer, "tokenizer"))
        train = fit_step(f"{name}.train", "renderer", self.configs, overlay, seed, out, folder, inputs=mark)
        options = {"model": str(folder), "prefix_images": 1, **self.evaluation}
        options |= {} if self.images is None else {"images": self.images}
        measure = verb_step(f"{name}.eval", "eval reconstruction", options, folder / "eval")
        choices = ", ".join(f"{axis} {choice}" for axis, choice in variant.choices.items())
        return Chain(f"{variant.name}, seed {seed}", f"{self.steps} steps, {choices}", [train, measure])

    def draw(self, found: list[Outcome], out: Path) -> None:
        """`pictures.png`."""
        from ddt_lightning.studies import schedule_figures

        if found:
            schedule_figures.pictures(found, out)

    def findings(self, found: list[Outcome], failed: dict[str, str]) -> Findings:
        """One table, and the records of all variants."""
        images = self.images or self.evaluation.get("images", 256)
        source = ", ".join(self.evaluation.get("shards", [])) or "held-out scenes"
        explained = (
            f"{self.steps} steps each; PSNR in dB, SSIM and, where weights are named, LPIPS of {images} images "
            f"({source}), the same for all. Seams: how much larger the step between two pixels is across the borders of"
            " patches than inside of them, beyond the original's, in units of 1/255."
        )
        pictures = {"pictures.png": "The same held-out images, drawn by each variant."}
        table = Table(*rows(list(self.varied), found), names=len(self.varied))
        numbers = {"outcomes": [asdict(one) for one in found]}
        return Findings("renderers", self.title, PLAIN, explained, [table], pictures, numbers, failed)


def rows(axes: list[str], outcomes: list[Outcome]) -> tuple[list[str], list[list[str]]]:
    """Heading and cells of the table: the choice on every axis, and the scores that all variants have."""
    shared = {name: shown for name, shown in SCORES.items()
              if all(f"tokenizer/{name}" in one.cards for one in outcomes)}  # fmt: skip
    reference = next((one for one in outcomes if one.name == REFERENCE), None)
    spread = spread_title(max((len(one.seeds) for one in outcomes), default=1))
    titles = [title for title, _ in shared.values()]
    head = [*axes, "PSNR", spread, "to reference", *titles, "minutes"]
    found = []
    for one in outcomes:
        psnr = one.cards["tokenizer/psnr"]
        interval = None if psnr["interval"] is None else (psnr["interval"][0], psnr["interval"][1])
        beyond = ""
        if reference is not None and one is not reference:
            beyond = f"{one.value('tokenizer/psnr') - reference.value('tokenizer/psnr'):+.2f}"
        scores = [form.format(one.value(f"tokenizer/{name}")) for name, (_, form) in shared.items()]
        shown = Mean(psnr["value"], interval, psnr.get("by_seed", [])).shown()
        found.append([*one.choices.values(), *shown, beyond, *scores, f"{one.seconds / 60:.1f}"])
    return head, found
