"""`ddt report RUN`: the HTML page of a run."""


def report(run: str, *, out: str | None = None) -> None:
    """Write one self-contained HTML page about a run.

    Args:
        run: run folder, such as runs/demo, or that of one stage.
        out: HTML file; RUN/report.html if not given.
    """
    from ddt_lightning.studies.report import write_report

    print(write_report(run, out))
