"""The report: what the folder of a run holds, as one self-contained HTML page."""
