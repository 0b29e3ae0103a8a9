"""Emoji pictures with Unicode's metadata to image, edit and question shards with held-out parts: `ddt data emoji`.

python data/emoji.py --out shards/emoji
python data/emoji.py --out shards/emoji3 --styles noto twemoji openmoji
"""

import sys

from ddt_lightning.cli import main

if __name__ == "__main__":
    main(["data", "emoji", *sys.argv[1:]])
