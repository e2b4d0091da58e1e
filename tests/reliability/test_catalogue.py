"""Every test that the catalogue of faults (README.md) names is there."""

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", (HERE / "README.md").read_text())


@pytest.mark.parametrize(("file", "test"), sorted(set(NAMED)))
def test_a_test_that_the_catalogue_names_is_there(file, test):
    path = HERE.parents[1] / file if file.startswith("tests/") else HERE / file
    functions = [node for node in ast.parse(path.read_text()).body if hasattr(node, "name")]
    assert test in [node.name for node in functions]
