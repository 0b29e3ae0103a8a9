"""`ddt study renderers`: short runs of the one-step decoder of one tokenizer over axes of settings and losses.

In: a study, read from YAML, as for `ddt study schedule`, with the tokenizer that all runs decode for. Out: what that
study writes, but for the chart; the table compares closeness, perceptual distance and the seams between patches.
"""

from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

from ddt_lightning.model_folder import find_part
from ddt_lightning.plans.fingerprint import weights_mark
from ddt_lightning.plans.recipes import Overlay, overlaid
from ddt_lightning.report.findings import Findings, Table
from ddt_lightning.studies.schedule import ScheduleStudy, Variant
from ddt_lightning.studies.schedule_table import Outcome, rows

PLAIN = (
    "Short runs of the one-step decoder that differ in a few settings, for the ids of one tokenizer and measured on "
    "the same images: they show what makes its pictures sharp, and what hides the borders of its patches."
)
COLUMNS: dict[str, tuple[str, str]] = {
    "SSIM": ("tokenizer/ssim", ".3f"),
    "LPIPS": ("tokenizer/lpips", ".3f"),
    "seams": ("tokenizer/seams", "+.2f"),
}
"""{heading: (score, format)} of what the table shows beside PSNR, where all variants have it."""


@dataclass(frozen=True, kw_only=True)
class RendererStudy(ScheduleStudy):
    """Short renderer runs over axes of settings. `configs` are those of `ddt-fit renderer`.

    Args:
        tokenizer: run or folder of the tokenizer that all of them decode for.
    """

    CONFIG: ClassVar[str] = "stages/study-renderers.yaml"
    STAGE: ClassVar[str] = "renderer"

    tokenizer: str

    @cached_property
    def inputs(self) -> str:
        """Mark of the tokenizer's weights."""
        return weights_mark(find_part("tokenizer", self.tokenizer, "tokenizer"))

    def measuring(self, variant: Variant) -> dict[str, Any]:
        """Only whole images are measured: others are decoded by the tokenizer alone."""
        return {"prefix_images": 1}

    def variants(self) -> list[Variant]:
        """All combinations of the varied axes, for this tokenizer."""
        given: Overlay = {"model": {"tokenizer": self.tokenizer}}
        return [replace(one, overlay=overlaid(one.overlay, given)) for one in super().variants()]

    def draw(self, found: list[Outcome], out: Path) -> None:
        """`pictures.png`."""
        from ddt_lightning.studies import schedule_figures

        if found:
            schedule_figures.pictures(found, out)

    def findings(self, found: list[Outcome], failed: dict[str, str]) -> Findings:
        """One table, and the records of all variants."""
        explained = (
            f"{self.steps} steps each; PSNR in dB, SSIM and, where weights are named, LPIPS {self.measured_on(found)} "
            "Seams: how much larger the step between two pixels is across the borders of patches than inside of them, "
            "beyond the original's, in units of 1/255."
        )
        pictures = {"pictures.png": "The same held-out images, drawn by each variant."}
        columns = {
            title: partial(cell, key=key, form=form)
            for title, (key, form) in COLUMNS.items()
            if all(key in one.cards for one in found)
        }
        table = Table(*rows(list(self.varied), found, columns), names=len(self.varied))
        numbers = {"outcomes": [asdict(one) for one in found]}
        return Findings("renderers", self.title, PLAIN, explained, [table], pictures, numbers, failed)


def cell(one: Outcome, key: str, form: str) -> str:
    """A score of a variant as the table shows it."""
    return format(one.value(key), form)
