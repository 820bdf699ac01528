"""The files of a report: what they say about runs of every shape, and that they are the same every time."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import struct
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_runs import DEMO_SCORES, DEMO_TASKS, DEMO_ZERO, demo_run, dump, make_run

from cl_plugins.base.errors import RunStateError
from cl_plugins.report import compare, read_run, write_report


FILES = [
    "matrix.png",
    "matrix.pdf",
    "forgetting.png",
    "forgetting.pdf",
    "matrix.csv",
    "cells.csv",
    "matrix.tex",
    "report.md",
    "report.html",
]


class Page(HTMLParser):
    """Collects what a page shows and what it fetches."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.outside: list[list[str]] = []
        self.feed(source.replace("<wbr>", ""))  # where a long name may break

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.outside.append([dict(a).get("class") or "" for t, a in self.tags if t == "div"][-1:])
        if tag not in ("meta", "img", "link", "br", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        last = self.open.pop() if self.open else None
        assert last == tag, f"</{tag}> closes <{last}>"

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)


def report_of(directory: Path) -> dict[str, bytes]:
    written = write_report(directory)
    assert [path.name for path in written] == FILES
    assert all(path.parent == directory for path in written)
    return {path.name: path.read_bytes() for path in written}


def png_size(data: bytes) -> tuple[int, int]:
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def test_a_finished_run(tmp_path):
    files = report_of(demo_run(tmp_path / "run", notes=["It shows the pipeline, not medical ability."]))
    page = Page(files["report.html"].decode())
    shown = " ".join(" ".join(page.text).split())
    markdown = files["report.md"].decode()
    for text in (shown, markdown.replace("\\", "")):
        assert "It shows the pipeline, not medical ability." in text
        for wanted in ("98.33", "94.1, 99.5", "31.40", "−29.16", "47.02", "3.90", "2.20", "48.30", "1.7", "seed 42"):
            assert wanted in text, wanted
        for wanted in (
            "choice_accuracy@2",
            "bleu@1",
            "sum_{j<T}",
            "T-1",
            "0.9.5",
            "3 min 35 s",
            "1.40 GiB",
            "2 cores",
        ):
            assert wanted in text, wanted
        assert "Not defined: it needs cells that were not measured" in text
        assert "not complete" not in text
    assert page.open == []


@pytest.mark.usefixtures("pictures_drawn")
def test_the_page_needs_no_other_file_and_fits_a_phone(tmp_path):
    files = report_of(demo_run(tmp_path / "run"))
    source = files["report.html"].decode()
    page = Page(source)
    assert {tag for tag, _ in page.tags}.isdisjoint({"link", "script", "iframe", "object"})
    assert "url(" not in source
    assert "@import" not in source
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    pictures = [base64.b64decode((image["src"] or "").removeprefix("data:image/png;base64,")) for image in images]
    assert pictures == [files["matrix.png"], files["forgetting.png"]]
    sources = [attributes for tag, attributes in page.tags if tag == "source"]
    assert {source["media"] for source in sources} == {"screen and (prefers-color-scheme: dark)"}
    dark = [base64.b64decode((source["srcset"] or "").removeprefix("data:image/png;base64,")) for source in sources]
    assert [png_size(each) for each in dark] == [png_size(each) for each in pictures]
    assert set(dark).isdisjoint(pictures)
    assert all(image["alt"] for image in images)
    viewport = [a["content"] for t, a in page.tags if t == "meta" and a.get("name") == "viewport"]
    assert viewport == ["width=device-width, initial-scale=1"]
    assert "prefers-color-scheme: dark" in source
    assert page.outside
    assert all(around in (["scroll"], ["scroll edge"]) for around in page.outside)


@pytest.mark.usefixtures("pictures_drawn")
def test_the_same_input_gives_the_same_bytes_in_any_process_and_style(tmp_path):
    directory = demo_run(tmp_path / "run")
    first = report_of(directory)
    assert report_of(directory) == first
    (tmp_path / "matplotlibrc").write_text("font.size: 20\naxes.facecolor: red\nsavefig.dpi: 30\n")
    program = "import sys; from pathlib import Path; from cl_plugins.report import write_report; write_report(Path(sys.argv[1]))"
    environment = {
        **os.environ,
        "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"),
        "PYTHONHASHSEED": "7",
        "TZ": "Asia/Tokyo",
    }
    subprocess.run([sys.executable, "-c", program, str(directory)], check=True, env=environment)
    assert {name: (directory / name).read_bytes() for name in FILES} == first


