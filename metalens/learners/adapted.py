"""The model of one task: what a learner returns for a support set."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.export import ExportedProgram

from metalens.errors import MALFORMED, MetaLensError, reraise_as
from metalens.io.files import atomic_path, writing_into
from metalens.io.programs import export_program, save_program
from metalens.learners.given import explained
from metalens.networks.modes import module_mode
from metalens.networks.norm import uses_batch_statistics
from metalens.settings import plain_settings
from metalens.tasks import check_tensor, place

if TYPE_CHECKING:
    from metalens.learners.base import Learner, State

_TRANSDUCTIVE = (
    "A prediction depends on the other inputs of its call, as the network normalizes them together; where "
    "inputs come one by one, train a network without batch normalization, such as conv4(norm='group')."
)


class TaskState(nn.Module):
    """The tensors of a task state as buffers, by their names, which may have dots.

    They keep their graph: gradients flow from predictions through them to the learner.

    Raises:
        MetaLensError: a name cannot be that of a buffer.

    >>> TaskState({"head.bias": torch.zeros(2)})
    TaskState(head.bias=(2,))
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names = tuple(tensors)
        for name, tensor in tensors.items():
            *path, last = name.split(".")
            owner: nn.Module = self
            try:
                for part in path:
                    if part not in owner._modules:
                        owner.add_module(part, nn.Module())
                    owner = owner.get_submodule(part)
                owner.register_buffer(last, tensor.contiguous())  # as a file has it: products round alike
            except (AttributeError, KeyError) as error:
                raise MetaLensError(
                    f"A task state cannot have the name {name!r} ({error.args[0]}); choose another."
                ) from error

    @property
    def tensors(self) -> State:
        """The tensors by name, in their order."""
        return {name: self.get_buffer(name) for name in self._names}

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}={tuple(tensor.shape)}" for name, tensor in self.tensors.items())
        return f"TaskState({shapes})"


