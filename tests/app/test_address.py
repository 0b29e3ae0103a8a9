"""`ddt app` before its page: what it refuses, and by which name."""

import socket
from importlib import util

import pytest

from ddt_lightning.app.address import chosen_token, is_loopback, open_socket
from ddt_lightning.cli import main
from tests.tiny import tiny_model


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.1.2.3", True), ("0.0.0.0", False), ("::", False),
     ("192.168.1.5", False), ("example.org", False)],
)  # fmt: skip
def test_only_this_machine_needs_no_token(host, alone):
    assert is_loopback(host) is alone
    if alone:
        assert chosen_token(host, None) is None
    else:
        with pytest.raises(ValueError, match=rf"`--host` \({host}\).*`--token new`"):
            chosen_token(host, None)
    assert chosen_token(host, "a long secret") == "a long secret"


def test_new_tokens_differ_and_short_ones_are_refused():
    one, other = chosen_token("0.0.0.0", "new"), chosen_token("0.0.0.0", "new")
    assert one != other and min(len(one), len(other)) >= 20
    with pytest.raises(ValueError, match="`--token` has 3 characters"):
        chosen_token("0.0.0.0", "abc")


def test_a_port_that_is_taken_is_named():
    with open_socket("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
        with pytest.raises(ValueError, match=rf"`--port` \({port}\) cannot be had .*or 0 for any free one"):
            open_socket("127.0.0.1", port)
    with pytest.raises(ValueError, match=r"`--port` \(70000\)"):
        open_socket("127.0.0.1", 70000)
    with pytest.raises(ValueError, match=r"`--host` \(203.0.113.7\)"):
        open_socket("203.0.113.7", 0)


def test_the_command_refuses_in_words(tmp_path, capsys, monkeypatch):
    def failure(*words: str) -> str:
        with pytest.raises(SystemExit) as left:
            main(["app", *words])
        assert left.value.code == 1
        return capsys.readouterr().err

    folder = str(tiny_model(tmp_path / "model"))
    assert "`--model` (nowhere) is neither a folder nor" in failure("--model", "nowhere")
    assert "`--host` (0.0.0.0)" in failure("--model", folder, "--host", "0.0.0.0")
    assert "No file of prompts none.txt" in failure("--model", folder, "--examples", "none.txt")
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    monkeypatch.setattr("ddt_lightning.app.verb.find_spec", lambda name: None)
    assert "pip install 'ddt-lightning[app]'" in failure("--model", folder)
