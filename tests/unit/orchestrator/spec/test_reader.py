"""Sweep specs: what is read, and that every fault is found, named and placed."""

import os
from pathlib import Path

import pytest

from orchestrator.errors import SpecError
from orchestrator.run import Limits, Objective, Retry, Search
from orchestrator.spec.reader import read_spec
from tests.spec_kit import faults, write


def test_everything_that_a_spec_says_is_read(folder):
    """Each key of the grammar lands in the field that carries it."""
    spec = read_spec(
        write(
            'name = "lr"\noutput = "o/{sweep}/{run}"\nrun_name = "r{seed}"\nseeds = [3, 1]\n'
            "[set]\nbatch_size = 2\n[params]\nlearning_rate = [1e-5, 1]\n"
            'loss_type = ["grpo", "dapo"]\n[[run]]\nkl_coeff = 0.1\ntags = ["a"]\n'
            '[objective]\nmetric = "reward/int"\ngoal = "min"\nreduce = "last:3"\n'
            '[limits]\nmax_failures = 5\nrun_wall = "1.5h"\n'
            'wall = "2d"\ndisk = "1.5 GB"\n[retry]\nmax = 0\non = ["lost"]\n'
        )
    )
    assert spec.faults.lines() == ()
    assert (spec.name, spec.output, spec.run_name) == ("lr", "o/{sweep}/{run}", "r{seed}")
    assert spec.seeds == (3, 1)
    assert spec.fixed == {"batch_size": 2}
    assert spec.axes == {"learning_rate": (1e-5, 1.0), "loss_type": ("grpo", "dapo")}
    assert [type(v) for v in spec.axes["learning_rate"]] == [float, float]
    assert spec.explicit[0].overrides == {"kl_coeff": 0.1}
    assert spec.explicit[0].tags == ("a",)
    assert spec.objective == Objective("reward/int", "min", "last:3")
    assert spec.limits == Limits(5, wall_s=172800.0, run_wall_s=5400.0, disk_bytes=1_500_000_000)
    assert spec.retry == Retry(max=0, on=("lost",))
    assert spec.search == Search("grid", None, 0)


def test_a_field_that_is_called_like_a_table_can_be_varied(folder):
    """`stop` is a field, the texts that end a completion, and a table of the spec."""
    spec = read_spec(write('[stop]\nrule = "median"\n[params]\nstop = [[], ["\\n\\n"]]\n'))
    assert spec.faults.lines() == ()
    assert (spec.stop.rule, spec.axes) == ("median", {"stop": ([], ["\n\n"])})


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("my sweep.toml", "my-sweep"),
        ("3-7.toml", "sweep-3-7"),
        ("...toml", "sweep"),
        # A file name can have 255 bytes, a sweep's name 150: 75 letters of two bytes.
        (f"{'ä' * 100}.toml", "ä" * 75),
    ],
)
def test_a_sweep_without_a_name_is_named_after_its_file(folder, file, name):
    """As a name that can stand, whatever the file is called."""
    spec = read_spec(write("[params]\nseed = [1, 2]\n", name=file))
    assert (spec.name, spec.faults.lines()) == (name, ())


def test_what_a_spec_leaves_out_has_the_documented_default(folder):
    """A spec may be as short as a single axis."""
    spec = read_spec(write("[params]\nseed = [1, 2]\n"))
    assert spec.output == "outputs/{sweep}/{run}"
    assert (spec.seeds, spec.fixed, spec.explicit) == ((), {}, ())
    assert (spec.objective, spec.limits, spec.retry) == (Objective(), Limits(), Retry())


def test_a_key_of_a_table_goes_over_the_base_and_the_set_table(folder):
    """The other keys stay; of a `--set` without a dot the table is all there is."""
    base = Path("configs/base.toml")
    base.write_text(base.read_text() + "\nchat_template_kwargs = {a = 1}\n")
    item = "chat_template_kwargs.b=true"
    for text, items, table in (
        ("", [item], {"a": 1, "b": True}),
        ("[set]\nchat_template_kwargs = {c = 'x'}\n", [item], {"c": "x", "b": True}),
        ("", ["chat_template_kwargs={d = 2}", item], {"d": 2, "b": True}),
    ):
        spec = read_spec(write(text), items)
        assert spec.fixed == {"chat_template_kwargs": table}
    assert faults("", "seed.x=1") == ['--set "seed.x": unknown field; did you mean seed?']


