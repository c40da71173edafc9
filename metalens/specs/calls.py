"""Learners, regularizers and samplers as people write them: `MAML(inner_lr=0.1)`, `TRLearner(weight=0.3)`.

The text is parsed, never evaluated, and every setting is checked against the class's signature.
"""

from __future__ import annotations

import ast
import inspect
from argparse import Action, ArgumentError
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType, NoneType
from typing import Any, TypeVar, get_args

from metalens import learners, networks, regularizers, samplers
from metalens.errors import MetaLensError
from metalens.learners import Learner
from metalens.networks import Network
from metalens.regularizers import Regularizer
from metalens.samplers import TaskSampler, Uniform

C = TypeVar("C")


def _exported(package: ModuleType, base: type[C]) -> dict[str, type[C]]:
    """Return the methods that a package exports, by name."""
    exports = [getattr(package, name) for name in package.__all__]
    methods = [export for export in exports if isinstance(export, type) and issubclass(export, base)]
    return {cls.__name__: cls for cls in methods if cls is not base and not inspect.isabstract(cls)}


LEARNERS: dict[str, type[Learner]] = _exported(learners, Learner)
REGULARIZERS: dict[str, type[Regularizer]] = _exported(regularizers, Regularizer)
SAMPLERS: dict[str, type[TaskSampler]] = _exported(samplers, TaskSampler)
NETWORKS: dict[str, Callable[..., Network]] = {
    name: getattr(networks, name) for name in networks.__all__ if inspect.isfunction(getattr(networks, name))
}

_SPELLED = {name.lower(): name for name in (*LEARNERS, *REGULARIZERS, *SAMPLERS)}

# Settings that are not plain values: they come from the network or from Python.
_NOT_SETTABLE: set[str | int] = {"network", "loss", "n_features"}


@dataclass(frozen=True)
class Call:
    """A class by name, with settings."""

    name: str
    settings: dict[str, Any]

    def __str__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        return f"{self.name}({settings})" if settings else self.name


def parse_calls(text: str) -> list[Call]:
    """Parse calls joined by `+`.

    Args:
        text: for example `"TRLearner(weight=0.3, relations=uniform)"`, in capitals or not; `"none"` stands
            for no calls.

    Returns:
        The calls in their order.

    Raises:
        MetaLensError: the text is no such list.

    >>> [str(call) for call in parse_calls("trlearner( weight=.3, relations=uniform )")]
    ['TRLearner(weight=0.3, relations=uniform)']
    """
    if text == "none":
        return []
    try:
        return _calls(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError):
        raise MetaLensError(
            f"Cannot read {text!r}; write a name, optionally with settings: Name(setting=value)."
        ) from None


def _calls(node: ast.expr) -> list[Call]:
    match node:
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return [*_calls(left), *_calls(right)]
        case ast.Name(id=name):
            return [Call(_SPELLED.get(name.lower(), name), {})]
        case ast.Call(func=ast.Name(id=name), args=[], keywords=keywords):
            settings = {_name(k.arg): _value(k.value) for k in keywords}
            return [Call(_SPELLED.get(name.lower(), name), settings)]
        case _:
            raise ValueError


def _name(name: str | None) -> str:
    if name is None:
        raise ValueError
    return name


def _value(node: ast.expr) -> Any:
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)


def learner_call(text: str) -> Call:
    """Parse the text of a learner, which is one call.

    Raises:
        MetaLensError: it is none, or several.

    >>> learner_call("anil").name
    'ANIL'
    """
    calls = parse_calls(text)
    if len(calls) != 1:
        raise MetaLensError(f"A learner must be a single name, got {text!r}.")
    return calls[0]


def build_learner(text: str, network: Network, tuned: Callable[[str], dict[str, Any]]) -> Learner:
    """Build a learner from its text.

    Args:
        text: one call, for example `"MAML(inner_lr=0.1)"`.
        network: the network it gets.
        tuned: gives a learner's settings by its name, used where the call does not set them.

    Raises:
        MetaLensError: the name or a setting is unknown or of a wrong type.
    """
    call = learner_call(text)
    cls = _find(LEARNERS, call.name, "learner")
    return cls(network, **_checked(cls, {**tuned(call.name), **call.settings}))


