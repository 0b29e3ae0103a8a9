"""`ddt app`: a web page to play with a model.

In: a model folder. Out: a page on this machine, until Ctrl-C. It works without a network and asks nobody anything.
"""

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

from ddt_lightning.app.address import chosen_token, open_socket
from ddt_lightning.inputs import Loading, find_parts
from ddt_lightning.prompts import read_prompts


def app(
    *,
    model: str = Loading.model,
    tokenizer: str | None = None,
    renderer: str | None = None,
    device: str = "auto",
    against: list[str] | None = None,
    examples: str | None = None,
    run: str = "runs",
    host: str = "127.0.0.1",
    port: int = 7860,
    token: str | None = None,
) -> None:
    """Open a web page to draw, edit, ask, look at tokens and watch a training.

    Args:
        model: model folder, with tokenizer/, lm/ and vocab/; or the folder of a run.
        tokenizer: tokenizer folder, or the run of one, where the model folder has none.
        renderer: renderer folder, or the run of one, where the model folder has none; `none` decodes by diffusion.
        device: auto, cpu, cuda, cuda:1 or mps; auto takes a CUDA device if there is one.
        against: folders of other tokenizers, DDT, VQGAN or VAR, that the page shows beside the model's.
        examples: file of prompts to click; without it, those of shapes and emoji whose words the model has learned.
        run: folder of runs whose curves and samples the page shows.
        host: address to listen at; any but this machine's own needs a token.
        port: port to listen at; 0 takes any free one.
        token: what visitors must know; `new` makes one up and prints it.
    """
    if find_spec("gradio") is None:
        raise ValueError("`ddt app` needs gradio: pip install 'ddt-lightning[app]'.")
    loading = Loading(model, tokenizer, renderer, device)
    find_parts(loading, llm=True)
    prompts = None if examples is None else read_prompts(examples)
    token = chosen_token(host, token)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    with open_socket(host, port) as listening, tempfile.TemporaryDirectory(prefix="ddt-app-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads  # read when components are made; gone when the page is
        from ddt_lightning.app.serve import serve
        from ddt_lightning.app.studio import open_studio

        studio = open_studio(loading, against or [], prompts)
        server = serve(studio, Path(run), listening, token)
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listening.getsockname()[1]}/"
        print(address if token is None else f"{address}?token={token}", "(Ctrl-C ends it)", flush=True)
        server.run(sockets=[listening])
