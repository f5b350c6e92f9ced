"""A model's chat template as an untrusted program: source and variables enter, text leaves.

Templates come with downloaded models. They see no attribute that leads out of the sandbox, and loops, recursion and
growing values are charged to a budget, so a hostile one ends in an error. Knows nothing of messages or tools.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from functools import cache
from types import BuiltinMethodType
from typing import Any, NoReturn, TypeVar

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_context
from jinja2.visitor import NodeTransformer

from localai.errors import BadRequest, ModelBroken
from localai.jinja_budget import MAX_RANGE, SPARE, Budget, Overrun, current, spending
from localai.jinja_filters import FILTERS, replace_size

MAX_SOURCE = 128 * 1024
RENDER_SECONDS = 2.0

_METHODS = {
    str: frozenset(
        (
            "capitalize",
            "count",
            "endswith",
            "find",
            "format",
            "format_map",
            "index",
            "isalnum",
            "isalpha",
            "isdigit",
            "islower",
            "isnumeric",
            "isspace",
            "isupper",
            "join",
            "lower",
            "lstrip",
            "partition",
            "removeprefix",
            "removesuffix",
            "replace",
            "rfind",
            "rindex",
            "rpartition",
            "rsplit",
            "rstrip",
            "split",
            "splitlines",
            "startswith",
            "strip",
            "title",
            "upper",
        )
    ),
    list: frozenset({"copy", "count", "index"}),
    tuple: frozenset({"count", "index"}),
    dict: frozenset({"copy", "get", "items", "keys", "values"}),
}
_WIDTH = re.compile(r"%[^a-zA-Z%]*[\d*]")
_FAULTS = (
    TemplateError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    NameError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)
_N = TypeVar("_N", bound=nodes.Node)


class Refused(Exception):
    """The template called `raise_exception`: it cannot render this conversation."""


class TemplateOverrun(ModelBroken):
    """The template reached for something forbidden, or exceeded its budget."""


class Program:
    """A compiled template. Raises ModelBroken where `source` is not one."""

    def __init__(self, source: str) -> None:
        if len(source) > MAX_SOURCE:
            raise ModelBroken("the model's chat template is too long", _HINT)
        try:
            self._template = _environment().from_string(source)
        except _FAULTS as fault:
            raise _broken(fault) from fault

    def run(
        self, variables: Mapping[str, Any], *, today: date, seconds: float = RENDER_SECONDS, spare: int = SPARE
    ) -> str:
        """Render with `variables`. `today` is what the template learns of the date (midnight); see `Budget`.

        Raises BadRequest with the template's own words where it refuses; TemplateOverrun where it asks for too much
        or for what is forbidden; ModelBroken where it fails otherwise.
        """
        now = datetime.combine(today, time())
        names = {"strftime_now": now.strftime, **variables}
        with spending(Budget(_characters(variables), seconds, spare)) as budget:
            try:
                parts = []
                for part in self._template.generate(names):
                    budget.tick(len(part))
                    parts.append(part)
                return "".join(parts)
            except Refused as refusal:
                raise BadRequest(f"the model's chat template refuses: {refusal}", param="messages") from refusal
            except _FAULTS as fault:
                raise _broken(fault) from fault


_HINT = "get the model from another source, or report it to whoever published it"


def _broken(fault: Exception) -> ModelBroken:
    reason = str(fault) or type(fault).__name__
    kind = TemplateOverrun if isinstance(fault, SecurityError | RecursionError | MemoryError) else ModelBroken
    return kind(f"the model's chat template fails: {reason[:300]}", _HINT)


def _characters(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_characters(each) for each in value.values())
    return sum(_characters(each) for each in value) if isinstance(value, list | tuple) else 1


class _Meter(NodeTransformer):
    """Adds a report to the budget to everything that repeats, copies or nests."""

    def _body(self, node: _N) -> _N:
        self.generic_visit(node)
        text = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        tick = nodes.ExprStmt(_call("tick", [nodes.Const(text)], node), lineno=node.lineno)
        node.body.insert(0, tick)  # type: ignore[attr-defined]
        return node

    def _result(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        return _call("charged", [node], node)

    def _literal(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        return node if getattr(node, "ctx", "load") != "load" else _call("weighed", [node], node)

    visit_For = visit_Macro = visit_CallBlock = visit_Block = visit_FilterBlock = visit_AssignBlock = _body  # noqa: N815
    visit_List = visit_Tuple = visit_Dict = _literal  # noqa: N815

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call("concatenated", node.nodes, node)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        if isinstance(node.arg, nodes.Slice):
            return self._result(node)
        self.generic_visit(node)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        sides = [node.expr, *(operand.expr for operand in node.ops)]
        if any(isinstance(side, nodes.Const) for side in sides):
            self.generic_visit(node)
            return node
        return self._result(node)


def _call(method: str, arguments: list[nodes.Expr], near: nodes.Node) -> nodes.Call:
    # An EnvironmentAttribute cannot be written in a template, so it cannot be redefined by one either.
    callee = nodes.EnvironmentAttribute(method)
    return nodes.Call(callee, arguments, [], None, None, lineno=near.lineno)


class _Generation(Extension):
    """`{% generation %}` marks what a model was trained on; it changes nothing in the text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Meter().visit(super()._parse(source, name, filename))
        return tree

    def tick(self, size: int) -> None:
        current().tick(size)

    def charged(self, value: Any) -> Any:
        current().tick(len(value) if isinstance(value, str | list | tuple) else 0)
        return value

    def weighed(self, value: Any) -> Any:
        current().weigh(value, printed=False)
        return value

    def concatenated(self, *parts: Any) -> str:
        current().tick(current().weigh(*parts))
        return "".join(map(str, parts))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _foresee(operator, left, right)
        return self.charged(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        if getattr(__obj, "__self__", None) is __self:
            return __obj(*args)
        if isinstance(__obj, BuiltinMethodType):
            _allow_method(__obj, args)
        return __self.charged(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        pattern: str = value.__self__
        made = wrapped

        def bounded(*args: Any, **kwargs: Any) -> str:
            if ":" in pattern:
                raise Overrun("it formats text with a width")
            current().require(len(pattern) + pattern.count("{") * current().weigh(args, kwargs))
            return made(*args, **kwargs)

        return bounded


def _foresee(operator: str, left: Any, right: Any) -> None:
    """Refuse an operator whose result would be far larger than what it is given."""
    if isinstance(left, int) and isinstance(right, int):
        if operator == "**" and (abs(left) > 1024 or not 0 <= right <= 64):
            raise Overrun("it computes too large a number")
        if operator == "*" and left.bit_length() + right.bit_length() > 512:
            raise Overrun("it computes too large a number")
    elif operator == "*":
        for sequence, times in ((left, right), (right, left)):
            if isinstance(sequence, str | list | tuple) and isinstance(times, int):
                current().require(len(sequence) * times)
    elif operator == "%" and isinstance(left, str):
        if _WIDTH.search(left):
            raise Overrun("it formats text with a width")
        current().require(len(left) + left.count("%") * current().weigh(right))
    elif operator == "+" and isinstance(left, str | list) and isinstance(right, str | list):
        current().require(len(left) + len(right))


def _allow_method(method: BuiltinMethodType, arguments: tuple[Any, ...]) -> None:
    owner = method.__self__
    allowed = next((names for kind, names in _METHODS.items() if isinstance(owner, kind)), None)
    if allowed is not None and method.__name__ not in allowed:
        raise SecurityError(f"the method {method.__name__} of {type(owner).__name__} is not offered")
    if isinstance(owner, str) and arguments:
        if method.__name__ == "replace" and len(arguments) >= 2:
            current().require(replace_size(owner, str(arguments[0]), str(arguments[1])))
        elif method.__name__ == "join" and isinstance(arguments[0], list | tuple):
            current().require(current().weigh(arguments[0]) + len(owner) * len(arguments[0]))
        elif method.__name__ == "join":
            raise SecurityError("join is offered for lists alone")


def _raise_exception(message: object) -> NoReturn:
    raise Refused(str(message)[:500])


def _range(*bounds: int) -> range:
    steps = range(*bounds)
    # len() of a range above the machine's word raises OverflowError, which is what it should do here too.
    if len(steps) > MAX_RANGE:
        raise Overrun("it counts too far")
    return steps


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    made = dict(*args, **kwargs)
    current().weigh(made, printed=False)
    return made


@pass_context
def _finalize(context: Context, value: Any) -> Any:
    if isinstance(value, Undefined):
        return value
    current().tick(current().weigh(value))
    return value


@cache
def _environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
        extensions=["jinja2.ext.loopcontrols", _Generation],
        cache_size=0,
    )
    environment.filters = dict(FILTERS)
    environment.globals = {
        "dict": _dict,
        "namespace": Namespace,
        "raise_exception": _raise_exception,
        "range": _range,
    }
    return environment
