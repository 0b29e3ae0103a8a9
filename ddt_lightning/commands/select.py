"""`ddt data select`: token shards with the samples whose decoded images are worth enough, one task per shard."""

from pathlib import Path

from ddt_lightning.commands.encode import begin, report, token_names
from ddt_lightning.inputs import Coding
from ddt_lightning.model_folder import find_part
from ddt_lightning.sampling import Decoding
from ddt_lightning.workers import run_tasks


def select(
    *,
    tokenizer: str,
    shards: list[str],
    rewards: dict[str, float],
    out: str,
    renderer: str | None = None,
    judge: str | None = None,
    least: float = 1.0,
    coding: Coding = Coding(),
    decoding: Decoding = Decoding(),
) -> None:
    """Keep the token samples whose decoded images are worth enough, so that a language model learns from those alone.

    Args:
        tokenizer: tokenizer folder, or a run or model folder that holds one; the one that made the shards.
        shards: paths or patterns of token shards; quote them.
        rewards: import path -> weight of functions of images and prompts, such as
            '{ddt_lightning.rl.rewards.plan_right: 1.0}'; a prompt is a sample's json with its `prompt` and `plan`.
        out: folder of the new token shards, named like those they come from.
        renderer: renderer folder, or a run or model folder that holds one; by diffusion, if not given.
        judge: file of `ddt study attributes`, for rewards that read images with it, such as
            '{ddt_lightning.rl.emoji_rewards.plan_attributes_right: 1.0}'.
        least: the worth from which on a sample is kept.
        coding: how to run the tokenizer.
        decoding: how to decode without a renderer.

    Raises:
        ValueError: shards of another tokenizer, a reward that cannot be found, or a shard of which nothing is left.
    """
    from ddt_lightning.atomic import write_json
    from ddt_lightning.metrics.picture_encoder import file_hash
    from ddt_lightning.rl.rewards import find_rewards
    from ddt_lightning.selecting import select_shard
    from ddt_lightning.shards.write import common_fields

    find_rewards(rewards, "--rewards", judge)
    drawn_by = str(find_part("renderer", renderer, "--renderer")) if renderer else None
    folder, sources, model = begin(tokenizer, shards, coding)
    fields, _ = common_fields(sources, "--shards")
    if fields["tokenizer"] != model["fingerprint"]:
        raise ValueError(
            f"`--tokenizer` ({tokenizer}) is {model['fingerprint']}, the shards are of {fields['tokenizer']}."
        )
    names = token_names(sources)
    target = Path(out)
    if target.resolve() in {Path(url).parent.resolve() for url in sources}:
        raise ValueError(f"`--out` ({out}) is the folder of the shards that are selected from: name another one.")
    target.mkdir(parents=True, exist_ok=True)
    (target / "tokens.json").unlink(missing_ok=True)  # not whole until all shards are there
    for name in names:  # a shard of which nothing is kept leaves none of an earlier call
        (target / name).unlink(missing_ok=True)
    tasks = [
        (str(folder), drawn_by, coding, decoding, url, str(target / name), rewards, judge, least)
        for name, url in names.items()
    ]
    judged, kept, problems = 0, 0, {}
    for number, written, bad in run_tasks(select_shard, tasks, coding.processes, "select"):
        judged, kept = judged + number, kept + written
        problems.update(bad)
    report(problems)
    if not kept:
        raise ValueError(f"`--least` ({least}): none of the {judged} samples is worth as much.")
    judged_by = {"judge": file_hash(judge)} if judge else {}
    write_json(target / "tokens.json", {**fields, "selected": {"rewards": rewards, **judged_by, "least": least}})
    print(f"{kept} of {judged} samples ({kept / judged:.2f}) in {out}")
