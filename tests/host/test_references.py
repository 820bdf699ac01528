"""Questions and references are what the host encodes, whatever the template makes of a record."""

from __future__ import annotations

import json

import pytest
import tiny

from cl_plugins.base.errors import DataError
from cl_plugins.evaluation.scorers import get_scorer
from cl_plugins.generation.answers import Answer, decode
from cl_plugins.host.session import Session
from cl_plugins.host.task_args import parse
from cl_plugins.host.test_sets import load_test_items
from cl_plugins.run.evaluate import item_of
from cl_plugins.streams import Task


THOUGHT = "<think>\nbecause\n</think>\n\n"


@pytest.fixture(scope="module")
def byte_level(llama, tmp_path_factory):
    """The tiny LLaMA with a byte-level tokenizer that knows ChatML and the words around thoughts."""
    import shutil

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("bytes") / "model"
    shutil.copytree(llama, folder)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=280, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(["question answer"], trainer)
    tokenizer.add_tokens(["<think>", "</think>", "<tool_call>", "</tool_call>"])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="<|im_end|>"
    )
    fast.save_pretrained(folder)
    return folder


@pytest.fixture
def loaded(byte_level, tmp_path):
    def load(records, entry=None, scorer="exact_match", drop=False, column=None, **keys):
        (tmp_path / "t.json").write_text(records if isinstance(records, str) else json.dumps(records))
        info = {"t": {"file_name": "t.json", **(entry or {})}}
        (tmp_path / "dataset_info.json").write_text(json.dumps(info))
        recipe = tiny.recipe(byte_level, tmp_path, tmp_path / "out", text_only=True, **{"template": "qwen3", **keys})
        recipe.pop("cl")
        session = Session(parse({**recipe, "dataset": "t"}))
        task = Task(name="t", test=("t",), scorer=scorer, options_column=column)
        tests = load_test_items(
            task, session.args, session.template, session.tokenizer_module, None, drop_too_long=drop
        )
        return session, tests

    return load


def record(answer, **more):
    return {"instruction": "Which?\nA. left\nB. right", "input": "", "output": answer, **more}


def labels_of(session, answer):
    """What the host trains on, as a model would say it after having learned it by heart."""
    messages = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": answer}]
    ((_, labels),) = session.template.encode_multiturn(session.tokenizer, messages)
    return decode([labels], session.tokenizer, session.template.thought_words)[0]


@pytest.mark.parametrize("scorer", ["exact_match", "choice_accuracy"])
@pytest.mark.parametrize(
    ("written", "keys", "taught", "thought"),
    [
        ("B", {}, "<think>\n\n</think>\n\nB", ""),
        ("B", {"enable_thinking": False}, "B", ""),
        (f"{THOUGHT}B", {}, f"{THOUGHT}B", "because"),
        (f"{THOUGHT}B", {"enable_thinking": False}, "B", ""),
        (f"{THOUGHT}B", {"template": "default"}, f"{THOUGHT}B", "because"),
    ],
)
def test_an_answer_learned_by_heart_is_right(loaded, scorer, written, keys, taught, thought):
    session, tests = loaded([record(written)], scorer=scorer, **keys)
    said = labels_of(session, written)
    assert said.strip() == taught
    assert (tests[0].reference, tests[0].reference_thought) == ("B", thought)
    item = item_of(tests[0], Answer(said))
    assert (item.prediction.strip(), item.thought) == ("B", thought)
    assert get_scorer(scorer).score([item]).score == 100
    assert get_scorer(scorer).score([item_of(tests[0], Answer(said.replace("B", "A")))]).score == 0


def test_the_prompt_ends_as_the_host_ends_it_without_thinking(loaded):
    session, tests = loaded([record("B")], enable_thinking=False)
    assert session.tokenizer.decode(tests[0].tokens).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_a_tool_call_is_compared_in_the_form_in_which_it_is_taught(loaded):
    call = json.dumps({"name": "get", "arguments": {"organ": "lung"}})
    turns = [{"from": "human", "value": "Which?"}, {"from": "function_call", "value": call}]
    entry = {"formatting": "sharegpt", "columns": {"messages": "conversations"}}
    _, tests = loaded([{"conversations": turns}], entry, enable_thinking=False)
    assert tests[0].reference.startswith("<tool_call>\n{")
    assert tests[0].reference.endswith("}\n</tool_call>")


def test_the_reference_keeps_what_tokens_lose(loaded):
    text = "右肺  a\u0301 \u00a0 x"
    assert loaded([record(text)], template="default")[1][0].reference == text
    assert loaded([record(text)])[1][0].reference == text


# --- records that cannot be tested -----------------------------------------------------------------------------


@pytest.mark.parametrize("empty", ["", "  \n", "<think>\nwhy\n</think>\n\n"])
def test_an_empty_reference_is_an_error(loaded, empty):
    with pytest.raises(DataError, match=r"data set 't': the answer of 2 records is empty \(first: 1, 2\)"):
        loaded([record("A"), record(empty), record(empty)])


def test_numbers_as_answers_are_named(loaded):
    with pytest.raises(DataError, match=r"2 records are not .*first: 0, 1\): the answer of record 0 is the number 3"):
        loaded([record(3), record(4)])


def test_missing_answers_are_named(loaded):
    with pytest.raises(DataError, match=r"1 records are not .*the answer of record 1 is missing"):
        loaded([record("A"), record(None)])


def test_a_repeated_id_falls_back_to_a_unique_question_id(loaded):
    records = [record("A", id="picture", question_id=i) for i in range(3)]
    assert [item.id for item in loaded(records)[1]] == ["0", "1", "2"]
    with pytest.raises(DataError, match="3 ids of its test set occur more than once"):
        loaded([record("A", id="picture", question_id=i // 2) for i in range(4)])
    assert [item.id for item in loaded([record("A", id=f"p{i}", question_id=7) for i in range(2)])[1]] == ["p0", "p1"]


def test_num_samples_of_a_test_set_is_refused(loaded):
    with pytest.raises(DataError, match=r"a test set with `num_samples`.*Remove `num_samples`"):
        loaded([record("A")] * 4, {"num_samples": 2})


def test_long_prompts_are_an_error_or_dropped_and_counted(loaded):
    records = [record("A", id="short"), {**record("B", id="long"), "input": "word " * 300}]
    with pytest.raises(DataError, match="1 of 2 test prompts are longer than `cutoff_len: 256`"):
        loaded(records)
    tests = loaded(records, drop=True)[1]
    assert ([item.id for item in tests], tests.dropped) == (["short"], 1)
    with pytest.raises(DataError, match="all 1 test prompts are longer"):
        loaded(records[1:], drop=True)


@pytest.mark.parametrize(
    "options",
    [{"A": "left", "B": "right"}, "['left', 'right']", "A. left\nB. right", ["A. left", "B. right"]],
)
def test_options_are_read_in_every_form(loaded, options):
    tests = loaded([record("B", options=options)], scorer="choice_accuracy", column="options")[1]
    assert tests[0].options == ("left", "right")


def test_options_that_cannot_be_read_are_refused_with_their_record(loaded):
    with pytest.raises(DataError, match=r"data set 't', record 1: its column 'options': 'left' is not a list"):
        loaded([record("A", options="A. left\nB. right"), record("A", options="left")], column="options")


def test_an_empty_answer_type_is_kept(loaded):
    tests = loaded([record("A", answer_type=""), record("A", answer_type="OPEN")])[1]
    assert [item.fields.get("answer_type") for item in tests] == ["", "OPEN"]
