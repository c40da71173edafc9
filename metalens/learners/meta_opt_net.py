"""A support vector machine as the adaptation."""

import torch
from torch import Tensor, nn

from metalens.data.checks import check_sizes
from metalens.errors import check_positive
from metalens.learners.base import Loss, NetworkLearner, State, task_loss
from metalens.learners.classification import class_indicators, number_of_classes
from metalens.networks import Network


class MetaOptNet(NetworkLearner):
    """Solve a multi-class support vector machine on features for every task, by its dual problem.

    With features Z of the support `(s, d)`, indicators Y `(s, n_way)`, and `K = Z Z^T / d`, the weights of
    the machine of Crammer and Singer are `W = A^T Z / d` for `A = C (Y - P)`, where P minimizes

        tr((Y - P)^T (K + I) (Y - P)) / 2 + tr(Y^T P) / C,

    over rows of P that are probabilities: `P >= 0`, `P 1 = 1`. Logits are `alpha W g(x)`, with a learned
    alpha. Examples beyond the margin have the row `P_i = Y_i`, and no part in W. The I makes P unique.

    The problem is solved by projected gradients with momentum, which tell where P is 0. `Y - P` is computed
    from the linear equations that hold at the minimum, with the other entries as unknowns; the outer gradient
    goes through these equations alone, and is exact.

    Args:
        network: only its backbone g is used and kept.
        n_way: classes of a task; by default the number of outputs of the network's head.
        cost: C, the cost of an example within the margin.
        scale: alpha at the start.
        solver_steps: number of projected gradients; large features need more.
        loss: see `Learner`.

    Raises:
        MetaLensError: fewer than two classes, a setting out of range, or real targets.

    >>> import torch
    >>> from metalens import Examples, MetaOptNet, mlp
    >>> _ = torch.manual_seed(0)
    >>> support = Examples(torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1]))
    >>> MetaOptNet(mlp(1, 2))(support)(support.x).argmax(1).tolist()
    [0, 1]

    Source: K. Lee, S. Maji, A. Ravichandran, S. Soatto, "Meta-Learning with Differentiable Convex
    Optimization" (MetaOptNet-SVM), 2019, arXiv 1904.03758. Their MetaOptNet-RR is a ridge regression in its
    dual form, which is `R2D2`; with other kernels it is the mean of `DeepKernelGP`. Deviations: the inner
    product is divided by d; the solver, theirs being an interior point method; the default scale. The I is in
    the authors' program.
    """

    head_only = headless = True
    compile_refusal = "the compiler would take minutes for the steps of its solver"

    def __init__(
        self,
        network: Network,
        *,
        n_way: int | None = None,
        cost: float = 0.1,
        scale: float = 10.0,
        solver_steps: int = 200,
        loss: Loss = task_loss,
    ) -> None:
        super().__init__(network, loss=loss)
        self.n_way = number_of_classes("MetaOptNet", network, n_way)
        check_positive(self, cost=cost, scale=scale)
        check_sizes(solver_steps=solver_steps)
        self.cost, self.solver_steps = cost, solver_steps
        self.scale = nn.Parameter(next(network.parameters()).new_tensor(scale))

    def adapt_encoded(self, z: Tensor, y: Tensor) -> State:
        indicators, d = class_indicators("MetaOptNet", y, z, self.n_way), z.shape[1]
        gram = z @ z.T / d + torch.eye(len(z), dtype=z.dtype, device=z.device)
        target = gram @ indicators - indicators / self.cost  # where the gradient by P is G P - target
        with torch.no_grad():
            free = _solved(gram, target, indicators, self.solver_steps) > 0
        weights = _of_equations(gram, indicators, self.cost, free.to(z.dtype))  # Y - P
        return {"weights": self.cost * weights.T @ z / d}

    def predict_encoded(self, state: State, z: Tensor) -> Tensor:
        return self.scale * (z @ state["weights"].T)


def _solved(gram: Tensor, target: Tensor, start: Tensor, n_steps: int) -> Tensor:
    """Minimize `tr(P^T G P) / 2 - tr(target^T P)` over rows of probabilities, with Nesterov's momentum.

    The smallest eigenvalue of G is at least 1, and the largest at most its largest sum of a row.
    """
    largest = gram.abs().sum(1).amax()
    momentum = (largest.sqrt() - 1) / (largest.sqrt() + 1)
    shares = ahead = start
    for _ in range(n_steps):
        before = shares
        shares = project_on_simplex(ahead - (gram @ ahead - target) / largest)
        ahead = shares + momentum * (shares - before)
    return shares


def project_on_simplex(rows: Tensor) -> Tensor:
    """Return the nearest rows `(n, c)` that are at least 0 and add up to 1.

    >>> project_on_simplex(torch.tensor([[0.5, 1.5], [0.25, 0.75]]))
    tensor([[0.0000, 1.0000],
            [0.2500, 0.7500]])
    """
    ordered = rows.sort(dim=1, descending=True).values
    counts = torch.arange(1, rows.shape[1] + 1, device=rows.device, dtype=rows.dtype)
    levels = (ordered.cumsum(1) - 1) / counts  # to be taken off, if the largest entries alone stay above 0
    level = torch.where(ordered > levels, levels, -torch.inf)
    return (rows - level.amax(1, keepdim=True)).clamp(min=0)


def _of_equations(gram: Tensor, indicators: Tensor, cost: float, free: Tensor) -> Tensor:
    """Return `D = Y - P` from the equations at the minimum, where `free` is 1 where P is not 0.

    `(G D)_ik + v_i = Y_ik / C` where P is free, `D_ik = Y_ik` elsewhere, and `D 1 = 0`, in the unknowns D and
    v. Small entries of D are as precise as others, which they are not as differences.
    """
    n, c = indicators.shape
    eye, ones = torch.eye(c, dtype=gram.dtype, device=gram.device), gram.new_ones(c)
    products = (gram[:, None, :, None] * eye[None, :, None, :]).reshape(n * c, n * c)
    sums = torch.eye(n, dtype=gram.dtype, device=gram.device)[:, None] * ones[None, :, None]
    sums = sums.reshape(n * c, n)
    own, y = free.flatten(), indicators.flatten()
    upper = torch.cat([own[:, None] * products + torch.diag(1 - own), own[:, None] * sums], dim=1)
    lower = torch.cat([sums.T, gram.new_zeros(n, n)], dim=1)
    right = torch.cat([own * y / cost + (1 - own) * y, gram.new_zeros(n)])
    return torch.linalg.solve(torch.cat([upper, lower]), right)[: n * c].view(n, c)