class AdaptedModel(nn.Module):
    """A model adapted to one task: call it on inputs.

    It is a module of two parts: the learner, for what does not adapt, such as a shared backbone, and the task
    state, whose tensors are buffers, as they are computed from the support and not trained. It refers to the
    learner and does not copy it: a thousand models take the memory of one learner and a thousand states,
    gradients flow through `learner(support)(x)`, and training the learner further, or moving the model by
    `to`, changes all of them. `detached` returns a copy of its own.

    A network that normalizes by the set at hand, as `TransductiveBatchNorm` does, predicts for the inputs of
    one call together, and a warning says so.

    Args:
        learner: the learner that adapted.
        state: the task state.

    Attributes:
        learner: the learner that adapted.

    >>> from metalens import ANIL, Sinusoid, mlp
    >>> model = ANIL(mlp(1, 1, [8]), inner_lr=0.1)(Sinusoid("test")[0].support)
    >>> model.task_state
    TaskState(head.weight=(1, 8), head.bias=(1,))
    >>> [name for name in model.state_dict() if "weight" in name]
    ['learner.network.backbone.0.0.weight', 'learner.network.head.weight', 'task_state.head.weight']
    """

    learner: Learner
    task_state: TaskState

    def __init__(self, learner: Learner, state: State) -> None:
        super().__init__()
        self.learner = learner  # first, as `to` moves parameters in place, and a state may hold some
        self.task_state = TaskState(state)

    @property
    def state(self) -> State:
        """The task state: tensors by name."""
        return self.task_state.tensors

    def forward(self, x: Tensor) -> Tensor:
        """Return predictions `(n, c)` for inputs `(n, *input_shape)`, on the learner's device.

        The learner predicts as at test time, in whatever mode it is.
        """
        if self.is_transductive:
            warnings.warn(_TRANSDUCTIVE, stacklevel=4)  # of the caller of the module
        check_tensor(x, "The inputs")
        x = place(x, self.learner.device, self.learner.dtype)
        with module_mode(self.learner, training=False), explained(self.learner, x=x):
            return self.learner.predict(self.state, x)

    @property
    def is_transductive(self) -> bool:
        """Whether a prediction depends on the other inputs of its call."""
        return any(uses_batch_statistics(layer) for layer in self.learner.modules())

    def detached(self) -> Self:
        """Return a copy of its own, with a copy of the learner, whose tensors need no gradients.

        >>> from metalens import R2D2, Sinusoid, mlp
        >>> learner = R2D2(mlp())
        >>> learner(Sinusoid("test")[0].support).detached().learner is learner
        False
        """
        state = {name: tensor.detach().clone() for name, tensor in self.state.items()}
        return type(self)(copy.deepcopy(self.learner), state).requires_grad_(False)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the task state into a safetensors file, atomically: only what belongs to the task.

        Args:
            path: of the file; an existing one is replaced.

        Raises:
            MetaLensError: the file cannot be written.
        """
        target = Path(path)
        own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in self.state.items()}
        with writing_into(target.parent), atomic_path(target) as partial:
            partial.write_bytes(save(own, {"names": json.dumps(list(own)), **_signs(self.learner)}))

    @classmethod
    def load(cls, path: str | os.PathLike[str], learner: Learner) -> Self:
        """Return a model that `save` wrote, of the same learner: with the weights that it had then.

        Args:
            path: of the file.
            learner: that adapted, or one with equal settings and weights.

        Raises:
            MetaLensError: the file is missing or damaged, or of a learner with other settings or weights.

        >>> import tempfile
        >>> from metalens import R2D2, Sinusoid, mlp
        >>> task, learner = Sinusoid("test")[0], R2D2(mlp())
        >>> model, path = learner(task.support), Path(tempfile.mkdtemp()) / "task.safetensors"
        >>> model.save(path)
        >>> torch.equal(AdaptedModel.load(path, learner)(task.query.x), model(task.query.x))
        True
        """
        catch = (*MALFORMED, OSError, SafetensorError)
        with (
            reraise_as(f"{path} is no saved task state", "give a file that save wrote", catch),
            safe_open(path, "pt") as file,  # pyright: ignore[reportArgumentType]
        ):
            signs = file.metadata() or {}
            names = json.loads(signs.get("names", "[]"))
            # Copies: those of the file lie at any address, where kernels may round otherwise.
            state = {name: file.get_tensor(name).clone() for name in names}
        for sign, now in _signs(learner).items():
            if (then := signs.get(sign)) != now:
                other = f"of {then}, and this is {now}" if sign == "learner" else "of one with other weights"
                raise MetaLensError(
                    f"{path} is not of this {type(learner).__name__} but {other}; give the learner that "
                    "adapted, with the weights that it had."
                )
        return cls(learner, {name: tensor.to(learner.device) for name, tensor in state.items()})

    def export(self, example: Tensor) -> ExportedProgram:
        """Return the model as a program of `torch.export`, which runs without MetaLens.

        It predicts for any number of inputs; where predictions depend on the other inputs, for as many as the
        example has.

        Args:
            example: inputs `(n, *input_shape)`, on which the program is compared with the model.

        Raises:
            MetaLensError: the learner cannot be exported, as those of scikit-learn; or the program predicts
                otherwise.

        >>> from metalens import R2D2, Sinusoid, mlp
        >>> model = R2D2(mlp())(Sinusoid("test")[0].support)
        >>> model.export(torch.zeros(1, 1)).module()(torch.zeros(20, 1)).shape
        torch.Size([20, 1])
        """
        name, x, any_rows = self._prepare_export(example)
        return export_program(self.detached(), x, name=name, any_rows=any_rows)

    def to_onnx(self, path: str | os.PathLike[str], example: Tensor) -> None:
        """Write the model as an ONNX file with the input `x` and the output `predictions`.

        The file is compared with the model, on the example, by onnxruntime. Needs the extra `onnx`.

        Args:
            path: of the file, which ends in `.onnx`; an existing one is replaced.
            example: see `export`.

        Raises:
            MetaLensError: see `export`; the file has another ending or cannot be written, or a package is not
                installed.
        """
        if Path(path).suffix != ".onnx":
            raise MetaLensError(f"{path} must end in .onnx; for a program of torch.export call export.")
        name, x, any_rows = self._prepare_export(example)
        facts = {"learner": _signs(self.learner)["learner"]}
        save_program(self.detached(), x, path, name=name, any_rows=any_rows, facts=facts)

    def _prepare_export(self, example: Tensor) -> tuple[str, Tensor, bool]:
        """Return the name of the learner, the example, and whether the program takes any number of inputs."""
        name = type(self.learner).__name__
        check_tensor(example, "The example")
        if self.learner.export_refusal is not None:
            raise MetaLensError(f"{name} cannot be exported: {self.learner.export_refusal}")
        if self.is_transductive:
            warnings.warn(_TRANSDUCTIVE, stacklevel=3)
        return name, example.to(self.learner.device), not self.is_transductive


def _signs(learner: Learner) -> dict[str, str]:
    """Return what tells a learner from others: its settings, and a hash of its weights."""
    settings = plain_settings(learner)
    text = ", ".join(f"{name}={value}" for name, value in settings.items() if name != "class")
    found = hashlib.sha256()
    for name, tensor in learner.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return {"learner": f"{settings['class']}({text})", "weights": found.hexdigest()}
