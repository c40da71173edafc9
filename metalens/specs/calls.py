"""Learners, regularizers and samplers as text: `MAML(inner_lr=0.1)`, `my_module:Mine(weight=0.3)`.

The text is parsed, never evaluated, and every setting is checked against the signature of its class.
"""

import ast
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

from metalens import learners, regularizers, relations, samplers
from metalens.errors import MetaLensError
from metalens.learners import Baseline, Learner, NetworkLearner
from metalens.networks import Network
from metalens.regularizers import Regularizer
from metalens.relations import Relation
from metalens.samplers import TaskSampler
from metalens.specs.outside import Catalogue, plugins
from metalens.specs.settings import typed_settings

C = TypeVar("C")


def _exported(package: ModuleType, base: type[C]) -> dict[str, type[C]]:
    exports = {name: getattr(package, name) for name in package.__all__}
    return {
        name: cls
        for name, cls in exports.items()
        if isinstance(cls, type) and issubclass(cls, base) and cls is not base and not inspect.isabstract(cls)
    }


LEARNERS = Catalogue("learner", Learner, _exported(learners, Learner))
REGULARIZERS = Catalogue("regularizer", Regularizer, _exported(regularizers, Regularizer))
SAMPLERS = Catalogue("task sampler", TaskSampler, _exported(samplers, TaskSampler))
RELATIONS = Catalogue("relation", Relation, _exported(relations, Relation))

_RELATION = "relation"  # the setting that is a call itself
_NOT_SETTABLE = {"network", "loss"}  # these are no plain values
_OUTSIDE = re.compile(r"(?<![\w.'\"])([A-Za-z_][\w.]*):([A-Za-z_]\w*)")  # module:name
_COLON = "__colon__"  # in its place, so that Python can parse the text


@dataclass(frozen=True)
class Call:
    """A class by name, with settings: plain values, or the call of a relation."""

    name: str
    settings: dict[str, Any]

    def __str__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        return f"{self.name}({settings})" if settings else self.name


def parse_calls(text: str) -> list[Call]:
    """Parse calls joined by `+`.

    Args:
        text: for example `"TRLearner(weight=0.3, relation=Cosine(heads=2))"`, with names in any case;
            `"none"` for no calls.

    Raises:
        MetaLensError: the text cannot be parsed.

    >>> str(parse_calls("trlearner( weight=.3, relation=uniform )")[0])
    'TRLearner(weight=0.3, relation=Uniform)'
    """
    if text == "none":
        return []
    try:
        return _calls(ast.parse(_OUTSIDE.sub(rf"\1.{_COLON}.\2", text), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError):
        raise MetaLensError(
            f"Cannot read {text!r}; write a name, optionally with settings: Name(setting=value)."
        ) from None


def _calls(node: ast.expr) -> list[Call]:
    match node:
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return [*_calls(left), *_calls(right)]
        case ast.Name() | ast.Attribute():
            return [Call(_name(node), {})]
        case ast.Call(func=func, args=[], keywords=keywords) if all(k.arg for k in keywords):
            settings = {str(k.arg): _value(str(k.arg), k.value) for k in keywords}
            return [Call(_name(func), settings)]
    raise ValueError


def _name(node: ast.expr) -> str:
    """Return the name of a class, with its module if it is from outside."""
    if isinstance(node, ast.Name):
        return _spelled(node.id)
    module, marker, name = ast.unparse(node).partition(f".{_COLON}.")
    if not marker or not name.isidentifier():
        raise ValueError
    return f"{module}:{name}"


def _spelled(name: str) -> str:
    """Return a name in the capitals of its class, which may have been added to its dictionary."""
    known = {each.lower(): each for each in (*plugins(), *LEARNERS, *REGULARIZERS, *SAMPLERS, *RELATIONS)}
    return known.get(name.lower(), name)


def _value(setting: str, node: ast.expr) -> Any:
    if setting == _RELATION or isinstance(node, ast.Call):
        (call,) = _calls(node)
        return call
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)


def canonical(text: str) -> str:
    """Return the text of calls in its canonical spelling and spacing, as in results.

    Raises:
        MetaLensError: see `parse_calls`.

    >>> canonical("trlearner( weight=.3)+metamix"), canonical("none")
    ('TRLearner(weight=0.3) + MetaMix', 'none')
    """
    return " + ".join(map(str, parse_calls(text))) or "none"


def learner_call(text: str) -> Call:
    """Parse the text of a learner, which must be a single call.

    Raises:
        MetaLensError: it is not a single call.

    >>> learner_call("anil").name
    'ANIL'
    """
    return _single(text, "learner")


def sampler_call(text: str) -> Call:
    """Parse the text of a task sampler, which must be a single call.

    Raises:
        MetaLensError: it is not a single call, or the sampler is unknown.

    >>> str(sampler_call("HardMining( )"))
    'HardMining'
    """
    call = _single(text, SAMPLERS.kind)
    SAMPLERS.find(call.name)
    return call


