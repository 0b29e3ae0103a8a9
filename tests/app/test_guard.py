"""The guard in front of the page: who is answered, and what the page may load."""

import pytest

pytest.importorskip("gradio", reason="the page needs gradio: pip install 'ddt-lightning[app]'")

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from ddt_lightning.app.guard import COOKIE, Guard

INNER = Starlette(
    routes=[Route("/{rest:path}", lambda request: PlainTextResponse(str(request.url.query)), methods=["GET", "POST"])]
)


def visitor(token: str | None, name: str = "http://127.0.0.1:7860") -> TestClient:
    return TestClient(Guard(INNER, token), base_url=name, follow_redirects=False)


@pytest.mark.parametrize("name", ["http://127.0.0.1:7860", "http://localhost", "http://[::1]:80"])
def test_this_machine_is_answered_and_may_load_its_own_files_only(name):
    answer = visitor(None, name).get("/page")
    assert answer.status_code == 200
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy and "http" not in policy


@pytest.mark.parametrize("name", ["http://evil.example:7860", "http://127.0.0.1.evil.example", "http://192.168.1.5"])
def test_other_names_of_this_machine_are_refused_without_a_token(name):
    assert visitor(None, name).get("/page").status_code == 401


def test_the_token_of_the_address_becomes_a_cookie():
    client = visitor("open sesame", "http://192.168.1.5:7860")
    refused = client.get("/page")
    assert refused.status_code == 401 and "needs its token" in refused.text
    assert client.get("/page?token=wrong").status_code == 401
    entered = client.get("/page?token=open%20sesame&tab=2")
    assert entered.status_code == 303 and entered.headers["location"] == "/page?tab=2"
    assert "HttpOnly" in entered.headers["set-cookie"] and "samesite=strict" in entered.headers["set-cookie"].lower()
    again = client.get(entered.headers["location"])
    assert again.status_code == 200 and again.text == "tab=2"


def test_programs_send_the_token_as_a_header():
    client = visitor("opensesame")
    assert client.post("/run", headers={"Authorization": "Bearer opensesame"}).status_code == 200
    assert client.post("/run", headers={"Authorization": "Bearer other"}).status_code == 401
    assert client.get("/run", headers={"Cookie": f"{COOKIE}=other"}).status_code == 401
    assert client.get("/run", headers={"Cookie": "\x7f;=;"}).status_code == 401