def refuses_regularizers(text: str) -> bool:
    """Tell whether no regularizer can act on the learner of a text.

    >>> refuses_regularizers("Reptile(inner_steps=3)"), refuses_regularizers("MAML")
    (True, False)
    """
    known = [LEARNERS[call.name] for call in parse_calls(text) if call.name in LEARNERS]
    return any(learner.regularizer_refusal is not None for learner in known)


def build_regularizers(text: str, learner: Learner) -> list[Regularizer]:
    """Build the regularizers of a text such as `"TRLearner(weight=0.3)"` for a learner.

    A sampler among them is left to `build_sampler`.

    Raises:
        MetaLensError: a name or a setting is unknown or of a wrong type.
    """
    regularizers = []
    for call in parse_calls(text):
        if call.name in SAMPLERS:
            continue
        cls = _find(REGULARIZERS, call.name, "regularizer")
        regularizers.append(cls.for_learner(learner, **_checked(cls, call.settings)))
    return regularizers


def build_sampler(text: str) -> TaskSampler:
    """Build the sampler among the calls of a text such as `"TRLearner + Related(neighbors=3)"`.

    Without one it is `Uniform`.

    Raises:
        MetaLensError: there are two, or a setting is unknown or of a wrong type.

    >>> type(build_sampler("TRLearner + HardMining")).__name__
    'HardMining'
    """
    calls = [call for call in parse_calls(text) if call.name in SAMPLERS]
    if len(calls) > 1:
        raise MetaLensError(f"An arm has one task sampler, got {' and '.join(map(str, calls))}.")
    for call in calls:
        cls = SAMPLERS[call.name]
        return cls(**_checked(cls, call.settings))
    return Uniform()


def with_sampler(regularizers: str, sampler: str) -> str:
    """Return the canonical text of an arm's regularizers and its sampler; `Uniform` goes without saying.

    Raises:
        MetaLensError: the sampler is no single name of one.

    >>> with_sampler("none", "HardMining( )"), with_sampler("TRLearner", "Uniform")
    ('HardMining', 'TRLearner')
    """
    chosen = parse_calls(sampler)
    if len(chosen) != 1:
        raise MetaLensError(f"A task sampler must be a single name, got {sampler!r}.")
    _find(SAMPLERS, chosen[0].name, "task sampler")
    calls = [call for call in (*parse_calls(regularizers), *chosen) if str(call) != Uniform.__name__]
    return " + ".join(map(str, calls)) or "none"


def checked_settings(method: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings of a learner, regularizer or sampler, by its name, with the types that they have there.

    Raises:
        MetaLensError: the name or a setting is unknown or of a wrong type.

    >>> checked_settings("MAML", {"inner_lr": "1e-2"})
    {'inner_lr': 0.01}
    """
    return _checked(_find({**LEARNERS, **REGULARIZERS, **SAMPLERS}, method, "method"), settings)


def _find(catalogue: dict[str, type[C]], name: str, kind: str) -> type[C]:
    if name not in catalogue:
        raise MetaLensError(f"There is no {kind} {name!r}; choose from {', '.join(catalogue)}.")
    return catalogue[name]


def takes_none(option: Action) -> bool:
    """Tell whether a parser's option may be without a value, which the parser itself allows for all."""
    return NoneType in get_args(getattr(option, "_typehint", None))


def _checked(cls: type, settings: dict[str, Any]) -> dict[str, Any]:
    if not settings:
        return {}
    from jsonargparse import ArgumentParser  # an extra, needed for settings alone

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, skip=_NOT_SETTABLE)
    known = {action.dest: action for action in parser._actions if action.dest != "help"}
    for name in settings:
        if name not in known:
            raise MetaLensError(f"{cls.__name__} has no setting {name!r}; it has {', '.join(sorted(known))}.")
    try:
        typed = parser.parse_object(settings)
    except ArgumentError as error:
        raise MetaLensError(f"{cls.__name__}: {' '.join(str(error).split())}") from None
    for name in settings:
        if typed[name] is None and not takes_none(known[name]):
            raise MetaLensError(f"{cls.__name__}: {name} must have a value, got none.")
    return {name: typed[name] for name in settings}