@pytest.mark.usefixtures("pictures_drawn")
def test_pictures_for_papers_are_vectors_with_their_text_as_text(tmp_path):
    files = report_of(demo_run(tmp_path / "run"))
    for name in ("matrix.pdf", "forgetting.pdf"):
        assert files[name].startswith(b"%PDF-")
        assert b"/CIDFontType2" in files[name] or b"/Subtype /TrueType" in files[name]
        assert b"/CreationDate" not in files[name]
        assert b"/Subtype /Type3" not in files[name], "journals refuse Type 3 fonts"


def luminance(colour: str) -> float:
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", ["LIGHT", "DARK"])
def test_every_colour_is_seen_on_its_background(theme):
    from cl_plugins.report import style

    colours = getattr(style, theme)
    for colour in (*colours.colours, colours.soft, colours.ink):
        low, high = sorted((luminance(colour), luminance(colours.paper)))
        assert (high + 0.05) / (low + 0.05) >= 3, colour
    assert len(set(colours.colours)) == len(style.MARKERS)


def test_a_page_explains_only_what_is_in_it(tmp_path):
    whole = [[60.0, 70.0], [80.0, 90.0]]
    page = report_of(make_run(tmp_path / "run", ["a", "b"], whole, zero_shot=[55.0, 55.0]))["report.html"].decode()
    for absent in ("An en dash", "Hatched", "Constant:", "Shuffled:", "unlike scores", "‡"):
        assert absent not in page, absent
    assert "Random: guessing among the options. Majority: the best single answer" in page
    page = report_of(demo_run(tmp_path / "demo"))["report.html"].decode()
    for present in (
        "An en dash: not measured.",
        "Hatched",
        "Majority and constant:",
        "Shuffled:",
        "unlike scores",
        "‡",
    ):
        assert present in page, present


def test_versions_and_hashes_are_folded(tmp_path):
    page = report_of(demo_run(tmp_path / "run"))["report.html"].decode()
    folded = page[page.index("<summary>Versions, hardware and hashes</summary>") :].partition("</details>")[0]
    assert all(word in folded for word in ("0.9.5", "2 cores", "ab" * 32))
    assert "3 min 35 s" in page.partition("<details>")[0]


