"""The two executables and their tables of names: `ddt-fit STAGE` trains a stage, `ddt VERB` does everything else.

`ddt-fit STAGE --config stages/X.yaml`: one LightningModule and one data module per stage. A stage's YAML is complete;
variants are further `--config` overlays, merged in order. Everything a run writes lies in its `run_dir`: `config.yaml`
(re-runs as it is), `metrics.csv`, `checkpoints/last.ckpt`, and `release/` at the end. A call whose `run_dir` holds a
checkpoint continues that run; other settings than its own are refused without `--resume_with_changes true`. Ctrl-C or
SIGTERM save a checkpoint after the current step. `ddt fit STAGE` is the same command.

`ddt VERB ...`: a table of functions, each turned into a command by its signature and docstring. Exit code 0 when it did
its job, 1 for bad input or a failure (one line on stderr, the traceback with ``DDT_DEBUG=1``), 2 for a command line
that does not parse. A parameter without a default is an argument by position, unless it is keyword-only or called
`out`; everything else is an option, and so is every field of a parameter that is a dataclass. Lists are given as words:
`--tokens 16 32`. Only the module of the chosen verb or stage is imported, and the modules of verbs import torch inside
their functions, so that every ``--help`` is quick.
"""

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import docstring_parser
from jsonargparse import ArgumentParser

from ddt_lightning.settings import find_shipped, join_words, shipped

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

STAGES = {
    "tokenizer": ("ddt_lightning.stages.tokenizer:TokenizerModule", "ddt_lightning.shards.images:ImageShards"),
    "renderer": ("ddt_lightning.stages.renderer:RendererModule", "ddt_lightning.shards.images:ImageShards"),
    "pretrain": ("ddt_lightning.stages.pretrain:PretrainModule", "ddt_lightning.shards.tokens:TokenShards"),
    "instruct": ("ddt_lightning.stages.instruct:InstructModule", "ddt_lightning.shards.chat:ChatShards"),
    "rl": ("ddt_lightning.stages.rl:RlModule", "ddt_lightning.shards.prompts:PromptStream"),
}

