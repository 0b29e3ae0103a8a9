"""The report page: self-contained, complete, honest about what is missing, and safe for any text."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddt_lightning.metrics.cards import card, mean_card, write_cards
from ddt_lightning.plans.step import STEPS, Record
from ddt_lightning.report.findings import Findings, Table, write_findings
from ddt_lightning.report.report import write_report
from ddt_lightning.report.scores import UPPER_BOUNDS, bounds

SHARED = {"seed": 0, "weights": {"tokenizer": "ab12", "lm": "cd34"}, "settings": {"steps": 8, "decode_guidance": 1.5}}
SECTIONS = ("scores", "reconstruction", "drawing", "editing", "questions", "captions", "codebook", "curves", "settings")
VOID = {"meta", "img", "br", "input"}


class Balanced(HTMLParser):
    """Fails on tags that are not closed in order; collects references to other files."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.anchors: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.sources += [values[name] for name in ("src", "href") if values.get(name)]
        self.ids += [values["id"]] if "id" in values else []

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def write_png(path: Path, value: int = 0) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(path)
    return path.name


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A whole run with every kind of result."""
    run = tmp_path / "demo"
    samples = run / "eval" / "samples"
    for stage in ("tokenizer", "pretrain", "instruct"):
        (run / stage).mkdir(parents=True)
        rows = [f"{step},{2 / (step + 1)},{1.0 if step % 50 == 0 else ''},0.001" for step in range(0, 500, 5)]
        (run / stage / "metrics.csv").write_text("step,train/loss,val/loss,lr\n" + "\n".join(rows) + "\n")
        (run / stage / "config.yaml").write_text("model:\n  width: 8 # <b>\n")
    write_cards(
        run / "eval" / "t2i.json",
        {
            "t2i/shapes_geneval/overall": mean_card([True, False, True, True], "asked for <and> got"),
            "t2i/ceiling_tokenizer": mean_card([True, True], "reconstructed renders"),
            "t2i/floor_shuffled": mean_card([False, False], "another prompt"),
            "decode/steps": card(8, 1, "steps"),
        },
        SHARED,
    )
    write_cards(
        run / "eval" / "reconstruction.json",
        {"tokenizer/psnr": mean_card([20.0, 22.0], "dB"), "tokenizer/psnr@8": mean_card([11.0], "dB")},
        SHARED,
    )
    for n in range(4):
        write_png(samples / "i" / f"{n}.png", 60 * n)
    file = "samples/i/{}.png".format
    index = {
        "t2i": [
            {
                "tag": "colors",
                "prompt": "<script>alert(1)</script>",
                "files": [file(0), file(1)],
                "correct": [True, False],
                "plans": ["red ring 1 2 3 |", "<b>blue ring |"],
            }
        ],
        "edit": [
            {
                "type": "recolour",
                "instruction": "make it <red>",
                "source": file(0),
                "result": file(1),
                "target": file(2),
                "correct": True,
                "plan": "a ring to <no ring |",
            }
        ],
        "vqa": [
            {"type": "count", "image": file(3), "question": "how many?", "answer": "2", "truth": "3", "correct": False}
        ],
        "caption": [{"image": file(3), "caption": "a ring", "truth": "a ring", "correct": True}],
        "reconstruction": [{"original": file(0), "by_tokens": {"8": file(1), "32": file(2)}, "psnr": 21.0}],
        "codebook": {"counts": [3, 0, 1], "images": 2, "perplexity": 1.7, "perplexity_by_position": [1.2, 1.5]},
    }
    for name, content in index.items():
        (samples / f"{name}.json").write_text(json.dumps(content))
    (run / "metrics.json").write_text(
        json.dumps(
            {
                "t2i/shapes_geneval/overall": 0.75,
                "seen/t2i/shapes_geneval/overall": 0.875,
                "tokenizer/psnr": 21.0,
                "time/total_s": 1500,
                "time/eval_s": 61,
            }
        )
    )
    return run


def parsed(path: Path) -> tuple[str, Balanced]:
    text = path.read_text()
    checker = Balanced()
    checker.feed(text)
    assert checker.open == []
    return text, checker


def test_page_is_whole_and_needs_no_other_file(run):
    text, checker = parsed(write_report(run))
    assert set(SECTIONS) <= set(checker.ids)
    for source in checker.sources:
        assert source.startswith("data:image/png;base64,") or (source[0] == "#" and source[1:] in checker.ids)
    assert len(set(checker.ids)) == len(checker.ids)
    assert "http" not in text and "@import" not in text and "<link" not in text
    assert "Not in this run" not in text
    assert text.count("var(--line-0)") > text.count("var(--line-1)") >= 3  # training and validation of three stages
    assert text.count("<svg ") == 5  # losses of three stages, the codebook's uses, PSNR by number of tokens
    for fact in ("75.0 %", "21.0", "25 min 0 s", "1 min 1 s", "ab12", "cd34", "how many?", "truth: 3", "2 of 3 codes"):
        assert fact in text, fact


def score_rows(text: str) -> dict[str, list[str]]:
    """{key: texts of the other cells} of the table of scores."""
    table = text.partition('id="scores"')[2].partition("</table>")[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in table.split("<tr")[1:]]
    cells = [[" ".join(re.sub("<[^>]*>", " ", cell).split()) for cell in row] for row in rows]
    return {key: rest for key, *rest in filter(None, cells) if rest}


def test_scores_of_seen_combinations_stand_beside_held_out_ones(run):
    text, _ = parsed(write_report(run))
    rows = score_rows(text)
    assert rows["t2i/shapes_geneval/overall"][:2] == ["0.750 0.301 to 0.954, n 4", "0.875"]
    assert "<span>seen in training</span>88 %" in text
    assert '<th class="n">held-out</th><th class="n">seen</th>' in text


def test_upper_bounds_and_baselines_stand_beside_scores(run):
    metrics = json.loads((run / "metrics.json").read_text())
    metrics |= {"t2i/ceiling_tokenizer": 0.9375, "t2i/floor_shuffled": 0.125, "t2i/floor_circles": 0.25}
    metrics |= {"caption/cider_d_regex": 0.5, "caption/cider_d_regex_floor_shuffled": 0.0625}
    (run / "metrics.json").write_text(json.dumps(metrics))
    text, _ = parsed(write_report(run))
    rows = score_rows(text)
    score = rows["t2i/shapes_geneval/overall"]
    assert score[2:4] == ["0.938 tokenizer", "0.125 other prompt 0.250 circles"]
    assert rows["caption/cider_d_regex"][2:4] == ["", "0.062 shuffled"]
    assert rows["t2i/floor_circles"] == ["0.250", "", "", "", ""]  # a bound has none
    bar = text.partition("<code>t2i/shapes_geneval/overall</code>")[2].partition("</tr>")[0]
    assert '<i style="width:75.00%">' in bar and '<s style="left:93.75%"' in bar
    assert bar.count('<s class="baseline"') == 2
    assert "<span>upper bound</span>94 %" in text and "<span>baseline</span>12 %" in text
    tokenizer = text.partition("<code>tokenizer/psnr</code>")[2].partition("</tr>")[0]
    assert 'class="bar"' not in tokenizer  # decibels are no share


def test_a_kind_has_its_own_upper_bound_where_it_was_measured():
    measured = {"edit/ceiling_tokenizer": 0.5, "edit/ceiling_tokenizer/add": 0.25}
    assert bounds(UPPER_BOUNDS, "edit/exact_match/add", measured) == {"tokenizer": 0.25}
    assert bounds(UPPER_BOUNDS, "edit/exact_match/move", measured) == {"tokenizer": 0.5}
    assert bounds(UPPER_BOUNDS, "edit/exact_match", measured) == {"tokenizer": 0.5}


def test_scores_name_what_was_asked_for_and_not_read(run):
    shared = {**SHARED, "asked": 9, "unreadable": ["a.tar:0<1 (no image)"]}
    write_cards(run / "eval" / "caption.json", {"caption/scene_match": mean_card([True], "`all` right")}, shared)
    text, _ = parsed(write_report(run))
    assert text.count("Could not be read: a.tar:0&lt;1 (no image)") == 1
    assert "<code>caption/scene_match</code>: <code>all</code> right; of an evaluation of 9 samples</li>" in text


def test_a_run_without_bounds_has_no_columns_for_them(tmp_path):
    (tmp_path / "metrics.json").write_text('{"tokenizer/psnr": 20.0, "new/score": 0.5}')
    text, _ = parsed(write_report(tmp_path))
    assert score_rows(text)["tokenizer/psnr"] == ["20.000", ""]
    assert score_rows(text)["new/score"][0] == "0.500"  # of a part that the page does not know
    assert "upper bound" not in text.partition('id="scores"')[2].partition("</thead>")[0]


def test_texts_are_escaped(run):
    text, _ = parsed(write_report(run))
    assert "<script" not in text and "&lt;script&gt;" in text
    assert "make it &lt;red&gt;" in text and "# &lt;b&gt;" in text


def test_missing_parts_are_named_not_invented(tmp_path):
    run = tmp_path / "bare"
    run.mkdir()
    (run / "metrics.csv").write_text("step,train/loss\n0,2\n1,1\n")
    text, _ = parsed(write_report(run))
    missing = re.findall(r"Not in this run: ([^.]*)\.", text)
    assert "Run <code>ddt eval edit</code>." in text
    assert {"scores", "reconstructions", "samples for prompts", "edits", "questions", "captions"} <= set(missing)
    assert "nan" not in text.lower().replace("finance", "")


def test_photos_show_what_was_drawn_and_said(run):
    """A run whose samples come from `ddt generate` and from shards; what is not there is listed at the end."""
    for name in ("t2i", "vqa", "caption"):
        (run / "eval" / "samples" / f"{name}.json").unlink()
    lines = [{"file": write_png(run / "pictures" / f"{n}.png", n), "prompt": f"<a dog {n // 2}>"} for n in range(4)]
    (run / "pictures" / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = [{"image": "samples/i/3.png", "said": "a man & his dog", "known": "a person: two men"}]
    (run / "eval" / "samples" / "caption_shards.json").write_text(json.dumps(said))
    write_cards(
        run / "eval" / "caption_shards.json",
        {"caption/cider_d_regex": mean_card([0.25, 0.5], "words")},
        SHARED,
    )
    (run / "metrics.json").unlink()
    text, checker = parsed(write_report(run))
    assert text.count("&lt;a dog 0&gt;</figcaption>") == text.count("&lt;a dog 1&gt;</figcaption>") == 1
    assert "a man &amp; his dog" in text and "a person: two men" in text and "<b>0.38</b>Captions, CIDEr-D" in text
    assert "questions" not in checker.ids and checker.ids[-1] == "absent"
    assert re.findall(r"Not in this run: ([^.]*)\.", text[text.index('id="absent"') :]) == ["questions"]


def test_a_plan_of_studies_leaves_records_that_are_no_studies(run):
    """`make evidence` has a step for each study; the record of a step has the step's name."""
    record = Record(run, "progressive")
    record.done = True
    record.write()
    assert (run / STEPS / "progressive.json").is_file()
    text, _ = parsed(write_report(run))
    assert "Studies</h2>" not in text


