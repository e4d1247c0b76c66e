"""Examples as text and token ids, by chat template or without one."""

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper

from grpo_core.config import MLXGRPOConfig
from grpo_core.data.examples import Example
from grpo_core.data.prompts import make_prompts, template_notes
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
    for value, end in ((True, "<think>"), (False, "<no><reasoning>")):
        kwargs = {"enable_thinking": value}
        assert render("q", tokenizer, chat_template_kwargs=kwargs).endswith(f"]{end}")


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


@pytest.mark.parametrize(
    ("prefix", "end", "opening"),
    [
        ("<reasoning>", "<think>\n", "<think>\n"),  # would stand within the block
        ("", "<think>\n", "<think>\n"),
        ("<think>", "<think>\n", "<think>\n"),  # not doubled
        ("<think>\n", "<think>\n", "<think>\n"),
        ("<think>\nWell, ", "<think>\nWell, ", "<think>\nWell, "),
        ("Well, ", "<think>\nWell, ", "<think>\nWell, "),
    ],
)
def test_a_block_that_the_template_opens_begins_the_answer(prefix, end, opening):
    """As in DeepSeek's distilled models: what rewards get begins as the model's turn does."""
    tokenizer = byte_tokenizer(TEMPLATE + "{{ '<think>\n' }}")
    cfg = MLXGRPOConfig(system_prompt="", assistant_prefix=prefix)
    [made] = make_prompts([Example(0, "q", "1", {}, "a.jsonl:1")], cfg, tokenizer)
    assert made.text == "[user]q\n[assistant]" + end
    assert made.opening == opening


@pytest.mark.parametrize("template", [TEMPLATE, TEMPLATE + "{{ '<think>\n\n</think>\n\n' }}", None])
def test_where_no_block_is_open_an_answer_begins_with_the_prefix(template):
    """Nor where the template opens and closes one."""
    [made] = make_prompts(
        [Example(0, "q", "1", {}, "a.jsonl:1")], MLXGRPOConfig(), byte_tokenizer(template)
    )
    assert made.opening == "<reasoning>"
    assert made.text.endswith("<reasoning>")


def notes(template, **fields):
    cfg = MLXGRPOConfig(**fields)
    return template_notes(Example(0, "q", "1", {}, "a.jsonl:1"), cfg, byte_tokenizer(template))


def test_the_user_is_told_what_the_template_opens():
    """What becomes of the prefix, and what rewards get."""
    [line] = notes(TEMPLATE + "<think>\n")
    assert line == (
        "the chat template opens <think> itself; assistant_prefix = '<reasoning>' would stand "
        "within and is left out: rewards get texts that begin with it, and the built-in ones judge "
        "what follows </think>"
    )
    assert notes(TEMPLATE) == []
    assert notes(None) == []


READS = TEMPLATE + "{{ '<no>' if short is defined and not short }}"


@pytest.mark.parametrize(
    ("template", "kwargs", "end"),
    [
        (
            READS,
            {"shor": False},
            "it reads short; did you mean short?",
        ),
        (READS, {"short": True}, ": without it the template writes the same"),
        (TEMPLATE, {"short": False}, "does not read it, it reads none"),
        (None, {"short": False}, ": the model has no chat template"),
    ],
)
def test_a_key_that_changes_nothing_is_told(template, kwargs, end):
    """A typing error, or a value that is the template's own."""
    [line] = notes(template, chat_template_kwargs=kwargs)
    key, value = next(iter(kwargs.items()))
    start = f"chat_template_kwargs.{key} = {str(value).lower()} changes nothing in the prompt"
    assert line.startswith(start)
    assert line.endswith(end)


def test_a_key_that_changes_the_prompt_is_not_told():
    """It is what it is there for."""
    assert notes(READS, chat_template_kwargs={"short": False}) == []


def test_a_key_that_the_template_demands_is_not_told():
    """Without it no prompt could be made at all: so it does change something."""
    demands = TEMPLATE + "{{ '' if mode is defined else raise_exception('mode is needed') }}"
    assert notes(demands, chat_template_kwargs={"mode": "short"}) == []
    with pytest.raises(DataError, match="refuses this prompt: mode is needed"):
        notes(demands, chat_template_kwargs={})


def test_a_row_with_its_own_system_message_gets_it():
    """In place of the one of the configuration."""
    example = Example(0, "q", "1", {}, "a.jsonl:1", "Be brief.")
    [made] = make_prompts([example], MLXGRPOConfig(assistant_prefix=""), byte_tokenizer())
    assert made.text == "[system]Be brief.\n[user]q\n[assistant]"
