"""`ddt health`: whether the machines of a job compute rightly and reach each other, before a training starts."""


def health(*, minutes: float = 5.0) -> None:
    """Multiply two matrices on every process of a job and sum a vector over all: `srun ddt health`.

    One line of the first process says how fast; exit code 1 and a line that names the process and its machine, where
    one does not come, multiplies wrongly or cannot add.

    Args:
        minutes: how long to wait for processes that do not come, or for the sum.
    """
    if minutes <= 0:
        raise ValueError(f"`minutes` ({minutes}) must be above 0.")
    from ddt_lightning.training.health import check

    said = check(minutes)
    if said:
        print(said, flush=True)
