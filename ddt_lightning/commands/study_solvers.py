"""`ddt study solvers`: solvers of the diffusion decoder on a model that is there, as tables and a chart."""

from dataclasses import replace
from pathlib import Path

from ddt_lightning.inputs import Loading
from ddt_lightning.studies.base import conclude


def solvers(
    *,
    out: str,
    shards: list[str] | None = None,
    images: int = 256,
    calls: list[int] | None = None,
    shifts: list[float] | None = None,
    euler_steps: int = 50,
    fine_steps: int = 100,
    decode_guidance: float = 1.0,
    lpips: str | None = None,
    seed: int = 0,
    loading: Loading = Loading(),
) -> None:
    """Decode with several solvers and numbers of network calls: which match many Euler steps, and the renderer.

    The same call goes on where it was stopped.

    Args:
        out: folder for study.md, findings.json and solvers.png.
        shards: image shards to take images from; held-out scenes if not given.
        images: how many.
        calls: numbers of network calls; 4, 6, 8, 12, 16 and 24 if not given.
        shifts: of the times; 1 if not given.
        euler_steps: of the reference.
        fine_steps: of Heun's method, for the flow's own solution.
        decode_guidance: of the decoder; 1 for none.
        lpips: torchvision's weights of AlexNet or VGG-16, or `alexnet` or `vgg16` of `make judges`; without them LPIPS
            is left out.
        seed: of the scenes and of the decoder's noise.
        loading: which model, and its batch.

    Raises:
        ValueError: the model's tokenizer has no diffusion decoder.
    """
    from ddt_lightning.inputs import load_pipeline, positive
    from ddt_lightning.judges import find_judge
    from ddt_lightning.studies import solvers as study
    from ddt_lightning.studies.side_by_side import originals
    from ddt_lightning.tokens.tokenizer import Tokenizer

    plan = study.Plan(
        calls or [4, 6, 8, 12, 16, 24], shifts or [1.0], euler_steps, fine_steps, decode_guidance, seed,
        positive("batch", loading.batch), find_judge(lpips, "--lpips"),
    )  # fmt: skip
    number, patterns = positive("images", images), shards or []
    pipeline = load_pipeline(loading, llm=False)
    if not isinstance(pipeline.tokenizer, Tokenizer):
        raise ValueError(f"`--model` ({loading.model}) has a tokenizer that decodes in one step; there is no solver.")
    folder = Path(out)
    truth = originals(patterns, number, pipeline.image_size, seed)
    scores, weights = study.measure(pipeline, truth, plan, folder)
    study.chart(scores, plan, folder / study.CHART)
    source = f"images of {', '.join(patterns)}" if patterns else "held-out scenes"
    found = study.findings(scores, plan, source, {study.CHART: "Dashed: the reference; star: the one-step renderer."})
    conclude(replace(found, numbers={**found.numbers, "weights": weights}), folder)
