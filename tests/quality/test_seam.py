"""The seam: what only policy.py does, by the syntax trees of every module of the package.

Nobody else takes `Params` apart beyond its two fields, builds a distribution, or applies a network.
"""

import ast
from pathlib import Path

import pytest

import ppo_jax

PACKAGE = Path(ppo_jax.__file__).parent
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
# actions.py chooses distributions; kernels/network.py applies the built-in network within a kernel.
INSIDE = {"policy.py", "actions.py", "kernels/network.py"}

DISTRIBUTIONS = {"Categorical", "MultiCategorical", "Normal", "TanhNormal"}
DRAWS = {"categorical", "log_softmax", "softmax"}  # of jax.random, jax.nn
PARTS = {"network", "log_std"}  # names within `trainable`
APPLIED = {"policy", "own_policy"}  # names of a Policy, whose `apply` is everybody's


def name_of(node):
    """The last name of a dotted one: `params` of `state.params`."""
    return getattr(node, "attr", getattr(node, "id", None))


def is_part(node):
    return isinstance(node, ast.Constant) and node.value in PARTS


def takes_apart(node, module):
    """Whether it looks into `trainable` or `statistics`, or takes `Params` by place."""
    owner = getattr(node, "value", None)
    match node:
        case ast.Subscript():
            by_place = name_of(owner) == "params" and isinstance(node.slice, ast.Constant)
            return name_of(owner) == "trainable" or is_part(node.slice) or by_place
        case ast.Attribute():
            statistics = isinstance(owner, ast.Attribute) and owner.attr == "statistics"
            return name_of(owner) == "trainable" or (
                statistics and name_of(owner.value) == "params"
            )
        case ast.Call(func=ast.Attribute(attr="get" | "pop")):
            return any(map(is_part, node.args))
        case ast.Assign(targets=[ast.Tuple() | ast.List()]):
            return name_of(node.value) in {"params", "trainable"}
        case ast.For() | ast.comprehension():
            return name_of(node.iter) in {"params", "trainable"}
        case ast.Call(func=ast.Attribute(attr="_replace")) if name_of(node.func.value) == "params":
            fields = {keyword.arg for keyword in node.keywords}
            return bool(node.args) or not fields <= {"trainable", "statistics"}
    return False


def constructs_params(node, module):
    """Whether it makes `Params`, which only ppo.update may besides, of both fields by name."""
    if not isinstance(node, ast.Call) or name_of(node.func) != "Params":
        return False
    fields = ["trainable", "statistics"]
    return module != "ppo.py" or node.keywords or [name_of(one) for one in node.args] != fields


def constructs_distribution(node, module):
    """Whether it makes a distribution, imports one, or draws by hand."""
    if module in {"distributions.py", "fast.py"}:  # their own, and their formulas
        return False
    if isinstance(node, ast.ImportFrom) and node.module == "ppo_jax.distributions":
        return bool({alias.name for alias in node.names} - {"Distribution"})
    drawn = isinstance(node, ast.Attribute) and node.attr in DRAWS
    return drawn or (isinstance(node, ast.Call) and name_of(node.func) in DISTRIBUTIONS)


def applies_network(node, module):
    """Whether it names an `apply` that is not a policy's, called or handed on; network_contract.py
    may try one for its shapes."""
    if isinstance(node, ast.Attribute) and node.attr == "apply":
        owner = node.value.func if isinstance(node.value, ast.Call) else node.value
        return name_of(owner) not in APPLIED
    made = isinstance(node, ast.Attribute) and name_of(node.value) == "network"
    return made and node.attr in {"make", "init_built_in", "MLP", "CNN"}


RULES = (takes_apart, constructs_params, constructs_distribution, applies_network)


def findings(source, module):
    """(rule, line) of all that a module does and must not."""
    tree = ast.parse(source)
    tried_for_shapes = {
        argument
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and name_of(node.func) == "eval_shape"
        for argument in node.args
        if module == "network_contract.py"
    }
    return [
        (rule.__name__, node.lineno)
        for node in ast.walk(tree)
        if node not in tried_for_shapes
        for rule in RULES
        if rule(node, module)
    ]


@pytest.mark.parametrize("module", [module for module in MODULES if module not in INSIDE])
def test_only_the_policy_knows_what_parameters_and_distributions_are(module):
    assert findings((PACKAGE / module).read_text(), module) == []


@pytest.mark.parametrize("rule", RULES)
def test_the_rules_find_what_the_policy_itself_does(rule):
    own = "\n".join((PACKAGE / name).read_text() for name in ("policy.py", "actions.py"))
    assert rule.__name__ in {name for name, _ in findings(own, "elsewhere.py")}
