"""COCO's objects that a caption names, for checks of captions against the boxes of a detector.

In the manner of CHAIR (Rohrbach et al. 2018, arXiv 1809.02156): words and their synonyms stand for classes. The list
here is shorter than CHAIR's, and what is in the picture is said by a detector and not by annotations, so that scores
have names of their own.
"""

import re
from collections.abc import Sequence

from ddt_lightning.metrics.detection import NAMES

SYNONYMS = {
    "person": "man woman boy girl child kid baby toddler lady guy people men women children kids boys girls player "
    "rider skier snowboarder surfer skateboarder biker cyclist bicyclist climber hiker worker crowd couple teenager",
    "bicycle": "bike bikes",
    "motorcycle": "motorbike motorbikes dirtbike",
    "car": "automobile",
    "airplane": "plane planes aeroplane jet",
    "boat": "ship canoe kayak sailboat raft",
    "dog": "puppy puppies",
    "cat": "kitten kittens",
    "cow": "bull calf cattle",
    "horse": "pony ponies",
    "bird": "duck ducks seagull seagulls goose geese",
    "sports ball": "ball balls football soccerball basketball baseball volleyball",
    "couch": "sofa",
    "tv": "television monitor",
    "cell phone": "cellphone phone smartphone",
    "computer keyboard": "keyboard",
    "computer mouse": "",
    "tv remote": "remote",
    "skis": "ski",
    "hot dog": "hotdog",
    "dining table": "table",
    "potted plant": "",
    "bench": "benches",
    "bus": "buses",
    "knife": "knives",
    "sandwich": "sandwiches",
    "sheep": "lamb lambs",
    "umbrella": "parasol",
    "frisbee": "",
    "surfboard": "",
}
"""Words beside the name of a class and its plural."""


def words_of(name: str) -> list[str]:
    """The words that stand for a class, the longest first."""
    plural = name if name.endswith("s") else f"{name}s"
    return sorted({name, plural, *SYNONYMS.get(name, "").split()}, key=len, reverse=True)


PATTERNS = {name: re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words_of(name)))})(?!\w)") for name in NAMES}


def mentioned(caption: str) -> set[str]:
    """The classes that a caption names; of "hot dog" not the dog."""
    text = re.sub(r"[^\w\s]", " ", caption.lower())
    found = set()
    for name in sorted(NAMES, key=lambda one: -len(one.split())):
        if PATTERNS[name].search(text):
            found.add(name)
            if " " in name:
                text = PATTERNS[name].sub(" ", text)
    return found


def shares(named: Sequence[set[str]], seen: Sequence[set[str]]) -> tuple[list[bool], list[bool]]:
    """For each object that a caption names whether it is not seen, and for each that is seen whether it is named."""
    missing = [name not in there for said, there in zip(named, seen, strict=True) for name in sorted(said)]
    covered = [name in said for said, there in zip(named, seen, strict=True) for name in sorted(there)]
    return missing, covered
