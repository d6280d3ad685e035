"""The code of `lib` that a notebook or a module runs: its files, and hashes of what they do.

Comments, docstrings and formatting do not count. A module counts wherever it is imported, also
inside a function that may never be called.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

from lib.schema import InputError

PACKAGE = Path(__file__).resolve().parent.parent
"""Folder of `lib`."""

RUNNERS = frozenset(
    f"{PACKAGE.name}/workflow/{name}.py" for name in ("code", "processes", "receipts", "steps")
)
"""Modules that run steps and record how: no result depends on them."""


def closure(path: str | Path) -> dict[str, str]:
    """Hash of every file of `lib` that a Python file imports, directly or through others.

    `path` is a notebook's source, or a module of `lib`, which then is part of the result itself.
    Returns file, as in ``lib/selection.py``, to the SHA-256 of its code, without `RUNNERS`. This
    process reads each module of `lib` once: it goes on running what it has imported. Raises
    InputError if one of the files is not valid Python.
    """
    path, found = Path(path).resolve(), {}
    inside = path.is_relative_to(PACKAGE)
    waiting = [path] if inside else list(_read(path, path.stat().st_mtime_ns)[1])
    while waiting:
        file = waiting.pop()
        name = file.relative_to(PACKAGE.parent).as_posix()
        if name not in found and name not in RUNNERS:
            found[name], imported = _read(file)
            waiting += imported
    return dict(sorted(found.items()))


def closure_hash(path: str | Path) -> str:
    """One hash over the `closure` of a file, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(closure(path)).encode()).hexdigest()[:16]


@cache
def _read(file: Path, changed: int | None = None) -> tuple[str, tuple[Path, ...]]:
    """Hash of a Python file, and the files of `lib` that it imports.

    With the time of its last change, it is read again after another one.
    """
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise InputError(f"{file}, line {error.lineno}: {error.msg}") from None
    imported = tuple(_imported(tree, file))
    code = ast.unparse(_WithoutTexts().visit(tree))
    return hashlib.sha256(code.encode()).hexdigest(), imported


class _WithoutTexts(ast.NodeTransformer):
    """Removes texts that nothing reads, such as docstrings."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:  # noqa: D102
        text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if text else node


def _imported(tree: ast.Module, file: Path) -> Iterator[Path]:
    """Files of `lib` that are run when all imports in a tree are."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            if node.level:
                base = resolve_name(base, ".".join(file.relative_to(PACKAGE.parent).parent.parts))
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for first, *parts in (name.split(".") for name in names):
            for depth in range(len(parts) + 1) if first == PACKAGE.name else ():
                place = PACKAGE.joinpath(*parts[:depth])
                files = place / "__init__.py", place.with_suffix(".py")
                yield from (path for path in files if path.is_file())
