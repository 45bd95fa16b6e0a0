"""Nothing compares the name of a kind of answer outside the modules of kinds: the tables alone tell them apart."""

import ast
import importlib
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import pytest
from test_layers import ORDER, PACKAGE

from unified.answers import ANSWERS
from unified.answers.kind import AnswerKind, QueryKind
from unified.evaluate.dense.table import find_evaluation
from unified.evaluate.protocols.table import PROTOCOLS
from unified.reports.prediction.drawings import DRAWINGS, find_drawing

KINDS = tuple(ANSWERS.values())
NAMES = {kind.name for kind in KINDS}
OWN = {type(kind) for kind in KINDS} | {kind.Settings for kind in KINDS}
OWN |= {kind.Spec for kind in KINDS if isinstance(kind, QueryKind)} - {QueryKind.Spec}
"""The classes of one kind."""
PARTS = {"boxes", "caption", "classes", "density", "identity", "labels", "masks", "points", "presence", "share"}
"""Names that are keys of targets and answers as well: a mapping of these alone may be one."""
ASKING = {"answer", "candidates", "kind", "map", "name", "protocol", "read", "regress"}
"""How variables, attributes and keys are called that hold the name of a kind."""
ROOMS = ("answers/map/", "answers/match/", "answers/regress/", "evaluate/dense/", "evaluate/protocols/")
ROOM_FILES = ("answers/__init__.py", "reports/prediction/drawings.py")
"""Where kinds may be named: their modules, evaluations, drawings, and the table itself."""
Found = tuple[int, str]


def resolved(node: ast.AST, names: Mapping[str, Any]) -> Any:
    """What an expression of constants and names of a module stands for; None where that is not known."""
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return names.get(node.id)
        case ast.Attribute():
            owner = resolved(node.value, names)
            return getattr(owner, node.attr, None) if isinstance(owner, ModuleType | AnswerKind | type) else None
        case ast.Tuple() | ast.List() | ast.Set():
            return tuple(resolved(one, names) for one in node.elts)
        case ast.Starred():
            return resolved(node.value, names)
        case ast.Call(func=ast.Name(id="frozenset" | "set" | "tuple"), args=[only]):
            return resolved(only, names)
    return None


def named_kinds(value: Any) -> list[str]:
    """The names of kinds that a value is, or holds."""
    if isinstance(value, tuple | list | set | frozenset):
        return [name for one in value for name in named_kinds(one)]
    return [value] if isinstance(value, str) and value in NAMES else []


def is_own(value: Any) -> bool:
    """Whether a value is a kind or a class of one kind, or holds one."""
    if isinstance(value, tuple | list | set | frozenset):
        return any(map(is_own, value))
    return isinstance(value, AnswerKind) or (isinstance(value, type) and value in OWN)


def refers(node: ast.AST, names: Mapping[str, Any]) -> bool:
    """Whether an expression is made of a kind itself, such as `SEMANTIC.name`."""
    return any(is_own(resolved(one, names)) for one in ast.walk(node) if isinstance(one, ast.expr))


def asks(node: ast.AST) -> bool:
    """Whether an expression is called as what holds the name of a kind is."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.Subscript(slice=ast.Constant(value=name)):
            return name in ASKING
        case ast.Call(func=ast.Attribute(attr="get"), args=[ast.Constant(value=name), *_]):
            return name in ASKING
        case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=name), *_]):
            return name in ASKING
        case ast.NamedExpr():
            return asks(node.target) or asks(node.value)
    return False


def compared(node: ast.Compare, names: Mapping[str, Any]) -> bool:
    """Whether a comparison is about a kind."""
    sides = [node.left, *node.comparators]
    if any(refers(side, names) for side in sides):
        return True
    literal = [set(named_kinds(resolved(side, names))) for side in sides]
    for place, operator in enumerate(node.ops):
        (left, right), (before, after) = sides[place : place + 2], literal[place : place + 2]
        if isinstance(operator, ast.In | ast.NotIn):
            # "boxes" in answer asks for a part of it; read in ("boxes", …) asks for a kind.
            if after and (asks(left) or after - PARTS):
                return True
        elif (after and asks(left)) or (before and asks(right)) or (before | after) - PARTS:
            return True
    return False


def tabled(node: ast.Dict, names: Mapping[str, Any]) -> bool:
    """Whether a mapping has a row for each of several kinds."""
    rows = [(key, value) for key, value in zip(node.keys, node.values, strict=True) if key is not None]
    if any(refers(key, names) for key, _ in rows):
        return True
    found = {name: value for key, value in rows for name in named_kinds(resolved(key, names))}
    chosen = [value for value in found.values() if isinstance(value, ast.Lambda) or callable(resolved(value, names))]
    return len(found) > 1 and bool(set(found) - PARTS or len(chosen) == len(found))


def looked_up(node: ast.Subscript, names: Mapping[str, Any]) -> bool:
    """Whether a row of a table is taken by the name of a kind, or a type lists names of kinds."""
    if refers(node.slice, names):
        return True
    found = named_kinds(resolved(node.slice, names))
    if isinstance(node.value, ast.Name) and node.value.id == "Literal":
        return len(found) > 1
    return bool(found) and isinstance(node.value, ast.Name) and node.value.id.isupper()


def cases(node: ast.Match, names: Mapping[str, Any]) -> bool:
    """Whether a case is a kind."""
    for case in node.cases:
        for pattern in ast.walk(case.pattern):
            if isinstance(pattern, ast.MatchValue | ast.MatchClass):
                value = pattern.value if isinstance(pattern, ast.MatchValue) else pattern.cls
                if refers(value, names) or (named_kinds(resolved(value, names)) and asks(node.subject)):
                    return True
    return False


def told_apart(source: str, names: Mapping[str, Any]) -> Iterator[Found]:
    """The lines of a module that tell one kind of answer from others; `names`: what its names stand for."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Compare():
                found = compared(node, names)
            case ast.Dict():
                found = tabled(node, names)
            case ast.Subscript():
                found = looked_up(node, names)
            case ast.Match():
                found = cases(node, names)
            case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[_, asked]):
                found = refers(asked, names)
            case ast.Call(func=ast.Attribute(attr="get" | "find" | "pop" | "startswith"), args=[first, *_]):
                found = refers(first, names)
            case _:
                continue
        if found:
            yield node.lineno, ast.unparse(node)[:100]


