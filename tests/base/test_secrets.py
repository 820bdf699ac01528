"""One rule for credentials: what is masked, what is not, and where."""

from __future__ import annotations

import json

import pytest

from cl_plugins.base.errors import ClPluginsError, DataError, Problem, TrainingError
from cl_plugins.base.secrets import MASK, failure, is_secret, masked, redact, without_masked


SECRET = """token hf_hub_token ms_hub_token om_hub_token hub_token HF_TOKEN hfHubToken api_key swanlab_api_key apikey OPENAI_API_KEY
    swanlab_lark_secret swanlab_lark_webhook_url secret client_secret aws_secret_access_key access_key private_key
    password db_password passwd passphrase credential credentials aws-credentials auth_token access_tokens authorization
    cl.eval.backend_options.api_key""".split()
PLAIN = """max_new_tokens tokenizer num_tokens split_special_tokens include_tokens_per_second use_fast_tokenizer
    include_num_input_tokens_seen ignore_pad_token_for_loss average_tokens_across_devices add_tokens tokenized_path
    skip_special_tokens new_special_tokens_config pad_token image_token tokens_per_second key key_name keys monkey
    keyboard secretary passes compass lora_target seed token_id hub_token.seed""".split()


@pytest.mark.parametrize("key", SECRET)
def test_names_of_credentials(key):
    assert is_secret(key)
    assert masked("abc", key) == MASK


@pytest.mark.parametrize("key", PLAIN)
def test_names_of_other_keys(key):
    assert not is_secret(key)
    assert masked("abc", key) == "abc"


def test_which_keys_of_the_installed_host_are_credentials():
    """A key that a new version brings is looked at here by a person."""
    from cl_plugins.host.keys import key_table

    known = (
        "hf_hub_token ms_hub_token om_hub_token hub_token swanlab_api_key swanlab_lark_secret swanlab_lark_webhook_url"
    )
    assert {info.key for info in key_table() if is_secret(info.key)} == set(known.split())


def test_values_that_hold_no_credential_stay():
    kept = {"hub_token": None, "use_auth_token": True, "password": "", "some_token": 3}
    assert masked(kept) == kept
    assert masked({"password": 123456}) == {"password": MASK}


def test_nested_values_lists_and_urls():
    given = {
        "deepspeed": {"comms": [{"auth_token": "abc"}], "zero": 2},
        "backend_options": {"credentials": {"user": "me", "key": "abc"}, "max_model_len": 5, "tokens": ("a", "b")},
        "proxy": "https://me:abc@host:80/x?y=1",
        "mirror": "https://host/x?token=abc&part=2",
        "revision": "hf://datasets/user/set@main",
        "note": "write to me@host",
    }
    assert masked(given) == {
        "deepspeed": {"comms": [{"auth_token": MASK}], "zero": 2},
        "backend_options": {"credentials": MASK, "max_model_len": 5, "tokens": ("a", "b")},
        "proxy": "https://***@host:80/x?y=1",
        "mirror": "https://host/x?token=***&part=2",
        "revision": "hf://datasets/user/set@main",
        "note": "write to me@host",
    }
    assert "abc" in str(given)  # the recipe itself is not changed
    assert masked(masked(given)) == masked(given)


def test_a_task_may_be_called_like_a_credential():
    given = {"task_overrides": {"secret": {"max_steps": 3, "hub_token": "abc"}}}
    assert masked(given) == {"task_overrides": {"secret": {"max_steps": 3, "hub_token": MASK}}}


def test_what_is_masked_is_not_read_back():
    given = {"hub_token": "abc", "proxy": "https://a:b@c", "list": ["https://a:b@c", 1], "in": {"password": 1, "x": 2}}
    kept = {"use_auth_token": True, "default_system": "*** be brief ***"}
    assert without_masked(json.loads(json.dumps(masked({**given, **kept})))) == {"list": [1], "in": {"x": 2}, **kept}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot reach https://me:abc@host/x.", "cannot reach https://***@host/x."),
        ("unknown argument hf_hub_token=abc given", "unknown argument hf_hub_token=*** given"),
        ("{'api_key': 'abc', 'x': 1}", "{'api_key': ***, 'x': 1}"),
        ('{"password": "a\\"bc", "x": 1}', '{"password": ***, "x": 1}'),
        ('line 3:\n  hf_hub_token: "abc\n  ^', "line 3:\n  hf_hub_token: ***\n  ^"),
        ("max_new_tokens=5 and tokenizer: fast", "max_new_tokens=5 and tokenizer: fast"),
    ],
)
def test_messages(text, shown):
    assert redact(text) == shown


@pytest.mark.parametrize(
    ("where", "what", "shown"),
    [
        ("cl.eval.backend_options.api_key", "is 'abc'.", "is ***."),
        ("cl.x.password", "is 123456.", "is ***."),
        ("hub_token", "is missing.", "is missing."),
        ("cl.eval.backend_options", "is {'api_key': 'abc'}.", "is {'api_key': ***}."),
        ("max_new_tokens", "is 5.", "is 5."),
    ],
)
def test_problems_show_no_credential(where, what, shown):
    assert str(Problem(where, what, "Fix it.")) == f"{where}: {shown} Fix it."


def raised(go):
    with pytest.raises(Exception) as caught:
        go()
    return caught.value


def quoting(record):
    raise ValueError(f"Expected a string, got {record} in turn {record['turn']} of it.")


def formatted(record):
    message = "Invalid value {} here, %s".format(record)  # noqa: UP032
    raise RuntimeError(message % record["text"])


RECORD = {"text": "patient 17 has a tumour", "turn": "left lung"}


@pytest.mark.parametrize(
    ("go", "kept"),
    [
        (lambda: quoting(RECORD), "Expected a string, got … in turn … of it."),
        (lambda: formatted(RECORD), "Invalid value … here, …"),
        (lambda: {}[RECORD["text"]], "KeyError in test_secrets, line "),
        (lambda: int(RECORD["text"]), "ValueError in test_secrets, line "),
        (lambda: open("/nonexistent/patient 17"), "No such file or directory"),
    ],
)
def test_a_failure_is_kept_without_the_record(go, kept):
    error = raised(go)
    assert any(word in str(error) for word in ("patient 17", "tumour"))  # the message itself quotes it
    said = failure(error, own=ClPluginsError)
    assert kept in said
    assert said.startswith(f"{type(error).__name__} in test_secrets, line ")
    assert not any(word in said for word in ("patient", "tumour", "lung"))


def test_our_own_failures_say_all():
    error = TrainingError(Problem("task 'one'", "3 optimizer steps changed no weight.", "Check `learning_rate`."))
    assert failure(error, own=ClPluginsError) == f"TrainingError: {error}"
    assert failure(ValueError("patient"), own=ClPluginsError) == "ValueError"  # never raised: no place


def test_our_own_failures_do_not_pass_on_the_data_in_another_message():
    def go():
        try:
            quoting(RECORD)
        except ValueError as error:
            what = f"its training set cannot be prepared (ValueError: {error})."
            raise DataError(Problem("task 'one'", what, "Check the file.")) from error

    said = failure(raised(go), own=ClPluginsError)
    assert said == (
        "DataError: task 'one': its training set cannot be prepared (ValueError: Expected a string, got … in turn … of it.). "
        "Check the file."
    )
