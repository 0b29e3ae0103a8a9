"""Models by name: shipped ones from anywhere, folders as they are, and repositories of the hub only when named so."""

import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import errors

from ddt_lightning import pretrained, settings
from ddt_lightning.model_folder import find_part
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.pretrained import FILES, find_model, locate, shipped_models
from tests.tiny import tiny_model


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two shipped models, of a package installed elsewhere than the working directory."""
    place = tmp_path / "site-packages" / "configs"
    tiny_model(place / "data" / "pretrained" / "scenes")
    (place / "data" / "pretrained" / "emoji").mkdir()
    (place / "data" / "pretrained" / "README.md").write_text("no model")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(settings, "PLACES", (place,))
    return place / "data" / "pretrained"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> str:
        raise AssertionError("nothing is fetched for other names")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)


def test_names_are_found_from_anywhere(names, no_network):
    assert shipped_models() == ["emoji", "scenes"]
    assert locate("scenes") == find_model("scenes") == names / "scenes"
    assert find_part("vocab", "scenes") == names / "scenes" / "vocab"
    assert Pipeline.from_pretrained("scenes").vocab.image_tokens == 6


def test_a_folder_of_the_same_name_is_given_as_a_path(names, no_network):
    (names.parents[3] / "here" / "scenes").mkdir()
    assert find_model("scenes") == names / "scenes"
    assert find_model("./scenes") == Path("scenes") == find_model(Path("scenes"))
    assert find_model(str(names)) == names


@pytest.mark.parametrize("given", ["cats", "runs/none", "owner/name", "README.md", "../scenes"])
def test_what_is_nothing_is_refused_with_the_names(names, no_network, given):
    with pytest.raises(FileNotFoundError, match=r"`--model` .* shipped model \(emoji, scenes\)"):
        find_model(given)


def test_a_copy_without_models_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "PLACES", (tmp_path,))
    with pytest.raises(FileNotFoundError, match=r"`folder` \(scenes\) is neither .* \(none in this copy\)"):
        find_model("scenes", "folder")


def test_own_files_of_a_checkout_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Path(settings.shipped("stages/tok.yaml")).is_file()
    assert settings.shipped("stages/none.yaml") == "stages/none.yaml"


def test_the_hub_is_asked_for_settings_and_safetensors_alone(tmp_path, monkeypatch):
    asked = []

    def download(repository: str, **options: object) -> str:
        asked.append((repository, options))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert find_model("hf://owner/name") == find_model("hf://owner/name@v1.0") == tmp_path
    assert asked == [
        ("owner/name", {"revision": None, "allow_patterns": list(FILES)}),
        ("owner/name", {"revision": "v1.0", "allow_patterns": list(FILES)}),
    ]
    assert not any(pattern.endswith((".bin", ".pt", ".ckpt", ".py", "*")) for pattern in FILES)


@pytest.mark.parametrize("given", ["hf://", "hf://name", "hf:///name", "hf://a/b/c", "hf://a/", "hf://a b/c?"])
def test_names_that_are_none_are_refused(given):
    with pytest.raises(ValueError, match="name of a repository"):
        locate(given)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.LocalEntryNotFoundError("offline"), "no network"),
        (OSError("No space left on device"), "No space left"),
    ],
)
def test_failures_of_the_hub_are_words(monkeypatch, error, words):
    def download(repository: str, **options: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ConnectionError, match=f"`hf://a/b` cannot be fetched: .*{words}"):
        find_model("hf://a/b")


def test_without_the_package_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConnectionError, match="pip install huggingface_hub"):
        locate("hf://a/b")


def test_offline_in_truth(tmp_path):
    """The library itself, told to stay offline, with an empty cache."""
    code = "from ddt_lightning.cli import main; main(['describe', 'x.png', '--model', 'hf://owner/name'])"
    (tmp_path / "x.png").write_bytes(b"")
    environment = {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "PYTHONPATH": str(Path(pretrained.__file__).parents[1]),
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "`hf://owner/name` cannot be fetched: no network" in done.stderr
