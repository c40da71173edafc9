"""Make any `nn.Module` with a named head usable by every learner, or explain why it is not.

PyTorch has three traps for second derivatives and `torch.vmap`: fused normalization layers (silently wrong
under `vmap`), recurrent layers (no `vmap` rule) and fused attention (no second derivative). `wrap` replaces
the first, loops over tasks for the second, uses the unfused form of the third, and then *measures* on an
example that the gradients agree, so that no custom layer can hide a trap.
"""

import copy
import math
import warnings

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn.attention import SDPBackend, sdpa_kernel

from metalens.batching import Plan, task_map
from metalens.errors import MetaLensError
from metalens.networks.base import Network
from metalens.networks.norm import make_norms_safe


class WrappedNetwork(Network):
    """A `Network` around a user's module; built by `wrap`, which has measured its layers."""

    def _check_layers(self) -> None:
        pass

    def forward(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        fast_path = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
                return super().forward(x, start, stop)
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)


def wrap(module: nn.Module, head: str, example: Tensor) -> Network:
    """Turn a copy of a module into a `Network`.

    Args:
        module: any module with `(n, *input_shape) -> (n, c)`, whose last operation is its head.
        head: name of the head, for example `"fc"` or `"classifier.1"`.
        example: two or more inputs, `(n, *input_shape)`, used to check the result; any values.

    Returns:
        A `Network` on a copy of the module. Batch, layer and instance normalization are replaced by
        equivalents with the same parameters whose meta-gradients are right; batch normalization then uses
        the statistics of the current set and no running ones. Layers without a vectorized form (recurrent
        ones) make learners loop over tasks, with one warning that names them.

    Raises:
        MetaLensError: there is no such head, it is not the last operation, or the module cannot be
            differentiated twice.

    >>> module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))
    >>> wrap(module, head="3", example=torch.randn(2, 1, 8, 8)).n_features
    144
    """
    if not isinstance(module, nn.Module) or not isinstance(example, Tensor):
        raise MetaLensError(
            f"wrap needs a module and a tensor, got {type(module).__name__} and {type(example).__name__}."
        )
    if example.dim() < 2 or len(example) < 2:
        raise MetaLensError(f"wrap needs an example of two or more inputs, got shape {tuple(example.shape)}.")
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise MetaLensError(f"{type(module).__name__} has no trainable parameter; unfreeze some.")
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
    n_features, n_outputs = _check_composition(module, backbone, head_module, head, example)
    make_norms_safe(backbone)
    make_norms_safe(head_module)
    network = WrappedNetwork(backbone, head_module, n_features=n_features, n_outputs=n_outputs)
    network.vmap_refusal, doubt = _probe(network, example)
    if network.vmap_refusal is not None:
        warnings.warn(f"Tasks will be looped over: {network.vmap_refusal}", stacklevel=2)
    if doubt is not None:
        warnings.warn(doubt, stacklevel=2)
    return network


@torch.no_grad()
def _check_composition(
    module: nn.Module, backbone: nn.Module, head: nn.Module, name: str, example: Tensor
) -> tuple[int, int]:
    """Check that the head comes last; return the numbers of features and of outputs."""
    whole, stem = copy.deepcopy(module).eval(), copy.deepcopy(backbone).eval()
    try:
        features = stem(example).flatten(1)
        output, composed = whole(example), copy.deepcopy(head).eval()(features)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, AssertionError) as error:
        raise MetaLensError(
            f"{type(module).__name__} fails on the example of shape {tuple(example.shape)}, or {name!r} on "
            f"its features: {_first_sentence(error)}; both must work on tensors, and the head on (n, d)."
        ) from error
    if not isinstance(output, Tensor) or output.dim() != 2 or not output.isfinite().all():
        raise MetaLensError(
            f"{type(module).__name__} must turn the example into a finite tensor (n, c); check both."
        )
    if output.shape != composed.shape or not torch.allclose(output, composed, rtol=1e-3, atol=1e-5):
        raise MetaLensError(
            f"{name!r} is not the last operation of {type(module).__name__}: its output is changed "
            "afterwards; name the last layer, and leave softmax and the like to the loss."
        )
    return features.shape[1], output.shape[1]


