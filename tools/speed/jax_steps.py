"""JAX: the whole outer step with Adam of optax in one compiled function that reuses its arguments' memory.

The convolution is a product with the nine shifted images, as in `im2col`, where tasks are vectorized or
scanned: XLA's own convolution is many times slower on a processor when it is grouped, as `vmap` does, or
stands in a loop. With unrolled tasks it is XLA's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch import Tensor

from tools.speed.implementation import Implementation
from tools.speed.workloads import OUTER_LR, Workload

Array = jax.Array
Layers = list[dict[str, Array]]


class Vmap(Implementation):
    """All tasks in one vectorized call."""

    @staticmethod
    def convolve(x: Array, kernel: Array) -> Array:
        """Return the 3x3 convolution of `(n, h, w, c)` with zero padding."""
        height, width = x.shape[1:3]
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        shifted = [x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
        return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        images = (0, 1, 3, 4, 2) if workload.images else (0, 1, 2)
        self.tasks = tuple(
            jnp.asarray(t.numpy()) if name == "y" else jnp.asarray(t.numpy().transpose(images))
            for part in workload.tasks()[:2]
            for name, t in part._asdict().items()
        )
        self.layers = to_layers([p.detach() for p in workload.learner().network.parameters()])
        optimizer = optax.adam(OUTER_LR)
        self.state = optimizer.init(self.layers)

        def step(layers: Layers, state: Any, tasks: tuple[Array, ...]) -> tuple[Layers, Any, Array]:
            loss, gradient = self.loss_and_gradient(layers, tasks)
            updates, state = optimizer.update(gradient, state)
            return optax.apply_updates(layers, updates), state, loss

        arguments = (self.layers, self.state, self.tasks)
        self.compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*arguments).compile()

    def first_step(self) -> tuple[float, list[Tensor]]:
        _, gradient = jax.jit(self.loss_and_gradient)(self.layers, self.tasks)
        return self.run(1), from_layers(gradient)

    def run(self, n: int) -> float:
        for _ in range(n):
            self.layers, self.state, loss = self.compiled(self.layers, self.state, self.tasks)
        jax.block_until_ready(self.layers)
        return float(loss)

    def parameters(self) -> list[Tensor]:
        return from_layers(self.layers)

    def loss_and_gradient(self, layers: Layers, tasks: tuple[Array, ...]) -> tuple[Array, Layers]:
        """Return the outer loss and its gradient."""
        return jax.value_and_grad(
            lambda layers: jax.vmap(lambda *task: self.task_loss(layers, *task))(*tasks).mean()
        )(layers)

    def task_loss(self, layers: Layers, x: Array, y: Array, query_x: Array, query_y: Array) -> Array:
        """Return the query loss of one task."""
        method, n_way = self.workload.method, self.workload.n_way
        if method == "protonet":
            members = jax.nn.one_hot(y, n_way)
            prototypes = members.T @ self.features(layers, x) / members.sum(0)[:, None]
            z = self.features(layers, query_x)
            return self.loss(-((z[:, None] - prototypes) ** 2).sum(2), query_y)
        if method == "anil":
            features = [self.features(layers[:-1], z) for z in (x, query_x)]
            head = self.adapt(layers[-1], lambda head: self.loss(linear(head, features[0]), y))
            return self.loss(linear(head, features[1]), query_y)
        adapted = self.adapt(layers, lambda layers: self.loss(self.predict(layers, x), y))
        return self.loss(self.predict(adapted, query_x), query_y)

    def adapt(self, values: Any, support_loss: Callable[[Any], Array]) -> Any:
        """Return the values after the inner loop."""
        for _ in range(self.workload.inner_steps):
            gradient = jax.grad(support_loss)(values)
            if self.workload.first_order:
                gradient = jax.lax.stop_gradient(gradient)
            values = jax.tree.map(lambda v, g: v - self.workload.inner_lr * g, values, gradient)
        return values

    def predict(self, layers: Layers, x: Array) -> Array:
        """Return the outputs of the network."""
        return linear(layers[-1], self.features(layers[:-1], x))

    def features(self, layers: Layers, x: Array) -> Array:
        """Return the features, `(n, d)`."""
        for layer in layers:
            if not self.workload.images:
                x = jax.nn.relu(linear(layer, x))
                continue
            x = self.convolve(x, layer["weight"]) + layer["bias"]
            x = x - x.mean((0, 1, 2))
            x = x * jax.lax.rsqrt((x**2).mean((0, 1, 2)) + 1e-5) * layer["scale"] + layer["shift"]
            x = max_pool(jax.nn.relu(x))
        return x.transpose(0, 3, 1, 2).reshape(len(x), -1) if self.workload.images else x

    def loss(self, predictions: Array, y: Array) -> Array:
        """Return the loss of one task."""
        if self.workload.images:
            return optax.softmax_cross_entropy_with_integer_labels(predictions, y).mean()
        return ((predictions - y) ** 2).mean()


class Scan(Vmap):
    """One task after the other in a compiled loop."""

    @classmethod
    def refusal(cls, workload: Workload) -> str | None:
        return None if workload.images else "for convolutions; vmap is the better way here"

    def loss_and_gradient(self, layers: Layers, tasks: tuple[Array, ...]) -> tuple[Array, Layers]:
        def add(total: tuple[Array, Layers], task: tuple[Array, ...]) -> tuple[Any, None]:
            new = jax.value_and_grad(self.task_loss)(layers, *task)
            return jax.tree.map(jnp.add, total, new), None

        total, _ = jax.lax.scan(add, (jnp.zeros(()), jax.tree.map(jnp.zeros_like, layers)), tasks)
        return jax.tree.map(lambda value: value / self.workload.n_tasks, total)


class Unrolled(Vmap):
    """The tasks written out one after the other, so that XLA may run some at the same time."""

    refusal = Scan.refusal

    @staticmethod
    def convolve(x: Array, kernel: Array) -> Array:
        axes = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=axes)

    def loss_and_gradient(self, layers: Layers, tasks: tuple[Array, ...]) -> tuple[Array, Layers]:
        def loss(layers: Layers) -> Array:
            n = self.workload.n_tasks
            return sum(self.task_loss(layers, *(t[i] for t in tasks)) for i in range(n)) / n

        return jax.value_and_grad(loss)(layers)


def linear(layer: dict[str, Array], x: Array) -> Array:
    """Return `x W + b`."""
    return x @ layer["weight"] + layer["bias"]


def max_pool(x: Array) -> Array:
    """Return the 2x2 maxima of `(n, h, w, c)`."""
    n, height, width, c = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(n, height // 2, 2, width // 2, 2, c).max((2, 4))


def to_layers(parameters: list[Tensor]) -> Layers:
    """Turn parameters in the order and layout of PyTorch into those of JAX."""
    layers, values = [], iter([p.numpy() for p in parameters])
    for weight in values:
        convolution = weight.ndim == 4
        weight = weight.transpose(2, 3, 1, 0) if convolution else weight.T
        layer = {"weight": jnp.array(weight), "bias": jnp.array(next(values))}
        if convolution:
            layer |= {"scale": jnp.array(next(values)), "shift": jnp.array(next(values))}
        layers.append(layer)
    return layers


def from_layers(layers: Layers) -> list[Tensor]:
    """Undo `to_layers`."""
    parameters = []
    for layer in layers:
        for name in ("weight", "bias", "scale", "shift"):
            if name in layer:
                value = np.array(layer[name])
                if name == "weight":
                    value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
                parameters.append(torch.from_numpy(value.copy()))
    return parameters
