"""Frozen, slotted, keyword-only records for what ``leasehold run`` imports before the agent starts.

``dataclasses`` pulls in ``inspect`` and ``ast``, which costs nearly as much as starting Python does; these
cost nothing to import and give what the house rules ask of a record. Type checkers see a frozen dataclass.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn, TypeVar, cast, dataclass_transform

    T = TypeVar("T")
else:

    def dataclass_transform(**_options):
        return lambda decorator: decorator

    def cast(_kind, value):
        return value


def _frozen(self: object, name: str, *_value: object) -> NoReturn:
    raise AttributeError(f"{type(self).__name__} is frozen: {name}")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def record(cls: type[T]) -> type[T]:
    """Make ``cls``, whose fields are its annotations, a frozen, slotted, keyword-only record."""
    names = tuple(cls.__annotations__)
    defaults = {name: vars(cls)[name] for name in names if name in vars(cls)}
    dropped = {*names, "__dict__", "__weakref__"}
    body: dict[str, Any] = {name: value for name, value in vars(cls).items() if name not in dropped}

    def init(self: object, **given: object) -> None:
        values = {**defaults, **given}
        if values.keys() != set(names):
            wrong = sorted(values.keys() ^ set(names))
            raise TypeError(f"{cls.__name__}: missing or unknown: {', '.join(wrong)}")
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def fields(self: object) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in names)

    def equal(self: object, other: object) -> bool:
        return type(self) is type(other) and fields(self) == fields(other)

    def show(self: object) -> str:
        return f"{cls.__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    body |= {
        "__slots__": names,
        "__init__": init,
        "__setattr__": _frozen,
        "__delattr__": _frozen,
        "__eq__": equal,
        "__hash__": lambda self: hash(fields(self)),
        "__repr__": show,
    }
    return cast("type[T]", type(cls.__name__, cls.__bases__, body))
