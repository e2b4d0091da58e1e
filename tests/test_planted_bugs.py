"""Every planted bug can still be planted, and the tests that must catch it, and mutants, exist."""

import itertools
import re
import tomllib

import pytest

from tests.planted_bugs import BUGS, ROOT, planted

MUTATION = tomllib.loads((ROOT / "tests/mutation.toml").read_text())


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bugs_source_is_there_once(bug):
    source = (ROOT / "ppo_jax" / bug.file).read_text()
    assert source.count(bug.old) == 1
    assert planted(bug) != source


@pytest.mark.parametrize("test", sorted({bug.test for bug in BUGS}))
def test_the_test_that_must_catch_it_exists(test):
    file, name = re.fullmatch(r"(\w+\.py)::(\w+)(?:\[.*\])?", test).groups()
    assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text()


def test_no_two_bugs_have_one_name():
    assert len({bug.name for bug in BUGS}) == len(BUGS)


@pytest.mark.parametrize("module", MUTATION["tests"])
def test_the_tests_of_mutants_exist(module):
    for test in itertools.chain.from_iterable(MUTATION["tests"][module]):
        file, _, name = test.partition("::")
        source = (ROOT / file).read_text()
        assert not name or f"\ndef {name.partition('[')[0]}(" in source, test


@pytest.mark.parametrize("mutant", MUTATION["equivalent"], ids=lambda mutant: mutant["to"])
def test_the_source_of_an_equivalent_mutant_is_there(mutant):
    assert mutant["from"] in (ROOT / "ppo_jax" / f"{mutant['module']}.py").read_text()