@pytest.mark.parametrize(
    ("given", "metric"),
    [
        ("", "em"),
        ('answer_key = ""', "eval_reward"),
        ('metric_for_best_model = "eval_reward"', "eval_reward"),
    ],
)
def test_without_a_metric_of_its_own_a_sweep_goes_by_the_score_of_its_runs(tmp_path, given, metric):
    """Exact match where rows have reference answers; said by the base or by the sweep."""
    (tmp_path / "base.toml").write_text(f"{given}\n")
    for number, (base, own) in enumerate((("base.toml", ""), ("empty.toml", given))):
        (tmp_path / "empty.toml").write_text("")
        path = tmp_path / f"{number}.toml"
        path.write_text(f'config = "{base}"\n[set]\n{own}\n[objective]\nreduce = "best"\n')
        assert read_spec(path).objective == Objective(metric, "max", "best")


def test_set_on_the_command_line_goes_over_the_set_table(folder):
    """The same text rules as the trainer's --set."""
    spec = read_spec(write("[set]\nbatch_size = 2\n"), ["batch_size=3", "shuffle = no"])
    assert spec.fixed == {"batch_size": 3, "shuffle": False}


RANDOM = '[search]\nmethod = "random"\nruns = 4\n[params]\n'

# One line each: what a user wrote (behind the config line, so from line 2 on), what must be said.
ONE_FAULT = [
    ("[params]\nlearning_rat = [1e-5]", "3:1: params.learning_rat: unknown field; did you mean"),
    ("[params]\nlearning_rate = []", "3:1: params.learning_rate: an empty axis"),
    ('[params]\nlearning_rate = [1e-5, "x"]', "3:24: params.learning_rate[1] = 'x': must be a num"),
    ("[params]\nlearning_rate = [[1e-5]]", "3:18: params.learning_rate[0] = [1e-05]: must be a nu"),
    ("[params]\nlearning_rate = 1e-5", "3:1: params.learning_rate = 1e-05: an axis is a list; wri"),
    ("[params]\nlearning_rate = [nan]", "params.learning_rate[0] = nan: must be finite"),
    ("[params]\nnum_generations = [4, 1]", "3:23: params.num_generations[1] = 1: must be at lea"),
    ("[params]\nbatch_size = [true]", "params.batch_size[0] = True: must be a whole number"),
    ("[params]\nbatch_size = [1.5]", "params.batch_size[0] = 1.5: must be a whole number"),
    ('[params]\nloss_type = ["grppo"]', "params.loss_type[0] = 'grppo': must be one of"),
    ('[params]\nrewards = ["int"]', "rewards is a list itself, so its axis is a list of lists"),
    (
        "[params]\nkl_coeff = { dist = 'uniform', min = 0, max = 1 }",
        "kl_coeff: a distribution cannot be",
    ),
    ('[params]\noutput_dir = ["a"]', "params.output_dir: each run gets its own"),
    ('[set]\nrun_name = "a"', "set.run_name: each run gets its own"),
    ("[set]\nbatch_size = [1, 2]", "3:1: set.batch_size = [1, 2]: must be a whole number; a list"),
    ("[set]\nlog_jsonl = false", "set.log_jsonl: a sweep reads its results from the training log"),
    ("[set]\ndry_run = true", "set.dry_run: a dry run trains nothing"),
    ('[set]\nsystem_prompt = "a\\u0000b"', "set.system_prompt: holds a NUL"),
    ("[set]\nseeds = [1]", "set.seeds: unknown field; seeds belongs to the top of the spec"),
    ("learning_rate = 1e-5", "2:1: learning_rate: a config field; put one value for all runs"),
    ("sets = 1", "2:1: sets: unknown key; did you mean set?"),
    ("params = [1]", "2:1: params: must be a table, [params]"),
    ("[run]\nbatch_size = 1", "2:1: run: must be a list of tables; write [[run]]"),
    ("[[run]]\nbatch_siz = 1", "3:1: run[0].batch_siz: unknown field; did you mean batch_size?"),
    ("[[run]]\nbatch_size = [1]", "run[0].batch_size = [1]: must be a whole number; a list of va"),
    ('[[run]]\ntags = "a"', "3:1: run[0].tags = 'a': must be a list of texts"),
    ("[zip]\nbatch_size = [1]", "2:1: zip: must be a list of tables; write [[zip]]"),
    ("[[zip]]", "2:1: zip[0]: is empty"),
    ("[[zip]]\nbatch_size = 1", "3:1: zip[0].batch_size = 1: an axis is a list"),
    ("[[zip]]\nbatch_size = []", "3:1: zip[0].batch_size: an empty axis"),
    ("[[zip]]\nbatch_size = [1, 0]", "3:18: zip[0].batch_size[1] = 0: must be at least 1"),
    ("[[zip]]\nbatch_size = [1, 2]\nseed = [1]", "2:1: zip[0]: the columns differ in length: ba"),
    ("[params]\nseed = [1]\n[[zip]]\nseed = [1]", "5:1: zip[0].seed: stands under params.seed"),
    ("[[zip]]\nseed = [1]\n[set]\nseed = 1", "5:1: set.seed: stands under [[zip]] too"),
    ('[derive]\nlora_scal = "1"', "3:1: derive.lora_scal: unknown field; did you mean lora_scale"),
    ("[derive]\nlora_scale = 1", "3:1: derive.lora_scale = 1: must be text, such as"),
    ('[derive]\nlora_scale = "32 / lora_rnk"', "3:1: derive.lora_scale: "),
    ("[derive]\nlora_scale = \"__import__('os')\"", "3:1: derive.lora_scale: "),
    ('[derive]\nlora_rank = "lora_rank + 1"', "2:1: derive: lora_rank needs itself"),
    ('[derive]\nlora_rank = "1 / 2"', "3:1: derive.lora_rank: gives 0.5: must be a whole number"),
    ('[derive]\nkl_coeff = "1 / warmup_ratio * 0 - 1"', "3:1: derive.kl_coeff: gives -1.0: must"),
    ('[params]\nseed = [1]\n[derive]\nseed = "1"', "5:1: derive.seed: cannot be both given and"),
    ("[[exclude]]\nthat = 'True'", "3:1: exclude[0].that: unknown key; [[exclude]] has `when`"),
    ("[[require]]", "2:1: require[0]: must say `that`, a condition"),
    ('[[require]]\nthat = "seed +"', "3:1: require[0].that: "),
    ('[[require]]\nthat = "seed + 1"', "2:1: require[0]: "),
    ("seeds = 3", "2:1: seeds = 3: must be a list"),
    ("seeds = []", "2:1: seeds: is empty"),
    ("seeds = [0, 1, 0]", "2:16: seeds[2] = 0: stands twice"),
    ("seeds = [-1]", "2:10: seeds[0] = -1: must be at least 0"),
    ('seeds = ["0"]', "2:10: seeds[0] = '0': must be a whole number"),
    ("seeds = [0]\n[params]\nseed = [1]", "4:1: params.seed: the top of the spec has `seeds` too"),
    ("seeds = [0]\n[set]\nseed = 1", "4:1: set.seed: the top of the spec has `seeds` too"),
    ("seeds = [0]\n[[run]]\nseed = 1", "4:1: run[0].seed: the top of the spec has `seeds` too"),
    ("[set]\nbatch_size = 1\n[params]\nbatch_size = [1]", "set.batch_size: stands under [params]"),
    ("name = 3", "2:1: name = 3: must be text"),
    ('name = ""', "2:1: name: must not be empty"),
    ('name = "a/b"', "2:1: name = 'a/b': '/' cannot stand in a name"),
    ('name = "../a"', "name = '../a': '/' cannot stand in a name"),
    ('name = ".."', "name = '..': a name cannot begin with '.'"),
    ('name = "-rf"', "name = '-rf': a name cannot begin with '-'"),
    ('name = "a\\nb"', "name = 'a\\nb': '\\n' cannot stand in a name"),
    ('name = "3-7"', "name = '3-7': reads as the number of a run"),
    (f'name = "{"x" * 200}"', "a name can have 150 bytes, this has 200"),
    (
        'run_name = "a{learning_rat}"',
        "2:1: run_name: unknown placeholder {learning_rat}; did you m",
    ),
    ('run_name = "a{0}"', "run_name: unknown placeholder {0}"),
    ('run_name = "a{}"', "run_name: unknown placeholder {}"),
    ('run_name = "a{seed.real}"', "run_name: unknown placeholder {seed.real}"),
    ('run_name = "a{seed!r}"', "run_name: {seed!r}: write {seed}"),
    ('run_name = "a{seed:99999999d}"', "run_name: {seed:99999999d}: this way of writing"),
    ('run_name = "a{learning_rate:d}"', "run_name: {learning_rate:d}: Unknown format code 'd'"),
    ('run_name = "a{"', "run_name: 'a{': Single '{' encountered"),
    ('run_name = "../a"', "run_name = '../a' makes the name '../a': '/' cannot stand in a name"),
    ("run_name = 'a'\nseeds = [0, 1]", "2:1: run_name: 2 runs are named 'a'; put what differs"),
    ('output = "../{run}"', "2:1: output = '../{run}': cannot lead out of its folder"),
    ('output = "a/{run}/../../../b"', "cannot lead out of its folder"),
    ('output = "."', "output = '.': runs need a folder of their own"),
    ('output = "a\\tb/{run}"', "holds a control character"),
    ("output = 'o'\nseeds = [0, 1]", "2:1: output: 2 runs would share the folder 'o'"),
    (RANDOM + 'kl_coeff = { dist = "unifrm" }', "params.kl_coeff.dist: 'unifrm': must be one of"),
    (RANDOM + "kl_coeff = { min = 0, max = 1 }", "params.kl_coeff: needs dist, one of uniform,"),
    (
        RANDOM + 'kl_coeff = { dist = "uniform", min = 0, mx = 1, max = 2 }',
        "kl_coeff.mx: unknown k",
    ),
    (
        RANDOM + 'kl_coeff = { dist = "uniform", min = 2, max = 1 }',
        "kl_coeff.min: 2: must be below",
    ),
    (
        RANDOM + 'kl_coeff = { dist = "uniform", min = -1, max = 1 }',
        "params.kl_coeff.min: -1.0: mus",
    ),
    (
        RANDOM + 'lora_rank = { dist = "uniform", min = 1, max = 4 }',
        "lora_rank.dist: 'uniform': lo",
    ),
    (RANDOM + 'loss_type = { dist = "choice", values = ["gpo"] }', "loss_type.values[0]: 'gpo': m"),
    (RANDOM + 'output_dir = { dist = "choice", values = ["a"] }', "output_dir: each run gets its"),
    (
        RANDOM + 'log_jsonl = { dist = "choice", values = [false] }',
        "log_jsonl.values: a sweep reads",
    ),
    (
        RANDOM + 'kl_coeff = { dist = "uniform", min = 0, max = 1, when = 3 }',
        "kl_coeff.when: 3: must",
    ),
    (
        RANDOM + 'kl_coeff = { dist = "uniform", min = 0, max = 1, when = "kl_coeff > 0" }',
        "5:1: params: when: kl_coeff needs itself",
    ),
    (
        "seeds = [1]\n" + RANDOM + 'kl_coeff = { dist = "uniform", min = 0, max = 1, '
        'when = "seed > 0" }',
        "params.kl_coeff.when: seeds are given to a setting when it is whole",
    ),
    (
        RANDOM + "batch_size = [1, 2]\n[[require]]\nthat = 'batch_size > 2'",
        "no setting of the space passes the rules: of all draws 1,000 refused by require[0]: ",
    ),
    (f"[set]\nseed = {10**30}", "set.seed: the number is too large for 64 bits"),
]


