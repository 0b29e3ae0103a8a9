"""`ddt study attributes`: the classifier that judges drawings of emoji."""


def attributes(
    shards: list[str],
    *,
    out: str,
    val_shards: list[str],
    steps: int = 1500,
    batch: int = 64,
    lr: float = 2e-3,
    seed: int = 0,
    role_pictures: int = 8,
) -> None:
    """Train the classifier of role, group, skin tone, gender and style that judges drawings of emoji.

    Args:
        shards: image shards of `ddt data emoji` to learn from.
        out: folder for attributes.safetensors and attributes.json, its card.
        val_shards: such shards of held-out parts.
        steps: optimizer steps.
        batch: pictures in a step.
        lr: largest learning rate.
        seed: of weights, pictures and changes.
        role_pictures: training pictures that a role (farmer, running) needs to be a class of its own.

    Raises:
        ValueError: the shards are others, or hold pictures of one style or role alone.
    """
    from ddt_lightning.atomic import staged
    from ddt_lightning.studies.emoji_attributes import AttributeStudy, read_labelled, run

    study = AttributeStudy(steps, batch, lr, seed, role_pictures)
    data, held_out = read_labelled(shards, "shards"), read_labelled(val_shards, "--val_shards")
    with staged(out) as folder:
        card = run(study, data, held_out, folder)
    for part, scores in card["accuracy"].items():
        print(f"{part}: " + ", ".join(f"{name} {one['value']:.3f} of {one['n']}" for name, one in scores.items()))
    print(f"{card['name']} is in {out}; `ddt eval emoji --classifier {out}/attributes.safetensors` uses it.")
