"""Of a piece of Python that runs after others: the statements before it that it needs, as one script.

Read from the syntax alone. Where that cannot be sure, more is taken along rather than less: everything that draws from
the same random generator, every call on its own line that is handed a needed object, every place that sets a seed.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock

_SEEDS = {"manual_seed", "seed", "set_grad_enabled", "set_num_threads", "set_default_dtype", "set_printoptions"}
_GENERATORS = {"default_rng", "Generator", "Random", "RandomState", "iter"}
_FILLED = {"tap", "out", "generator"}  # keywords whose arguments a call changes
_SHOWS = {"print", "claim", "display"}
_SCOPES = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef
_COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


@dataclass
class Statement:
    source: str
    bound: set[str] = field(default_factory=set)
    loaded: set[str] = field(default_factory=set)
    """Read when the statement runs."""
    later: set[str] = field(default_factory=set)
    """Read when a function that it defines is called."""
    changed: set[str] = field(default_factory=set)
    """Objects that it may change without binding them anew."""
    later_changed: set[str] = field(default_factory=set)
    """Objects that calling a function that it defines may change."""
    whole: bool = False
    """Whether what it binds, it binds whatever happens, and from nothing that they were before."""
    seeds: bool = False
    generator: bool = False


def script(before: Sequence[str], code: str) -> str:
    """The code with what it needs of the pieces before it, in their order.

    Raises:
        SyntaxError: a piece is not Python (IPython's magics are not).
    """
    *parts, last = pieces(before, code)
    imports = [part for part in parts if part.startswith(("import ", "from "))]
    others = [part for part in parts if part not in imports]
    blocks = ["\n".join(imports), "\n".join(others), last]
    return "\n\n".join(block for block in blocks if block) + "\n"


def pieces(before: Sequence[str], code: str) -> list[str]:
    """The statements that the code needs, imports first, and last the code itself."""
    target = statements(code)
    earlier = [one for piece in before for one in statements(piece)]
    parts = [one.source for one, want in zip(earlier, needed(earlier, target), strict=True) if want]
    imports = list(dict.fromkeys(part for part in parts if part.startswith(("import ", "from "))))
    return [*imports, *(part for part in parts if part not in imports), code.strip("\n")]


def needed(earlier: Sequence[Statement], target: Sequence[Statement]) -> list[bool]:
    """For each earlier statement, whether the target needs it."""
    everything = [*earlier, *target]
    state = _state(everything)
    wanted = [False] * len(earlier)
    late = {name for one in target for name in one.later}
    while True:
        now = set(late)
        for one in reversed(target):
            now = (now - one.bound if one.whole else now) | one.loaded
        now |= late
        found = [False] * len(earlier)
        for i in reversed(range(len(earlier))):
            one = earlier[i]
            draws = {name for use in one.loaded for name in state.get(use, ())}
            if one.seeds or (one.bound | one.changed) & now or draws & now:
                found[i] = True
                if one.whole:
                    now -= one.bound - late
                now |= one.loaded | one.later
                for use in one.loaded & set(state):
                    now |= state[use]
        more = late | {name for one, want in zip(earlier, found, strict=True) if want for name in one.later}
        wanted = [a or b for a, b in zip(wanted, found, strict=True)]
        if more == late:
            return wanted
        late = more


def _state(everything: Sequence[Statement]) -> dict[str, set[str]]:
    """By name, the objects that using it may change: a random generator itself, and what a function changes or draws
    from."""
    found = {name: {name} for one in everything if one.generator for name in one.bound}
    for one in everything:
        for name in one.bound if one.later_changed else ():
            found[name] = found.get(name, set()) | one.later_changed
    for _ in range(3):  # a function that calls a function that draws
        for one in everything:
            drawn = {name for use in one.later for name in found.get(use, ())}
            for name in one.bound if drawn else ():
                found[name] = found.get(name, set()) | drawn
    return found


_parsing = Lock()  # Python 3.11 counts the depth of all threads' trees together, and fails


@lru_cache(maxsize=1024)
def _statements(code: str) -> tuple[Statement, ...]:
    with _parsing:
        tree = ast.parse(code)
    return tuple(_statement(node, code) for node in tree.body)


def statements(code: str) -> list[Statement]:
    return list(_statements(code))


def _statement(node: ast.stmt, code: str) -> Statement:
    lines = code.splitlines()
    first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
    text = "\n".join(lines[first - 1 : node.end_lineno])
    if ";" in text:  # several statements in a line
        text = ast.get_source_segment(code, node) or text
    found = Statement(text)
    _read(node, found, inside=False)
    simple = isinstance(node, ast.Assign | ast.AnnAssign | ast.Import | ast.ImportFrom | _SCOPES)
    found.whole = simple and not found.bound & found.loaded and not found.changed
    return found


def _read(node: ast.AST, found: Statement, *, inside: bool) -> None:
    """Add what a piece of syntax does; ``inside`` a function, it does so when that is called."""
    if isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Load):
            (found.later if inside else found.loaded).add(node.id)
        elif not inside:
            found.bound.add(node.id)
    elif isinstance(node, ast.Import | ast.ImportFrom) and not inside:
        found.bound |= {(one.asname or one.name).partition(".")[0] for one in node.names}
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not inside:
        found.bound.add(node.name)
    elif isinstance(node, ast.ExceptHandler) and not inside:
        found.bound |= {node.name} if node.name else set()
    elif isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
        (found.later_changed if inside else found.changed).update(_roots(node))
    elif isinstance(node, ast.AugAssign):
        (found.later_changed if inside else found.changed).update(_roots(node.target))
        (found.later if inside else found.loaded).update(_roots(node.target))
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        called = node.value.func
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        if name in _SEEDS and not inside:
            found.seeds = True
        elif name not in _SHOWS:
            given = (*node.value.args, *(one.value for one in node.value.keywords))
            touched = {one.id for one in given if isinstance(one, ast.Name)}
            touched |= _roots(called) if isinstance(called, ast.Attribute) else set()
            (found.later_changed if inside else found.changed).update(touched)
    if isinstance(node, ast.Call) and not inside:
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        found.generator = found.generator or name in _GENERATORS
        for part in node.keywords:
            if part.arg in _FILLED:
                found.changed |= {one.id for one in ast.walk(part.value) if isinstance(one, ast.Name)}
    if isinstance(node, _SCOPES):
        for part in (*getattr(node, "decorator_list", []), *getattr(node, "bases", [])):
            _read(part, found, inside=inside)
        if isinstance(node, ast.ClassDef):
            body: list[ast.AST] = list(node.body)
        else:
            arguments = [one for one in ast.walk(node.args) if isinstance(one, ast.arg)]
            notes = [one.annotation for one in arguments] + [getattr(node, "returns", None)]
            for one in (*node.args.defaults, *node.args.kw_defaults, *notes):
                if one is not None:
                    _read(one, found, inside=inside)
            body = [*node.body] if isinstance(node.body, list) else [node.body]
        inner = Statement("")
        for child in body:
            _read(child, inner, inside=True)
        own = {one.id for part in body for one in ast.walk(part) if isinstance(one, ast.Name) and _stores(one)}
        own |= {one.arg for one in ast.walk(node) if isinstance(one, ast.arg)}
        found.later |= inner.later
        found.later_changed |= inner.later_changed - own
        return
    if isinstance(node, _COMPREHENSIONS):  # its variables are its own
        own = {name.id for part in node.generators for name in ast.walk(part.target) if isinstance(name, ast.Name)}
        inner = Statement("")
        for child in ast.iter_child_nodes(node):
            _read(child, inner, inside=inside)
        found.loaded |= inner.loaded - own
        found.later |= inner.later - own
        return
    for child in ast.iter_child_nodes(node):
        _read(child, found, inside=inside)


def _stores(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def _roots(node: ast.AST) -> set[str]:
    """The name at the root of ``a.b[c].d``."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return {node.id} if isinstance(node, ast.Name) else set()
