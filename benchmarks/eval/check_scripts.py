"""The peers' own scoring scripts beside ours, on random answers that are full of what their rules get wrong.

Every script is run as its authors run it, on files of their form, and its printed accuracy is compared with that of the scorer
of ours that stands for it. Name clones of one or more of the libraries; which script belongs to which is found by its path.

    git clone https://github.com/bjzhb666/MLLM-CL
    git clone https://github.com/zackschen/CoIN
    git clone https://github.com/Ghy0501/MCITlib
    python benchmarks/eval/check_scripts.py MLLM-CL CoIN MCITlib

This runs code of the clones, so look at it first. Not compared: CoIN's GQA (its script asks for GQA's scene graphs), the captions
(`tests/evaluation/test_reference_captions.py`), and what needs a language model or a server. Leaves with exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
import runpy
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_plugins.evaluation.answers import read_answers
from cl_plugins.evaluation.scorers import get_scorer


ACCURACY = r"(?<!-)\bAccuracy: ([\d.]+)%"
WORDS = (
    *("a", "no", "yes", "No", "Yes", "not visible", "unknown", "normal", "abnormal", "1", "10", "two", "2", "0.5"),
    *(
        "A",
        "B",
        "C",
        "A.",
        "B.",
        "A. red",
        "(B)",
        "a dog",
        "The answer is A.",
        "The answer is B",
        "red",
        "Red.",
        "red,",
    ),
    *("Texas", "Ohio", "Texas,Ohio", "Ohio, Texas", "Iowa,Ohio,Texas", "not sure", "notsure", "Unanswerable", "", " "),
)
CATEGORIES = ("Regular Text Recognition", "Handwritten Mathematical Expression Recognition", "Doc-oriented VQA")
PICTURES = ("AI2D_1.png", "TQA_2.png", "VQA_3.png", "SciVerse_4.png", "map_5.png")

Draw = Callable[[random.Random], dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """A script and the scorer that stands for it.

    Attributes:
        script: The end of its path inside a clone.
        scorer: Name of ours.
        draw: Makes one annotation.
        pattern: What its printed score looks like.
        form: What the test set is wrapped in: ``list``, ``data`` (TextVQA) or ``problems`` (ScienceQA).
        option: How the script asks for the test set.
    """

    script: str
    scorer: str
    draw: Draw
    pattern: str = ACCURACY
    form: str = "list"
    option: str = "--annotation-file"


def answer_of(rng: random.Random) -> str:
    """A right answer, never blank."""
    return rng.choice([word for word in WORDS if word.strip()])


def plain(rng: random.Random) -> dict[str, Any]:
    """Question and answer, with everything that MLLM-CL's scripts look at."""
    more = {
        "type": rng.choice(("2D", "3D")),
        "task": rng.choice(("Count", "Depth")),
        "answer_type": rng.choice(CATEGORIES),
    }
    return {"image": f"images/{rng.choice(PICTURES)}", "answer": answer_of(rng), **more}


def box(rng: random.Random) -> dict[str, Any]:
    """A box in fractions of the square."""
    return {"answer_bbox": box_text(rng), "size": [rng.randint(100, 600), rng.randint(100, 600)]}


def box_text(rng: random.Random) -> str:
    """Mostly large boxes, so that some overlap by more than a half."""
    low, high = ([round(rng.uniform(*span), 2) for _ in range(2)] for span in ((0, 0.3), (0.6, 1)))
    return str([*low, *high])


def ten(rng: random.Random) -> dict[str, Any]:
    """Ten annotators, who agree in part."""
    some = [answer_of(rng) for _ in range(3)]
    return {"question": "q", "answers": [rng.choice(some) for _ in range(10)]}


def problem(rng: random.Random) -> dict[str, Any]:
    """A problem of ScienceQA."""
    choices = ["red", "blue", "green"][: rng.randint(2, 3)]
    return {"question": "q", "choices": choices, "answer": rng.randrange(len(choices)), "split": "test"}


def _cases() -> Iterator[Case]:
    for library, folder in (("mllm_cl", "Eval/LLaVA/CoIN"), ("mcitlib", "CL-MoE/llava/eval/CoIN")):
        for task, name in (("rs", "ai2d"), ("med", "pvqa"), ("sci", "sci"), ("fin", "finvis"), ("vp", "sat")):
            yield Case(f"{folder}/eval_{name}.py", f"peer:{library}:{task}", plain)
        yield Case(f"{folder}/eval_ocr.py", f"peer:{library}:ocr", plain, r"'Final Score Norm': ([\d.]+)")
    for library, folder in (("coin", "Eval/LLaVA/CoIN"), ("mcitlib", "CL-MoE/llava/eval/CoIN")):
        for task in ("ocrvqa", "vqav2", "vizwiz"):
            yield Case(f"{folder}/eval_{task}.py", f"peer:{library}:{task}", plain)
        name = "ImagetNet" if library == "coin" else "imagenet"
        yield Case(f"{folder}/eval_{name}.py", f"peer:{library}:imagenet", plain, option="--test-file")
        yield Case(f"{folder}/eval_grounding.py", f"peer:{library}:grounding", box, option="--test-file")
        yield Case(f"{folder}/eval_textvqa.py", f"peer:{library}:textvqa", ten, form="data")
        yield Case(f"{folder}/eval_science_qa.py", f"peer:{library}:scienceqa", problem, form="problems")
    yield Case("CL-MoE/llava/eval/CoIN/eval_deepseek_r1.py", "peer:ucit:arxivqa", plain)


