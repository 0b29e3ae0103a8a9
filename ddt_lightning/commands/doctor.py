"""`ddt doctor`: what is installed, which devices there are, and whether a model folder is whole.

Out: one line per fact on stdout; exit code 1 where something that every verb needs is missing.
"""

import importlib
import os
import shutil
from importlib.metadata import PackageNotFoundError, version

from ddt_lightning.judges import JUDGES, judges_folder
from ddt_lightning.model_folder import lacking
from ddt_lightning.pretrained import find_model

NEEDED = (
    "torch",
    "torchvision",
    "lightning",
    "transformers",
    "diffusers",
    "webdataset",
    "torchmetrics",
    "torch-fidelity",
    "jsonargparse",
    "tokenizers",
    "safetensors",
    "numpy",
    "scipy",
    "pillow",
    "matplotlib",
)
OPTIONAL = {
    "tensorboard": "its logger; pip install 'ddt-lightning[tensorboard]'",
    "gradio": "`ddt app`; pip install 'ddt-lightning[app]'",
    "wandb": "its logger; pip install 'ddt-lightning[wandb]'",
    "onnxruntime": "the detector of `ddt eval boxes`; pip install 'ddt-lightning[judges]'",
}


def doctor(*, model: str = "scenes") -> None:
    """Say what is installed, which devices and memory there are, and which weights are missing.

    Args:
        model: model to look at, by its name or folder.
    """
    missing = []
    for name in NEEDED:
        try:
            print(f"{name:<16} {version(name)}")
        except PackageNotFoundError:
            print(f"{name:<16} MISSING")
            missing.append(name)
    for name, purpose in OPTIONAL.items():
        try:
            print(f"{name:<16} {version(name)}")
        except PackageNotFoundError:
            print(f"{name:<16} not installed; only needed for {purpose}")
    if "torch" not in missing:
        for line in devices():
            print(line)
    print(f"{'disk':<16} {shutil.disk_usage('.').free / 2**30:.1f} GiB free here")
    for name in ("DDT_DATA", "DDT_GOLDEN"):
        print(f"{name:<16} {os.environ.get(name) or 'not set: tests on outside data are skipped'}")
    judges = [name for name, file in JUDGES.items() if (judges_folder() / file).exists()]
    print(f"{'judges':<16} {judges_folder()}: {', '.join(judges) or 'none; `make judges` fetches them'}")
    print(f"{'model':<16} {model_state(model)}")
    if missing:
        raise ValueError(f"Not installed: {', '.join(missing)}; run `make setup`.")


def devices() -> list[str]:
    """Lines about the CPU, the memory and every accelerator."""
    import torch

    lines = [f"{'cpu':<16} {os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        lines.append(f"{'memory':<16} {total:.1f} GiB")
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        lines.append(f"{f'cuda:{index}':<16} {facts.name}, {facts.total_memory / 2**30:.0f} GiB")
    if torch.cuda.device_count() == 0:
        lines.append(f"{'cuda':<16} none: everything runs on the CPU")
    if torch.backends.mps.is_available():
        lines.append(f"{'mps':<16} available")
    try:
        importlib.import_module("torchvision.ops")
    except Exception as error:  # a torchvision of another build than torch fails with RuntimeError, not ImportError
        lines.append(f"{'torchvision':<16} BROKEN ({' '.join(str(error).split())}): install it from torch's own index")
    return lines


def model_state(model: str) -> str:
    """State of a model folder: whole, or what it lacks."""
    try:
        folder = find_model(model)
    except (FileNotFoundError, ConnectionError) as error:
        return str(error)
    absent = {part: lacking(part, folder / part) for part in ("tokenizer", "lm", "vocab")}
    if not absent["tokenizer"] and not (folder / "lm").is_dir() and not (folder / "vocab").is_dir():
        return f"{folder} holds a tokenizer only: it can reconstruct, not draw"
    named = [f"{part}/{name}" for part, names in absent.items() for name in names]
    return f"{folder} lacks {', '.join(named)}" if named else f"{folder} is whole"
