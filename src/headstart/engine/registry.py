"""The list of methods, and how a line of text names a configured one.

A spec is ``name``, ``name:option=value,...`` or ``name:preset``; several are joined by ``+``::

    prewarm
    prewarm:fraction=0.25,scale=match
    prewarm:paper
    prewarm+within-layer:fill=keep
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from numbers import Complex, Integral, Number, Real
from types import NoneType, UnionType
from typing import Any, Literal, NewType, TypeVar, Union, get_args, get_origin, get_type_hints

from headstart.engine import specs
from headstart.engine.method import Info, Method, Scope
from headstart.engine.plugins import Plugins
from headstart.errors import HeadstartError, unknown

M = TypeVar("M", bound=type[Method])
_METHODS: dict[str, type[Method]] = {}
_ABSTRACT: dict[type, type] = {complex: Complex, float: Real, int: Integral}  # numbers of any library
_PLUGINS = Plugins()


def register(
    name: str,
    *,
    summary: str,
    reference: str,
    scope: Scope,
    needs_data: bool,
    cost: str,
    presets: Iterable[str] = (),
    deviations: Iterable[str] = (),
    depends_on_other_layers: bool = False,
    revision: int = 1,
) -> Callable[[M], M]:
    """Register a method class under a name; also for methods of other packages.

    Args:
        name: Lower case, words joined by hyphens.
        summary: One line.
        reference: Authors, year and title of the source.
        scope: ``"first convolution"``, ``"convolutions"`` (of more than one tap, where the method needs filters with
            an extent) or ``"all layers"``.
        needs_data: Whether it works from a batch.
        cost: Forward passes and memory, in words.
        presets: Names of class methods that return published or otherwise named configurations.
        deviations: What differs from the source.
        depends_on_other_layers: Whether what one layer gets also depends on which other layers are written.
        revision: Raise it whenever the method's bits change for the same options and seed.

    Returns:
        A class decorator. The class must be a frozen dataclass derived from ``Method``.

    Raises:
        HeadstartError: The name is taken.
    """

    def add(cls: M) -> M:
        # The same class again is a module that was loaded again.
        if name in _METHODS and _origin(_METHODS[name]) != _origin(cls):
            raise HeadstartError(f"The method name {name!r} is taken by {_METHODS[name].__qualname__}.")
        texts = tuple(presets), tuple(deviations)
        cls.info = Info(name, summary, reference, scope, needs_data, cost, *texts, depends_on_other_layers, revision)
        _METHODS[name] = cls
        return cls

    return add


def _origin(cls: type[Method]) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


def list_methods() -> list[str]:
    """Return the names of all registered methods, sorted, those of installed plug-ins included.

    Example:
        >>> "prewarm" in list_methods()
        True
    """
    _PLUGINS.load(_METHODS)
    return sorted(_METHODS)


def plugin_problems() -> list[str]:
    """Say which plug-ins could not be loaded, and why: one sentence each."""
    _PLUGINS.load(_METHODS)
    return list(_PLUGINS.problems)


def get(name: str) -> type[Method]:
    """Return the class of a method.

    Raises:
        UnknownNameError: No method has that name; plug-ins that could not be loaded are named.
    """
    if name not in _METHODS:
        _PLUGINS.load(_METHODS)
    if name not in _METHODS:
        raise unknown("method", name, _METHODS, notes=_PLUGINS.problems)
    return _METHODS[name]


def describe(name: str) -> str:
    """Return what a method does, its options with defaults, presets, cost, deviations and reference.

    Raises:
        UnknownNameError: No method has that name.

    Example:
        >>> print(describe("lsuv").splitlines()[0])
        lsuv: orthonormal weights, each layer's output scaled to unit deviation
    """
    cls = get(name)
    info = cls.info
    lines = [f"{name}: {info.summary}", f"  writes     {info.scope}", f"  cost       {info.cost}"]
    lines.append(f"  data       {'needed' if info.needs_data else 'not needed'}")
    options = [f"{f.name}={f.default!r}" for f in cls.option_fields()]
    lines.append(f"  options    {', '.join(options) or 'none'}")
    if info.presets:
        lines.append(f"  presets    {', '.join(f'{name}:{p}' for p in info.presets)}")
    lines += [f"  deviates   {d}" for d in info.deviations]
    lines.append(f"  reference  {info.reference}")
    return "\n".join(lines)


def resolve(method: str | Method | type[Method] | Sequence[str | Method]) -> list[Method]:
    """Turn a name, a configured method or a list of those into a list of configured methods.

    Raises:
        UnknownNameError: A name or an option is not known.
        HeadstartError: Something that is not a method was given.
    """
    if isinstance(method, str):
        return parse(method)
    if isinstance(method, Method):
        _check_types(type(method), method.options())
        return [method]
    if isinstance(method, type) and issubclass(method, Method):
        return [method()]
    if isinstance(method, Sequence) and method:
        return [m for item in method for m in resolve(item)]
    raise HeadstartError(
        f"{method!r} is not a method.",
        remedy='Pass a name ("prewarm"), a configured method (hs.PreWarm()) or a non-empty list of those.',
    )


def parse(spec: str) -> list[Method]:
    """Parse a spec such as ``"prewarm:fraction=0.25+within-layer:fill=keep"``.

    Raises:
        UnknownNameError: A name, option or preset is not known; the nearest are listed.

    Example:
        >>> parse("zero-dc-random:of=gabor")
        [ZeroDCRandom(of='gabor')]
    """
    return [_parse_one(part) for part in specs.split(spec, "+")]


def _parse_one(spec: str) -> Method:
    name, rest = specs.head(spec.strip())
    cls = get(name)
    known = {f.name for f in cls.option_fields()}
    build: Callable[..., Method] = cls
    options: dict[str, Any] = {}
    for key, value in specs.items(rest):
        if value is None and key in cls.info.presets:
            build = getattr(cls, key)
        elif value is None:
            raise unknown(f"preset of method {name!r}:", key, [*cls.info.presets, *(f"{k}=" for k in known)])
        elif key not in known:
            raise unknown(f"option of method {name!r}:", key, known)
        else:
            options[key] = specs.literal(value)
    _check_types(cls, options)
    return build(**options)


def _check_types(cls: type[Method], options: Mapping[str, Any]) -> None:
    """Raise unless every option has the type that its field declares."""
    try:
        hints = get_type_hints(cls)
    except (NameError, AttributeError, TypeError, SyntaxError):
        return  # declared with names that only exist where the class was written, or in the words of a newer Python
    for key, value in options.items():
        if key in hints and not _fits(value, hints[key]):
            raise HeadstartError(
                f"{cls.info.name}: {key}={value!r} is not of type {_spelled(hints[key])}.",
                remedy=f"headstart.describe({cls.info.name!r}) lists the options.",
            )


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether a value has the type of a hint.

    Hints are read part by part and never given to ``isinstance``, which accepts other hints in every version of
    Python. A number may come from any library, a list counts as a tuple, a bool is not a number. A callable only has
    to be callable. A hint that cannot be checked always fits.
    """
    if hint is Any:
        return True
    if hint in (None, NoneType):
        return value is None
    if isinstance(hint, TypeVar):
        return any(_fits(value, h) for h in hint.__constraints__ or (hint.__bound__ or Any,))
    if isinstance(hint, NewType):
        return _fits(value, hint.__supertype__)
    origin, args = get_origin(hint), get_args(hint)
    if tuple in (hint, origin):
        return isinstance(value, (tuple, list)) and _fit_each(value, hint, args)
    if origin is None:
        return not isinstance(hint, type) or _is_a(value, hint)
    if origin in (Union, UnionType):
        return any(_fits(value, h) for h in args)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in args)
    if origin is Callable:
        return callable(value)
    if not isinstance(origin, type):  # ClassVar and the like, which say nothing of the value
        return True
    if not _is_a(value, origin):
        return False
    if issubclass(origin, Mapping):
        return all(_fits(part, h) for item in value.items() for part, h in zip(item, args, strict=False))
    # What can only be gone through once, such as a generator, is left whole.
    items = issubclass(origin, Iterable) and isinstance(value, Collection) and len(args) == 1
    return not items or all(_fits(v, args[0]) for v in value)


