"""Mutants of a module: the same tree with one operator, number, condition, argument, call or statement changed."""

import ast
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

COMPARED = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}  # fmt: skip
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
OPPOSITES = [("min", "max"), ("amin", "amax"), ("minimum", "maximum"), ("argmin", "argmax"), ("any", "all")]
OPPOSITE = dict(OPPOSITES) | {b: a for a, b in OPPOSITES} | {"ones_like": "zeros_like", "zeros_like": "ones_like"}
SYMMETRIC = {"min", "max", "minimum", "maximum", "hypot", "safe_hypot", "logaddexp", "allclose", "broadcast_shapes"}
DROPPED = {"abs", "clamp", "clip", "detach", "relu", "sqrt", "square", "exp", "log", "nan_to_num", "flip"}
ALONE = (ast.Raise, ast.JoinedStr, ast.arg, ast.Import, ast.ImportFrom)  # left alone, with all that is in them


class Mutant(NamedTuple):
    """``field`` (or its item ``index``) of ``parent`` becomes ``new``, in ``tree``, one statement of the module at ``path``.

    A test that runs none of ``lines`` cannot notice; None: they run when the module is imported.
    """

    path: str
    tree: ast.Module
    lines: range | None
    kind: str
    parent: ast.AST
    field: str
    index: int | None
    new: ast.AST
    name: str

    def apply(self) -> None:
        """Change the tree."""
        if self.index is None:
            setattr(self.parent, self.field, self.new)
        else:
            getattr(self.parent, self.field)[self.index] = self.new


def call_variants(node: ast.Call) -> Iterator[tuple[str, ast.AST]]:
    """Other calls than this one, or none."""
    func, owner = node.func, getattr(node.func, "value", None)
    called = getattr(func, "attr", None) or getattr(func, "id", "")
    if len(node.args) > 1 and called not in SYMMETRIC and not any(isinstance(a, ast.Starred) for a in node.args):
        *first, a, b = node.args
        if ast.dump(a) != ast.dump(b):
            yield "arguments", ast.Call(func, [*first, b, a], node.keywords)
    if other := OPPOSITE.get(called):
        renamed = ast.Attribute(owner, other, ast.Load()) if owner else ast.Name(other, ast.Load())
        yield "opposite", ast.Call(renamed, node.args, node.keywords)
    if called in DROPPED:
        is_method = owner and getattr(owner, "id", "") not in ("torch", "np", "math")
        yield "call", owner if is_method else node.args[0]


def variants(node: ast.AST) -> Iterator[tuple[str, ast.AST | None]]:
    """What a node may be replaced by; None leaves a statement out."""
    match node:
        case ast.Compare(left, [op, *ops], rest):
            yield from (("comparison", ast.Compare(left, [o(), *ops], rest)) for o in COMPARED[type(op)])
            if ops:
                yield from (("comparison", ast.Compare(left, [op, o()], rest)) for o in COMPARED[type(ops[0])])
        case ast.BinOp(left, op, right) if type(op) in OPERATORS:
            yield "operator", ast.BinOp(left, OPERATORS[type(op)](), right)
        case ast.AugAssign(target, op, value) if type(op) in OPERATORS:
            yield "operator", ast.AugAssign(target, OPERATORS[type(op)](), value)
            yield "statement", None
        case ast.BoolOp(op, values):
            yield "boolean", ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.UnaryOp(_, operand):
            yield "sign", operand
        case ast.Constant(bool() as value):
            yield "boolean", ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            changed = [2 * value] if abs(value) >= 1e6 else [value + 1, value - 1]
            yield from (("number", ast.Constant(new)) for new in changed if abs(new) < math.inf)
        case ast.If(test) | ast.IfExp(test) | ast.While(test):
            if isinstance(node, ast.If):
                yield "statement", None
            if not isinstance(test, ast.Compare | ast.UnaryOp):
                fields = dict(ast.iter_fields(node)) | {"test": ast.UnaryOp(ast.Not(), test)}
                yield "condition", type(node)(**fields)
        case ast.Expr(ast.Call()):
            yield "statement", None
        case ast.Call():
            yield from call_variants(node)


def passive(node: ast.AST) -> bool:
    """Whether a node says nothing about what the program does."""
    match node:
        case ast.If(ast.Name("TYPE_CHECKING")) | ast.Assign([ast.Name("__all__")]) | ast.keyword("strict"):
            return True
        case ast.Subscript(ast.Name("Literal")) | ast.Assert():
            return True
    return isinstance(node, ALONE)


def own_lines(node: ast.stmt, parent: ast.AST, around: range | None) -> range | None:
    """The lines of a statement less those of its body, where it is inside a function."""
    if around is None and not isinstance(parent, ast.FunctionDef):
        return None
    body = getattr(node, "body", None)
    return range(node.lineno, max(node.lineno + 1, body[0].lineno) if body else node.end_lineno + 1)


def mutants_of(root: Path, path: str) -> Iterator[Mutant]:
    """All mutants of one file, in order."""

    def walk(parent: ast.AST, tree: ast.Module, lines: range | None) -> Iterator[Mutant]:
        for field, value in ast.iter_fields(parent):
            if field in ("annotation", "returns", "decorator_list"):
                continue
            for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if not isinstance(node, ast.AST) or passive(node):
                    continue
                at = lines if parent is tree or not isinstance(node, ast.stmt) else own_lines(node, parent, lines)
                if isinstance(parent, ast.FunctionDef) and field == "args":  # defaults matter to the whole function
                    at = range(parent.body[0].lineno, parent.end_lineno + 1)
                for kind, changed in variants(node):
                    new = ast.fix_missing_locations(ast.copy_location(changed or ast.Pass(), node))
                    old, now = (ast.unparse(part).splitlines()[0] for part in (node, new))
                    name = f"{path}:{node.lineno}:{node.col_offset} {old} → {now}"
                    yield Mutant(path, tree, at, kind, parent, field, index, new, name)
                yield from walk(node, tree, at)

    for top in ast.parse((root / path).read_text("utf8")).body:
        if not passive(top):
            tree = ast.Module([top], [])
            yield from walk(tree, tree, None)
