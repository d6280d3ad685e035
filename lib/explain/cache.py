"""Keys of results that are made once and read back: they change with all that these rest on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from types import CodeType, FunctionType, ModuleType

import numpy as np


def fingerprint(*parts) -> str:
    """Hash of arrays, by type, shape and value, and of other parts by how they are printed."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype} {part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()[:16]


def meaning(function: Callable) -> str:
    """Hash of what a function of a notebook does: its code, and all that it names.

    A number or function that the cell names, and that another cell sets, counts too. Modules and
    classes count by their name.
    """
    return fingerprint(*_parts(function, ()))


def _parts(function: FunctionType, above: tuple) -> list:
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    named = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *cells]
    codes, parts = [function.__code__], []
    while codes:
        code = codes.pop()
        inner = [const for const in code.co_consts if isinstance(const, CodeType)]
        parts += [code.co_code, code.co_names, code.co_varnames]
        parts += [const for const in code.co_consts if const not in inner]
        named += [function.__globals__[n] for n in code.co_names if n in function.__globals__]
        codes += inner
    for value in named:
        if isinstance(value, FunctionType):
            if value is not function and value not in above:
                parts += _parts(value, (*above, function))
        else:
            parts.append(value.__name__ if isinstance(value, (ModuleType, type)) else value)
    return parts
