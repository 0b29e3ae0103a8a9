"""The page keeps what other calls measured."""

from collections import Counter

from tests.faults.cases import Case
from tests.faults.table import write


def test_a_case_that_is_measured_anew_replaces_its_row_and_others_stay(tmp_path):
    out = tmp_path / "results" / "faults.md"
    write([Case("ddt", 1, 0, 3, 2, 2, during=Counter(save=3)), Case("rl", 1, 0, 1, 1, 1)], out)
    write([Case("rl", 1, 0, 4, 3, 2, seconds=9.6, during=Counter(step=4), found=["w by\n0.1"])], out)
    lines = [line for line in out.read_text().splitlines() if line.startswith("|")]
    assert lines == [
        "| stage | processes | workers | kills | step | save | runs | exact | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
        "| ddt | 1 | 0 | 3 | 0 | 3 | 2 | 2 | 0 |",
        "| rl | 1 | 0 | 4 | 4 | 0 | 3 | 2 | 10 |",
    ]
    assert "- rl-1-0: w by 0.1" in out.read_text()
