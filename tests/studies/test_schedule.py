"""The ablation runner: its plan, what it skips and continues, and its numbers, on the smallest real runs."""

import contextlib
import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file

from ddt_lightning import cli
from ddt_lightning.cli import load, main, parse
from ddt_lightning.metrics.cards import read_cards
from ddt_lightning.plans import chains
from ddt_lightning.plans.fingerprint import fingerprints
from ddt_lightning.report.findings import read_findings
from ddt_lightning.studies.base import run_study
from ddt_lightning.studies.schedule import ScheduleStudy
from ddt_lightning.studies.schedule_table import Outcome, card_over_seeds
from ddt_lightning.training.checkpoint import resume_step
from ddt_lightning.training.run import StageCLI
from tests.inprocess import read_study, run_here

ROOT = Path(__file__).parents[2]
STUDIES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "stages").glob("study-*.yaml")
                 if "\naxes:" in path.read_text() and "\ntokenizer:" not in path.read_text())  # fmt: skip
SMALL = {
    "title": "small",
    "configs": ["stages/tok.yaml", "tests/smoke/tokenizer.yaml"],
    "steps": 4,
    "settings": {"trainer": {"callbacks": []}, "model": {"tokenizer": {"times": {"fall_steps": 0}}}},
    "evaluation": {"images": 5, "prefix_images": 3, "steps": 2, "processes": 1},
    "axes": {
        "schedule": {
            "uniform": None,
            "staged": {"model": {"tokenizer": {"schedule": {"stages": [500, 1000], "tokens_per_stage": [6, 2]}}}},
        },
        "codes": {n: {"model": {"tokenizer": {"codebook_size": n}}} for n in (16, 32)},
        "lr": {"low": {"model": {"optim": {"lr": 1e-3}}}, "high": {"model": {"optim": {"lr": 1e-2, "name": "adamw"}}}},
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for the runs' own processes
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def write(folder: Path, **changed) -> str:
    (folder / "study.yaml").write_text(yaml.safe_dump(SMALL | changed, sort_keys=False))
    return str(folder / "study.yaml")


def read(folder: Path, **changed) -> ScheduleStudy:
    return replace(read_study("schedule", write(folder)), **changed)


# ---------------------------------------------------------------------------------------------------------- the plan


def test_grids(tmp_path):
    one = read(tmp_path).variants()
    assert [variant.name for variant in one] == ["reference", "schedule-staged", "codes-32", "lr-high"]
    full = read(tmp_path, grid="full").variants()
    assert len(full) == len({variant.name for variant in full}) == 8
    choices = [tuple(variant.choices.values()) for variant in full]
    assert set(choices) == {(a, b, c) for a in ("uniform", "staged") for b in ("16", "32") for c in ("low", "high")}
    same = {variant.name: variant.overlay for variant in full}
    assert all(same[variant.name] == variant.overlay for variant in one)  # so that both grids share their runs
    both = same["schedule-staged+lr-high"]
    assert both["model"]["tokenizer"]["schedule"]["tokens_per_stage"] == [6, 2]
    assert both["model"]["optim"] == {"lr": 1e-2, "name": "adamw"} and both["trainer"]["max_steps"] == 4
    assert [variant.name for variant in read(tmp_path, vary=["lr"]).variants()] == ["reference", "lr-high"]
    chosen = read(tmp_path, only=["lr-high", "reference"]).plan(tmp_path)
    assert [run.name for run in chosen] == ["reference, seed 0", "lr-high, seed 0"]


def test_fingerprints_follow_what_a_run_depends_on(tmp_path):
    study = read(tmp_path)

    def marks(study: ScheduleStudy, number: int = 0, seed: int = 0) -> list[str]:
        return fingerprints(study.chain_of(study.variants()[number], seed, tmp_path))

    first = marks(study)
    assert marks(study) == first
    different = [marks(study, 1), marks(study, 0, 1), marks(replace(study, steps=5))]
    different.append(marks(replace(study, settings={"model": {"optim": {"warmup_steps": 2}}})))
    assert len({mark for pair in [first, *different] for mark in pair}) == 10
    measured = marks(replace(study, evaluation={**study.evaluation, "images": 6}))
    assert measured[0] == first[0] and measured[1] != first[1]  # measured anew, not trained anew
    assert marks(replace(study, title="other", grid="full", seeds=[0, 1])) == first


def test_errors_name_what_is_wrong(tmp_path):
    for changed, message in (
        ({"axes": {}}, "`axes` is empty"),
        ({"vary": ["none"]}, "`vary`"),
        ({"axes": {"a": {}}}, "`axes.a` has no variant"),
        ({"axes": {"a": {"x/y": {}}}}, "'x/y' is part of a file name"),
        ({"axes": {"a": {"x": {"p": {"q": 1}}}, "b": {"y": {"p": 1}}}}, "both set p"),
        ({"axes": {"a": {"x": {"p": 1}}, "b": {"y": {"p": {"q": 1}}}}}, "both set p.q"),
        ({"steps": 0}, r"`steps` \(0\)"),
        ({"seeds": [1, 1]}, "each seed once"),
    ):
        with pytest.raises(ValueError, match=message):
            read_study("schedule", write(tmp_path, **changed))
    with pytest.raises(ValueError, match="`only`"):
        read(tmp_path, only=["none"]).plan(tmp_path)
    for changed in ({"step": 3}, {"axes": {"a": 3}}, {"grid": "half"}):
        with pytest.raises(SystemExit) as stop:
            read_study("schedule", write(tmp_path, **changed))
        assert stop.value.code == 2


def test_settings_that_make_no_run_stop_before_anything_runs(tmp_path, capsys):
    for overlay, message in (
        ({"model": {"tokenizer": {"tokens": 0}}}, "a-bad, seed 0: (?s:.*)`tokenizer.tokens` .0."),
        ({"model": {"tokenzier": {}, "optim": {"lrate": 1}}}, "a-bad, seed 0 is not a configuration"),
    ):
        axes = {"a": {"good": {}, "bad": overlay}}
        study = read_study("schedule", write(tmp_path, axes=axes))
        with pytest.raises(ValueError, match=message):
            run_study(study, str(tmp_path / "out"), plan=False)
        assert not (tmp_path / "out" / "runs").exists()


@pytest.mark.parametrize("path", STUDIES)
def test_every_variant_of_a_shipped_study_is_a_run(path, tmp_path, monkeypatch):
    study = read_study("schedule", path, "--grid", "full")
    wanted = {"schedule": 4, "times": 4, "objective": 4, "start": 2} if path == "stages/study-schedule.yaml" else {}
    assert not wanted or {axis: len(variants) for axis, variants in study.axes.items()} == wanted
    one = replace(study, grid="one")
    for run in one.plan(tmp_path):
        for step in run.steps:
            chains.check(step, run.name)
    assert not list(tmp_path.iterdir())  # planning writes nothing
    # the reference is what the configurations and the settings of all runs say without any variant
    monkeypatch.setattr(StageCLI, "instantiate_classes", lambda self: None)
    module, data = (cli.locate(target) for target in cli.STAGES["tokenizer"])

    def model(*configs: str):
        args = [word for config in configs for word in ("--config", config)]
        return StageCLI(module, data, args=args, stage="tokenizer").config.model

    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(study.settings))
    ((_, text),) = one.chain_of(one.variants()[0], 0, tmp_path).steps[0].files.items()
    (tmp_path / "reference.yaml").write_text(text)
    reference = model(*study.configs, str(tmp_path / "reference.yaml"))
    assert reference == model(*study.configs, str(tmp_path / "settings.yaml"))
    names = {variant.name for variant in study.variants()}
    assert len(names) == math.prod(len(variants) for variants in study.axes.values())


# --------------------------------------------------------------------------------------------------------- the runs


def outcomes_of(out: Path) -> tuple[list[Outcome], dict[str, str]]:
    """The records of all variants that a study wrote, and what failed."""
    found = read_findings(out)
    return [Outcome(**one) for one in found.numbers["outcomes"]], found.failed


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """A finished study of two variants, in `out/`."""
    folder, cwd = tmp_path_factory.mktemp("study"), Path.cwd()
    os.chdir(ROOT)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chains, "running", run_here)
            main(["study", "schedule", "--config", write(folder), "--out", str(folder / "out"), "--vary", "schedule"])
    finally:
        os.chdir(cwd)
    return folder


