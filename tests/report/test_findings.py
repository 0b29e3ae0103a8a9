"""What a study found, as text."""

from ddt_lightning.report.findings import Findings, Table, markdown, write_findings


def test_findings_as_text(tmp_path):
    table = Table(["name", "x", "y"], [["a<b", "1.00", "2"], ["long name", "10.00", ""]])
    found = Findings("order", "A title", "One & two.", "Numbers.", [table], {"gone.png": "x"}, {}, {"run": "why"})
    lines = write_findings(found, tmp_path).splitlines()
    assert lines == markdown(found).splitlines() and (tmp_path / "study.md").read_text().splitlines() == lines
    rows = [line for line in lines if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1 and rows[2].startswith("| a<b       |  1.00 | 2 |")
