"""`ddt study order|scaling|text|against`: experiments on language models of ids, from one YAML each.

In: a study's YAML. Out, in one folder: study.json, study.md, pictures and the runs. The same call goes on where it was
stopped; a run that is done with the same settings is not run again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddt_lightning.studies.findings import Findings
    from ddt_lightning.studies.runner import Run


def order(
    *,
    out: str = "runs/study-order",
    config: str = "stages/study-order.yaml",
    sets: list[str] | str | None = None,
    orders: list[str] | None = None,
    steps: int | None = None,
    seeds: list[int] | None = None,
    text: bool = True,
    plan: bool = False,
) -> None:
    """Train one small language model on ids in several orders: what shuffling tokens costs, by tokenizer.

    Args:
        out: folder for README.md (the protocol), study.md, study.json, study.png, penalty.png and the runs.
        config: the study, a YAML file.
        sets: pairs name=FOLDER of token shards (images-train-*.tar, images-val-*.tar), instead of the file's.
        orders: natural, reversed, stride-N, random; instead of the file's.
        steps: optimizer steps of each run.
        seeds: of each run.
        text: whether words are studied beside the sets.
        plan: list the runs, and run nothing.

    Raises:
        RuntimeError: runs failed; the others are done and shown.
    """
    from ddt_lightning.studies import order as study_of
    from ddt_lightning.studies import order_figures

    pairs = [sets] if isinstance(sets, str) else sets
    named = study_of.from_pairs(pairs) if pairs else None
    changed = {"sets": named, "orders": orders, "steps": steps, "seeds": seeds}
    study = study_of.OrderStudy.read(config, {**changed, "words": None if text else {}})
    folder = Path(out)
    runs = study_of.plan(study, folder)
    if listed(runs, plan):
        return
    study_of.write_protocol(study, folder)
    failed = run_checked(runs, folder)
    scores = study_of.collect(study, folder)
    if scores:
        order_figures.draw(study, scores, folder)
    conclude(study_of.findings(study, scores, failed), folder)


def listed(runs: Sequence["Run"], plan: bool) -> bool:
    """Whether only the plan was asked for; it is printed then."""
    for run in runs if plan else []:
        print(f"{run.name}: {run.about}")
    return plan


def run_checked(runs: Sequence["Run"], out: Path) -> dict[str, str]:
    """Read the settings of everything that waits, then run it; what failed, by run.

    Raises:
        ValueError: settings make no run; nothing has been run then.
    """
    from ddt_lightning.studies import runner

    for run in runs:
        if not runner.is_done(out, run.steps):
            for step, _ in run.steps:
                runner.check(step, run.name)
    return runner.run_all(runs, out)


def conclude(found: "Findings", out: Path) -> None:
    """Write and print what was found.

    Raises:
        RuntimeError: runs failed.
    """
    from ddt_lightning.studies.findings import write_findings

    print(f"\n{write_findings(found, out)}\nEverything is in {out}; `ddt report {out}` makes a page of it.")
    if found.failed:
        raise RuntimeError(f"{len(found.failed)} runs failed ({', '.join(found.failed)}); see {out}/logs.")