def test_the_table_shows_what_ddt_eval_says(done, tmp_path):
    out = done / "out"
    outcomes, failed = outcomes_of(out)
    assert [one.name for one in outcomes] == ["reference", "schedule-staged"] and not failed
    text = (out / "study.md").read_text()
    for one in outcomes:
        run = out / "runs" / one.name / "seed-0"
        call = ["eval", "reconstruction", "--model", str(run), "--out", str(tmp_path / one.name), "--tokens"]
        main([*call, "[0,2,4,6]", "--images", "5", "--prefix_images", "3", "--steps", "2", "--processes", "1"])
        again = read_cards(tmp_path / one.name)
        keys = {key for key in again if key.startswith("tokenizer/")}
        assert keys == set(one.cards) and len(keys) == 13
        for key in keys:
            for part in ("value", "interval", "n", "protocol"):
                assert one.cards[key][part] == again[key][part], (one.name, key, part)
        assert one.weights == [again["tokenizer/psnr"]["weights"]["tokenizer"]]
        cells = [cell.strip() for line in text.splitlines() if line.startswith(f"| {one.choices['schedule']}")
                 for cell in line.strip("|").split("|")]  # fmt: skip
        low, high = again["tokenizer/psnr"]["interval"]
        assert cells[1:3] == [f"{again['tokenizer/psnr']['value']:.2f}", f"{low:.2f} to {high:.2f}"]
        assert cells[4] == f"{again['tokenizer/ssim']['value']:.3f}"
    weights = [load_file(out / "runs" / one.name / "seed-0/release/tokenizer/model.safetensors") for one in outcomes]
    assert any((weights[0][name] != weights[1][name]).any() for name in weights[0])
    with Image.open(out / "study.png") as chart, Image.open(out / "pictures.png") as sheet:
        assert chart.width > 1000 and sheet.height > 3 * 112  # originals and both variants


