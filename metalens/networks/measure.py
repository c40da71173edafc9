"""Measure whether the meta-gradients of a network are right, by loop and by `torch.vmap`."""

import copy
import math
import warnings
from collections import defaultdict

import torch
from torch import Tensor, nn
from torch.func import grad

from metalens.batching import Plan, task_map
from metalens.errors import MetaLensError
from metalens.networks.base import Network
from metalens.networks.functional import functional_call
from metalens.networks.state import check_stateless, first_sentence, seeded
from metalens.networks.unpacking import class_name

Gradients = dict[str, Tensor]

_STEP = 1e-8  # of differences: deep networks have a kink within any larger one


def measure(network: Network, example: Tensor) -> tuple[str | None, str | None]:
    """Return why `torch.vmap` cannot be used, and why meta-gradients are doubtful; or `None`.

    Args:
        network: a copy is measured, in double precision.
        example: two or more inputs, `(n, *input_shape)`.

    Raises:
        MetaLensError: the network keeps a state, or cannot be differentiated twice.
    """
    twin = _moved(copy.deepcopy(network).double().eval())
    x = example.detach().double() if example.is_floating_point() else example
    random_in_training = check_stateless(twin, x)
    inputs = torch.stack([x, _with_padding(twin, x.flip(0))])
    with torch.no_grad(), seeded():
        shape = (2, *twin(inputs[0]).shape)
    targets = torch.linspace(-1, 2, math.prod(shape), dtype=torch.float64, device=x.device).view(shape)
    loss, of_first = _by_loop(twin, inputs[:1], targets[:1], "evaluation")
    doubt = _doubt(twin, inputs[:1], targets[:1], loss, of_first)
    _, of_second = _by_loop(twin, inputs[1:], targets[1:], "evaluation")
    if random_in_training:
        _by_loop(twin.train(), inputs, targets, "training")
    right = {name: (of_first[name] + of_second[name]) / 2 for name in of_first}
    refusal = _vmap_refusal(twin.eval(), inputs, targets, right)
    if refusal is None and random_in_training:
        refusal = _vmap_refusal(twin.train(), inputs, targets, None)
    return refusal, doubt


def _vmap_refusal(network: Network, x: Tensor, y: Tensor, right: Gradients | None) -> str | None:
    """Return why `torch.vmap` cannot be used: it fails or, where they are given, changes gradients."""
    recurrent = [name for name, layer in network.named_modules() if isinstance(layer, nn.RNNBase)]
    if recurrent:
        return f"{', '.join(recurrent)}: recurrent layers have no vectorized form."
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")
            _, mapped = _meta_gradient(network, x, y, plan="vmap")
            _all_on_all(network, x)
    except RuntimeError as error:
        return f"an operation has no vectorized form ({first_sentence(error)})."
    right = mapped if right is None else right
    wrong = [name for name in right if not torch.allclose(right[name], mapped[name], rtol=1e-6, atol=1e-9)]
    if not wrong:
        return None
    names = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
    return f"torch.vmap gives wrong gradients for {names}; a layer after them is at fault."


@torch.no_grad()
def _moved(network: Network) -> Network:
    """Perturb trained parameters: a scale of 0 puts ReLUs at their kinks, where differences mean nothing."""
    for parameter in network.parameters():
        if parameter.requires_grad:
            steps = torch.arange(parameter.numel(), device=parameter.device)
            parameter.add_(0.01 * steps.cos().view_as(parameter))
    return network


@torch.no_grad()
def _with_padding(network: Network, x: Tensor) -> Tensor:
    """Put padding into whole numbers, where the network takes it: some layers treat it by another rule."""
    if not torch.equal(x, x.round()):
        return x
    named = {getattr(layer, "padding_idx", None) for layer in network.modules()}
    padding = min((index for index in named if isinstance(index, int)), default=0)
    padded = x.clone()
    padded.view(-1)[::3] = padding
    try:
        return padded if network(padded).isfinite().all() else x
    except (RuntimeError, ValueError, IndexError, AssertionError):
        return x


def _adapted_loss(network: Network, x: Tensor, y: Tensor, plan: Plan) -> tuple[Tensor, Gradients]:
    """Return the outer loss of one-step MAML, and the parameters it is a function of."""
    parameters: Gradients = {n: p for n, p in network.named_parameters() if p.requires_grad}

    def loss(values: Gradients, x: Tensor, y: Tensor) -> Tensor:
        return (functional_call(network, values, (x,)) - y).square().mean()

    def adapted_loss(x: Tensor, y: Tensor) -> Tensor:
        gradients = grad(loss)(parameters, x, y)
        return loss({name: p - 0.1 * gradients[name] for name, p in parameters.items()}, x, y)

    return task_map(adapted_loss, x, y, plan=plan).mean(), parameters


