"""Ridge regression as the adaptation."""

import math

import torch
from torch import Tensor, nn

from metalens.errors import check_positive
from metalens.learners.base import Loss, NetworkLearner, State, task_loss
from metalens.learners.classification import indicator_targets, number_of_outputs
from metalens.networks import Network


class R2D2(NetworkLearner):
    """Solve a ridge regression on features for every task, in closed form.

    `W = Z^T (Z Z^T + lambda I)^-1 Y`, predictions `alpha [g(x), 1] W`, with the rows `[g(x), 1]` of Z and the
    targets Y of the support set; the matrix to solve is `(s, s)`, whatever the number of features.

    Y holds real targets or, for classes, one column of ones and zeros for each; predictions are then logits.
    The ridge `lambda = exp(log_ridge)` and the scale alpha are learned.

    With `prior_mean`, the ridge draws to learned weights W_0 in place of 0, so that what all tasks share
    stays where a support is silent, and level and slopes of a task vary by their own amounts:

        W = W_0 + S Z^T (Z S Z^T + lambda I)^-1 (Y - Z W_0), S = diag(1, ..., 1, v)

    The prior variances of slopes and intercept are 1 and `v = exp(log_level)`, in units of the noise over
    lambda. W_0 starts at 0 and v at 1, where the predictions are those without `prior_mean`. An empty support
    leaves `W = W_0`.

    Args:
        network: only its backbone g is used and kept.
        n_outputs: targets or classes of a task; by default the number of outputs of the network's head.
        ridge: lambda at the start.
        scale: alpha at the start.
        prior_mean: whether W_0 and v are learned; otherwise they are 0 and 1.
        loss: see `Learner`.

    Raises:
        MetaLensError: a setting is out of range, or targets do not fit `n_outputs`.

    >>> from metalens import R2D2, Sinusoid, mlp
    >>> task = Sinusoid("test", k_shot=5)[0]
    >>> R2D2(mlp())(task.support)(task.query.x).shape
    torch.Size([15, 1])

    Source: L. Bertinetto, J. Henriques, P. Torr, A. Vedaldi, "Meta-learning with differentiable closed-form
    solvers", 2019, arXiv 1805.08136. Deviations: no learned shift of the predictions, because the softmax
    ignores one that all classes share, and the intercept (a feature that is always 1, under the same ridge)
    shifts each output; Z and Y are not divided by the root of s, as they are in the authors' program; the
    starting values; regression; `prior_mean`, which is ours: the posterior mean of a Bayesian linear model.
    """

    head_only = headless = True
    min_support = 0

    def __init__(
        self,
        network: Network,
        *,
        n_outputs: int | None = None,
        ridge: float = 1.0,
        scale: float = 1.0,
        prior_mean: bool = False,
        loss: Loss = task_loss,
    ) -> None:
        super().__init__(network, loss=loss)
        self.n_outputs = number_of_outputs("R2D2", network, n_outputs)
        check_positive(self, ridge=ridge, scale=scale)
        example = next(network.parameters())
        self.log_ridge = nn.Parameter(example.new_tensor(math.log(ridge)))
        self.scale = nn.Parameter(example.new_tensor(scale))
        self.prior_mean = prior_mean
        if prior_mean:
            size = self.network.n_features + 1, self.n_outputs
            self.prior_weights = nn.Parameter(example.new_zeros(size))
            self.log_level = nn.Parameter(example.new_tensor(0.0))

    def adapt_encoded(self, z: Tensor, y: Tensor) -> State:
        targets = indicator_targets(y, z, self.n_outputs)
        rows = _with_ones(z)
        ridge = self.log_ridge.exp() * torch.eye(len(z), dtype=z.dtype, device=z.device)
        if not self.prior_mean:
            return {"weights": rows.T @ torch.linalg.solve(rows @ rows.T + ridge, targets)}  # (d + 1, c)
        varying = torch.cat([z, self.log_level.exp() * torch.ones_like(z[:, :1])], dim=1)  # Z S
        residuals = torch.linalg.solve(rows @ varying.T + ridge, targets - rows @ self.prior_weights)
        return {"weights": self.prior_weights + varying.T @ residuals}

    def predict_encoded(self, state: State, z: Tensor) -> Tensor:
        return self.scale * (_with_ones(z) @ state["weights"])


def _with_ones(z: Tensor) -> Tensor:
    return torch.cat([z, torch.ones_like(z[:, :1])], dim=1)
