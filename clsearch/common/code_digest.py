"""Digest a user's own code: a regularizer, a backbone's factory, and all of the user's code and values they reach.

Two processes give the same digest for the same code: comments, docstrings, line numbers, addresses and the order of
hashes do not count. It covers what travels to the workers: functions with their defaults and closures, classes with
their bases, constructor values, arguments of partials, and what a function reads from its module or from another module
of the user. Installed packages count by name, other than those of the values.
"""

from __future__ import annotations

import ast
import dis
import functools
import hashlib
import importlib
import importlib.util
import inspect
import linecache
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from enum import Enum
from pathlib import Path, PurePath
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented))
"""Types whose `repr` is their content."""

WRAPPERS = ("__func__", "fget", "fset", "fdel", "__wrapped__")
"""Attributes of descriptors and wrappers that hold a function: methods, properties, cached functions."""

NOT_OWN = frozenset({"clsearch", "numpy", "torch", "torchvision", *sys.stdlib_module_names}) - {"__main__"}
"""Top-level packages that are never the user's. A new version of one is not another method."""

LIBRARIES = ("site-packages", "dist-packages")
"""Names of the folders of installed packages."""


def digest_code(values: Iterable[Any], skip: tuple[type, ...] = ()) -> str:
    """Return a digest of values and of the user's code that they reach, 16 hex digits.

    Args:
        values: Functions, classes, objects.
        skip: Types whose objects count by their type only.
    """
    values = list(values)
    packages = {top_of(getattr(each, "__module__", None) or type(each).__module__) for each in values}
    return _Digester(skip, frozenset(packages - NOT_OWN - {""})).digest(values)[:16]


class _Digester:
    """Digests values one inside another.

    Args:
        skip: Types whose objects count by their type only.
        packages: Top-level packages of the user that may be installed.
    """

    def __init__(self, skip: tuple[type, ...], packages: frozenset[str]) -> None:
        self.skip, self.packages = skip, packages
        self.done: dict[int, tuple[str, Any]] = {}  # with the values: an address must not be used twice
        self.open: dict[int, int] = {}

    def digest(self, value: Any) -> str:
        if isinstance(value, PLAIN):
            return hash_of(type(value).__name__, repr(value))
        if isinstance(value, self.skip):
            return hash_of("skipped", type(value).__name__)
        if id(value) in self.open:
            return hash_of("cycle", str(self.open[id(value)]))
        if id(value) not in self.done:
            self.open[id(value)] = len(self.open)
            found = hash_of(*self.describe(value))
            del self.open[id(value)]
            self.done[id(value)] = found, value
        return self.done[id(value)][0]

    def digest_alone(self, value: Any) -> str:
        """Return a digest of a value that does not depend on what was met before."""
        other = _Digester(self.skip, self.packages)
        other.open = dict(self.open)
        return other.digest(value)

    def is_own(self, module: str | None) -> bool:
        """Return True for a module of the user: the script, or one that is not installed, or in a known package."""
        return is_outside_libraries(top_of(module)) or top_of(module) in self.packages

    def name_of(self, value: Any) -> str:
        """Return the address of a function, class or module; of the user's, the name alone."""
        module = getattr(value, "__module__", None)
        name = str(getattr(value, "__qualname__", None) or getattr(value, "__name__", ""))
        return name if self.is_own(module) else f"{module}.{name}"

    def describe(self, value: Any) -> Iterator[str]:
        """Yield texts that tell a value from others."""
        yield type(value).__name__
        match value:
            case list() | tuple() if type(value) in (list, tuple):
                yield from map(self.digest, value)
            case dict() if type(value) is dict:
                yield from self.describe_mapping(value)
            case set() | frozenset():  # their order depends on the process
                yield from sorted(map(self.digest_alone, value))
            case Enum():
                yield from (self.name_of(type(value)), value.name, self.digest(value.value))
            case PurePath():  # the folder can differ between machines
                yield value.name
            case ModuleType() | BuiltinFunctionType():
                yield self.name_of(value)
            case functools.partial():
                yield from map(self.digest, (value.func, value.args, value.keywords))
            case MethodType():
                yield from map(self.digest, (value.__func__, value.__self__))
            case FunctionType():
                yield from self.describe_function(value)
            case CellType():
                with suppress(ValueError):  # empty: its function is being defined
                    yield self.digest(value.cell_contents)
            case type():
                yield from self.describe_class(value)
            case _:
                yield from self.describe_object(value)

    def describe_mapping(self, content: Mapping[Any, Any]) -> Iterator[str]:
        """Yield a mapping's items in an order that depends on its keys alone."""
        keyed = sorted(((self.digest_alone(key), key) for key in content), key=lambda pair: pair[0])
        for key_digest, key in keyed:
            yield from (key_digest, self.digest(content[key]))

    def describe_function(self, function: FunctionType) -> Iterator[str]:
        yield self.name_of(function)
        if not self.is_own(function.__module__):
            return
        yield text_of(function.__code__, function.__globals__)
        for part in (function.__defaults__, function.__kwdefaults__, function.__closure__, vars(function)):
            yield self.digest(part)
        yield from self.describe_reached(function.__code__, function.__globals__)

    def describe_class(self, kind: type) -> Iterator[str]:
        yield self.name_of(kind)
        if not self.is_own(kind.__module__):
            return
        yield from map(self.digest, kind.__bases__)
        for name, member in sorted(vars(kind).items()):
            if not is_generated(name, member):
                yield from (name, self.digest(member))

    def describe_object(self, value: Any) -> Iterator[str]:
        """Yield the type of an object and its content, as pickle takes it apart; an address is no content."""
        yield self.digest(type(value))
        if (content := array_content(value)) is not None:
            yield content
            return
        inner = [getattr(value, name, None) for name in WRAPPERS]
        if any(callable(each) for each in inner):
            yield from map(self.digest, inner)
            return
        try:
            taken_apart = value.__reduce_ex__(4)
        except Exception:  # locks, files, generators, and objects whose own code fails
            return
        if isinstance(taken_apart, str):
            yield taken_apart
            return
        _, arguments, *content = taken_apart
        yield self.digest(arguments)
        for part in content:
            yield self.digest(list(part) if isinstance(part, Iterator) else part)

    def describe_reached(self, code: CodeType, namespace: Mapping[str, Any]) -> Iterator[str]:
        """Yield what code reads from its module and from other modules of the user."""
        for part in nested(code):
            names = {*part.co_names}
            for step in dis.get_instructions(part):
                if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval in namespace:
                    yield from (step.argval, *self.describe_used(namespace[step.argval], names))
                if step.opname == "IMPORT_NAME" and self.is_own(step.argval):
                    with suppress(ImportError):
                        yield from self.describe_used(importlib.import_module(step.argval), names)

    def describe_used(self, value: Any, names: set[str]) -> Iterator[str]:
        """Yield a value; of a module of the user, its members with these names."""
        if not isinstance(value, ModuleType) or not self.is_own(value.__name__):
            yield self.digest(value)
        elif id(value) not in self.open:
            self.open[id(value)] = len(self.open)
            for name in sorted(names & vars(value).keys()):
                yield from (name, *self.describe_used(vars(value)[name], names))
            del self.open[id(value)]


