"""Make any `nn.Module` with a named head usable by every learner, or explain why it is not.

PyTorch has traps for second derivatives and `torch.vmap`: fused normalization of activations and weights
(silently wrong), recurrent layers (no `vmap` rule) and fused attention (no second derivative). `wrap`
replaces the first, loops over tasks for the second, uses the unfused form of the third, and then *measures*
on an example, in evaluation and in training mode, that the gradients agree and that nothing is kept from call
to call, so that no custom layer can hide a trap.
"""

import copy
import warnings
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from metalens.batching import is_transformed
from metalens.errors import MetaLensError, check_type
from metalens.fields import Fields
from metalens.networks.base import Network
from metalens.networks.measure import measure
from metalens.networks.norm import has_batch_norm, has_learned_statistics
from metalens.networks.safe import make_safe
from metalens.networks.state import FAILURES, check_copyable, first_sentence
from metalens.networks.unpacking import Unpacking, class_name
from metalens.tasks import check_tensor


class WrappedNetwork(Network):
    """A `Network` around a user's module; built by `wrap`, which has measured its layers."""

    def _check_layers(self) -> None:
        pass

    def forward(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        fast_path = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        # What layers keep of a call within a transform, such as a mask, means nothing outside of it.
        kept = [(vars(layer), {**vars(layer)}) for layer in self.modules()] if is_transformed() else []
        try:
            with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
                return super().forward(x, start, stop)
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)
            for own, before in kept:
                own.update(before)
                for name in own.keys() - before.keys():
                    del own[name]


NormStatistics = Literal["task", "pretrained"]


def wrap(
    module: nn.Module,
    head: str,
    example: Tensor,
    *,
    fields: Fields | None = None,
    norm_statistics: NormStatistics | None = None,
) -> Network:
    """Turn a copy of a module into a `Network`.

    Args:
        module: any module with `(n, *input_shape) -> (n, c)`, whose last operation is its head; or with dense
            predictions `(n, c, ...)`, as of every pixel, whose head reads feature maps of one size.
        head: name of the head, for example `"fc"` or `"classifier.1"`.
        example: two or more inputs, `(n, *input_shape)`, used to check the result; any values.
        fields: of a module with several inputs, `forward(image, age)`: the network takes inputs that
            `fields.pack` made, such as the example, and the module gets each by the name of its argument.
        norm_statistics: by which batch and instance normalization with running statistics normalize:
            `"pretrained"`, their running ones, which stay, so that outputs are those of `module.eval()` and
            no input depends on others; or `"task"`, those of the current set. By default `"task"`, with a
            warning if a pretrained module loses its statistics so.

    Returns:
        A `Network` on a copy of the module. Batch, layer, instance and weight normalization and embeddings
        with padding are replaced by equivalents with the same parameters whose meta-gradients are right;
        spectral normalization uses the exact norm. Layers without a vectorized form (recurrent ones) make
        learners loop over tasks, with one warning that names them.

    Raises:
        MetaLensError: there is no such head, it is not the last operation, the module keeps a state that its
            calls change, in training or evaluation, or it cannot be differentiated twice.

    >>> module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))
    >>> wrap(module, head="3", example=torch.randn(2, 1, 8, 8)).n_features
    144
    """
    check_type(module, nn.Module, "What wrap takes", "give a module of PyTorch")
    check_tensor(example, "The example of wrap")
    if example.dim() < 2 or len(example) < 2:
        raise MetaLensError(f"wrap needs an example of two or more inputs, got shape {tuple(example.shape)}.")
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise MetaLensError(f"{type(module).__name__} has no trainable parameter; unfreeze some.")
    if norm_statistics not in (None, *get_args(NormStatistics)):
        raise MetaLensError(f"norm_statistics must be 'task', 'pretrained' or None, got {norm_statistics!r}.")
    if fields is not None:
        check_type(fields, Fields, "fields", "make them by Fields.of(name=tensor, ...)")
        fields.check_packed(example)
    check_copyable(module)
    backbone = copy.deepcopy(module)
    try:
        head_module = backbone.get_submodule(head)
    except AttributeError:
        names = [name for name, _ in module.named_children()]
        raise MetaLensError(
            f"{type(module).__name__} has no submodule {head!r} to be the head; its children are {names}."
        ) from None
    if not head or isinstance(head_module, nn.Identity):
        raise MetaLensError(f"The head must be a submodule with parameters, got {head!r}.")
    backbone.set_submodule(head, nn.Identity())
    whole = module if fields is None else Unpacking(module, fields)
    backbone = backbone if fields is None else Unpacking(backbone, fields)
    head_module, n_features, n_outputs = _composed(whole, backbone, head_module, head, example)
    if norm_statistics is None and has_learned_statistics(module):
        warnings.warn(
            f"{type(module).__name__} loses the running statistics of its normalization and normalizes by "
            "each set of inputs; norm_statistics='pretrained' keeps them, 'task' says that this is meant.",
            stacklevel=2,
        )
    if norm_statistics == "pretrained" and has_batch_norm(module) and not has_learned_statistics(module):
        raise MetaLensError(
            f"{type(module).__name__} has no running statistics of data, so norm_statistics='pretrained' has "
            "none to keep; load its weights first, or use 'task'."
        )
    for part in (backbone, head_module):
        make_safe(part, keeps_statistics=norm_statistics == "pretrained")
    network = WrappedNetwork(backbone, head_module, n_features=n_features, n_outputs=n_outputs)
    network.vmap_refusal, doubt = measure(network, example)
    if network.vmap_refusal is not None:
        warnings.warn(f"Tasks will be looped over: {network.vmap_refusal}", stacklevel=2)
    if doubt is not None:
        warnings.warn(doubt, stacklevel=2)
    return network


@torch.no_grad()
def _composed(
    module: nn.Module, backbone: nn.Module, head: nn.Module, name: str, example: Tensor
) -> tuple[nn.Module, int, int]:
    """Check that the head comes last; return it, reading `(n, d)`, and how many features and outputs."""
    whole, stem = copy.deepcopy(module).eval(), copy.deepcopy(backbone).eval()
    try:
        maps = stem(example)
        features = maps.flatten(1)
        output, head = whole(example), _reading_rows(head, maps)
        composed = copy.deepcopy(head).eval()(features)
    except FAILURES as error:
        raise MetaLensError(
            f"{class_name(module)} fails on the example of shape {tuple(example.shape)}, or {name!r} on "
            f"its features: {first_sentence(error)}; both must work on tensors."
        ) from error
    if not isinstance(output, Tensor) or output.dim() < 2 or not output.isfinite().all():
        raise MetaLensError(
            f"{class_name(module)} must turn the example into a finite tensor (n, c, ...); check both."
        )
    if output.shape != composed.shape or not torch.allclose(output, composed, rtol=1e-3, atol=1e-5):
        raise MetaLensError(
            f"{name!r} is not the last operation of {class_name(module)}: its output is changed "
            "afterwards; name the last layer, and leave softmax and the like to the loss."
        )
    return head, features.shape[1], output.shape[1]


def _reading_rows(head: nn.Module, maps: Tensor) -> nn.Module:
    """Return a head that reads flattened features `(n, d)`: one of feature maps restores their shape."""
    if maps.dim() == 2:
        return head
    try:
        copy.deepcopy(head).eval()(maps.flatten(1))
    except FAILURES:
        return nn.Sequential(nn.Unflatten(1, tuple(maps.shape[1:])), head)
    return head
