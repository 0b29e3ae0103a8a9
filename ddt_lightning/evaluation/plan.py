"""`ddt eval plan`: plans in words alone, judged by GenEval's rules before anything is drawn."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ddt_lightning.evaluation.held_out import apart, ask, prompts_measured
from ddt_lightning.evaluation.outcome import Outcome
from ddt_lightning.evaluation.session import Session
from ddt_lightning.inputs import Loading, positive
from ddt_lightning.metrics.cards import mean_card
from ddt_lightning.sampling import Sampling
from ddt_lightning.scenes.world import Asked, World

if TYPE_CHECKING:
    from ddt_lightning.scenes.render import Scene


def plan(
    *,
    out: str,
    samples: int = 4,
    prompts: int = 0,
    seen: bool = False,
    split: Asked = "mirror",
    world: World = World(),
    plan_temperature: float = 0.7,
    plan_length: int = 96,
    seed: int = 0,
    processes: int = 2,
    loading: Loading = Loading(),
) -> None:
    """Let an instruct model plan the suite's prompts and score the plans: how often one fulfils its prompt.

    Args:
        out: folder for plan.json and plans.jsonl, the judged plans; for a split that is scored apart, with its name in
            theirs.
        samples: how many plans for each prompt.
        prompts: how many prompts of each tag, evenly spaced over the tag; 0 for all.
        seen: prompts of combinations that training shows, of all six tags.
        split: of the places that are held out: `mirror` asks for everything that is held out but the places of the
            `novel` split. Those are scored apart, under keys of their own, and so are `groups`, two things of a kind
            in one place relative to a third.
        world: the world of the training shards, as `ddt data scenes` was given it.
        plan_temperature: of the language model; 0 takes the likeliest id.
        plan_length: where a plan is cut, in ids of text.
        seed: of the plans and of the ground-truth scenes.
        processes: worker processes, each with its share of the cores.
        loading: which model.
    """
    from ddt_lightning.evaluation import predictions
    from ddt_lightning.metrics import geneval
    from ddt_lightning.scenes.layout import plan_objects, read_plan, write_plan
    from ddt_lightning.scenes.suite import truth
    from ddt_lightning.seeding import numpy_rng

    positive("samples", samples)
    chosen = ask(seen, split, world, prompts)
    planning = Sampling(plan="auto", plan_temperature=plan_temperature, plan_length=plan_length)
    session = Session(loading, planning, processes, seed)
    asked = [prompt for prompt in chosen for _ in range(samples)]
    items = [(prompt["prompt"], session.sample_seed(n)) for n, prompt in enumerate(asked)]
    written = [found["plan"] for found in session.run(predictions.write_plans, items)]
    best = [
        write_plan(truth(prompt, numpy_rng("eval truth", seed, prompt["prompt"], 0), seen, world), prompt["prompt"])
        for prompt in chosen
    ]

    def scored(plans: list[str], metadata: list[dict], names: list[str] | None = None) -> list[dict]:
        scenes = [read_plan(text) for text in plans]
        return geneval.rows([plan_objects(one) if one else [] for one in scenes], metadata, filenames=names)

    rule = (
        f"GenEval's rules on the objects of the plan, {prompts_measured(seen, split)}, {samples} plans a prompt; what "
        "cannot be read is wrong"
    )
    rows = scored(written, asked, [f"{n // samples:05d}/{n % samples:04d}" for n in range(len(asked))])
    groups = [written[n : n + samples] for n in range(0, len(written), samples)]
    others = geneval.shuffled(asked, seed=seed)
    of_keys, of_files = apart(split)
    start = f"plan{of_keys}"
    cards = {
        **geneval.tag_cards(f"{start}/right", rows, rule),
        f"{start}/ceiling_grid": geneval.overall_card(scored(best, chosen), "upper bound: plans of the ground truth"),
        f"{start}/floor_shuffled": geneval.overall_card(
            scored(written, others), "baseline: the plans scored against another prompt of their tag"
        ),
        f"{start}/readable": mean_card([read_plan(text) is not None for text in written], "share of plans understood"),
        f"{start}/distinct": mean_card([len(set(group)) / samples for group in groups], "different plans of a prompt"),
    }

    def results(folder: Path) -> None:
        lines = [json.dumps({**row, "plan": text}) + "\n" for row, text in zip(rows, written, strict=True)]
        (folder / f"plans{of_files}.jsonl").write_text("".join(lines), encoding="utf-8")

    settings = {"plans_per_prompt": samples, "prompts": len(chosen), "seen": seen, "split": split, **asdict(world)}
    shown = [f"{start}/{score}" for score in ("right/overall", "readable", "distinct")]
    session.write(
        out, Outcome(f"plan{of_files}", cards, shown, settings, len(items), len(written), "plans", pictures=results)
    )


def shows(planned: "Scene | None", wanted: "Scene", *, background: bool = False) -> bool:
    """Whether a plan, as it was read, has exactly the objects of a scene, centres within 10 % of the side.

    Args:
        planned: the plan's scene; None where it was not understood.
        wanted: the true scene.
        background: the background must be right, too.
    """
    from ddt_lightning.metrics.editing import exact_match
    from ddt_lightning.scenes.check import Detected
    from ddt_lightning.scenes.layout import plan_objects

    if planned is None:
        return False
    found = Detected(plan_objects(planned), planned.background.name)
    return exact_match(found, wanted.to_dict(), background=background)