def hash_of(*texts: str) -> str:
    """Return a digest of texts; where one ends matters."""
    return hashlib.sha256("".join(f"{len(text)}:{text}" for text in texts).encode()).hexdigest()


def top_of(module: str | None) -> str:
    """Return the top-level package of a module; "" for none."""
    return (module or "").partition(".")[0]


@functools.cache
def is_outside_libraries(top: str) -> bool:
    """Return True for the script, and for a top-level package that is neither installed nor Python's own."""
    if top == "__main__":
        return True
    if not top or top in NOT_OWN:
        return False
    loaded = sys.modules.get(top)
    spec = getattr(loaded, "__spec__", None)
    if spec is None and loaded is None:
        with suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(top)
    if spec is None:
        return loaded is not None
    places = [spec.origin] if spec.has_location and spec.origin else [*(spec.submodule_search_locations or ())]
    return bool(places) and not any(name in Path(place).parts for place in places for name in LIBRARIES)


def is_generated(name: str, member: Any) -> bool:
    """Return True for a class member that Python or a decorator made, and that says nothing of its own."""
    if isinstance(member, FunctionType) and not name.startswith("__annotate"):  # a dataclass's follow from its fields
        return member.__code__.co_filename.startswith("<") and not linecache.getlines(member.__code__.co_filename)
    return name.startswith(("__", "_abc")) or inspect.isgetsetdescriptor(member)


def nested(code: CodeType) -> Iterator[CodeType]:
    """Yield code and the code of functions and comprehensions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from nested(constant)


def text_of(code: CodeType, namespace: Mapping[str, Any]) -> str:
    """Return the text of a function without comments and docstrings; its instructions if its source is not known."""
    linecache.checkcache(code.co_filename)  # a module can be loaded again
    lines = "".join(linecache.getlines(code.co_filename, dict(namespace)))
    found = [ast.unparse(without_docstrings(node)) for node in functions_in(lines).get(code.co_firstlineno, ())]
    return "\n".join(found) or "\n".join(map(instructions_of, nested(code)))


@functools.lru_cache(maxsize=64)
def functions_in(source: str) -> dict[int, list[ast.AST]]:
    """Return the functions and lambdas of a source by their first line, a decorator's included."""
    found: dict[int, list[ast.AST]] = {}
    with suppress(SyntaxError):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
                found.setdefault(first, []).append(node)
    return found


def without_docstrings(node: ast.AST) -> ast.AST:
    """Return a function without the docstrings in it."""
    for inner in ast.walk(node):
        body = getattr(inner, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                body[:] = body[1:] or [ast.Pass()]
    return node


def instructions_of(code: CodeType) -> str:
    """Return the instructions of code without line numbers and addresses."""
    constants = [each for each in code.co_consts if not isinstance(each, CodeType)]
    shown = [sorted(map(repr, each)) if isinstance(each, frozenset) else repr(each) for each in constants]
    return repr((code.co_code, shown, code.co_names, code.co_varnames, code.co_freevars))


def array_content(value: Any) -> str | None:
    """Return the content of a tensor or an array; None for anything else."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(value, torch.Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return repr((str(value.dtype), tuple(value.shape), flat.numpy().tobytes()))
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic) and not value.dtype.hasobject:
        return repr((str(value.dtype), value.shape, value.tobytes()))
    return None
