"""The server of the page: uvicorn behind the guard, on a socket that is already taken."""

import logging
import socket
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI

from ddt_lightning.app.guard import Guard
from ddt_lightning.app.limits import UPLOAD_BYTES
from ddt_lightning.app.page import build_page
from ddt_lightning.app.studio import Studio
from ddt_lightning.app.theme import css, theme


def serve(studio: Studio, runs: Path, listening: socket.socket, token: str | None) -> uvicorn.Server:
    """A server of the page that has not started: `server.run(sockets=[listening])` serves until Ctrl-C."""
    host, port = listening.getsockname()[:2]
    inner = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    mounted = gr.mount_gradio_app(
        inner, build_page(studio, runs), path="/", server_name=host, server_port=port, footer_links=[],
        run_history=False, max_file_size=UPLOAD_BYTES, ssr_mode=False, mcp_server=False, enable_monitoring=False,
        pwa=False, theme=theme(), css=css(),
    )  # fmt: skip
    guarded = Guard(mounted, token)
    server = uvicorn.Server(uvicorn.Config(guarded, log_level="warning", access_log=False, timeout_graceful_shutdown=1))
    # An open page holds a stream that never ends; that it is cut at the end is no error.
    logging.getLogger("uvicorn.error").addFilter(lambda record: not server.should_exit)
    return server
