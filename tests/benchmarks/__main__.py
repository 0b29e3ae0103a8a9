"""`make bench`: every benchmark of this folder, one table each; `python tests/benchmarks NAME ...` runs some."""

import importlib
import sys
from pathlib import Path

import torch

SHARED = ("__main__", "timing", "sizes", "device")
NAMES = [path.stem for path in sorted(Path(__file__).parent.glob("*.py")) if path.stem not in SHARED]


def main(chosen: list[str]) -> None:
    """Run the named benchmarks, all of them without a name."""
    unknown = set(chosen) - set(NAMES)
    if unknown:
        sys.stderr.write(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}\n")
        sys.exit(2)
    torch.set_num_threads(1)
    for name in chosen or NAMES:
        importlib.import_module(name).main()


if __name__ == "__main__":
    main(sys.argv[1:])
