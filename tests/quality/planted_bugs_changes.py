"""Changes to a function that are found in its syntax tree, not in its text.

A place is `module:name.name...` of the package: classes and functions, one in the other, and last
perhaps a variable, which is the one statement that sets it. A change finds one node there, and sets
another in its stead. Formatting, comments and everything around it may move; what a change no
longer finds exactly once, or leaves with a name that nothing binds, is an error.
"""

import ast
import builtins
import copy
import symtable
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

Change = Callable[[ast.AST], None]
"""Changes what stands at a place; raises LookupError if it is not there once."""


def replace(old: str, new: str) -> Change:
    """The expression `old` becomes `new`; in every `new`, `OLD` is what it replaces."""
    wanted = ast.dump(_expression(old))

    def found(place: ast.AST) -> Iterator[ast.AST]:
        return (node for node in ast.walk(place) if ast.dump(node) == wanted)

    return _setting(found, new, f"`{old}`")


def value(new: str) -> Change:
    """What a variable is set to becomes `new`."""
    return _setting(lambda place: [place.value] if _is_setting(place) else [], new, "a value")


def argument(call: str, which: int | str, new: str) -> Change:
    """An argument of the function called `call`, whatever module it is of, becomes `new`."""

    def found(place: ast.AST) -> Iterator[ast.AST]:
        for node in ast.walk(place):
            if isinstance(node, ast.Call) and _last_name(node.func) == call:
                arguments = {keyword.arg: keyword.value for keyword in node.keywords}
                arguments |= enumerate(node.args)
                yield from [arguments[which]] if which in arguments else []

    return _setting(found, new, f"a call of `{call}` with an argument {which}")


def first(statements: str) -> Change:
    """A function begins with these statements, after its docstring."""

    def change(place: ast.AST) -> None:
        if not isinstance(place, ast.FunctionDef):
            raise LookupError("no function")
        start = int(ast.get_docstring(place) is not None)
        place.body[start:start] = ast.parse(statements).body

    return change


def planted(place: str, change: Change) -> str:
    """The source of the place's module with the change."""
    return changed(file_of(place).read_text(), place.partition(":")[2], change)


def file_of(place: str) -> Path:
    """The file of the place's module."""
    return ROOT / "ppo_jax" / f"{place.partition(':')[0].replace('.', '/')}.py"


def changed(source: str, path: str, change: Change) -> str:
    """A module's source with the change at `name.name...`."""
    tree = node = ast.parse(source)
    before = ast.dump(tree)
    try:
        for name in path.split("."):
            node = _only([each for each in _statements(node) if _name(each) == name], f"`{name}`")
        change(node)
        if ast.dump(tree) == before:
            raise LookupError("nothing has changed")
        if unknown := _unbound(new := ast.unparse(tree)):
            raise LookupError(f"nothing binds {', '.join(sorted(unknown))}")
    except LookupError as error:
        raise LookupError(f"{path}: {error}") from None
    return new


def _setting(find: Callable[[ast.AST], Iterable[ast.AST]], new: str, said: str) -> Change:
    """The change of the one node that is found into `new`."""

    def change(place: ast.AST) -> None:
        old = _only(find(place), said)
        made = _Exchange(lambda node: getattr(node, "id", "") == "OLD", old).visit(_expression(new))
        _Exchange(lambda node: node is old, made).visit(place)

    return change


class _Exchange(ast.NodeTransformer):
    """Copies of `new` in the stead of some nodes."""

    def __init__(self, is_old: Callable[[ast.AST], bool], new: ast.AST):
        self.is_old, self.new = is_old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return copy.deepcopy(self.new) if self.is_old(node) else self.generic_visit(node)


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """The statements of a body, those of functions and classes in it left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
        if not isinstance(child, ast.FunctionDef | ast.ClassDef | ast.expr):
            yield from _statements(child)


def _name(statement: ast.stmt) -> str | None:
    """Of the function, class or variable that a statement makes."""
    if _is_setting(statement):
        targets = getattr(statement, "targets", None) or [statement.target]
        return getattr(targets[0], "id", None)
    return getattr(statement, "name", None)


def _is_setting(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and node.value is not None


def _last_name(function: ast.expr) -> str | None:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)


def _expression(source: str) -> ast.expr:
    return ast.parse(source, mode="eval").body


def _only(found: Iterable[ast.AST], said: str) -> ast.AST:
    nodes = list(found)
    if len(nodes) != 1:
        raise LookupError(f"{said} is there {len(nodes)} times, not once")
    return nodes[0]


def _unbound(source: str) -> set[str]:
    """Names that a module uses and never binds."""
    module = symtable.symtable(source, "module", "exec")
    bound = {symbol.get_name() for symbol in module.get_symbols() if symbol.is_local()}

    def used(table: symtable.SymbolTable) -> Iterator[str]:
        yield from (symbol.get_name() for symbol in table.get_symbols() if symbol.is_global())
        for child in table.get_children():
            yield from used(child)

    return set(used(module)) - bound - {*dir(builtins), "__file__"}