def test_a_finished_study_runs_nothing_and_a_changed_one_what_changed(done, capsys, monkeypatch):
    started = []

    def running(step, record, log):
        started.append(step.name)
        step.folder.mkdir(parents=True, exist_ok=True)
        return iter(())

    monkeypatch.setattr(chains, "running", running)
    out = done / "out"
    study = read_study("schedule", done / "study.yaml", "--vary", "schedule")
    assert chains.run_chains(study.plan(out), out) == {} and started == []
    assert "4 of 4 steps are done already" in capsys.readouterr().out
    eval_folder = out / "runs" / "schedule-staged" / "seed-0" / "eval"
    eval_folder.rename(out / "aside")
    try:
        chains.run_chains(study.plan(out), out)
        assert started == ["schedule-staged.0.eval"]
    finally:
        eval_folder.rmdir()
        (out / "aside").rename(eval_folder)
    assert [one.name for one in study.collect(out)] == ["reference", "schedule-staged"]
    longer = replace(study, steps=5)
    assert longer.collect(out) == []  # nothing of the shorter runs is shown as the longer ones'
    assert study.collect(out)  # and they are still there


def test_report_shows_the_study(done, capsys):
    main(["report", str(done / "out")])
    text = Path(capsys.readouterr().out.strip()).read_text()
    assert "<h3>small</h3>" in text and text.count("data:image/png") == 2 and "staged" in text
    assert "Not in this run" not in text


def test_an_interrupted_run_is_continued(done, tmp_path, monkeypatch):
    """Stopped after two of four steps; the weights equal those of the run that was never stopped."""

    def stopped_half_way(step, record, log):
        run_here(replace(step, commands=[[*step.commands[0], "--trainer.max_steps=2"]]), record, log)
        raise KeyboardInterrupt

    study = read_study("schedule", done / "study.yaml", "--vary", "schedule")
    out = tmp_path / "out"
    runs = study.plan(out)[:1]
    monkeypatch.setattr(chains, "running", stopped_half_way)
    with pytest.raises(KeyboardInterrupt):
        chains.run_chains(runs, out)
    run = out / "runs" / "reference" / "seed-0"
    assert resume_step(run / "checkpoints" / "last.ckpt") == 2 and study.collect(out) == []
    monkeypatch.setattr(chains, "running", run_here)
    assert chains.run_chains(runs, out) == {}
    assert resume_step(run / "checkpoints" / "last.ckpt") == 4
    (one,), whole = study.collect(out), outcomes_of(done / "out")[0][0]
    assert one.weights == whole.weights and one.cards == whole.cards
    assert one.seconds == 3.0  # of both parts of the training, and of the evaluation