def test_distances_stand_side_by_side(run):
    def measure(model: str, start: str, value: float, settings: dict[str, str]) -> None:
        cards = {f"{start}FD-1a2b3c4d@1000": card(value, 1000, "Frechet distance", (value - 0.5, value + 0.5)),
                 f"{start}halves/FD-1a2b3c4d@500": card(0.875, 500, "two halves"),
                 f"{start}paired_psnr": card(99.5, 1000, "PSNR")}  # fmt: skip
        write_cards(run / "distances" / model / "cards.json", cards, {**SHARED, "settings": settings})

    measure("ddt", "tokenizer/", 2.25, {"decoder": "renderer"})
    measure("va<r", "t2i/", 9.75, {})
    (run / "distances" / "nothing yet").mkdir()
    text, _ = parsed(write_report(run))
    table = text[text.index("<h3>Distances") : text.index("Two halves of the reference: FD-1a2b3c4d@500 0.88.")]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in table.split("<tr>")[1:]]
    assert rows == [
        ["model", "what it made", "FD-1a2b3c4d@1000"],
        ["ddt", "reconstructions, in one step", "2.25 (1.75 to 2.75)"],
        ["va&lt;r", "drawings", "9.75 (9.25 to 10.2)"],
    ]


def test_every_study_is_shown_from_its_findings(run):
    table = Table(["name", "x", "y"], [["a<b", "1.00", "2"], ["long name", "10.00", ""]], 1, "A & table")
    for name in ("order", "scaling"):
        (run / name).mkdir()
        pictures = {write_png(run / name / "drawn.png"): "what is <drawn>", "moved.gif": "what moves", "gone.png": "x"}
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(run / name / "moved.gif")
        found = Findings(name, f"About {name}", "One & two.", "Numbers.", [table], pictures, {}, {"run": "<why>"})
        write_findings(found, run / name)
    text, checker = parsed(write_report(run))
    studies = text.partition('id="studies"')[2].partition("</section>")[0]
    assert {"study-order", "study-scaling"} <= set(checker.ids)
    for fact in (
        "<h3>About order</h3>",
        "One &amp; two.",
        "A &amp; table",
        "Failed: run: &lt;why&gt;",
        "gone.png is gone",
    ):
        assert fact in studies, fact
    assert '<th>name</th><th class="n">x</th>' in studies and '<td>a&lt;b</td><td class="n">1.00</td>' in studies
    assert studies.count("data:image/gif;base64,") == 2 and studies.count("what is &lt;drawn&gt;</figcaption>") == 2
    assert (run / "report.html").read_text().index('id="studies"') < text.index('id="scores"')


