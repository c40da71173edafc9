"""Losses and their meta-gradient as one compiled program."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad_and_value
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from metalens.errors import MetaLensError
from metalens.execution.replicas import Replicas
from metalens.execution.update import Update
from metalens.learners import Learner
from metalens.networks.functional import functional_call
from metalens.objective import Objective, outer_loss, terms_and_gradient
from metalens.tasks import Task

Tensors = dict[str, Tensor]

_TOLERANCE = 1e-2  # of gradients in single precision; mistakes differ by far more


class CompiledObjective(nn.Module):
    """An objective whose loss terms and meta-gradient are computed together, by one compiled program.

    `tasks -> terms` like `Objective`; the gradient of the *sum* of the terms is computed in the same program,
    and `backward` returns it. At the first batch the step is executed once, its tensor operations are
    recorded, and the record is compiled: Python code (branches, settings, numbers drawn by NumPy) is fixed at
    that time. Before a program is used, it is compared with the plain step on two batches. While a learner
    follows a schedule (`Learner.schedule_finished` is false), its steps are not compiled.

    Args:
        objective: what to compile; its batching must not be `"loop"`, which would record every task.
        backend: `"inductor"`, or `None` to run the record uncompiled, which also saves time.

    Raises:
        MetaLensError: `compile_refusal` gives a reason or, at the first step, the program cannot be made or
            differs from the plain step.

    >>> from metalens import MAML, Objective, Sinusoid, mlp
    >>> compiled = CompiledObjective(Objective(MAML(mlp())), backend=None)
    >>> compiled(Sinusoid().batch(range(4)))["query"].backward()
    >>> compiled.objective.learner.network.head.bias.grad.shape
    torch.Size([1])
    """

    def __init__(self, objective: Objective | Replicas, *, backend: str | None = "inductor") -> None:
        super().__init__()
        if (refusal := compile_refusal(objective)) is not None:
            raise MetaLensError(f"The outer step cannot be compiled: {refusal}.")
        self.objective = objective
        self._step = [GradientStep(objective)]  # the list keeps its parameters from being listed twice
        self._backend = backend
        self._programs: dict[Any, Program] = {}

    def forward(self, tasks: Task) -> Tensors:
        """Return the loss terms by name; see `Objective.forward`."""
        tasks = self.objective.transform_tasks(tasks)
        if not self.objective.learner.schedule_finished:
            return self.objective.loss_terms(tasks)
        (step,), key = self._step, layout(tasks)
        if key not in self._programs:
            self._programs[key] = Program(step, tasks, self._backend)
        state = step.state()
        gradients, terms, _ = self._programs[key](state, tasks)
        values = _WithGradients.apply(tuple(terms.values()), gradients, *state[: len(gradients)])
        return dict(zip(terms, values, strict=True))


def layout(tasks: Task) -> tuple[Any, ...]:
    """Return everything about the tensors of tasks on which a program depends, apart from their values."""
    return tuple((tensor.shape, tensor.stride(), tensor.dtype) for tensor in tasks.tensors)


def compile_refusal(objective: Objective | Replicas) -> str | None:
    """Return why the outer step of an objective cannot be compiled, or `None` if it can.

    >>> from metalens import MAML, Objective, conv4
    >>> compile_refusal(Objective(MAML(conv4())))
    'its tasks are looped over, and a program of all of them would be too long'
    """
    learner = objective.learner
    if objective.chunk is not None:
        return "its tasks are computed in chunks, each of them twice"
    if learner.plan(objective.batching) != "vmap":
        return "its tasks are looped over, and a program of all of them would be too long"
    if objective.communicates:
        return "its processes exchange adapted models within a step"
    if learner.differentiation == "mixed":
        return "its inner loop is differentiated in mixed mode, whose saving of memory a program would undo"
    if learner.compile_refusal is not None:
        return learner.compile_refusal
    overrides = type(learner).set_progress is not Learner.set_progress
    if overrides and type(learner).schedule_finished is Learner.schedule_finished:
        return f"{type(learner).__name__} follows a schedule and does not say when it has settled"
    return None


class GradientStep(nn.Module):
    """Loss terms of transformed tasks and their gradient, the part of a step that is compiled."""

    def __init__(self, objective: Objective | Replicas) -> None:
        super().__init__()
        self.objective = objective
        state = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        self.trained = [name for name, value in state.items() if value.requires_grad]
        self.names = [*self.trained, *(name for name in state if name not in self.trained)]
        parts = [name.rpartition(".") for name in self.names]
        # Kept, as looking them up costs as much as a small step.
        self._places = [(self.get_submodule(owner), attribute) for owner, _, attribute in parts]

    def state(self) -> list[Tensor]:
        """Return all parameters and buffers in the order of `names`, trained ones first."""
        return [getattr(owner, attribute) for owner, attribute in self._places]

    def forward(self, tasks: Task) -> Tensors:
        return self.objective.loss_terms(tasks)

    def is_used(self, tasks: Task) -> list[bool]:
        """Return which weights the loss depends on."""
        weights = self.state()[: len(self.trained)]
        with torch.random.fork_rng():
            loss = outer_loss(self(tasks)).sum()
        return [g is not None for g in torch.autograd.grad(loss, weights, allow_unused=True)]

    def gradients_and_terms(self, state: Sequence[Tensor], tasks: Task) -> tuple[tuple[Tensor, ...], Tensors]:
        """Return the gradient of the sum of the terms by each weight, and the terms, at a state."""
        n = len(self.trained)

        def loss(*weights: Tensor) -> tuple[Tensor, Tensors]:
            tensors = dict(zip(self.names, (*weights, *state[n:]), strict=True))
            terms = functional_call(self, tensors, (tasks,))
            return outer_loss(terms).sum(), terms

        gradients, (_, terms) = grad_and_value(loss, argnums=tuple(range(n)), has_aux=True)(*state[:n])
        return gradients, terms


class Program:
    """A step, recorded and compiled for tasks of certain shapes, and compared with the plain one.

    Args:
        step: losses and gradient.
        tasks: transformed tasks.
        backend: `"inductor"`, or `None` to run the record.
        update: of the weights, to be recorded after the gradient.

    Raises:
        MetaLensError: it cannot be recorded or compiled, or differs.
    """

    def __init__(
        self, step: GradientStep, tasks: Task, backend: str | None, update: Update | None = None
    ) -> None:
        self._step, self._n = step, len(step.trained)
        self._names: list[str] = []
        state = [tensor.detach() for tensor in step.state()]
        more = [] if update is None else update.tensors()
        is_used = step.is_used(tasks) if update is not None else []

        def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
            n, last = len(state), len(state) + len(more)
            gradients, terms = step.gradients_and_terms(tensors[:n], Task.of_tensors(tensors[last:]))
            self._names = list(terms)
            norms = []
            if update is not None:
                known = [g if used else None for g, used in zip(gradients, is_used, strict=True)]
                norms = [update(tensors[: self._n], tensors[n:last], known, outer_loss(terms))]
            return (*gradients, *terms.values(), *norms)

        with torch.random.fork_rng(), torch.no_grad():
            try:
                arguments = [tensor.clone() for tensor in (*state, *more, *tasks.tensors)]
                record = make_fx(flat)(*arguments)
                _tolerate_other_strides(record)
                self._program = record if backend is None else _compiled(record, arguments)
                for seed in range(2):
                    self._check(pytree.tree_map(lambda tensor, n=seed: tensor.roll(n, 0), tasks), more, seed)
            except MetaLensError:
                raise
            except Exception as error:  # of the compiler, or of code that cannot be recorded: any
                reason, name = str(error).strip().split("\n")[0], type(error).__name__
                raise MetaLensError(
                    f"The outer step could not be compiled ({name}: {reason}); use compile=False."
                ) from error

    def __call__(
        self, state: Sequence[Tensor], tasks: Task, more: Sequence[Tensor] = ()
    ) -> tuple[tuple[Tensor, ...], Tensors, tuple[Tensor, ...]]:
        """Return the gradient by each weight, the terms by name, and what the update returns.

        Args:
            state: all parameters and buffers, which an update changes.
            tasks: transformed tasks.
            more: tensors of the update.
        """
        with torch.no_grad():
            values = self._program(*state, *more, *tasks.tensors)
        last = self._n + len(self._names)
        return values[: self._n], dict(zip(self._names, values[self._n : last], strict=True)), values[last:]

    def _check(self, tasks: Task, more: Sequence[Tensor], seed: int) -> None:
        state = self._step.state()
        torch.manual_seed(seed)
        with torch.enable_grad():
            terms, gradients = terms_and_gradient(self._step, tasks, state[: self._n])
        torch.manual_seed(seed)
        copies = [tensor.clone() for tensor in state], [tensor.clone() for tensor in more]
        own_gradients, own_terms, _ = self(copies[0], tasks, copies[1])
        plain, own = (
            torch.cat([tensor.detach().flatten() for tensor in (*of_terms.values(), *of_weights)])
            for of_terms, of_weights in ((terms, gradients), (own_terms, own_gradients))
        )
        if not (plain - own).norm() <= _TOLERANCE * plain.norm():
            raise MetaLensError(
                "The compiled outer step differs from the plain one, so something in it depends on more than "
                "the tasks and its registered tensors (hidden parameters, numbers drawn by NumPy or Python); "
                "use compile=False."
            )


def _compiled(program: GraphModule, arguments: Sequence[Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    """Compile a record without the checks of arguments by `torch.compile`, a quarter of a small step."""
    for node in program.graph.nodes:
        node.meta.clear()  # each value was recorded with a context of its own
    on_cpu = all(tensor.device.type == "cpu" for tensor in arguments)
    # It announces every operation for which C++ asks Python.
    logging.getLogger("torch._inductor.ir").setLevel(logging.ERROR)
    # With the random numbers of the plain step, and called by C++ where that is of use.
    options: Any = {"fallback_random": True, "cpp_wrapper": on_cpu}
    compiled: Any = torch._inductor.compile(program, list(arguments), options=options)
    return compiled


def _tolerate_other_strides(program: GraphModule) -> None:
    """Replace every view by a reshape, as compiled operations may have other strides."""
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default
    program.recompile()


class _WithGradients(torch.autograd.Function):
    """Return terms whose gradients are known: those of their sum."""

    @staticmethod
    def forward(
        ctx: Any, terms: tuple[Tensor, ...], gradients: tuple[Tensor, ...], *weights: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.gradients = gradients
        return terms

    @staticmethod
    def backward(ctx: Any, *factors: Tensor) -> tuple[Tensor | None, ...]:
        # Only the sum of the terms is differentiated, so their factors are the same: a scalar, or `(R,)`.
        factor = factors[0]
        shapes = [factor.shape + (1,) * (gradient.dim() - factor.dim()) for gradient in ctx.gradients]
        scaled = (g * factor.reshape(shape) for g, shape in zip(ctx.gradients, shapes, strict=True))
        return (None, None, *scaled)