def compare(
    case: Case, clone: Path, script: Path, folder: Path, rng: random.Random, count: int
) -> tuple[float, float]:
    """Their score and ours of one random test set."""
    test = [{"question_id": str(number), "text": "q", **case.draw(rng)} for number in range(count)]
    answers = [
        {
            "question_id": note["question_id"],
            "prompt": rng.choice(("q", "Which states?", "q\n<image>")),
            "text": said(note, rng),
        }
        for note in test
    ]
    annotations, result = folder / "test.json", folder / "merge.jsonl"
    result.write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    words = ["--result-file", str(result)]
    if case.form == "problems":
        annotations = folder / "problems.json"
        annotations.write_text(json.dumps({note["question_id"]: note for note in test}))
        (folder / "pid_splits.json").write_text(json.dumps({"test": [note["question_id"] for note in test]}))
        words += ["--base-dir", str(folder), "--output-file", str(folder / "o"), "--output-result", str(folder / "r")]
        words += ["--output-dir", str(folder)] if "--output-dir" in script.read_text(encoding="utf-8") else []
    else:
        annotations.write_text(json.dumps({"data": test} if case.form == "data" else test))
        words += [case.option, str(annotations), "--output-dir", str(folder)]
    printed = run(clone, script, words)
    found = re.search(case.pattern, printed)
    if found is None:
        raise SystemExit(f"{script} printed no score that is known: {printed!r}")
    scorer = get_scorer(case.scorer)
    return float(found[1]), scorer.score(
        read_answers(result, annotations, by_row=getattr(scorer, "by_row", False))
    ).score


def said(note: dict[str, Any], rng: random.Random) -> str:
    """An answer: the right one now and then, with something around it, or anything else."""
    if "answer_bbox" in note:
        return rng.choice((note["answer_bbox"], box_text(rng), box_text(rng), "none", " " + note["answer_bbox"] + " "))
    right = str(note.get("answer", note.get("answers", [""])[0]))
    return rng.choice(("{0}", "{0}.", "The {0}", "{0},{1}", "{1}, {0}", "{1}", "{1}", "{2}", "{0} {1}")).format(
        right, rng.choice(WORDS), right.upper()
    )


def run(clone: Path, script: Path, words: Sequence[str]) -> str:
    """What a script prints."""
    out = io.StringIO()
    before, path, home = sys.argv, list(sys.path), os.getcwd()
    # A client of a language model, imported at the top of one script and not used for its score; and a package whose own
    # beginning imports models.
    stubs = {name: types.ModuleType(name) for name in ("openai", "llava")}
    stubs["openai"].OpenAI = object  # type: ignore[attr-defined]
    stubs["llava"].__path__ = [str(clone / "CL-MoE" / "llava")]
    sys.modules.update(stubs)
    try:
        sys.argv, sys.path[:0] = [str(script), *words], [str(clone)]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv, sys.path[:] = before, path
        os.chdir(home)
        for name in [name for name in sys.modules if name.split(".")[0] in stubs]:
            del sys.modules[name]
    return out.getvalue()


def main(words: Sequence[str] | None = None) -> int:
    """Compare every script that the clones hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clones", type=Path, nargs="+", metavar="CLONE")
    parser.add_argument("--sets", type=int, default=40, help="random test sets per script (default: 40)")
    parser.add_argument("--items", type=int, default=25, help="items in each (default: 25)")
    args = parser.parse_args(words)
    compared = wrong = 0
    for case in _cases():
        for clone in args.clones:
            library = case.scorer.split(":")[1]
            script = next(
                (p for p in sorted(clone.rglob(Path(case.script).name)) if str(p).endswith(case.script)), None
            )
            if (
                script is None
                or {"mllm_cl": "MLLM-CL", "coin": "CoIN"}.get(library, "MCITlib") != clone.resolve().name
            ):
                continue
            rng = random.Random(case.scorer)
            differing = []
            try:
                for _ in range(args.sets):
                    with tempfile.TemporaryDirectory() as folder:
                        theirs, ours = compare(case, clone.resolve(), script.resolve(), Path(folder), rng, args.items)
                    if abs(theirs - ours) > 0.00501:  # they print two digits
                        differing.append((theirs, ours))
            except ImportError as error:
                print(f"{case.scorer:24s} {case.script:45s} cannot run here: {error}")
                continue
            compared, wrong = compared + 1, wrong + bool(differing)
            what = f"differs, first {differing[0]}" if differing else "agrees"
            print(
                f"{case.scorer:24s} {case.script:45s} {what} ({args.sets - len(differing)} of {args.sets} test sets)"
            )
    print(f"{compared - wrong} of {compared} scripts agree")
    return 1 if wrong or not compared else 0


if __name__ == "__main__":
    sys.exit(main())
