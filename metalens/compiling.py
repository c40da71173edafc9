"""The outer step as one compiled program: losses of a batch and their meta-gradient together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from metalens.errors import MetaLensError
from metalens.learners import Learner
from metalens.objective import Objective
from metalens.tasks import Task

Tensors = dict[str, Tensor]
Program = Callable[[Tensors, Tensors, Task], tuple[Tensors, Tensors]]

_TOLERANCE = 1e-2  # of gradients in single precision; what is frozen by mistake differs by far more


class CompiledObjective(nn.Module):
    """An objective whose loss terms and meta-gradient are computed together, by one compiled program.

    `tasks -> terms` as `Objective` does; the gradient of the *sum* of the terms is computed in the same
    program, and `backward` hands it out. The program is made at the first batch: the step is executed once,
    its tensor operations are recorded, and the record is compiled. So whatever Python does besides (branches,
    settings, numbers drawn by NumPy) is fixed at that time. Before a program is used, it is compared with the
    plain step on two batches. While a learner follows a schedule (`Learner.settled` is false) its steps run
    plainly.

    Args:
        objective: what to compile; its batching must not be `"loop"`, which would record every task.
        backend: of `torch.compile`; `None` runs the record as it is, which also saves time.

    Raises:
        MetaLensError: `compile_refusal` says why it is not possible, or, at the first step, the program could
            not be made or differs from the plain step.

    >>> from metalens import MAML, Objective, Sinusoid, mlp
    >>> compiled = CompiledObjective(Objective(MAML(mlp())), backend=None)
    >>> compiled(Sinusoid().batch(range(4)))["query"].backward()
    >>> compiled.objective.learner.network.head.bias.grad.shape
    torch.Size([1])
    """

    def __init__(self, objective: Objective, *, backend: str | None = "inductor") -> None:
        super().__init__()
        if (refusal := compile_refusal(objective)) is not None:
            raise MetaLensError(f"The outer step cannot be compiled: {refusal}.")
        self.objective = objective
        self._terms = (_LossTerms(objective),)  # the tuple keeps its parameters from being listed twice
        self._state = _State(self._terms[0])
        self._backend = backend
        self._programs: dict[Any, Program] = {}

    def forward(self, tasks: Task) -> Tensors:
        """Return the loss terms by name; see `Objective.forward`."""
        tasks = self.objective.transform_tasks(tasks)
        if not self.objective.learner.settled:
            return self.objective.loss_terms(tasks)
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in pytree.tree_leaves(tasks))
        if shapes not in self._programs:
            self._programs[shapes] = _compile(self._terms[0], tasks, self._backend)
        weights, constants = self._state()
        with torch.no_grad():
            gradients, terms = self._programs[shapes](weights, constants, tasks)
        values = _WithGradients.apply(
            tuple(terms.values()), tuple(gradients[name] for name in weights), *weights.values()
        )
        return dict(zip(terms, values, strict=True))


def compile_refusal(objective: Objective) -> str | None:
    """Return why the outer step of an objective cannot be compiled, or `None` where it can.

    >>> from metalens import MAML, Objective, conv4
    >>> compile_refusal(Objective(MAML(conv4())))
    'its tasks are looped over, and a program of all of them would be too long'
    """
    learner = objective.learner
    if objective.chunk is not None:
        return "its tasks are computed in chunks, each of them twice"
    if learner.plan(objective.batching) != "vmap":
        return "its tasks are looped over, and a program of all of them would be too long"
    overrides = type(learner).set_progress is not Learner.set_progress
    if overrides and type(learner).settled is Learner.settled:
        return f"{type(learner).__name__} follows a schedule and does not say when it has settled"
    return None


class _State:
    """What a module computes with, split: trainable parameters, and other parameters and buffers.

    It knows their places, as looking them up costs as much as a small step.
    """

    def __init__(self, module: nn.Module) -> None:
        self._trained: dict[str, tuple[nn.Module, str]] = {}
        self._constant: dict[str, tuple[nn.Module, str]] = {}
        names = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        for name, value in names.items():
            owner, _, attribute = name.rpartition(".")
            part = self._trained if value.requires_grad else self._constant
            part[name] = (module.get_submodule(owner), attribute)

    def __call__(self) -> tuple[Tensors, Tensors]:
        """Return the tensors that stand in those places now, by name."""
        trained, constant = (
            {name: getattr(owner, attribute) for name, (owner, attribute) in part.items()}
            for part in (self._trained, self._constant)
        )
        return trained, constant


class _LossTerms(nn.Module):
    """The part of an objective that is compiled, as a module: transformed tasks -> loss terms."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, tasks: Task) -> Tensors:
        return self.objective.loss_terms(tasks)