@torch.enable_grad()  # whatever the caller's mode
def _meta_gradient(network: Network, x: Tensor, y: Tensor, plan: Plan) -> tuple[float, Gradients]:
    """Return the outer loss and its gradient."""
    with seeded():
        loss, parameters = _adapted_loss(network, x, y, plan)
        gradients = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
    return loss.item(), dict(zip(parameters, gradients, strict=True))


def _by_loop(network: Network, x: Tensor, y: Tensor, mode: str) -> tuple[float, Gradients]:
    try:
        return _meta_gradient(network, x, y, plan="loop")
    except RuntimeError as error:
        raise MetaLensError(
            f"{class_name(network.backbone)} fails the check that gradient-based adaptation needs (two "
            f"derivatives, in double precision, in {mode} mode): {first_sentence(error)}; replace the layer "
            "that does this."
        ) from error


@torch.no_grad()
def _all_on_all(network: Network, x: Tensor) -> None:
    """Run the model of every task on the inputs of every task, as regularizers that relate tasks do."""
    parameters = {n: p.expand(len(x), *p.shape) for n, p in network.named_parameters() if p.requires_grad}

    def on_all(values: Gradients, inputs: Tensor) -> Tensor:
        return task_map(lambda z: functional_call(network, values, (z,)), inputs, plan="vmap")

    with seeded():
        task_map(on_all, parameters, torch.stack([x] * len(x)), plan="vmap")


def _doubt(network: Network, x: Tensor, y: Tensor, loss: float, gradient: Gradients) -> str | None:
    """Compare the slope of the outer loss in each kind of parameter with finite differences."""
    wrong, largest = [], max(of.norm() for of in gradient.values())
    for kind, names in _kinds(network, gradient).items():
        of_kind = {name: gradient[name] for name in names if gradient[name].norm() > 1e-6 * largest}
        if not of_kind:
            continue  # as of a bias before a normalization: its direction is noise
        slope, ahead = _slope(network, x, y, of_kind)
        difference = (ahead - loss) / _STEP
        if not math.isclose(slope, difference, rel_tol=1e-3, abs_tol=1e-6):
            wrong.append((kind, slope, difference))
    if not wrong:
        return None
    kind, slope, difference = wrong[0]
    more = f", and so for {len(wrong) - 1} other kinds of parameters" if len(wrong) > 1 else ""
    return (
        f"The meta-gradient of {class_name(network.backbone)} is {slope:.4g} along a direction of its "
        f"{kind} where finite differences give {difference:.4g}{more}: a custom backward is inexact or not "
        "differentiable."
    )


def _kinds(network: Network, gradient: Gradients) -> dict[str, list[str]]:
    """Return the names of parameters by kind: as a rule, a fault is that of a layer's type."""
    kinds = defaultdict(list)
    for name in gradient:
        owner, _, attribute = name.rpartition(".")
        kinds[f"{attribute} of {type(network.get_submodule(owner)).__name__.lstrip('_')}"].append(name)
    return kinds


@torch.no_grad()
def _slope(network: Network, x: Tensor, y: Tensor, gradient: Gradients) -> tuple[float, float]:
    """Return the slope of the outer loss along some direction by its gradient, and the loss a step ahead.

    The direction is that of the gradient, of the parameter and of some numbers together, where the gradient
    is not 0, as for padding: the error of a layer that normalizes its weights is along these.
    """
    moved, slopes, directions = copy.deepcopy(network), [], {}
    parameters = dict(moved.named_parameters())
    for name, of_name in gradient.items():
        numbers = (2.4 * torch.arange(of_name.numel(), device=x.device, dtype=of_name.dtype)).cos()
        parts = of_name, parameters[name], numbers.view_as(of_name)
        directions[name] = torch.stack([part / part.norm() for part in parts]).sum(0) * (of_name != 0)
        slopes.append((of_name * directions[name]).sum())
    norm = torch.stack([each.square().sum() for each in directions.values()]).sum().sqrt()
    for name, direction in directions.items():
        parameters[name].add_(_STEP * direction / norm)
    slope = torch.stack(slopes).sum() / norm
    return slope.item(), _adapted_loss(moved, x, y, plan="loop")[0].item()