def _probe(network: Network, example: Tensor) -> tuple[str | None, str | None]:
    """Return why `vmap` cannot be used, and why meta-gradients are doubtful, by measuring them; or `None`."""
    twin = _moved(copy.deepcopy(network).double().eval())
    x = example.detach().double() if example.is_floating_point() else example
    inputs = torch.stack([x, x.flip(0)])
    n, c = len(x), network.n_outputs
    targets = torch.linspace(-1, 2, 2 * n * c, dtype=torch.float64, device=x.device).view(2, n, c)
    try:
        right = _meta_gradient(twin, inputs, targets, plan="loop")
    except RuntimeError as error:
        raise MetaLensError(
            f"{type(network.backbone).__name__} fails the check that gradient-based adaptation needs (two "
            f"derivatives, in double precision): {_first_sentence(error)}; replace the layer that does this."
        ) from error
    doubt = None
    slope, difference = _slopes(twin, inputs, targets, right)
    if not math.isclose(slope, difference, rel_tol=1e-3, abs_tol=1e-6):
        doubt = (
            f"The meta-gradient of {type(network.backbone).__name__} is {slope:.4g} along a direction where "
            f"finite differences give {difference:.4g}: a custom backward is inexact or not differentiable."
        )
    recurrent = [name for name, layer in network.named_modules() if isinstance(layer, nn.RNNBase)]
    if recurrent:
        return f"{', '.join(recurrent)}: recurrent layers have no vectorized form.", doubt
    try:
        mapped = _meta_gradient(twin, inputs, targets, plan="vmap")
    except RuntimeError as error:
        return f"an operation has no vectorized form ({_first_sentence(error)}).", doubt
    wrong = [name for name in right if not torch.allclose(right[name], mapped[name], rtol=1e-6, atol=1e-9)]
    if wrong:
        names = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        return f"torch.vmap gives wrong gradients for {names}; a layer after them is at fault.", doubt
    return None, doubt


@torch.no_grad()
def _moved(network: Network) -> Network:
    """Perturb trained parameters: a scale of 0 puts ReLUs at their kinks, where differences mean nothing."""
    for parameter in network.parameters():
        if parameter.requires_grad:
            steps = torch.arange(parameter.numel(), device=parameter.device)
            parameter.add_(0.01 * steps.cos().view_as(parameter))
    return network


def _adapted_loss(network: Network, x: Tensor, y: Tensor, plan: Plan) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the outer loss of one-step MAML, and the parameters it is a function of."""
    parameters: dict[str, Tensor] = {n: p for n, p in network.named_parameters() if p.requires_grad}

    def loss(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return (functional_call(network, values, (x,)) - y).square().mean()

    def adapted_loss(x: Tensor, y: Tensor) -> Tensor:
        gradients = grad(loss)(parameters, x, y)
        return loss({name: p - 0.1 * gradients[name] for name, p in parameters.items()}, x, y)

    return task_map(adapted_loss, x, y, plan=plan).mean(), parameters


@torch.enable_grad()  # whatever the caller's mode
def _meta_gradient(network: Network, x: Tensor, y: Tensor, plan: Plan) -> dict[str, Tensor]:
    loss, parameters = _adapted_loss(network, x, y, plan)
    gradients = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
    return dict(zip(parameters, gradients, strict=True))


@torch.no_grad()
def _slopes(network: Network, x: Tensor, y: Tensor, gradient: dict[str, Tensor]) -> tuple[float, float]:
    """Return the outer loss's slope along the normalized gradient, by the gradient and by differences."""
    network = copy.deepcopy(network)  # its parameters are moved
    norm = torch.stack([g.square().sum() for g in gradient.values()]).sum().sqrt()
    h, values = 1e-8, []  # deep networks have a kink within any larger step
    for move in (h, -2 * h):
        for name, parameter in network.named_parameters():
            if name in gradient:
                parameter.add_(move * gradient[name] / norm)
        values.append(_adapted_loss(network, x, y, plan="loop")[0])
    return norm.item(), ((values[0] - values[1]) / (2 * h)).item()


def _first_sentence(error: Exception) -> str:
    return str(error).split(". ")[0].split("\n")[0].rstrip(".")