FIRST = "DDT_FIRST_PROCESS"
"""Environment variable with the process id of the first process of a run."""
USAGE = f"""usage: ddt-fit STAGE --config FILE [--config OVERLAY ...] [--run_dir FOLDER] [--KEY VALUE ...]

Train one stage: {", ".join(STAGES)}.
  ddt-fit tokenizer --config stages/tok.yaml
  ddt-fit STAGE --help        every option of a stage
"""
VERBS: dict[str, str] = {
    "data scenes": "commands.data:scenes",
    "data chat": "commands.data:chat",
    "data check": "commands.data:check",
    "data stats": "commands.data:stats",
    "data emoji": "commands.data_emoji:emoji",
    "data words": "commands.data:words",
    "data select": "commands.select:select",
    "encode": "commands.encode:encode",
    "decode": "commands.encode:decode",
    "generate": "commands.draw:generate",
    "edit": "commands.draw:edit",
    "describe": "commands.draw:describe",
    "chat": "commands.chat:chat",
    "reconstruct": "commands.draw:reconstruct",
    "app": "app.verb:app",
    "eval all": "evaluation.everything:everything",
    "eval reconstruction": "evaluation.reconstruction:reconstruction",
    "eval t2i": "evaluation.drawing:t2i",
    "eval plan": "evaluation.plan:plan",
    "eval words": "evaluation.words:words",
    "eval edit": "evaluation.editing:edit",
    "eval vqa": "evaluation.questions:vqa",
    "eval caption": "evaluation.captions:caption",
    "eval geneval": "evaluation.geneval:geneval",
    "eval boxes": "evaluation.boxes:boxes",
    "eval prompts": "evaluation.prompts:prompts",
    "eval distribution": "evaluation.distribution:distribution",
    "eval emoji": "evaluation.emoji:emoji",
    "eval tokens": "evaluation.token_likelihood:tokens",
    "study schedule": "commands.study:schedule",
    "study renderers": "commands.study:renderers",
    "study progressive": "commands.study:progressive",
    "study interpolate": "commands.study:interpolate",
    "study solvers": "commands.study_solvers:solvers",
    "study attributes": "commands.study_attributes:attributes",
    "study encoder": "commands.study:encoder",
    "study fit": "commands.study_fit:fit",
    "study order": "commands.study:order",
    "study scaling": "commands.study:scaling",
    "study text": "commands.study:text",
    "study against": "commands.study:against",
    "study composition": "commands.study:composition",
    "study classes": "commands.study:classes",
    "run demo": "plans.demo:demo",
    "run photos": "plans.photos:photos",
    "run emoji": "plans.emoji:emoji",
    "run evidence": "plans.evidence:evidence",
    "export": "commands.model:export",
    "pack": "commands.pack:pack",
    "import": "commands.model:import_lm",
    "import-selftok": "commands.model:import_selftok",
    "report": "commands.study:report",
    "judges": "commands.judges:judges",
    "plan": "commands.plan:plan",
    "doctor": "commands.doctor:doctor",
    "health": "commands.health:health",
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
    from ddt_lightning.workers import end_with_caller

    # a process that Lightning starts beside the first one would otherwise wait for half an hour where that is gone
    if int(os.environ.get("LOCAL_RANK", 0)):
        end_with_caller(int(os.environ.get(FIRST, os.getppid())))
    else:
        os.environ[FIRST] = str(os.getpid())
    from ddt_lightning.callbacks.throughput import Throughput
    from ddt_lightning.training.run import StageCLI, run

    module, data = (locate(target) for target in STAGES[stage])
    return run(StageCLI(module, data, args=find_shipped(args), stage=stage, watch=Throughput))


def fit_main(args: list[str] | None = None) -> None:
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
    except KeyboardInterrupt:
        fail(f"ddt-fit {args[0]}: interrupted; the last checkpoint is as it was", code=130)
    except (ValueError, FileNotFoundError, OSError) as error:
        if os.environ.get("DDT_DEBUG"):
            raise
        print(f"ddt-fit {args[0]}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


def main(args: list[str] | None = None) -> None:
    """Run one verb and end the process with exit code 1 or 2 where it cannot be done.

    Args:
        args: the words after ``ddt``; None reads them from the command line.
    """
    words = list(sys.argv[1:] if args is None else args)
    if words[:1] == ["fit"]:
        return fit_main(words[1:])
    verb, rest = split_verb(words)
    try:
        function = load(verb)
        settings = parse(verb, function, rest)
        function(**settings)
    except KeyboardInterrupt:
        fail(f"ddt {verb}: interrupted", code=130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of our output left: nothing to say
    except Exception as error:
        if os.environ.get("DDT_DEBUG") == "1":
            raise
        fail(f"ddt {verb}: {one_line(error)}", code=1)


def split_verb(words: list[str]) -> tuple[str, list[str]]:
    """The verb at the start of `words` and what follows it; prints help or an error where there is no whole verb."""
    if words and words[0] in VERBS:
        return words[0], words[1:]
    if " ".join(words[:2]) in VERBS:
        return " ".join(words[:2]), words[2:]
    group = words[0] if words and any(verb.startswith(f"{words[0]} ") for verb in VERBS) else ""
    asked = words[1:2] if group else words[:1]
    if asked and asked[0] in ("-h", "--help"):
        sys.stdout.write(overview(group))
        sys.exit(0)
    if asked and asked[0] == "--version" and not group:
        sys.stdout.write(f"ddt {importlib.import_module('ddt_lightning').__version__}\n")
        sys.exit(0)
    sys.stderr.write(overview(group))
    if asked:
        fail(f"ddt: `{' '.join([*([group] if group else []), *asked])}` is not a verb; the verbs are above.", code=2)
    fail("ddt: name a verb; the verbs are above.", code=2)


def overview(group: str = "") -> str:
    """The help text that lists all verbs, or the verbs of one group, each with the first line of its docstring."""
    chosen = [verb for verb in VERBS if not group or verb.startswith(f"{group} ")]
    lines = [f"usage: ddt {group + ' ' if group else ''}VERB [options]    (ddt VERB --help for its options)", ""]
    for verb in chosen:
        summary = (inspect.getdoc(load(verb)) or "").splitlines()[0]
        lines.append(f"  {verb:<20} {summary}")
    lines += [
        "",
        "DDT_DEBUG=1 shows the traceback of an error.",
        "Training is `ddt-fit STAGE --config stages/STAGE.yaml`, or `ddt fit STAGE`.",
        "",
    ]
    return "\n".join(lines)


def load(verb: str) -> Callable[..., None]:
    """Import the function of one verb and of no other."""
    module, name = VERBS[verb].split(":")
    function: Callable[..., None] = getattr(importlib.import_module(f"ddt_lightning.{module}"), name)
    return function


def parse(verb: str, function: Callable[..., None], words: list[str]) -> dict[str, Any]:
    """Read `words` by the signature of `function`; exits with code 2 on anything it does not accept.

    A parameter that is a dataclass gives its fields as options. Where the class names a YAML file as its `CONFIG`, the
    fields come from that file, or from those given by `--config`, merged in order, and options change single ones.
    """
    documentation = inspect.getdoc(function) or ""
    parameters = inspect.signature(function).parameters
    spread: dict[str, Any] = {name: p.annotation for name, p in parameters.items() if is_dataclass(p.annotation)}
    positional: set[str | int] = {
        name
        for name, p in parameters.items()
        if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty and name not in ("out", *spread)
    }
    configs = [shared.CONFIG for shared in spread.values() if hasattr(shared, "CONFIG")]
    given = any(word.split("=")[0] in ("--config", "-c") for word in words)
    parser = ArgumentParser(
        prog=f"ddt {verb}",
        description=documentation.split("\n\nArgs:")[0],
        default_config_files=[shipped(config) for config in configs if not given],
    )
    if configs:
        text = f"YAML file; later ones are merged over earlier ones (default: {configs[0]})"
        parser.add_argument("-c", "--config", action="config", help=text)
    options = {name for name in parameters if name not in positional}
    several = [name for name, p in parameters.items() if name in positional and p.annotation == list[str]]
    parser.add_function_arguments(function, as_group=False, as_positional=True, skip={*options, *several})
    described = {entry.arg_name: entry.description for entry in docstring_parser.parse(documentation).params}
    for name in several:
        parser.add_argument(name, nargs="+", type=str, help=described.get(name))
    parser.add_function_arguments(function, as_group=False, as_positional=False, skip={*positional, *spread})
    for shared in spread.values():
        parser.add_class_arguments(shared, as_group=False)
    found = parser.parse_args(join_words(parser, find_shipped(words)))
    settings = {name: getattr(found, name) for name in parameters if name not in spread}
    for name, shared in spread.items():
        settings[name] = shared(**{field.name: getattr(found, field.name) for field in fields(shared) if field.init})
    return settings


def one_line(error: Exception) -> str:
    """The message of an error on one line; errors that are not about the user's input also show their type."""
    text = " ".join(str(error).split())
    if isinstance(error, KeyError) or not text:
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    elif not isinstance(error, ValueError | OSError):
        text = f"{type(error).__name__}: {text} (DDT_DEBUG=1 shows where)"
    return text


def fail(message: str, code: int) -> NoReturn:
    """Say one line on stderr and leave."""
    sys.stderr.write(message + "\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