@pytest.mark.usefixtures("pictures_drawn")
def test_drawing_leaves_no_trace_in_matplotlib(tmp_path):
    import matplotlib

    def settings():
        # Reading the backend makes matplotlib choose one, for which it imports pyplot.
        return {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"}

    pyplot_was_there = "matplotlib.pyplot" in sys.modules
    with matplotlib.rc_context({"font.size": 17, "savefig.dpi": 30, "text.parse_math": True, "axes.grid": True}):
        before = settings()  # neither the defaults nor what an earlier test may have left
        report_of(demo_run(tmp_path / "run"))
        compare([tmp_path / "run"], tmp_path / "compared")
        assert settings() == before
    assert ("matplotlib.pyplot" in sys.modules) == pyplot_was_there


def test_importing_the_room_imports_nothing_heavy():
    program = (
        "import sys, cl_plugins.report; "
        "print([name for name in ('matplotlib', 'jinja2', 'numpy', 'torch', 'yaml') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_the_callers_own_writing_is_used_and_nothing_else_is_written(tmp_path):
    directory = demo_run(tmp_path / "run")
    before = sorted(directory.rglob("*"))
    kept: dict[Path, bytes] = {}
    written = write_report(directory, kept.__setitem__)
    assert list(kept) == written
    assert [path.name for path in written] == FILES
    assert sorted(directory.rglob("*")) == before


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    from cl_plugins.report.writing import write_atomically

    target = tmp_path / "report.md"
    target.write_bytes(b"old")

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_csv_holds_the_unrounded_matrix_and_cells(tmp_path):
    scores = [[100 / 3, None], [12.125, 66.6666666]]
    files = report_of(make_run(tmp_path / "run", ["a", "b,c"], scores, zero_shot=[0.1, 0.2]))
    rows = list(csv.reader(io.StringIO(files["matrix.csv"].decode())))
    assert rows[0] == ["after_training_on", "a", "b,c"]
    assert [row[0] for row in rows[1:]] == ["zero_shot", "a", "b,c"]
    assert [[float(cell) if cell else None for cell in row[1:]] for row in rows[1:]] == [[0.1, 0.2], *scores]
    cells = list(csv.DictReader(io.StringIO(files["cells.csv"].decode())))
    assert [(cell["row"], cell["task"]) for cell in cells] == [
        ("zero_shot", "a"),
        ("zero_shot", "b,c"),
        ("after_a", "a"),
        ("after_b,c", "a"),
        ("after_b,c", "b,c"),
    ]
    assert cells[2]["interval_method"] == "wilson"
    assert float(cells[2]["low"]) < 100 / 3 < float(cells[2]["high"])


def test_latex_is_whole_and_escaped(tmp_path):
    tasks = ["a_b & 50%", "$x$ #1 {~^\\}"]
    source = report_of(make_run(tmp_path / "run", tasks, [[50.0, None], [40.0, 60.5]], method="my_method"))[
        "matrix.tex"
    ]
    text = source.decode()
    assert r"a\_b \& 50\%" in text
    assert r"\$x\$ \#1 \{\textasciitilde{}\textasciicircum{}\textbackslash{}\}" in text
    assert r"\caption{Scores (0--100) of my\_method on the stream demo." in text
    assert r"\label{tab:demo-my-method}" in text
    body = text.split("\\toprule\n")[1].split("\\bottomrule")[0]
    lines = [line for line in body.splitlines() if line != "\\midrule"]
    assert lines.pop(1) == r" & {\footnotesize accuracy} & {\footnotesize accuracy} &  \\"
    assert all(line.endswith(r" \\") for line in lines)
    counts = {len(re.findall(r"(?<!\\)&", line)) for line in lines}
    assert counts == {3}
    assert r"@{}lrrr@{}" in text
    assert re.findall(r"\\textbf\{([\d.]+)\}", body) == ["50.00", "60.50"]
    assert " & -- & " in lines[1]
    assert text.count("\\begin{") == text.count("\\end{") == 2


def test_limited_tests_are_named_below_every_table(tmp_path):
    files = report_of(demo_run(tmp_path / "run", max_items=30))
    sentence = "Tests limited by cl.eval.max_items: path 30, neuro 30, cell 30 and rad 30 items."
    page = Page(files["report.html"].decode())
    tables = ("Accuracy matrix", "Tasks and baselines", "Invalid answers", "Continual metrics")
    assert "".join(page.text).count(sentence) == len(tables) + 1  # and once among the remarks at the top
    assert files["report.md"].decode().replace("\\", "").count(sentence) == len(tables) + 1
    assert sentence in files["matrix.tex"].decode().replace("\\_", "_")
    assert all(cell["max_items"] == "30" for cell in csv.DictReader(io.StringIO(files["cells.csv"].decode())))


def test_a_test_set_smaller_than_the_limit_is_not_called_limited(tmp_path):
    directory = demo_run(tmp_path / "run", max_items=30)
    matrix = json.loads((directory / "matrix.json").read_text())
    matrix["n"]["rad"] = 12
    dump(directory / "matrix.json", matrix)
    assert read_run(directory).limits == {"path": 30, "neuro": 30, "cell": 30}


@pytest.mark.parametrize(
    ("scores", "settings"),
    [
        (DEMO_SCORES[:2], {}),
        ([[None] * 4] * 4, {"zero_shot": None}),
        ([[None, 75.0, None, None]], {"rows": ["after_neuro"]}),
        ([], {}),
        ([], {"zero_shot": None}),
        ([[97.5, 80.0, None, 34.2]], {"rows": ["joint"], "method": "multitask"}),
        ([[90.0 if i == j else None for j in range(4)] for i in range(4)], {"method": "alone", "independent": True}),
        (DEMO_SCORES, {"intervals": False, "metrics": False, "seed": None, "zero_shot": None}),
    ],
    ids=["unfinished", "nothing measured", "only", "zero-shot only", "nothing", "joint", "single_task", "bare"],
)
@pytest.mark.usefixtures("pictures_drawn")
def test_runs_of_every_shape_have_a_report(tmp_path, scores, settings):
    files = report_of(demo_run(tmp_path / "run", scores=scores, **settings))
    for name in ("matrix.png", "forgetting.png"):
        width, height = png_size(files[name])
        assert 200 < width < 2500
        assert 100 < height < 2500
    assert Page(files["report.html"].decode()).open == []


def test_an_unfinished_run_says_so(tmp_path):
    files = report_of(demo_run(tmp_path / "run", scores=DEMO_SCORES[:2]))
    assert "This run is not complete: measured after 2 of 4 tasks." in files["report.md"].decode()
    holes = [*DEMO_SCORES[:3], [None, *DEMO_SCORES[3][1:]]]
    files = report_of(demo_run(tmp_path / "holes", scores=holes))
    assert "This run is not complete: 1 cell not measured." in files["report.md"].decode()


def test_a_joint_model_is_shown_as_bars_of_its_scores(tmp_path):
    files = report_of(
        demo_run(tmp_path / "run", scores=[[97.5, 80.0, 72.5, 34.2]], rows=["joint"], method="multitask")
    )
    markdown = files["report.md"].decode()
    assert "Bars of the score of each task" in markdown
    assert "| all tasks jointly | 97.50" in markdown
    assert "| trained on | path (accuracy) | neuro (accuracy) | cell (accuracy) | rad (BLEU) |" in markdown
    assert "| **Last** | 71.05 |" in markdown
    assert "| **BWT** | – | Not defined:" in markdown
    assert list(csv.reader(io.StringIO(files["matrix.csv"].decode())))[2][0] == "joint"


@pytest.mark.parametrize("count", [1, 2, 12])
@pytest.mark.usefixtures("pictures_drawn")
def test_streams_of_one_to_twelve_tasks(tmp_path, count):
    tasks = [f"task_{index}" for index in range(count)]
    scores = [[50.0 + i - j if j <= i else 20.0 for j in range(count)] for i in range(count)]
    files = report_of(make_run(tmp_path / "run", tasks, scores, zero_shot=[20.0] * count))
    assert png_size(files["matrix.png"])[0] > png_size(files["matrix.png"])[1] / 2
    assert files["report.md"].decode().count("task\\_0") >= 3


@pytest.mark.usefixtures("pictures_drawn")
def test_names_that_are_markup_long_or_of_another_script(tmp_path, recwarn):
    tasks = ["<script>alert(1)</script>", "a|b*c_d`e", "$cost_{5}$", "細胞計數 Röntgen", "x" * 80]
    scores = [[60.0 if j <= i else None for j in range(5)] for i in range(5)]
    files = report_of(make_run(tmp_path / "run", tasks, scores, method="<b>", stream="細胞", intervals=False))
    page = Page(files["report.html"].decode())
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script>alert(1)</script>" in page.text
    lines = [line for line in files["report.md"].decode().splitlines() if line.startswith("|")]
    matrix = lines[: 2 + len(tasks)]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in matrix} == {len(tasks) + 3}
    assert "細胞計數 Röntgen" in files["matrix.csv"].decode()
    assert not [warning for warning in recwarn if "lyph" in str(warning.message)]


def test_secrets_of_the_recipe_do_not_reach_the_report(tmp_path):
    files = report_of(demo_run(tmp_path / "run"))
    for name in ("report.md", "report.html"):
        assert b"verysecret" not in files[name]
        assert b"hf_hub_token" in files[name]
        assert b"max_new_tokens: 16" in files[name]


def test_a_score_file_of_another_score_is_left_out_and_named(tmp_path):
    directory = demo_run(tmp_path / "run")
    path = directory / "predictions/after_rad/path.score.json"
    dump(path, json.loads(path.read_text()) | {"score": 99.0})
    run = read_run(directory)
    assert run.rows[-1].cells[0].interval is None
    assert run.rows[-1].cells[1].interval is not None
    assert "predictions/after_rad/path.score.json (choice_accuracy@2: 99.0) differs from matrix.json" in run.remarks[0]
    assert "its interval and baselines are left out" in report_of(directory)["report.md"].decode()


def test_everything_that_is_wrong_with_a_run_is_said_at_once(tmp_path):
    with pytest.raises(RunStateError, match=r"matrix.json: there is no such file") as caught:
        read_run(tmp_path)
    assert "output_dir" in str(caught.value)

    directory = demo_run(tmp_path / "run")
    (directory / "metrics.json").write_text('{"format": 1, "metrics": ')
    dump(directory / "run.json", {"format": 99})
    with pytest.raises(RunStateError) as caught:
        read_run(directory)
    assert {Path(problem.where).name for problem in caught.value.problems} == {"metrics.json", "run.json"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ["a", "a"]}, "lists a task twice"),
        ({"tasks": []}, "'tasks' is []"),
        ({"scores": [[1.0]]}, "row 'after_a' has 1 cells for 2 tasks"),
        ({"scores": [[1.0, 101.0]]}, "cell [after_a][b] is 101.0"),
        ({"scores": [[1.0, True]]}, "cell [after_a][b] is True"),
        ({"scores": [[1.0, float("nan")]]}, "cell [after_a][b] is nan"),
        ({"scores": [[1.0, "2"]]}, "cell [after_a][b] is '2'"),
        ({"scores": [[1, 2], [1, 2], [1, 2]]}, "3 rows of scores for 2 tasks"),
        ({"rows": ["after_c"], "scores": [[1.0, 2.0]]}, "'rows' holds 'after_c'"),
        ({"zero_shot": [1.0]}, "row 'zero_shot' has 1 cells for 2 tasks"),
    ],
)
def test_a_damaged_matrix_is_refused(tmp_path, change, message):
    directory = make_run(tmp_path / "run", ["a", "b"], [[1.0, None], [2.0, 3.0]])
    dump(directory / "matrix.json", json.loads((directory / "matrix.json").read_text()) | change)
    with pytest.raises(RunStateError, match=re.escape(message)):
        read_run(directory)


