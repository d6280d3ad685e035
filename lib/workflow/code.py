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

    Parameters
    ----------
    path : path
        A notebook's source, or a module of `lib`, which then is part of the result itself.

    Returns
    -------
    dict of str to str
        File, as in ``lib/selection.py``, to the SHA-256 of its syntax tree; `RUNNERS` are left out.
        This process reads each module of `lib` once: it goes on running what it has imported.

    Raises
    ------
    InputError
        If one of the files is not valid Python.
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
    return hashlib.sha256(repr(_meaning(tree)).encode()).hexdigest(), tuple(_imported(tree, file))


def _meaning(node):
    """A syntax tree as nested tuples, without texts that nothing reads, such as docstrings.

    Not `ast.dump`, which names empty fields in some versions of Python, and has new ones in others.
    """
    if isinstance(node, ast.AST):
        fields = [(name, getattr(node, name, None)) for name in node._fields]
        filled = [(name, value) for name, value in fields if value is not None and value != []]
        return type(node).__name__, [(name, _meaning(value)) for name, value in filled]
    if isinstance(node, list):
        return [_meaning(part) for part in node if not _is_text(part)]
    return node


def _is_text(node) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _imported(tree: ast.Module, file: Path) -> Iterator[Path]:
    """Files of `lib` that are run when all imports in a tree are."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = file.relative_to(PACKAGE.parent).parent.parts
                above = package[: len(package) + 1 - node.level]
                base = ".".join([*above, *filter(None, [node.module])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            yield from _files(name)


def _files(name: str) -> Iterator[Path]:
    """Files that importing a dotted name runs; none if it is not below `lib`."""
    first, *parts = name.split(".")
    if first != PACKAGE.name:
        return
    folder = PACKAGE
    yield folder / "__init__.py"
    for part in parts:
        if (folder / part / "__init__.py").is_file():
            folder = folder / part
            yield folder / "__init__.py"
        else:
            if (folder / f"{part}.py").is_file():
                yield folder / f"{part}.py"
            return
