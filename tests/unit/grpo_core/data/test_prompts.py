"""Examples as text and token ids, by chat template or without one."""

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper

from grpo_core.config import MLXGRPOConfig
from grpo_core.data.examples import Example
from grpo_core.data.prompts import make_prompts
from grpo_core.errors import DataError
from tests.byte_tokenizer import TEMPLATE, byte_tokenizer


def render(prompt, tokenizer, **fields):
    example = Example(0, prompt, "1", {}, "a.jsonl:7")
    (made,) = make_prompts([example], MLXGRPOConfig(**fields), tokenizer)
    assert tokenizer.decode(list(made.ids)) == made.text
    return made.text


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"system_prompt": "S", "assistant_prefix": "<r>\n"},
            "[system]S\n[user]q\n[assistant]<r>\n",
        ),
        ({"system_prompt": "", "assistant_prefix": ""}, "[user]q\n[assistant]"),
        ({"system_prompt": "é", "assistant_prefix": "漢"}, "[system]é\n[user]q\n[assistant]漢"),
    ],
)
def test_a_prompt_ends_with_the_assistant_prefix(fields, text):
    """System prompt, question, the turn of the assistant, and the prefix as it stands."""
    assert render("q", byte_tokenizer(), **fields) == text


def test_chat_messages_keep_their_own_system_message():
    """Else they get that of the configuration."""
    user = {"role": "user", "content": "q"}
    own = [{"role": "system", "content": "own"}, user]
    fields = {"system_prompt": "S", "assistant_prefix": "<r>"}
    assert render(own, byte_tokenizer(), **fields) == "[system]own\n[user]q\n[assistant]<r>"
    assert render([user], byte_tokenizer(), **fields) == "[system]S\n[user]q\n[assistant]<r>"


def test_template_kwargs_reach_the_template():
    """As thinking models want them."""
    tokenizer = byte_tokenizer(TEMPLATE + "{{ '<think>' if enable_thinking else '<no>' }}")
    for value, end in (("true", "<think>"), ("false", "<no>")):
        kwargs = f'{{"enable_thinking": {value}}}'
        assert render("q", tokenizer, chat_template_kwargs=kwargs).endswith(f"]{end}<reasoning>")


def test_a_template_with_a_date_gets_the_same_one_every_day():
    """Or a run that is resumed tomorrow would be another one."""
    tokenizer = byte_tokenizer(
        "\n  Today: {{ strftime_now('%d %b %Y, %A %-d.%-m.') + '\n' }}" + TEMPLATE
    )
    text = render("q", tokenizer, system_prompt="", assistant_prefix="")
    assert text == "\n  Today: 26 Jul 2024, Friday 26.7.\n[user]q\n[assistant]"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{{ raise_exception('System role not supported') }}",
            r'refuses this prompt: System role not supported; look at .* system_prompt = ""',
        ),
        ("{{ messages.none.at_all }}", "refuses this prompt: .* has no attribute 'none'"),
        ("{% for %}", "refuses this prompt: "),
    ],
)
def test_a_template_that_refuses_a_row_is_an_error(template, message):
    """With the row, the template's own words, and what to look at."""
    with pytest.raises(DataError, match=rf"^a\.jsonl:7: the model's chat template {message}"):
        render("q", byte_tokenizer(template))


def test_the_row_that_a_template_refuses_is_named():
    """Though all rows are rendered in one call: not the first one, the one it was."""
    template = "{% if 'no' in messages[-1].content %}{{ raise_exception('no') }}{% endif %}ok"
    rows = [Example(n, text, "1", {}, f"a.jsonl:{n}") for n, text in enumerate(("q", "no", "q"))]
    with pytest.raises(DataError, match=r"^a\.jsonl:1: the model's chat template refuses"):
        make_prompts(rows, MLXGRPOConfig(), byte_tokenizer(template))


def test_a_template_written_in_python_renders_row_by_row():
    """mlx-lm brings some along, for models whose tokenizers have no template of jinja's."""

    def template(messages, **_):
        return "|".join(message["content"] for message in messages)

    rows = [Example(n, text, "1", {}, f"a.jsonl:{n}") for n, text in enumerate(("p", "q"))]
    cfg = MLXGRPOConfig(system_prompt="S", assistant_prefix="<r>")
    tokenizer = TokenizerWrapper(byte_tokenizer()._tokenizer, chat_template=template)
    assert [made.text for made in make_prompts(rows, cfg, tokenizer)] == ["S|p<r>", "S|q<r>"]


def test_without_a_template_the_prompt_is_plain_text():
    """For base models: turns by name, empty lines between."""
    tokenizer = byte_tokenizer(template=None)
    assert (
        render("1 + 1?", tokenizer, system_prompt="Be brief.", assistant_prefix="<r>")
        == "Be brief.\n\nUser: 1 + 1?\n\nAssistant:\n<r>"
    )
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    assert (
        render(turns, tokenizer, system_prompt="", assistant_prefix="")
        == "User: a\n\nAssistant: b\n\nUser: c\n\nAssistant:\n"
    )


def test_without_a_template_a_prompt_begins_as_the_tokenizer_begins():
    """A model that was trained with a first token gets it, once."""
    tokenizer = byte_tokenizer(template=None, begin=True)
    text = render("q", tokenizer, system_prompt="", assistant_prefix="")
    assert text == "<s>User: q\n\nAssistant:\n"
