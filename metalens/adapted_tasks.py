"""Adapted tasks: a batch of tasks, the models adapted to them, and their predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from metalens.batching import Batching, Plan, is_transformed, task_map
from metalens.errors import MetaLensError
from metalens.learners import Learner, State
from metalens.learners.measure import measure_vectorized
from metalens.processes import ALONE, Processes
from metalens.recomputing import chunked_task_map, looped_mean
from metalens.tasks import Examples, Task, n_tasks

View = TypeVar("View")


def _view(compute: Callable[[Any], View]) -> cached_property[View]:
    """Make a property that is computed once; the lock of `cached_property` itself cannot be compiled."""
    name = compute.__name__

    @wraps(compute)
    def get(self: AdaptedTasks) -> Any:
        if name not in self._views:
            self._views[name] = compute(self)
        return self._views[name]

    return cast(Any, property(get))


class AdaptedTasks:
    """T adapted tasks with views that are computed once, and only when asked for.

    Args:
        learner: the learner that adapts.
        tasks: a batch of T tasks.
        batching: how the learner is mapped over tasks; see `metalens.batching`.
        chunk: tasks that are computed at a time, in memory for as many, or `None` for all.
        module: has all parameters to differentiate by; by default the learner.
        processes: those that share a larger batch, of which these are the tasks of this process.
        weights: of the tasks in means, `(T,)`, adding up to 1; equal by default.

    Attributes:
        n_tasks: T.
        n_all_tasks: tasks of all processes together; they are numbered consecutively.

    Raises:
        MetaLensError: there are not as many weights as tasks.

    >>> from metalens import ANIL, AdaptedTasks, Sinusoid, mlp
    >>> adapted = AdaptedTasks(ANIL(mlp()), Sinusoid().batch(range(4)))
    >>> adapted.query_predictions.shape, adapted.support_features.shape
    (torch.Size([4, 15, 1]), torch.Size([4, 10, 40]))
    """

    def __init__(
        self, learner: Learner, tasks: Task, batching: Batching = "auto", *,
        chunk: int | None = None, module: nn.Module | None = None,
        processes: Processes = ALONE, weights: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.learner, self.tasks, self.chunk, self.processes = learner, tasks, chunk, processes
        self.weights = weights
        self._views: dict[str, Any] = {}
        self._module = learner if module is None else module
        self.n_tasks = n_tasks(tasks)
        self.n_all_tasks = self.n_tasks * processes.world_size
        measure_vectorized(learner, tasks, batching)
        self._plan: Plan = learner.plan(batching)
        if weights is not None and weights.shape != (self.n_tasks,):
            raise MetaLensError(
                f"A batch needs a weight for each of its {self.n_tasks} tasks, got {tuple(weights.shape)}."
            )

    def map(self, function: Any, *trees: Any) -> Any:
        """Apply a function of one task to every task of the batch."""
        if self.chunk is None or self.chunk >= self.n_tasks:
            return task_map(function, *trees, plan=self._plan)
        how: Any = {"plan": self._plan, "chunk": self.chunk, "module": self._module}
        return chunked_task_map(function, *trees, **how)

    def encode(self, x: Tensor) -> Tensor:
        """Return the inputs of adaptation for x `(T, n, ...)`: features if `head_only`, else x itself."""
        return self.map(self.learner.encode, x) if self.learner.head_only else x

    @_view
    def support_encoding(self) -> Tensor:
        """Inputs of adaptation for the support inputs, `(T, s, ...)`; see `encode`."""
        return self.encode(self.tasks.support.x)

    @_view
    def query_encoding(self) -> Tensor:
        """Inputs of adaptation for the query inputs, `(T, q, ...)`; see `encode`."""
        return self.encode(self.tasks.query.x)

    @_view
    def support_features(self) -> Tensor:
        """Backbone features of the support inputs under the meta-parameters, `(T, s, d)`."""
        return self.map(self.learner.features, self.support_encoding)

    @_view
    def states(self) -> State:
        """Task states, each tensor with a leading axis of length T."""
        return self.map(self.learner.adapt_encoded, self.support_encoding, self.tasks.support.y)

    @_view
    def all_states(self) -> State:
        """Task states of all processes' tasks; in a single process the same as `states`."""
        return self.processes.all_gather(self.states)

    def own(self, tensor: Tensor, dim: int = 0) -> Tensor:
        """Return this process's part of a tensor with an axis for all tasks."""
        if self.processes.world_size == 1:
            return tensor
        return tensor.narrow(dim, self.processes.rank * self.n_tasks, self.n_tasks)

    @_view
    def query_predictions(self) -> Tensor:
        """Predictions of each task's model on its own query inputs, `(T, q, c)`."""
        return self.map(self.learner.predict_encoded, self.states, self.query_encoding)

    def cross_predictions(
        self, models: Tensor | None = None, queries: Tensor | None = None, tasks: Tensor | None = None
    ) -> Tensor:
        """Predictions of other tasks' models.

        Args:
            models: for each of the t tasks the k tasks whose models predict its queries, `(t, k)` indices
                into all tasks of all processes; by default all in order, the task included, so that k is
                `n_all_tasks`.
            queries: which queries of every task, `(n,)` indices; all of them by default.
            tasks: which tasks' queries are predicted, `(t,)` indices; those of all T tasks by default.

        Returns:
            `(t, k, n, c)`: entry `[i, r]` is model `models[i, r]` on the queries of task `tasks[i]`.
        """
        z = self.query_encoding if tasks is None else self.query_encoding[tasks]
        z = z if queries is None else z[:, queries]
        if models is None:
            return self._all_cross_predictions(z)
        n, k = models.shape
        states = pytree.tree_map(lambda tensor: tensor[models.flatten()], self.all_states)
        owners = torch.arange(n, device=models.device).repeat_interleave(k)
        return self.map(self.learner.predict_encoded, states, z[owners]).unflatten(0, (n, k))

    def cross_support_predictions(self) -> Tensor:
        """Return predictions of all tasks' models for own support sets, `(T, n_all_tasks, s, c)`."""
        return self._all_cross_predictions(self.support_encoding)

    def cross_support_losses(self) -> Tensor:
        """Return losses of all tasks' models on this process's support sets, `(T, n_all_tasks)`."""
        predictions, y = self.cross_support_predictions(), self.tasks.support.y
        y = y.unsqueeze(1).expand(*predictions.shape[:2], *y.shape[1:])
        losses = self.map(self.learner.loss, predictions.flatten(0, 1), y.flatten(0, 1))
        return losses.unflatten(0, predictions.shape[:2])

    def _all_cross_predictions(self, z: Tensor) -> Tensor:
        # Without copies of adapted parameters for pairs: a model's kernels are shared by all data.
        def predict_all(state: State, z: Tensor) -> Tensor:
            return task_map(lambda x: self.learner.predict_encoded(state, x), z, plan=self._plan)

        return self.map(predict_all, self.all_states, z.expand(self.n_all_tasks, *z.shape)).transpose(0, 1)

    @_view
    def outer_losses(self) -> Tensor:
        """The learner's outer loss of every task, `(T,)`."""
        views = self.states, self.query_predictions, self.query_encoding
        return self.map(self.learner.outer_loss, *views, self.tasks.query.y)

    @property
    def outer_loss(self) -> Tensor:
        """The learner's outer loss, the mean over tasks; a scalar."""
        return self.mean(self.outer_losses)

    def last_outer_loss(self) -> Tensor:
        """Return `outer_loss` as the last view of the batch; see `last_outer_losses`.

        In a loop, the gradient of each task is taken before the next task, in the memory of one.
        """
        examples = self.tasks.tensors[:4]
        if self._is_begun or self._plan != "loop" or not self._is_function_of_parameters(examples):
            return self.mean(self.last_outer_losses())
        return looped_mean(self._task_loss, *examples, weights=self.weights, module=self._module)

    def _is_function_of_parameters(self, examples: Sequence[Tensor]) -> bool:
        """Return whether the loss is differentiated, and by parameters alone."""
        if not torch.is_grad_enabled() or is_transformed():
            return False
        learned = any(parameter.requires_grad for parameter in self._module.parameters())
        return learned and not any(tensor.requires_grad for tensor in examples)

    def last_outer_losses(self) -> Tensor:
        """Return `outer_losses` as the last view of the batch.

        If no part of it was computed before, every task is adapted and scored at once: in less time, and
        without the features and adapted parameters of all tasks in memory.
        """
        if self._is_begun:
            return self.outer_losses
        return self.map(self._task_loss, *self.tasks.tensors[:4])

    @property
    def _is_begun(self) -> bool:
        """Whether a part of the outer loss was computed before."""
        return "states" in self._views or (self.learner.head_only and "support_encoding" in self._views)

    def _task_loss(self, x_support: Tensor, y_support: Tensor, x_query: Tensor, y_query: Tensor) -> Tensor:
        return adapted_loss(self.learner, x_support, y_support, x_query, y_query)

    def mean(self, values: Tensor, tasks: Tensor | None = None) -> Tensor:
        """Return the mean of values by the tasks' weights; a scalar.

        Of some tasks, it is the unbiased estimate of that of all if they were drawn at random.

        Args:
            values: one of each task, `(T,)`, or of the tasks named, `(t,)`.
            tasks: their indices.
        """
        if self.weights is None:
            return values.mean()
        if tasks is None:
            return (self.weights * values).sum()
        return self.n_tasks * (self.weights[tasks] * values).mean()

    def loss(self, predictions: Tensor, y: Tensor | None = None, tasks: Tensor | None = None) -> Tensor:
        """Return the learner's mean loss of predictions `(T, n, c)`, a scalar; y defaults to the queries'.

        See `mean` for `tasks`.
        """
        y = self.tasks.query.y if y is None else y
        return self.mean(self.map(self.learner.loss, predictions, y), tasks)


def adapted_loss(
    learner: Learner, support: Tensor, y_support: Tensor, query: Tensor, y_query: Tensor
) -> Tensor:
    """Return the learner's outer loss on one task.

    >>> from metalens import MAML, Sinusoid, mlp
    >>> adapted_loss(MAML(mlp()), *Sinusoid()[0].tensors[:4]).shape
    torch.Size([])
    """
    state = learner.adapt(Examples(support, y_support))
    z = learner.encode(query)
    return learner.outer_loss(state, learner.predict_encoded(state, z), z, y_query)
