"""`ddt eval t2i`: the suite's prompts drawn and scored by GenEval's rules on rendered shapes."""

import json

from ddt_lightning.atomic import staged
from ddt_lightning.evaluation.session import Session, say
from ddt_lightning.inputs import Loading, positive
from ddt_lightning.metrics.cards import Card, card
from ddt_lightning.sampling import Sampling


def t2i(
    *,
    out: str,
    images: int = 4,
    prompts: int = 0,
    chat: bool = True,
    seen: bool = False,
    seed: int = 0,
    processes: int = 2,
    loading: Loading = Loading(),
    drawing: Sampling = Sampling(),
) -> None:
    """Draw the suite's prompts and score them by GenEval's rules with the shapes checker (shapes-GenEval).

    Args:
        out: folder for t2i.json, t2i.png, results.jsonl and the images.
        images: how many for each prompt.
        prompts: how many prompts of each tag, evenly spaced over the tag; 0 for all.
        chat: ask in the chat format of an instruct model; false for a pretrained one.
        seen: prompts of combinations that training shows, of all six tags.
        seed: of the images and of the ground-truth scenes.
        processes: worker processes, each with its share of the cores.
        loading: which model.
        drawing: how to draw.
    """
    from ddt_lightning.evaluation import predictions

    session = Session(loading, drawing, processes, seed)
    from ddt_lightning.evaluation import galleries
    from ddt_lightning.metrics import geneval
    from ddt_lightning.scenes.suite import suite, truth
    from ddt_lightning.seeding import numpy_rng

    chosen = galleries.spread(suite(seen), "tag", prompts) if prompts else suite(seen)
    asked = [(prompt, sample) for prompt in chosen for sample in range(positive("images", images))]
    items = [
        (
            prompt["prompt"],
            truth(prompt, numpy_rng("eval truth", seed, prompt["prompt"], n), seen),
            session.sample_seed(i),
        )
        for i, (prompt, n) in enumerate(asked)
    ]
    found = session.run(predictions.draw_prompts, items, chat)

    metadata = [prompt for prompt, _ in asked]
    names = [f"t2i/{i // images:05d}/samples/{i % images:04d}.png" for i in range(len(asked))]
    rows = geneval.rows([r["drawn"] for r in found], metadata, filenames=names)
    layout = geneval.rows([r["drawn"] for r in found], metadata, ignore_kind=True)
    rule = (
        "shapes-GenEval: GenEval's rules on a classical shapes checker, prompts of combinations "
        f"{'that training shows' if seen else 'held out'}, {images} images a prompt, mean over images"
    )
    cards: dict[str, Card] = {}
    for tag, value in geneval.summary(rows).items():
        spread = geneval.intervals(rows)[tag]
        number = len(rows) if tag == "overall" else sum(row["tag"] == tag for row in rows)
        text = f"{rule}; mean of the tags" if tag == "overall" else rule
        cards[f"t2i/shapes_geneval/{tag}"] = card(value, number, text, spread)

    def overall(key: str, results: list[dict], protocol: str) -> None:
        spread = geneval.intervals(results)["overall"]
        cards[key] = card(geneval.summary(results)["overall"], len(results), protocol, spread)
        cards[key]["by_tag"] = geneval.summary(results)

    other = geneval.shuffled(metadata, seed=seed)
    no_circle = [i for i, prompt in enumerate(metadata) if all(e["class"] != "circle" for e in prompt["include"])]
    overall("t2i/ceiling_render", geneval.rows([r["render"] for r in found], metadata), "renders of the ground truth")
    overall(
        "t2i/ceiling_tokenizer",
        geneval.rows([r["reconstruction"] for r in found], metadata),
        "the tokenizer's reconstructions of the ground truth's renders: the bound of everything drawn through it",
    )
    overall(
        "t2i/floor_shuffled",
        geneval.rows([r["drawn"] for r in found], other),
        "the drawn images scored against another prompt of their tag",
    )
    overall(
        "t2i/floor_circles",
        geneval.rows([found[i]["circles"] for i in no_circle], [metadata[i] for i in no_circle]),
        "ground truth with every shape drawn as a circle, prompts that name no circle",
    )
    overall("t2i/colour_layout/overall", layout, f"{rule}, the kind of the shapes ignored; mean of the tags")
    overall(
        "t2i/colour_layout/floor_shuffled",
        geneval.rows([r["drawn"] for r in found], other, ignore_kind=True),
        "colour_layout of the drawn images against another prompt of their tag",
    )
    with staged(out) as folder:
        galleries.prompts(folder, rows, [r["image"] for r in found], images)
        (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        session.finish(
            folder, "t2i", cards, {"images_per_prompt": images, "prompts": len(chosen), "chat": chat, "seen": seen}
        )
    say(out, cards, "t2i/shapes_geneval/overall", "t2i/colour_layout/overall", "t2i/ceiling_tokenizer")
