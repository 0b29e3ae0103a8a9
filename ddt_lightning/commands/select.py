"""`ddt data select`: token shards with the samples whose decoded images are worth enough, one task per shard."""

from pathlib import Path

from ddt_lightning.inputs import Coding, positive
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
        least: the worth from which on a sample is kept.
        coding: how to run the tokenizer.
        decoding: how to decode without a renderer.

    Raises:
        ValueError: shards of another tokenizer, a reward that cannot be found, or a shard of which nothing is left.
    """
    from ddt_lightning.atomic import write_json
    from ddt_lightning.encoding import facts
    from ddt_lightning.rl.rewards import find_rewards
    from ddt_lightning.selecting import select_shard
    from ddt_lightning.shards.read import expand
    from ddt_lightning.shards.write import common_fields

    positive("processes", coding.processes)
    find_rewards(rewards, "--rewards")
    folder = find_part("tokenizer", tokenizer)
    drawn_by = str(find_part("renderer", renderer, "--renderer")) if renderer else None
    sources = expand(shards, "--shards")
    fields, _ = common_fields(sources, "--shards")
    fingerprint = facts(str(folder), coding)["fingerprint"]
    if fields["tokenizer"] != fingerprint:
        raise ValueError(f"`--tokenizer` ({tokenizer}) is {fingerprint}, the shards are of {fields['tokenizer']}.")
    target = Path(out)
    if target.resolve() in {Path(url).parent.resolve() for url in sources}:
        raise ValueError(f"`--out` ({out}) is the folder of the shards that are selected from: name another one.")
    target.mkdir(parents=True, exist_ok=True)
    (target / "tokens.json").unlink(missing_ok=True)  # not whole until all shards are there
    tasks = [
        (str(folder), drawn_by, coding, decoding, url, str(target / Path(url).name), rewards, least) for url in sources
    ]
    judged, kept, left_out = 0, 0, {}
    for number, written, problems in run_tasks(select_shard, tasks, coding.processes, "select"):
        judged, kept = judged + number, kept + written
        left_out.update(problems)
    if not kept:
        reason = next((f"; {sample}: {why}" for sample, why in left_out.items()), "")
        raise ValueError(f"`--least` ({least}): none of the {judged} samples is worth as much{reason}.")
    write_json(target / "tokens.json", {**fields, "selected": {"rewards": rewards, "least": least}})
    unread = f"; {len(left_out)} could not be judged, such as {next(iter(left_out.items()))}" if left_out else ""
    print(f"{kept} of {judged} samples ({kept / judged:.2f}) in {out}{unread}")
