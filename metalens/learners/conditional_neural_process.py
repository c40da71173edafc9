"""Conditional neural processes."""

import torch
from torch import Tensor, nn

from metalens.errors import MetaLensError
from metalens.learners.base import Loss, State, task_loss
from metalens.learners.neural_process import NeuralProcess
from metalens.networks import Network


class ConditionalNeuralProcess(NeuralProcess):
    """Predict a distribution from the mean of what one network says about each support example.

    `r = mean_i h([g(x_i), y_i])`, `(a, b)(x) = d([g(x), r])`, with perceptrons h and d; a and b are the mean
    and the spread of a Gaussian, or the logits of classes, see `NeuralProcess`. An empty support gives
    `r = 0`. The mean does not tell how many examples there are; see `TNPD`.

    Args:
        network: only its backbone g is used and kept.
        width: size of r and of the hidden layers of h and d.
        n_outputs: see `NeuralProcess`.
        min_std: see `NeuralProcess`.
        loss: see `NeuralProcess`.

    Raises:
        MetaLensError: a setting is out of range, or targets do not fit `n_outputs`.

    >>> from metalens import ConditionalNeuralProcess, Sinusoid, mlp
    >>> task = Sinusoid("test", k_shot=5)[0]
    >>> model = ConditionalNeuralProcess(mlp())(task.support)
    >>> mean, variance = model.learner.predict_distribution(model.state, task.query.x)
    >>> bool((variance > 0).all()), torch.equal(mean, model(task.query.x))
    (True, True)

    Source: M. Garnelo and others, "Conditional Neural Processes", 2018, arXiv 1807.01613. Deviations: g reads
    inputs first; three layers each in h and d, with GELU; any floor of the standard deviation, which is 0.1
    in the authors' program; the query set does not hold the support.
    """

    def __init__(
        self,
        network: Network,
        *,
        width: int = 64,
        n_outputs: int | None = None,
        min_std: float = 0.05,
        loss: Loss = task_loss,
    ) -> None:
        super().__init__(network, n_outputs=n_outputs, min_std=min_std, loss=loss)
        if width < 1:
            raise MetaLensError(f"ConditionalNeuralProcess: width must be at least 1, got {width}.")
        self.width, d = width, network.n_features
        example = next(network.parameters())
        self.encoder = perceptron(d + self.n_outputs, width, width).to(example)
        self.decoder = perceptron(d + width, width, 2 * self.n_outputs).to(example)

    def adapt_encoded(self, z: Tensor, y: Tensor) -> State:
        return {"representation": self.encoder(self.pairs(z, y)).sum(0) / max(len(z), 1)}

    def decode(self, state: State, z: Tensor) -> Tensor:
        representation = state["representation"].expand(z.shape[0], -1)
        return self.decoder(torch.cat([z, representation], dim=1))


def perceptron(n_inputs: int, width: int, n_outputs: int) -> nn.Sequential:
    """Return three linear layers with smooth kinks between them.

    >>> perceptron(3, 8, 2)(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """
    return nn.Sequential(
        nn.Linear(n_inputs, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, n_outputs)
    )
