"""Where the parts of a model folder are looked for, in which order, and what is said of a part that is not whole."""

from pathlib import Path

import pytest

from ddt_lightning.model_folder import PARTS, find_part, holds, lacking


def put(folder: Path, part: str) -> Path:
    folder.mkdir(parents=True)
    for name in PARTS[part]:
        (folder / name.replace("*", "model-00001")).write_bytes(b"")
    return folder


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_found_in_a_run_a_model_folder_and_itself(tmp_path, part):
    released = put(tmp_path / "run" / "release" / part, part)
    plain = put(tmp_path / "model" / part, part)
    assert find_part(part, tmp_path / "run") == find_part(part, tmp_path / "run" / "release") == released
    assert find_part(part, str(tmp_path / "model")) == find_part(part, plain) == plain
    put(tmp_path / "run" / part, part)  # a run keeps its vocabulary beside its release, which is the finished one
    assert find_part(part, tmp_path / "run") == released
    assert holds(part, tmp_path / "model") and not holds(part, tmp_path)


def test_the_release_of_a_renderer_holds_both(tmp_path):
    parts = {part: put(tmp_path / "release" / part, part) for part in ("tokenizer", "renderer")}
    assert {part: find_part(part, tmp_path) for part in parts} == parts


def test_errors_name_the_option_and_the_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`--renderer` \(.*\) holds no renderer: .* release/renderer/"):
        find_part("renderer", tmp_path)
    (put(tmp_path / "release" / "lm", "lm") / "model-00001.safetensors").unlink()
    assert lacking("lm", tmp_path / "release" / "lm") == ["*.safetensors"]
    with pytest.raises(FileNotFoundError, match=r"`init_from` .*release/lm lacks \*.safetensors of the lm"):
        find_part("lm", tmp_path, "init_from")
