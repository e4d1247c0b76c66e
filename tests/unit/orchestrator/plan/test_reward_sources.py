"""What a reward is made of, read off its files: its own modules, in turn, and packages."""

import pytest

from orchestrator.plan.provenance import identified
from orchestrator.plan.reward_sources import reward_sources
from tests.expansion_kit import runs


def write(folder, **files):
    """Python files by name, `__` for a folder: `pkg__a` is pkg/a.py."""
    for name, text in files.items():
        path = folder.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def names(folder, *rewards):
    """The files of rewards as seen from the folder."""
    found = reward_sources(rewards, str(folder)).files
    return sorted(str(path.relative_to(folder)) for path in found)


@pytest.mark.parametrize(
    ("imports", "expected"),
    [
        ("import helper", ["helper.py", "mine.py", "more.py"]),
        ("from helper import x", ["helper.py", "mine.py", "more.py"]),
        ("def f():\n    from helper import x", ["helper.py", "mine.py", "more.py"]),
        ("import lib.deep", ["lib/__init__.py", "lib/deep.py", "lib/near.py", "mine.py"]),
        ("from lib import deep", ["lib/__init__.py", "lib/deep.py", "lib/near.py", "mine.py"]),
        ("import json, re, numpy", ["mine.py"]),
        ("import nowhere", ["mine.py"]),
        ("import mine", ["mine.py"]),
    ],
)
def test_a_reward_s_own_modules_are_its_sources(tmp_path, imports, expected):
    """Wherever in the file the import stands, and what those import in turn."""
    write(
        tmp_path,
        mine=f"{imports}\ndef f(completions): ...\n",
        helper="import more\nx = 1\n",
        more="import mine\n",
        lib__deep="from .near import y\n",
        lib__near="y = 1\n",
    )
    (tmp_path / "lib" / "__init__.py").touch()
    assert names(tmp_path, "correctness", "mine.py:f") == expected


def test_a_reward_in_a_module_of_the_folder_is_found(tmp_path):
    """`package.module:function`, with the packages on the way."""
    write(tmp_path, judge__maths="from judge import rules\n", judge__rules="", judge__other="")
    (tmp_path / "judge" / "__init__.py").touch()
    found = names(tmp_path, "judge.maths:f")
    assert found == ["judge/__init__.py", "judge/maths.py", "judge/rules.py"]


def test_what_is_installed_counts_by_its_distribution(tmp_path):
    """Its version is part of the result, its files are not read."""
    write(tmp_path, mine="import yaml\nfrom click import echo\n")
    found = reward_sources(("mine.py:f", "numpy.linalg:norm"), str(tmp_path))
    assert set(found.packages) == {"PyYAML", "click", "numpy"}
    assert [path.name for path in found.files] == ["mine.py"]


def test_a_file_that_is_no_python_has_no_imports(tmp_path):
    """The reward fails when it is loaded, not here."""
    write(tmp_path, mine="def (")
    assert names(tmp_path, "mine.py:f", "absent.py:f") == ["mine.py"]


def test_runs_by_other_versions_are_other_runs(folder, monkeypatch):
    """An update of mlx may change each number."""
    planned = runs("[params]\nlearning_rate = [1e-5]\n")
    plan = type("P", (), {"config_text": "", "config_source": "base.toml", "cwd": str(folder)})

    def identity(version):
        monkeypatch.setattr(
            "orchestrator.plan.provenance.package_versions", lambda names: {"mlx": version}
        )
        return identified(planned, plan, None)[0].identity

    assert identity("0.31") == identity("0.31")
    assert identity("0.31") != identity("0.32")


def test_what_only_held_out_rows_are_scored_with_counts_as_well(folder, monkeypatch):
    """Another version of a judge's package may give another held-out score."""
    write(folder, judge="import yaml\ndef f(completions, **kwargs): ...\n")
    spec = '[params]\nlearning_rate = [1e-5]\n[set]\neval_rewards = ["judge.py:f"]\n'
    plan = type("P", (), {"config_text": "", "config_source": "base.toml", "cwd": str(folder)})
    asked = []

    def versions(names):
        asked.extend(names)
        return {}

    monkeypatch.setattr("orchestrator.plan.provenance.package_versions", versions)
    identified(runs(spec), plan, None)
    assert "PyYAML" in asked


def test_a_folder_of_nobody_holds_no_sources(tmp_path):
    """That it is not there is said where files are checked."""
    assert reward_sources(("~nosuchuser9/r.py:f",), str(tmp_path)) == reward_sources((), "")
