"""`ddt-fit STAGE --config stages/X.yaml`: one executable, one LightningModule and data module per stage.

A stage's YAML is complete; variants are further `--config` overlays, merged in order. Everything a run writes lies in
its `run_dir`: `config.yaml` (re-runs as it is), `metrics.csv`, `checkpoints/last.ckpt`, and `release/` at the end. A
call whose `run_dir` holds a checkpoint continues that run.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

STAGES = {
    "tokenizer": ("ddt_lightning.stages.tokenizer:TokenizerModule", "ddt_lightning.shards.images:ImageShards"),
    "renderer": ("ddt_lightning.stages.renderer:RendererModule", "ddt_lightning.shards.images:ImageShards"),
    "pretrain": ("ddt_lightning.stages.pretrain:PretrainModule", "ddt_lightning.shards.tokens:TokenShards"),
    "instruct": ("ddt_lightning.stages.instruct:InstructModule", "ddt_lightning.shards.chat:ChatShards"),
}

USAGE = f"""usage: ddt-fit STAGE --config FILE [--config OVERLAY ...] [--run_dir FOLDER] [--KEY VALUE ...]

Train one stage: {", ".join(STAGES)}.
  ddt-fit tokenizer --config stages/tok.yaml
  ddt-fit STAGE --help        every option of a stage
"""


def locate(target: str) -> type:
    """The class behind `module:Name`; stages are named by string so that help does not import them all."""
    module, name = target.split(":")
    return getattr(importlib.import_module(module), name)


def fit(stage: str, args: list[str]) -> "Trainer":
    """Train a stage with command-line arguments.

    Args:
        stage: a key of `STAGES`.
        args: what follows the stage on the command line.

    Returns:
        The trainer, after `max_steps`.
    """
    from ddt_lightning.training.run import StageCLI, run

    module, data = (locate(target) for target in STAGES[stage])
    named = [
        shipped(word) if before in ("--config", "-c") else word for before, word in zip(["", *args], args, strict=False)
    ]
    return run(StageCLI(module, data, args=named, stage=stage))


def main(args: list[str] | None = None) -> None:
    """Entry point of `ddt-fit`: exit code 2 for usage, 1 for anything else that goes wrong, in one line."""
    args = sys.argv[1:] if args is None else args
    if not args or args[0] in ("-h", "--help"):
        print(USAGE)
        sys.exit(0 if args else 2)
    if args[0] not in STAGES:
        print(f"ddt-fit: unknown stage {args[0]!r}; choose from {', '.join(STAGES)}.", file=sys.stderr)
        sys.exit(2)
    try:
        fit(args[0], args[1:])
    except (ValueError, FileNotFoundError, OSError) as error:
        if os.environ.get("DDT_DEBUG"):
            raise
        print(f"ddt-fit {args[0]}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


def shipped(path: str) -> str:
    """`stages/...` or `data/...` as given if it exists, otherwise the copy inside the installed package."""
    if Path(path).exists() or not path.startswith(("stages/", "data/")):
        return path
    packaged = Path(__file__).parent / "configs" / path
    return str(packaged) if packaged.exists() else path


if __name__ == "__main__":
    main()
