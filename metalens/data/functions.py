"""Tasks from Python functions: one that loads a task, or one that draws many."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from metalens.data.base import BlockDistribution, Recent, Split
from metalens.data.checks import as_array, check_callable, check_finite, check_sizes
from metalens.data.drawing import draw_examples, enough_examples
from metalens.data.named_tasks import NamedTasks, split_tasks
from metalens.errors import MetaLensError
from metalens.tasks import TENSORS, Examples, Task, stack_tasks


class Loaded(NamedTuple):
    """All examples of one task."""

    x: np.ndarray  # (n, *input_shape) float32
    y: np.ndarray | None  # (n, c) float32, or None for classes
    classes: np.ndarray  # (n,) numbers from 0; all 0 for real targets
    n_way: int  # classes to draw; 1 for real targets


class FunctionTasks(NamedTasks):
    """Tasks from a function that returns all examples of task number i, as `(x, y)`.

    The function is called when a task is needed, so data may be on disk or be computed. It must return equal
    results for equal numbers; they are checked each time. Scale inputs and targets in the function.

    Task number i of the distribution has different examples of one task of the function, drawn at random.
    Training goes through the training tasks in a new random order each round; validation and test tasks
    come in the order of their names.

    Args:
        function: from a number, `0 ... n_tasks - 1`, to inputs `(n, *input_shape)` and targets: real `(n,)`
            or `(n, c)`, or integers `(n,)`, which are classes. n may differ between tasks.
        split: `"train"`, `"val"` or `"test"`.
        n_tasks: number of tasks of the function.
        names: of the tasks, all different; `None` for their numbers.
        splits: shares of tasks in train, val and test, divided by `hashed_order` of their names, whatever the
            seed; or the split of every task by its name.
        n_way: classes per task, drawn at random for each task and numbered in random order; `None` if the
            classes of every task are `0 ... C - 1`, which keep their numbers.
        k_shot: support examples per task, or per class.
        n_query: query examples per task, or per class.
        n_train_tasks: how many tasks to train on, chosen at random by the seed; `None` for all.
        cache: number of latest results to keep in memory.
        seed: see `TaskDistribution`.

    Attributes:
        task_names: the P tasks of the split, in the order of their names.

    Raises:
        MetaLensError: a setting is out of range or, when a task is drawn, the function returns invalid data.

    >>> def line(index):
    ...     x = np.linspace(-1, 1, 30)[:, None]
    ...     return x, index * x
    >>> tasks = FunctionTasks(line, "test", n_tasks=100, k_shot=5, n_query=10)
    >>> len(tasks.task_names), tasks[0].support.x.shape
    (15, torch.Size([5, 1]))
    """

    extra_metrics: Sequence[str] = ("pearson_r2",)

    def __init__(
        self,
        function: Callable[[int], tuple[Any, Any]],
        split: Split = "train",
        *,
        n_tasks: int,
        names: Sequence[str] | None = None,
        splits: Sequence[float] | Mapping[str, str] = (0.7, 0.15, 0.15),
        n_way: int | None = None,
        k_shot: int = 5,
        n_query: int = 15,
        n_train_tasks: int | None = None,
        cache: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(split, k_shot=k_shot, n_query=n_query, n_train_tasks=n_train_tasks, seed=seed)
        check_callable(function)
        check_sizes(n_tasks=n_tasks)
        check_sizes(2, n_way=n_way)
        check_sizes(0, cache=cache)
        own = [str(name) for name in (range(n_tasks) if names is None else names)]
        if len(set(own)) != n_tasks or len(own) != n_tasks:
            found = f"{len(own)} of which {len(set(own))} are different"
            raise MetaLensError(f"names must be {n_tasks} different ones, one for each task, got {found}.")
        split_of = split_tasks(own, splits)
        self.set_tasks(*([name for name in own if split_of[name] == part] for part in ("train", split)))
        self.n_way, self._function = n_way, function
        number_of = {name: number for number, name in enumerate(own)}
        self._numbers = [number_of[name] for name in self.task_names]
        self._input_shape: tuple[int, ...] | None = None
        self._load = Recent(self._call, cache)

    def metadata(self) -> dict[str, Any]:
        return {"tasks": len(self.task_names)}

    def draw_tasks(self, places: Sequence[int], rngs: Sequence[np.random.Generator]) -> Task:
        numbers = [self._numbers[place] for place in places]
        return stack_tasks([self._draw(number, rng) for number, rng in zip(numbers, rngs, strict=True)])

    def _draw(self, number: int, rng: np.random.Generator) -> Task:
        x, y, classes, n_way = self._load(number)
        sizes = {"k_shot": self.k_shot, "n_query": self.n_query}
        in_order = self.n_way is None
        _, *parts = draw_examples(rng, classes, None, n_way=n_way, in_order=in_order, **sizes)

        def examples(rows: np.ndarray) -> Examples:
            slots = np.arange(n_way).repeat(rows.shape[1]) if y is None else y[rows.ravel()]
            return Examples(torch.from_numpy(x[rows.ravel()]), torch.from_numpy(slots))

        support, query = map(examples, parts)
        return Task(support, query)

    def _call(self, number: int) -> Loaded:
        returned = self._function(number)
        if not isinstance(returned, tuple) or len(returned) != 2:
            found = type(returned).__name__
            raise MetaLensError(f"Task {number}: the function must return (x, y), got {found}.")
        x, y = (as_array(part, f"Task {number}: {name}") for name, part in zip("xy", returned, strict=True))
        self._check(number, x, y)
        x = (x.reshape(len(x), -1) if x.ndim == 1 else x).astype(np.float32)
        if y.dtype.kind == "f":
            real = y.reshape(len(y), -1).astype(np.float32)
            loaded = Loaded(x, real, np.zeros(len(y), np.int64), 1)
        else:
            names, classes = np.unique(y, return_inverse=True)
            if self.n_way is None and names.tolist() != list(range(len(names))):
                raise MetaLensError(
                    f"Task {number}: classes must be numbered from 0 without gaps, got "
                    f"{', '.join(map(str, names[:9]))}; or set n_way, so that they are numbered again."
                )
            loaded = Loaded(x, None, classes, self.n_way or len(names))
        sizes = {"k_shot": self.k_shot, "n_query": self.n_query}
        if len(enough_examples(loaded.classes, None, **sizes)) < loaded.n_way:
            of_what = "examples" if loaded.y is not None else f"examples in each of {loaded.n_way} classes"
            raise MetaLensError(
                f"Task {number} has {len(x)} examples, and needs k_shot + n_query = "
                f"{self.k_shot + self.n_query} {of_what}; lower them, or leave the task out."
            )
        return loaded

    def _check(self, number: int, x: np.ndarray, y: np.ndarray) -> None:
        if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
            raise MetaLensError(
                f"Task {number}: x and y must have an entry for each example, got the shapes {x.shape} and "
                f"{y.shape}."
            )
        if x.dtype.kind not in "iufb" or y.dtype.kind not in "iufb" or y.ndim > 1 + (y.dtype.kind == "f"):
            raise MetaLensError(
                f"Task {number}: x must be numbers, and y real (n,) or (n, c), or whole numbers (n,), got "
                f"{x.dtype} of shape {x.shape} and {y.dtype} of {y.shape}."
            )
        for name, values in (("x", x), ("y", y)):
            check_finite(values, f"Task {number}: {name}")
        self._input_shape = self._input_shape or x.shape[1:]
        if x.shape[1:] != self._input_shape:
            raise MetaLensError(
                f"Task {number}: inputs have the shape {x.shape[1:]}, and those of an earlier task "
                f"{self._input_shape}; give all tasks inputs of one shape."
            )


class GeneratedTasks(BlockDistribution):
    """Tasks from a function that draws n of them at once from a generator, `(rng, n) -> Task`.

    Tasks are drawn in blocks, see `BlockDistribution`, and checked. The splits differ by the seed of the
    generator alone: for other differences, give each split its own function.

    Args:
        function: from a NumPy generator and a number n to a batch of n tasks, of tensors or arrays: inputs
            `(n, s, *input_shape)`, targets real `(n, s, c)` or classes `(n, s)`, and descriptors `(n, p)` or
            none.
        split: see `TaskDistribution`.
        n_train_tasks: `None` for unlimited training tasks, or the size of a fixed pool with fixed data.
        block_size: n.
        seed: see `TaskDistribution`.

    Raises:
        MetaLensError: a size is below 1 or, when tasks are drawn, the function returns invalid data.

    >>> def lines(rng, n):
    ...     slope, x = rng.normal(size=(n, 1, 1)), rng.normal(size=(n, 20, 1))
    ...     return Task(Examples(x[:, :5], slope * x[:, :5]), Examples(x[:, 5:], slope * x[:, 5:]))
    >>> GeneratedTasks(lines, "test").batch(range(3)).query.x.shape
    torch.Size([3, 15, 1])
    """

    def __init__(
        self,
        function: Callable[[np.random.Generator, int], Task],
        split: Split = "train",
        *,
        n_train_tasks: int | None = None,
        block_size: int = 512,
        seed: int = 0,
    ) -> None:
        super().__init__(split, seed=seed, n_train_tasks=n_train_tasks)
        check_callable(function)
        check_sizes(block_size=block_size)
        self.block_size, self._function = block_size, function

    def draw(self, rng: np.random.Generator, n: int) -> Task:
        return self._checked(self._function(rng, n), n, first=0)

    def _draw_block(self, block: int) -> Task:
        drawn = self._function(self._generator(0, block), self.block_size)
        return self._checked(drawn, self.block_size, first=block * self.block_size)

    def _checked(self, drawn: Any, n: int, first: int) -> Task:
        tasks = f"Tasks {first} to {first + n - 1}"
        if not isinstance(drawn, Task):
            raise MetaLensError(f"{tasks}: the function must return a Task, got {type(drawn).__name__}.")
        arrays = [as_array(part, name) for name, part in zip(TENSORS, drawn.tensors, strict=True)]
        arrays[4] = arrays[4] if arrays[4].size else arrays[4].reshape(n, 0)
        for name, array in zip(TENSORS, arrays, strict=True):
            least = 2 if name != "descriptors" and array.dtype.kind in "iub" else 2 + (name[-1] == "y")
            if array.ndim < least or len(array) != n or array.dtype.kind not in "iufb":
                raise MetaLensError(
                    f"{tasks}: {name} must be numbers with an axis for the {n} tasks and one for examples "
                    f"(and for targets, where they are real), got {array.dtype} of shape {array.shape}."
                )
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                place = np.argwhere(~np.isfinite(array))[0]
                where = ", ".join(map(str, place[1:]))
                raise MetaLensError(
                    f"Task {first + place[0]}: {name}[{where}] is {array[tuple(place)]}, and must be finite."
                )
        for name, (x, y) in {"support": arrays[:2], "query": arrays[2:4]}.items():
            if x.shape[1] != y.shape[1]:
                sizes = f"{x.shape[1]} inputs and {y.shape[1]} targets"
                raise MetaLensError(f"{tasks}: {name} has {sizes} in each task; give as many of both.")
        types = [np.float32 if array.dtype.kind == "f" else np.int64 for array in arrays]
        return Task.of_tensors([torch.from_numpy(a.astype(t)) for a, t in zip(arrays, types, strict=True)])
