"""VQA v2's accuracy: an answer and those of ten people in, 0-1 out, as the official evaluation computes it.

An answer counts `min(matches / 3, 1)`, averaged over the ten choices that leave one person out. Before, the model's
answer goes through VQA's rules for punctuation, numbers, articles and contractions; the people's answers go through
the rule for punctuation only, and only where they are not all the same: oddities of the official script that published
numbers contain.
"""

import re
from collections.abc import Sequence

PEOPLE = 10
MARKS = ';/[]"{}()=+\\_-><@`,?!'
PERIODS = 32  # the official script hands a flag of this value to `sub` as the number of replacements
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
ARTICLES = frozenset({"a", "an", "the"})
# Contractions that get a lost apostrophe back: of several the ones written so in one word, or with one of them lost.
ONE = (
    "ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's "
    "isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've "
    "shouldn't somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're "
    "there's they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd "
    "where's where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're "
    "you've"
).split()
TWO = (
    "couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've something'd've "
    "there'd've they'd've we'd've who'd've wouldn't've y'all'll y'all'd've you'd've 'ow's'at"
).split()


def lost_apostrophes(word: str) -> list[str]:
    """The word with each one of its apostrophes left out."""
    return [word[:i] + word[i + 1 :] for i, mark in enumerate(word) if mark == "'"]


CONTRACTIONS = {lost: word for word in (*ONE, *TWO) for lost in lost_apostrophes(word)} | {"somebody'd": "somebodyd"}


def without_marks(text: str) -> str:
    """VQA's rule for punctuation.

    A mark is dropped where any of its kind stands beside a space, or where the text has a comma between digits;
    otherwise it becomes a space. A period goes unless a digit follows it.
    """
    result = text
    between_digits = re.search(r"\d,\d", text) is not None
    for mark in MARKS:
        beside_space = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if beside_space or between_digits else " ")
    return re.sub(r"\.(?!\d)", "", result, count=PERIODS)


def plain(text: str) -> str:
    """VQA's rules for numbers, articles and contractions, in lower case."""
    digits = {"none": "0", **{word: str(number) for number, word in enumerate(NUMBERS)}}
    said = [digits.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in said if word not in ARTICLES)


def straight(text: str) -> str:
    """One line without space around it."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def accuracy(prediction: str, answers: Sequence[str]) -> float:
    """0, 0.3, 0.6, 0.9 or 1 for zero, one, two, three, and four or more of ten people who gave this answer.

    Raises:
        ValueError: there are not ten answers.
    """
    if len(answers) != PEOPLE:
        raise ValueError(f"`answers` has {len(answers)} texts; VQA v2's accuracy needs those of {PEOPLE} people.")
    said = plain(without_marks(straight(prediction)))
    known = [straight(answer) for answer in answers]
    if len(set(known)) > 1:
        known = [without_marks(answer) for answer in known]
    matches = [answer == said for answer in known]
    return sum(min((sum(matches) - match) / 3, 1.0) for match in matches) / PEOPLE
