"""CIDEr-D against values worked out by hand, and what must hold of it."""

import math
import random

import pytest

from ddt_lightning.metrics.cider import cider_d, grams, words
from ddt_lightning.shards.images import read_images


def test_words():
    assert words("A dog's tail, 2 Cats.") == ["a", "dog's", "tail", "2", "cats"]
    assert words("it\u2019s (red)-brown!") == ["it's", "red", "brown"] and words("...") == []
    assert [sum(counts.values()) for counts in grams("a b c")] == [3, 2, 1, 0]


# Two images: "a" is in both images' references and weighs nothing, every other n-gram weighs log 2.
REFERENCES = [["a b c d"], ["a e f g"]]


@pytest.mark.parametrize(
    ("hypothesis", "orders", "penalty"),
    [
        ("a b c d", (1, 1, 1, 1), 1),
        ("A, b c D!", (1, 1, 1, 1), 1),
        ("a b c x", (2 / 3, 2 / 3, 1 / 2, 0), 1),
        # 4 x b is clipped to 1: 1 * 1 / (4 * sqrt(3)).
        ("b b b b", (1 / (4 * math.sqrt(3)), 0, 0, 0), 1),
        # 1 bigram against 3.
        ("b c", (2 / math.sqrt(2 * 3), 1 / math.sqrt(3), 0, 0), math.exp(-(2**2) / 72)),
        ("a", (0, 0, 0, 0), 1),
        ("", (0, 0, 0, 0), 1),
    ],
)
def test_values_by_hand(hypothesis, orders, penalty):
    scores = cider_d([hypothesis, "a e f g"], REFERENCES)
    assert scores == pytest.approx([10 * penalty * sum(orders) / 4, 10])


def test_references_are_averaged():
    one = cider_d(["a b c x", ""], [["a b c d", "q r s t"], ["a e f g"]])
    two = cider_d(["a b c x", ""], [["a b c d"], ["a e f g"]])
    assert one[0] == pytest.approx(two[0] / 2)  # the second reference has nothing in common


def test_one_image_says_nothing():
    assert cider_d(["a b c d"], [["a b c d"]]) == [0]  # every word is in all images
    assert cider_d([], []) == []


def test_weights_come_from_the_whole_set():
    texts = ["a red dog runs", "a red cat sits", "two men talk here", "the blue boat sails"]
    whole = cider_d(["a red dog sits", *texts[1:]], [[text] for text in texts])
    part = cider_d(["a red dog sits", texts[1]], [[text] for text in texts[:2]])
    assert whole[0] != pytest.approx(part[0], rel=0.01)
    assert whole[1:] == pytest.approx([10] * 3)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="must agree"):
        cider_d(["a"], [])
    with pytest.raises(ValueError, match="without a caption"):
        cider_d(["a"], [[]])


def test_people_agree_with_each_other_and_not_with_other_photos(ddt_data):
    samples = list(read_images([f"{ddt_data}/flickr8k_64/flickr8k64-val-*.tar.gz"]))[:300]
    first, rest = [s.texts[0] for s in samples], [s.texts[1:] for s in samples]
    people = cider_d(first, rest)
    random.Random(0).shuffle(first)
    others = cider_d(first, rest)
    assert sum(people) / len(people) > 0.5 > 0.1 > sum(others) / len(others)