def test_a_folder_of_a_study_alone(tmp_path):
    write_findings(Findings("order", "A title", "Why.", "", [Table(["a"], [["b"]])]), tmp_path / "order")
    text, checker = parsed(write_report(tmp_path / "order"))
    assert "<h3>A title</h3>" in text and "Not in this run" not in text and "scores" not in checker.ids


def test_a_sample_file_that_is_gone(run):
    (run / "eval" / "samples" / "i" / "3.png").unlink()
    text, _ = parsed(write_report(run))
    assert "3.png is gone" in text


def test_nothing_to_report(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        write_report(tmp_path / "none")
    with pytest.raises(ValueError, match="nothing to report"):
        write_report(tmp_path)


def test_out_and_same_page_twice(run, tmp_path):
    first = write_report(run, tmp_path / "else" / "page.html")
    assert first == tmp_path / "else" / "page.html" and not (run / "report.html").exists()
    assert first.read_bytes() == write_report(run, tmp_path / "again.html").read_bytes()
    assert not list(tmp_path.rglob("*.partial"))


def health_rows(folder: Path) -> None:
    """A tokenizer's log whose codebook shrinks: training every ten steps, validation every fifty."""
    columns = [f"train/position_perplexity_{n}" for n in (1, 2, 3, 4)]
    columns += [f"val/codebook_perplexity_{n}" for n in (1, 2, 3, 4)]
    columns += ["train/perplexity", "train/dead_codes", "train/revived_codes", "train/commit", "val/codebook_usage"]
    columns += ["val/codebook_perplexity"]
    rows = []
    for step in range(0, 200, 10):
        value = {name: 100 - step / 4 for name in columns if name.startswith("train/") or step % 50 == 0}
        rows.append(f"{step}," + ",".join(str(value.get(name, "")) for name in columns))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.csv").write_text("step,train/loss," + ",".join(columns) + "\n")
    with (folder / "metrics.csv").open("a") as file:
        file.writelines(row.replace(",", ",1.0,", 1) + "\n" for row in rows)


@pytest.mark.parametrize("stage", ["tokenizer", ""])
def test_quantizer_health_is_drawn_with_a_reading(tmp_path, stage):
    run = tmp_path / "mine"
    health_rows(run / stage)
    text, _ = parsed(write_report(run))
    codebook = text.partition('id="codebook"')[2].partition("</section>")[0]
    charts = re.findall(r'<div class="chart">(.*?)</svg></div>', codebook, re.DOTALL)
    assert len(charts) == 6
    legends = [re.findall(r'<span style="color: var\((--line-\d)\)">', chart) for chart in charts]
    assert [len(legend) for legend in legends] == [1, 2, 4, 4, 2, 1] and codebook.count("Healthy:") == 1
    for chart, legend in zip(charts, legends, strict=True):  # every line in a colour of its own, that of its name
        drawing = chart[chart.index("<svg") :]
        assert len(set(legend)) == len(legend) and set(re.findall(r"--line-\d", drawing)) == set(legend)
    training = text.partition('id="curves"')[2].partition("</section>")[0]
    assert "loss" in training and "perplexity" not in training and "dead_codes" not in training  # drawn once


def test_no_health_panel_without_a_quantizer(run):
    text, _ = parsed(write_report(run))
    assert "Healthy:" not in text


def test_plans_stand_under_what_was_drawn_after_them(run):
    page = write_report(run).read_text()
    for plan in ("red ring 1 2 3 |", "&lt;b&gt;blue ring |", "plan: a ring to &lt;no ring |"):
        assert plan in page
    drawn = run / "eval" / "samples" / "t2i.json"
    records = json.loads(drawn.read_text())
    del records[0]["plans"]  # of an evaluation without plans
    drawn.write_text(json.dumps(records))
    assert "red ring 1 2 3 |" not in write_report(run).read_text()
    del records[0]["files"]
    drawn.write_text(json.dumps(records))
    with pytest.raises(ValueError, match=r"t2i\.json does not hold correct, files, prompt, tag"):
        write_report(run)


def test_practice_is_shown_by_tag(run):
    (run / "rl").mkdir()
    text = "step,train/reward,train/reward/colors,val/reward/colors,train/kl\n1,0.1,0.2,0.3,0.0\n2,0.4,0.5,,0.1\n"
    (run / "rl" / "metrics.csv").write_text(text)
    page = write_report(run).read_text()
    assert "Practice with a reward" in page
    assert 'aria-label="reward/colors"' in page and 'aria-label="kl"' in page