def command_lines() -> list[str]:
    """Those of all processes, on Linux."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


@pytest.mark.slow
def test_a_killed_study_goes_on_inside_the_run(tmp_path):
    """Killed by SIGTERM and by SIGKILL; the finished run equals the one that was never stopped."""
    steps, out = 60, tmp_path / "out"
    settings = {"trainer": {"callbacks": [], "limit_val_batches": 0}, "checkpoint": {"every_n_train_steps": 5}}
    axes = {"lr": SMALL["axes"]["lr"]}
    config = write(tmp_path, steps=steps, settings=settings, axes=axes)
    call = [sys.executable, "-m", "ddt_lightning.cli", "study", "schedule", "--config", config]
    call += ["--only", "reference", "--out"]
    run = out / "runs" / "reference" / "seed-0"
    last = run / "checkpoints" / "last.ckpt"
    record = out / "steps" / "reference.0.train.json"
    for number in (signal.SIGTERM, signal.SIGKILL):
        before = last.stat().st_mtime_ns if last.exists() else 0
        process = subprocess.Popen([*call, str(out)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        while process.poll() is None and not (last.exists() and last.stat().st_mtime_ns != before):
            time.sleep(0.01)
        process.send_signal(number)
        output, _ = process.communicate()
        assert process.returncode == (143 if number == signal.SIGTERM else -9), output
        assert not json.loads(record.read_text())["done"] and not (run / "release").exists()
        while any(str(run) in line for line in command_lines()):  # what was training ends with its caller
            time.sleep(0.1)
    logged = [int(row["step"]) for row in csv.DictReader((run / "metrics.before.csv").open()) if row.get("train/loss")]
    assert logged  # the second call went on from a checkpoint
    for folder in (out, tmp_path / "whole"):
        subprocess.run([*call, str(folder)], check=True, capture_output=True)
    same, whole = (
        load_file(folder / "runs" / "reference" / "seed-0" / "release" / "tokenizer" / "model.safetensors")
        for folder in (out, tmp_path / "whole")
    )
    assert same.keys() == whole.keys() and all((same[name] == whole[name]).all() for name in whole)


def test_a_run_that_fails_is_named_and_stops_no_other(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(chains, "running", run_here)
    axes = {"warmup": {"late": {"model": {"tokenizer": {"quantizer": {"warmup_steps": 4}}}},
                       "soon": {"model": {"tokenizer": {"quantizer": {"warmup_steps": 1}}}}}}  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        main(["study", "schedule", "--config", write(tmp_path, axes=axes), "--out", str(tmp_path / "out")])
    text = capsys.readouterr()
    assert stop.value.code == 1 and "1 runs failed (reference, seed 0)" in text.err
    assert "Failed: reference, seed 0: ddt-fit tokenizer: `tokenizer.quantizer.warmup_steps` (4)" in text.out
    outcomes, failed = outcomes_of(tmp_path / "out")
    assert [one.name for one in outcomes] == ["warmup-soon"] and list(failed) == ["reference, seed 0"]


def test_several_seeds_are_a_mean_with_students_interval():
    cards = [{"value": value, "interval": [0, 1], "n": 9, "protocol": "p"} for value in (1.0, 2.0, 3.0)]
    card = card_over_seeds(cards)
    assert card["value"] == 2.0 and card["n"] == 3 and card["by_seed"] == [1.0, 2.0, 3.0]
    assert card["interval"] == pytest.approx([2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)])  # t, 2 d.o.f.
    assert card_over_seeds(cards[:2])["interval"] is None  # of two seeds both values are shown
    assert card_over_seeds(cards[:1]) == cards[0]


def test_options_of_the_verb():
    words = ["--only", "a", "b", "--seeds", "1", "2", "--grid", "full", "--steps", "7"]
    found = read_study("schedule", "stages/study-schedule.yaml", *words)
    assert (found.only, found.seeds, found.grid, found.steps) == (["a", "b"], [1, 2], "full", 7)
    assert found.images is None and found == parse("study schedule", load("study schedule"), words)["study"]
    measured = replace(found, only=None, images=7).plan(Path("out"))[0].steps[1].commands[0]
    assert measured[list(measured).index("--images") + 1] == "7"