def _fit_each(value: Sequence[Any], hint: Any, args: tuple[Any, ...]) -> bool:
    """Tell whether each item fits the hint for its place in a tuple."""
    if not hasattr(hint, "__args__"):  # a bare tuple
        return True
    if len(args) == 2 and args[1] is ...:
        return all(_fits(v, args[0]) for v in value)
    args = () if args == ((),) else args  # how Python 3.10 writes the arguments of Tuple[()]
    return len(value) == len(args) and all(map(_fits, value, args))


def _is_a(value: Any, cls: type) -> bool:
    kind = _ABSTRACT.get(cls, cls)
    if isinstance(value, bool) and kind is not bool and issubclass(kind, Number):
        return False
    try:
        return isinstance(value, kind)
    except TypeError:  # a protocol or a typed dict, of which no instance can be told
        return True


def _spelled(hint: Any) -> str:
    """A type hint in short: classes by name, the same in every version of Python."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " | ".join(_spelled(h) for h in args)
    if origin is Callable:
        return "callable"
    if hint in (None, NoneType):
        return "None"
    if hint is ...:
        return "..."
    name = getattr(origin or hint, "__name__", None) or str(hint).removeprefix("typing.")
    if origin is Literal:
        return " | ".join(map(repr, args))
    return f"{name}[{', '.join(map(_spelled, args))}]" if args else name