@pytest.mark.parametrize(("text", "said"), ONE_FAULT)
def test_a_fault_is_named_with_its_place(folder, text, said):
    """One fault, one message: file, line, column, key, and what to do."""
    found = faults(text)
    assert len(found) == 1, found
    assert found[0].startswith("s.toml:"), found
    assert said in found[0]


def test_all_faults_are_told_at_once_in_the_order_of_the_file(folder):
    """One round of corrections is enough."""
    found = faults(
        'nam = "x"\n[set]\nbatch_siz = 1\n[params]\nlearning_rate = ["x", 1e-5]\nseed = []\n',
        "clip_eps=no",
        "what",
    )
    assert [text.split(": ")[0] for text in found[:4]] == [
        f"s.toml:{n}" for n in ("2:1", "4:1", "6:18", "7:1")
    ]
    assert found[4:] == [
        "--set clip_eps = 'no': must be a number",
        "--set what: not an override; write key=value",
    ]


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("learning_rat=1", "--set learning_rat: unknown field; did you mean learning_rate?"),
        ("batch_size=x", "--set batch_size = 'x': must be a whole number"),
        ("learning_rate=1", "--set learning_rate: is an axis of the spec; change it there"),
        ("output_dir=x", "--set output_dir: each run gets its own"),
        ("seed=1", "--set seed: the top of the spec has `seeds` too"),
    ],
)
def test_a_fault_of_the_command_line_is_named(folder, item, said):
    """--set at submit is checked as strictly as the spec."""
    found = faults("seeds = [0]\n[params]\nlearning_rate = [1e-5]\n", item)
    assert len(found) == 1
    assert found[0].startswith(said)


