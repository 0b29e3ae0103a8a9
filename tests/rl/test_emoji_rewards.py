"""Rewards for emoji against a judge that reads plain colours, and how a configuration binds a judge."""

import json

import pytest
import torch

from ddt_lightning.emoji.language import read_plan
from ddt_lightning.metrics.emoji_attributes import AttributeClassifier, read
from ddt_lightning.rl.emoji_rewards import attributes_right, plan_attributes_right
from ddt_lightning.rl.rewards import find_rewards, worth

PATH = "ddt_lightning.rl.emoji_rewards"
CLASSES = {
    "group": ["people-body", "flags"], "skin": ["light", "dark"], "style": ["noto", "twemoji"],
    "noun": ["cook", "kiss: man, man"],
}  # fmt: skip


class Oracle:
    """Reads one attribute off each of the first pixels of a picture: 0 or 1 is the number of its class."""

    classes = CLASSES

    def __call__(self, images):
        return {
            name: [names[int(one[0, 0, place])] for one in images]
            for place, (name, names) in enumerate(CLASSES.items())
        }


def pictures(*rows):
    images = torch.zeros(len(rows), 3, 8, 8, dtype=torch.uint8)
    images[:, 0, 0, :4] = torch.tensor(rows, dtype=torch.uint8)
    return images


def asked(**emoji):
    return {"prompt": "one", "tag": "noto", "emoji": emoji}


@pytest.fixture
def judge(tmp_path):
    torch.manual_seed(0)
    AttributeClassifier(CLASSES).eval().save(tmp_path / "judge.safetensors")
    return tmp_path / "judge.safetensors"


def test_the_share_of_attributes_that_are_read():
    cook = asked(group="people-body", skin="dark", style="noto", noun="cook", gender="woman", code="1F469")
    flag = asked(group="flags", style="twemoji", noun="flag: France")  # no class of its own
    images = pictures((0, 1, 0, 0), (0, 0, 0, 0), (0, 1, 1, 1), (1, 0, 1, 0), (1, 1, 0, 0))
    found = attributes_right(images, [cook, cook, cook, flag, flag], Oracle())
    assert found == [1.0, 0.75, 0.5, 1.0, 0.5]
    with pytest.raises(ValueError, match="knows no attribute of 'one'"):
        attributes_right(images[:1], [asked(style="openmoji", noun="rose")], Oracle())


def test_plans_ask_in_words():
    plans = [
        "noto, people and body, cook, woman, dark skin |",
        "noto, people and body, cook, woman, light skin to noto, people and body, cook, woman, dark skin |",
        "twemoji, people and body, kiss: man and man, dark skin |",
        "noto, people and body, cook",  # cut
        None,
    ]
    assert read_plan(plans[2])["noun"] == "kiss: man and man"
    prompts = [{"prompt": "x", "plan": plan} for plan in plans]
    right = pictures((0, 1, 0, 0), (0, 1, 0, 0), (0, 1, 1, 1), (0, 1, 0, 0), (0, 1, 0, 0))
    assert plan_attributes_right(right, prompts, Oracle()) == [1.0, 1.0, 1.0, 0.0, 0.0]
    unchanged = pictures((0, 0, 0, 0))
    assert plan_attributes_right(unchanged, prompts[1:2], Oracle()) == [0.75]
    assert plan_attributes_right(pictures((0, 1, 1, 0)), prompts[2:3], Oracle()) == [0.75]


def test_a_configuration_binds_the_judge(judge):
    found = find_rewards({f"{PATH}.attributes_right": 2.0}, judge=str(judge))
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seen = read(AttributeClassifier.load(judge), images)
    prompts = [asked(**one) for one in seen]
    assert worth(found, images, prompts) == [2.0] * 4
    others = [asked(**{name: names[1 - names.index(one[name])] for name, names in CLASSES.items()}) for one in seen]
    assert worth(found, images, others) == [0.0] * 4
    with pytest.raises(ValueError, match=r"`model\.rewards`: attributes_right needs 'emoji'"):
        worth(found, images[:1], [{"prompt": "x", "tag": "y"}])


@pytest.mark.parametrize(("option", "named"), [("model.rewards", "model.judge"), ("--rewards", "--judge")])
def test_a_judge_that_does_not_fit_is_named_at_once(judge, tmp_path, option, named):
    weights = {f"{PATH}.attributes_right": 1.0}
    with pytest.raises(ValueError, match=rf"`{named}` is needed by {PATH}\.attributes_right"):
        find_rewards(weights, option)
    with pytest.raises(FileNotFoundError, match=rf"`{named}` \(.*nowhere\) does not exist: name a file of `ddt study"):
        find_rewards(weights, option, str(tmp_path / "nowhere"))
    (tmp_path / "other").write_text(json.dumps({}))
    with pytest.raises(ValueError, match=rf"`{named}` \(.*other\) was not written by `ddt study attributes`"):
        find_rewards(weights, option, str(tmp_path / "other"))
    with pytest.raises(ValueError, match=rf"`{named}` \(.*judge.safetensors\) is needed by none of `{option}`"):
        find_rewards({"ddt_lightning.rl.rewards.shapes": 1.0}, option, str(judge))