def _single(text: str, kind: str) -> Call:
    calls = parse_calls(text)
    if len(calls) != 1:
        raise MetaLensError(f"A {kind} must be a single name, got {text!r}.")
    return calls[0]


def build_learner(text: str, network: Network, tuned: Callable[[str], dict[str, Any]]) -> Learner:
    """Build a learner from its text, a single call such as `"MAML(inner_lr=0.1)"`.

    Args:
        text: of the learner.
        network: the network it gets; a baseline gets its number of outputs.
        tuned: returns the defaults of a learner's settings by its name.

    Raises:
        MetaLensError: the name or a setting is unknown or of a wrong type.
    """
    cls, settings = _learner(text, tuned)
    if issubclass(cls, NetworkLearner):
        return cls(network, **settings)
    return build_baseline(text, network.n_outputs, tuned)


def build_baseline(text: str, n_outputs: int, tuned: Callable[[str], dict[str, Any]]) -> Baseline:
    """Build a baseline from its text; see `build_learner`.

    Raises:
        MetaLensError: the baseline or a setting is unknown, or a setting has a wrong type.

    >>> build_baseline("KNN(n_neighbors=3)", 2, lambda name: {}).n_neighbors
    3
    """
    cls, settings = _learner(text, tuned)
    if not issubclass(cls, Baseline):
        raise MetaLensError(f"{cls.__name__} needs a network; it is no baseline that fits each task alone.")
    return cls(n_outputs, **settings)


def _learner(text: str, tuned: Callable[[str], dict[str, Any]]) -> tuple[type[Learner], dict[str, Any]]:
    call = learner_call(text)
    cls = LEARNERS.find(call.name)
    return cls, _checked(cls, {**tuned(call.name), **call.settings})


def refuses_regularizers(text: str) -> bool:
    """Return whether no regularizer can act on the learner of a text.

    >>> refuses_regularizers("Reptile(inner_steps=3)"), refuses_regularizers("MAML")
    (True, False)
    """
    names = [call.name for call in parse_calls(text) if LEARNERS.is_known(call.name)]
    return any(LEARNERS.find(name).regularizer_refusal is not None for name in names)


def build_regularizers(text: str) -> list[Regularizer]:
    """Build the regularizers of a text such as `"TRLearner(weight=0.3)"`.

    Raises:
        MetaLensError: a name or a setting is unknown or of a wrong type.
    """
    calls = parse_calls(text)
    return [_built(REGULARIZERS.find(call.name), call.settings) for call in calls]


def build_sampler(text: str) -> TaskSampler:
    """Build a task sampler from its text; see `sampler_call`.

    Raises:
        MetaLensError: the sampler or a setting is unknown, or a setting has a wrong type.

    >>> build_sampler("Related(neighbors=3)").neighbors
    3
    """
    call = sampler_call(text)
    return _built(SAMPLERS.find(call.name), call.settings)


def checked_settings(method: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings of a learner, regularizer or sampler with the right types; a relation stays text.

    Raises:
        MetaLensError: the method or a setting is unknown, or a setting has a wrong type.

    >>> checked_settings("MAML", {"inner_lr": "1e-2"})
    {'inner_lr': 0.01}
    """
    catalogues: list[Catalogue[Any]] = [LEARNERS, REGULARIZERS, SAMPLERS]
    known = next((each for each in catalogues if each.is_known(method)), None)
    if known is None:
        names = ", ".join(name for each in catalogues for name in each)
        raise MetaLensError(f"There is no method {method!r}; choose from {names}.")
    checked = _checked(known.find(method), settings)
    return {name: str(value) if isinstance(value, Call) else value for name, value in checked.items()}


def _built(cls: type[C], settings: dict[str, Any]) -> C:
    """Return an instance with checked settings; a relation among them is built as well."""
    checked = _checked(cls, settings)
    if call := checked.get(_RELATION):
        checked[_RELATION] = _built(RELATIONS.find(call.name), call.settings)
    return cls(**checked)


def _checked(cls: type, settings: dict[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in settings.items() if name != _RELATION}
    fixed = _NOT_SETTABLE | {"n_outputs"} if issubclass(cls, Baseline) else _NOT_SETTABLE
    checked = typed_settings(cls, plain, fixed)
    if _RELATION in settings:
        if _RELATION not in inspect.signature(cls).parameters:
            raise MetaLensError(f"{cls.__name__} has no setting {_RELATION!r}.")
        value = settings[_RELATION]
        call = value if isinstance(value, Call) else _single(str(value), _RELATION)
        relation = RELATIONS.find(call.name)
        checked[_RELATION] = Call(call.name, _checked(relation, call.settings))
    return {name: checked[name] for name in settings}