def test_fields_that_contradict_each_other_are_found_at_submit(folder):
    """What only shows in a whole run is told once, with how many settings it hits."""
    found = faults(
        '[set]\nimportance_sampling_level = "token"\n'
        '[params]\nloss_type = ["grpo", "gspo"]\nseed = [0, 1]\n'
    )
    assert found == [
        "s.toml:3:1: set.importance_sampling_level: importance_sampling_level = 'token': gspo is "
        "defined for sequence ratios; leave it at auto (in 2 of 4 settings)"
    ]


def test_files_that_cannot_be_read_are_refused_with_the_nearest_name(folder):
    """No traceback for a missing spec, a missing base, a folder, bytes, or broken TOML."""
    write("", name="sweeps/demo.toml")
    cases = {
        "sweeps/dmeo.toml": "sweeps/dmeo.toml: no such sweep file; the nearest is sweeps/demo.toml",
        "sweeps": "'sweeps': cannot be read: Is a directory",
        "a\0b": "'a\\x00b': cannot be read: embedded null byte",
    }
    for name, said in cases.items():
        with pytest.raises(SpecError) as e:
            read_spec(Path(name))
        assert str(e.value) == said
    missing = faults('config = "configs/bas.toml"\n', base=False)
    assert missing == [
        "s.toml:1:1: config = 'configs/bas.toml': no such file: configs/bas.toml; "
        "the nearest is configs/base.toml"
    ]