@pytest.mark.parametrize("package", ORDER)
def test_nothing_else_tells_kinds_apart(package: str) -> None:
    wrong = []
    for path in sorted((PACKAGE / package).rglob("*.py")):
        file = path.relative_to(PACKAGE).as_posix()
        if not file.startswith(ROOMS) and file not in ROOM_FILES:
            module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
            names = vars(importlib.import_module(module))
            wrong += [f"{file}:{line}: {text}" for line, text in told_apart(path.read_text(), names)]
    assert wrong == []


HEAD = """
from typing import Literal
from unified.answers.map import semantic
from unified.answers.map.depth import DEPTH as FAR, Depth, DepthSettings
TABLE, OBJECTS, NAME = {}, ("boxes", "masks"), "points"
def one(): pass
def two(): pass
"""
FORBIDDEN = [
    'spec.read == "boxes"',
    "NAME == answer.map",
    'entry["read"] != "caption"',
    'entry.get("read") == "labels"',
    'getattr(spec, "read", "") in ("boxes", "masks")',
    "spec.read in OBJECTS",
    'spec.read in (*OBJECTS, "classes")',
    'read not in frozenset({"boxes"})',
    '(read := spec.read) == "density"',
    'usual == "directions"',
    'usual in ("bins", "pixels")',
    "kind is FAR",
    "kind in (FAR, semantic.SEMANTIC)",
    "spec.read == FAR.name",
    "type(kind) is Depth",
    "isinstance(kind, Depth)",
    "isinstance(task.answer, str | DepthSettings)",
    "isinstance(kind, (int, type(FAR)))",
    '{"bins": 1, "share": 2}',
    '{"boxes": one, "masks": two}',
    "{FAR.name: 1}",
    'TABLE["boxes"]',
    "TABLE[semantic.SEMANTIC.name]",
    "TABLE.get(FAR.name)",
    'Literal["boxes", "masks"]',
    'match spec.read:\n    case "boxes" | "masks":\n        one()',
    "match spec.read:\n    case FAR.name:\n        one()",
    "match kind:\n    case Depth():\n        one()",
]
ALLOWED = [
    '"boxes" in answer',
    'answer["boxes"], found["labels"]',
    '{"boxes": one() , "labels": two(), "scores": 1}',
    "ANSWERS[spec.read].predict(found)",
    "task.answer.kind in protocol.kinds",
    "isinstance(kind, AnswerKind)",
    "make(FAR), make(semantic.SEMANTIC)",
    'name == "image"',
    'columns == ["labels"]',
    'match part:\n    case "boxes":\n        one()',
]


def lines(code: str) -> list[Found]:
    names: dict[str, Any] = {}
    exec(HEAD, names)
    return [*told_apart(HEAD + code, names)]


@pytest.mark.parametrize("code", FORBIDDEN)
def test_each_way_to_tell_kinds_apart_is_found(code: str) -> None:
    assert lines(code)


@pytest.mark.parametrize("code", ALLOWED)
def test_parts_of_answers_and_tables_are_no_kinds(code: str) -> None:
    assert lines(code) == []


def test_no_flag_is_that_of_one_kind() -> None:
    """A flag that one kind alone sets would be its name in other words."""
    flags = {name for kind in KINDS for name in dir(kind) if isinstance(getattr(kind, name), bool)}
    for name in sorted(flags):
        having = [kind for kind in KINDS if hasattr(kind, name)]
        count = sum(getattr(kind, name) for kind in having)
        assert count not in (1, len(having) - 1), f"{name}: set by one kind alone"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if isinstance(kind, QueryKind)], ids=lambda kind: kind.name)
def test_every_kind_of_queries_has_an_evaluation_and_a_drawing(kind: QueryKind) -> None:
    evaluation = find_evaluation(kind.name)
    assert evaluation is not None
    assert evaluation.kind is kind
    assert find_drawing(kind).kind is kind


def test_kinds_that_match_have_protocols_and_those_about_one_image_drawings() -> None:
    matching = {kind for kind in KINDS if not isinstance(kind, QueryKind)}
    evaluated = {kind for protocol in PROTOCOLS.values() for kind in protocol.kinds}
    # Nothing scores texts whose tokens are all predicted from those before, other than captions.
    assert {kind.name for kind in matching - evaluated} == {"causal"}
    drawn = {kind for kind in matching if kind.name in DRAWINGS}
    assert {kind.name for kind in drawn} == {"labels", "caption"}
    assert all(find_drawing(kind).predict is not None for kind in drawn)
