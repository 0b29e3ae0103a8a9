"""`ddt eval t2i`: the suite's prompts drawn and scored by GenEval's rules on rendered shapes."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ddt_lightning.evaluation.held_out import apart, ask, prompts_measured
from ddt_lightning.evaluation.outcome import Outcome
from ddt_lightning.evaluation.session import Session
from ddt_lightning.inputs import Loading, positive
from ddt_lightning.metrics.cards import Card
from ddt_lightning.sampling import Sampling
from ddt_lightning.scenes.world import Asked, World


def t2i(
    *,
    out: str,
    images: int = 4,
    prompts: int = 0,
    best_of: int = 1,
    chat: bool = True,
    seen: bool = False,
    split: Asked = "mirror",
    world: World = World(),
    seed: int = 0,
    processes: int = 2,
    loading: Loading = Loading(),
    drawing: Sampling = Sampling(),
) -> None:
    """Draw the suite's prompts and score them by GenEval's rules with the shapes checker (shapes-GenEval).

    Args:
        out: folder for t2i.json, t2i.png, results.jsonl and the images; for a split that is scored apart, with its name
            in theirs.
        images: how many for each prompt.
        prompts: how many prompts of each tag, evenly spaced over the tag; 0 for all.
        best_of: draw so many for each image and keep the best by the same checker; the scores then are an upper bound
            of what choosing can do, and a baseline for practice with a reward.
        chat: ask in the chat format of an instruct model; false for a pretrained one.
        seen: prompts of combinations that training shows, of all six tags.
        split: of the places that are held out: `mirror` asks for everything that is held out but the places of the
            `novel` split. Those are scored apart, under keys of their own, and so are `groups`, two things of a kind
            in one place relative to a third.
        world: the world of the training shards, as `ddt data scenes` was given it.
        seed: of the images and of the ground-truth scenes.
        processes: worker processes, each with its share of the cores.
        loading: which model.
        drawing: how to draw.
    """
    from ddt_lightning.evaluation import galleries, predictions
    from ddt_lightning.metrics import geneval
    from ddt_lightning.scenes.combinations import kinds_of
    from ddt_lightning.scenes.suite import truth
    from ddt_lightning.seeding import numpy_rng

    positive("images", images)
    positive("best_of", best_of)
    chosen = ask(seen, split, world, prompts)
    session = Session(loading, drawing, processes, seed)
    of_keys, of_files = apart(split)
    start = f"t2i{of_keys}"
    asked = [(prompt, sample) for prompt in chosen for sample in range(images)]
    items = []
    for number, (prompt, sample) in enumerate(asked):
        scene = truth(prompt, numpy_rng("eval truth", seed, prompt["prompt"], sample), seen, world)
        seeds = [session.sample_seed(number * best_of + tried) for tried in range(best_of)]
        items += [(prompt["prompt"], scene, seed) for seed in seeds]
    drawn = session.run(predictions.draw_and_check, items, chat, kinds_of(world))

    metadata = [prompt for prompt, _ in asked]
    tried = [drawn[first : first + best_of] for first in range(0, len(drawn), best_of)]
    found = [best(results, prompt) for results, prompt in zip(tried, metadata, strict=True)]
    names = [f"t2i{of_files}/{i // images:05d}/samples/{i % images:04d}.png" for i in range(len(asked))]
    rows = geneval.rows([r["drawn"] for r in found], metadata, filenames=names)
    rule = (
        f"shapes-GenEval: GenEval's rules on a classical shapes checker, {prompts_measured(seen, split)}, "
        f"{images} images a prompt"
    )
    rule += f", each the best of {best_of} by the same checker" if best_of > 1 else ""
    cards = geneval.tag_cards(f"{start}/shapes_geneval", rows, rule)
    cards |= bound_cards(found, metadata, rule, seed, start)

    def pictures(folder: Path) -> None:
        galleries.prompts(
            folder, f"t2i{of_files}", rows, [r["image"] for r in found], [r["plan"] for r in found], images
        )
        plans = [{"plan": r["plan"]} if r["plan"] else {} for r in found]
        lines = [json.dumps({**row, **plan}) + "\n" for row, plan in zip(rows, plans, strict=True)]
        (folder / f"results{of_files}.jsonl").write_text("".join(lines), encoding="utf-8")

    settings = {"images_per_prompt": images, "prompts": len(chosen), "chat": chat, "seen": seen, "split": split}
    settings |= {"best_of": best_of, **asdict(world)}
    shown = [f"{start}/{score}" for score in ("shapes_geneval/overall", "colour_layout/overall", "ceiling_tokenizer")]
    session.write(out, Outcome(f"t2i{of_files}", cards, shown, settings, len(asked), len(found), pictures=pictures))


def best(results: Sequence[dict[str, Any]], prompt: dict) -> dict[str, Any]:
    """The first of some drawings of a prompt that is all right, or else right in colours and layout, or else the first.

    Args:
        results: results of `draw_and_check`.
        prompt: the prompt of all of them.
    """
    from ddt_lightning.metrics.geneval import evaluate

    def right(result: dict[str, Any]) -> tuple[bool, ...]:
        return tuple(evaluate(result["drawn"], prompt, ignore_kind=ignore)[0] for ignore in (False, True))

    return max(results, key=right)


def bound_cards(
    found: Sequence[dict[str, Any]], metadata: Sequence[dict], rule: str, seed: int, start: str
) -> dict[str, Card]:
    """Upper bounds and baselines of shapes-GenEval, and colour_layout, each with its value by tag.

    Args:
        found: results of `draw_and_check`.
        metadata: the prompt of each.
        rule: the protocol in words.
        seed: of the other prompts of a baseline.
        start: of the keys.
    """
    from ddt_lightning.metrics import geneval

    drawn = [r["drawn"] for r in found]
    others = geneval.shuffled(metadata, seed=seed)
    no_circle = [i for i, prompt in enumerate(metadata) if all(e["class"] != "circle" for e in prompt["include"])]
    results = {
        "ceiling_render": (
            geneval.rows([r["render"] for r in found], metadata),
            "upper bound: renders of the ground truth",
        ),
        "ceiling_tokenizer": (
            geneval.rows([r["reconstruction"] for r in found], metadata),
            "upper bound of everything drawn through the tokenizer: its reconstructions of the ground truth's renders",
        ),
        "floor_shuffled": (
            geneval.rows(drawn, others),
            "baseline: the drawn images scored against another prompt of their tag",
        ),
        "floor_circles": (
            geneval.rows([found[i]["circles"] for i in no_circle], [metadata[i] for i in no_circle]),
            "baseline: ground truth with every shape drawn as a circle, prompts that name no circle",
        ),
        "colour_layout/overall": (
            geneval.rows(drawn, metadata, ignore_kind=True),
            f"{rule}, the kind of the shapes ignored; mean of the tags",
        ),
        "colour_layout/floor_shuffled": (
            geneval.rows(drawn, others, ignore_kind=True),
            "baseline: colour_layout of the drawn images against another prompt of their tag",
        ),
    }
    cards = {}
    for name, (rows, protocol) in results.items():
        cards[f"{start}/{name}"] = geneval.overall_card(rows, protocol)
        cards[f"{start}/{name}"]["by_tag"] = geneval.summary(rows)
    return cards