@pytest.mark.parametrize("name", ["pipe.toml", "/dev/zero"])
def test_what_is_no_file_is_refused_at_once(folder, name):
    """As a spec and as a base: a pipe blocks whoever reads it, a device has no end."""
    os.mkfifo(folder / "pipe.toml")
    with pytest.raises(SpecError, match=f"{name}: a pipe or a device; save it as a file"):
        read_spec(Path(name))
    base = str(folder / name)
    assert faults(f"config = {base!r}\n", base=False) == [
        f"{base}: a pipe or a device; save it as a file"
    ]


def test_broken_toml_is_told_with_line_and_column(folder):
    """The search ends at a syntax error, wherever it stands."""
    with pytest.raises(SpecError, match=r"^s.toml:3:\d+: not valid TOML"):
        read_spec(write("[params]\nlearning_rate = [1e-5,, 2]\n"))
    (folder / "configs" / "base.toml").write_text("a = \n")
    assert faults("seeds = [0]")[0].startswith("configs/base.toml:1:5: not valid TOML")


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 5000, "a = " + "9" * 5000, "[params]\nseed = [0x" + "f" * 5000 + "]"]
)
def test_monstrous_toml_is_refused_in_words(folder, text):
    """Depth and digits beyond what can be read."""
    faults(text)


def test_a_spec_with_bytes_that_are_no_text_is_refused(folder):
    """UTF-16 is the usual cause."""
    Path("u.toml").write_bytes("name = 'ü'".encode("utf-16"))
    with pytest.raises(SpecError, match="not UTF-8 text"):
        read_spec(Path("u.toml"))