def test_final_scores_of_each_kind_of_run(tmp_path):
    def final(name, **settings):
        return [cell.score for cell in read_run(demo_run(tmp_path / name, **settings)).final]

    assert final("chain") == DEMO_SCORES[3]
    assert final("half", scores=DEMO_SCORES[:2]) == [None] * 4
    assert final("joint", scores=[[1.0, 2.0, 3.0, 4.0]], rows=["joint"]) == [1.0, 2.0, 3.0, 4.0]
    alone = [[float(10 * i + j) for j in range(4)] for i in range(4)]
    assert final("alone", scores=alone, method="alone", independent=True) == [0.0, 11.0, 22.0, 33.0]
    assert final("mine", scores=alone) == alone[3]


def test_it_reads_what_the_evaluation_room_writes(tmp_path):
    from cl_plugins.evaluation.matrix import AccuracyMatrix
    from cl_plugins.evaluation.metrics import continual_metrics, metrics_to_json

    matrix = AccuracyMatrix(
        stream="demo",
        method="inclora",
        tasks=DEMO_TASKS,
        scorers=dict.fromkeys(DEMO_TASKS, "choice_accuracy@2"),
        n=dict.fromkeys(DEMO_TASKS, 120),
        zero_shot=DEMO_ZERO,
        scores=DEMO_SCORES,
    )
    (tmp_path / "matrix.json").write_text(matrix.to_json(), encoding="utf-8")
    (tmp_path / "metrics.json").write_text(metrics_to_json(continual_metrics(matrix)), encoding="utf-8")
    run = read_run(tmp_path)
    assert run.metrics["bwt"].value == pytest.approx(-29.163, abs=1e-2)
    assert run.seen_means() == pytest.approx([98.33, 69.58, 59.443, 47.0175], abs=1e-2)
    markdown = report_of(tmp_path)["report.md"].decode()
    assert "Not defined: needs R\\[after path\\]\\[neuro\\]" in markdown
    assert "| rad | 51.67 | 46.67 | 58.33 | **31.40** | 47.02 |" in markdown