def _program(terms: _LossTerms) -> Program:
    """Return the step as a function `(weights, constants, tasks) -> (gradients, terms)`."""

    def loss(weights: Tensors, constants: Tensors, tasks: Task) -> tuple[Tensor, Tensors]:
        values = functional_call(terms, {**weights, **constants}, (tasks,))
        return torch.stack(list(values.values())).sum(), values

    def program(weights: Tensors, constants: Tensors, tasks: Task) -> tuple[Tensors, Tensors]:
        gradients, (_, values) = grad_and_value(loss, has_aux=True)(weights, constants, tasks)
        return gradients, values

    return program


def _compile(terms: _LossTerms, tasks: Task, backend: str | None) -> Program:
    weights, constants = (pytree.tree_map(Tensor.detach, part) for part in _State(terms)())
    options: dict[str, Any] | None = None
    if backend == "inductor":
        options = {"fallback_random": True}  # the random numbers of the plain step
    with torch.random.fork_rng():
        try:
            program = make_fx(_program(terms))(weights, constants, tasks)
            _tolerate_other_strides(program)
            if backend is not None:
                program = torch.compile(
                    program, fullgraph=True, dynamic=False, backend=backend, options=options
                )
            for seed, batch in enumerate((tasks, pytree.tree_map(lambda tensor: tensor.roll(1, 0), tasks))):
                _check(terms, program, batch, seed)
        except MetaLensError:
            raise
        except Exception as error:  # of the compiler, or of code that cannot be recorded: of any kind
            reason = str(error).strip().split("\n")[0]
            raise MetaLensError(
                f"The outer step could not be compiled ({type(error).__name__}: {reason}); use compile=False."
            ) from error
    return program


def _tolerate_other_strides(program: GraphModule) -> None:
    """Let every view be a reshape: compiled operations may lay their results out in another way."""
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default
    program.recompile()


def _check(terms: _LossTerms, program: Program, tasks: Task, seed: int) -> None:
    """Raise `MetaLensError` where a program differs from the plain step."""
    weights, constants = _State(terms)()
    torch.manual_seed(seed)
    values = torch.stack(list(terms(tasks).values()))
    plain = torch.autograd.grad(values.sum(), list(weights.values()), materialize_grads=True)
    torch.manual_seed(seed)
    with torch.no_grad():
        compiled, compiled_values = program(weights, constants, tasks)
    ours, theirs = (
        torch.cat([tensor.detach().flatten() for tensor in tensors])
        for tensors in ((values, *plain), (*compiled_values.values(), *compiled.values()))
    )
    if not (ours - theirs).norm() <= _TOLERANCE * ours.norm():
        raise MetaLensError(
            "The compiled outer step differs from the plain one, so something in it depends on more than the "
            "tasks and its registered tensors (hidden parameters, numbers drawn by NumPy or Python); use "
            "compile=False."
        )


class _WithGradients(torch.autograd.Function):
    """Terms, and the gradients of their sum, of weights."""

    @staticmethod
    def forward(
        ctx: Any, terms: tuple[Tensor, ...], gradients: tuple[Tensor, ...], *weights: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.gradients = gradients
        return terms

    @staticmethod
    def backward(ctx: Any, *factors: Tensor) -> tuple[Tensor | None, ...]:
        # Only the sum of the terms is differentiated, so their factors are the same.
        return (None, None, *(gradient * factors[0] for gradient in ctx.gradients))
