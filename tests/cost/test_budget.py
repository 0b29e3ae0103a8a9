"""Time, network, storage and the largest batch against arithmetic; the words of `ddt plan`."""

from dataclasses import replace

import pytest

from ddt_lightning.cli import load, main, parse
from ddt_lightning.cost.budget import CONTEXT, FRAGMENTS, GIB, Budget, Fit, largest, needed, same_step
from ddt_lightning.cost.hardware import GPUS, of_device
from ddt_lightning.cost.ledger import OPTIMISER, PHASES, WEIGHTS
from ddt_lightning.cost.settings import read_settings, stage_of
from ddt_lightning.cost.trial import Measured
from ddt_lightning.cost.words import describe
from ddt_lightning.shards.packing import shortest_first

VALUES = {
    "model": {"network": {"width": 32}, "optim": {}},
    "data": {"batch_size": 64, "packing": True, "row_length": 256, "t2i": 0.6, "i2t": 0.3, "text_only": 0.1},
    "trainer": {"max_steps": 1000, "precision": "bf16-mixed"},
}


def settings(processes=4, **trainer):
    return read_settings({**VALUES, "trainer": {**VALUES["trainer"], **trainer}}, processes)


def step(items, gigabytes, **fields):
    peaks = {phase: {WEIGHTS: GIB, OPTIMISER: int(gigabytes * GIB) - GIB} for phase in PHASES}
    return Measured(items, peaks, dict.fromkeys(PHASES, 10**12), 0, 3 * 10**9, {"model": 10**9}, 0, **fields)


def test_rows_of_packed_documents():
    run = settings()
    assert run.document == 32 + 4 + 40 and run.images == pytest.approx(0.9)
    assert (run.items, run.length) == (5, 248)


def test_rows_are_as_level_as_packing_makes_them():
    """Short documents, which can be dealt out to rows of one length, in the fewest rows that hold them."""
    for samples in (1, 2, 3, 16, 17, 64):
        run = read_settings({**VALUES, "data": {**VALUES["data"], "batch_size": samples}}, 1)
        rows, longest = shortest_first([4] * 19 * samples, -(-samples * 76 // 256))
        assert run.items == len(rows) and 0 <= run.length - longest < 12, samples


def test_time_and_storage():
    budget = Budget(settings(accumulate_grad_batches=2), step(5, 10.0), GPUS["h100"], 0.5, 50.0)
    assert budget.flops == 4 * 10**12 * 2 * 4
    assert budget.seconds == pytest.approx(8 * 10**12 / (989.4e12 * 0.5))
    assert budget.samples == 128 and budget.ids == 128 * 76
    assert budget.days == pytest.approx(1000 * budget.seconds / 86400)
    assert budget.a_day(budget.samples) == pytest.approx(128 * 86400 / budget.seconds)
    assert budget.network_seconds == pytest.approx(2 * 3e9 / 50e9)
    assert budget.checkpoint == 9 * GIB + 4 * 10**9 and budget.release == 4 * 10**9
    assert budget.shards == 1000 * round(128 * 0.9) * (512 + 3 * 512)
    assert budget.fits and not replace(budget, step=step(5, 75.0)).fits


def test_largest_batch_lies_on_the_line_through_two():
    run = settings()
    fit = largest(run, [step(1, 10.0), step(3, 14.0)], 79.1, True)
    assert needed((8 + 2 * fit.items) * GIB) <= 79.1 * GIB < needed((8 + 2 * (fit.items + 1)) * GIB)
    assert fit.batch == 4 * (fit.items * 248 // 76)
    assert largest(run, [step(1, 80.0), step(2, 81.0)], 79.1, None).items == 0
    assert needed(GIB) == (1 + FRAGMENTS) * GIB + CONTEXT


def test_the_same_step_in_batches_that_fit():
    assert same_step(settings(), Fit(None, 9, 40)) == (32, 2)
    assert same_step(settings(), Fit(None, 9, 3)) is None


def test_gpus_by_their_device_names():
    for name, kind in {"NVIDIA H200": "h200", "NVIDIA H100 80GB HBM3": "h100", "NVIDIA H100 PCIe": "h100-pcie",
                       "NVIDIA A100-SXM4-80GB": "a100", "NVIDIA A100-SXM4-40GB": "a100-40", "NVIDIA L4": "l4",
                       "NVIDIA L40S": "l40s", "NVIDIA GeForce RTX 4090": "rtx4090"}.items():  # fmt: skip
        assert of_device(name) is GPUS[kind], name
    assert of_device("NVIDIA GeForce GTX 1080") is None


def test_stages_are_told_by_what_they_train():
    assert stage_of({"tokenizer": {}}) == stage_of({"vqgan": {}, "tokenizer": None}) == "tokenizer"
    assert stage_of({"tokenizer": "runs/tokenizer"}) == stage_of({"renderer": {}}) == "renderer"
    assert stage_of({"network": {"width": 8}}) == stage_of({"llm": "folder"}) == "language"
    assert stage_of({"rewards": {}, "tokenizer": "x", "network": {"width": 8}}) == "rl"
    with pytest.raises(ValueError, match="names nothing to train"):
        stage_of({"optim": {}})


def test_the_command_says_what_a_run_takes(capsys):
    words = ["--config", "stages/pretrain.yaml", "stages/fsdp.yaml", "--gpus", "2", "--gpu", "a100"]
    main(["plan", *words, "--set", "data.batch_size=16", "model.network.depth=2"])
    out = capsys.readouterr().out
    for expected in ("sharded over them", "optimiser step", "fits into 79.1 GiB", "19.5 TFLOP/s", "images a day",
                     "days to step 3,500", "GiB a checkpoint", "token shards", "activations kept: at most",
                     "activations recomputed: at most", "GB/s"):  # fmt: skip
        assert expected in out, expected


def test_overlays_in_one_list_or_each_with_an_option_of_its_own():
    words = (
        ["--config", "stages/pretrain.yaml", "stages/fsdp.yaml", "--gpus", "2"],
        ["--config", "stages/pretrain.yaml", "--gpus=2", "--config", "stages/fsdp.yaml"],
        ["--config=stages/pretrain.yaml", "--config=stages/fsdp.yaml", "--gpus", "2"],
        ["--config", "[stages/pretrain.yaml,stages/fsdp.yaml]", "--gpus", "2"],
    )
    for given in words:
        found = parse("plan", load("plan"), given)
        assert found["config"] == ["stages/pretrain.yaml", "stages/fsdp.yaml"] and found["gpus"] == 2, given


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--gpu", "tpu"], "--gpu"),
        (["--mfu", "1.5"], "--mfu"),
        (["--gpus", "3"], "data.batch_size"),
        (["--tokenizer", "stages/pretrain.yaml"], "--tokenizer"),
    ],
)
def test_wrong_options_are_named(capsys, words, named):
    with pytest.raises(SystemExit) as stop:
        main(["plan", "--config", "stages/pretrain.yaml", *words])
    assert stop.value.code == 1 and named in capsys.readouterr().err


def test_copies_of_sharded_weights():
    strategy = {"class_path": "ddt_lightning.training.parallel.FullyShardedStrategy"}

    def copies(number):
        return settings(strategy={**strategy, "init_args": {"replicas": number}})

    with pytest.raises(ValueError, match=r"`trainer.strategy.init_args.replicas` \(3\) must divide the 4 processes"):
        copies(3)
    assert copies(1).sharded and copies(2).replicas == 2
    measured = replace(step(5, 10.0), between=10**9)
    budget = Budget(copies(2), measured, GPUS["h100"], 0.5, 50.0, 450.0)
    assert budget.network_seconds == pytest.approx(2e9 / 450e9 + 1e9 / 50e9)
    assert budget.checkpoint - budget.release == pytest.approx(
        (Budget(copies(1), measured, GPUS["h100"], 0.5, 50.0).checkpoint - budget.release) / 2
    )
    said = "\n".join(describe(budget, [], []))
    assert "4, weights in 2 copies, each sharded over 2" in said
    assert "0.9 GiB of it between the copies of the weights" in said and "450 GB/s within and 50 GB/s between" in said


def test_a_plan_of_copies_by_command(capsys):
    words = ["--config", "stages/pretrain.yaml", "stages/fsdp.yaml", "--nodes", "2", "--gpus", "2"]
    main(["plan", *words, "--set", "trainer.strategy.init_args.replicas=2", "model.network.depth=2"])
    said = capsys.readouterr().out
    assert "in 2 copies, each sharded over 2" in said and "450 GB/s within and 50 GB/s between copies" in said


def test_layers_are_divided_inside_of_a_machine(capsys):
    words = ["--config", "stages/pretrain.yaml", "stages/fsdp.yaml", "--nodes", "2", "--gpus", "2"]
    with pytest.raises(SystemExit):
        main(["plan", *words, "--set", "trainer.strategy.init_args.tensor_parallel=4"])
    assert "tensor_parallel` (4) must divide the 2 GPUs of a machine" in capsys.readouterr().err
