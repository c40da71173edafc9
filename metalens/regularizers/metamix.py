"""MetaMix: evaluate the adapted models on mixtures of query and support examples."""

import torch
from torch import Tensor
from torch.distributions import Beta

from metalens.adapted_tasks import AdaptedTasks
from metalens.errors import MetaLensError, check_positive
from metalens.learners import NetworkLearner, State
from metalens.regularizers.classes import OfClasses, n_classes, random_orders
from metalens.tasks import Examples, Task


class MetaMix(OfClasses):
    """Replace the query loss by the loss on mixtures of query and support examples.

    With h the activations of the adapted network after a random stage, r the stages that follow, and p(j) a
    random support example of the same task for every query example j:

        h_j = lam h(support x_p(j)) + (1 - lam) h(query x_j),    lam ~ Beta(alpha, alpha) for each task
        classes:       lam loss(r(h), support y_p) + (1 - lam) loss(r(h), query y)
        real targets:  loss(r(h), lam support y_p + (1 - lam) query y)

    Each step draws one stage for all tasks, from the inputs (unless they or their fields are
    integers) to the features. The
    mean over tasks replaces the learner's outer loss.

    Args:
        alpha: shape of the Beta distribution; 1 is uniform, larger values mix more evenly.
        channel_shuffle: probability that, before mixing, a channel of the activations is taken from an
            example of another class of the task; labels do not change. A task draws its channels and a cycle
            through its classes once for both sets. Never at the inputs, and for classification only.

    Raises:
        MetaLensError: a setting is out of range, or channels are shuffled with real targets.

    >>> from metalens import MAML, Objective, Sinusoid, mlp
    >>> list(Objective(MAML(mlp()), [MetaMix(alpha=0.5)])(Sinusoid().batch(range(4))))
    ['query']

    Source: H. Yao and others, "Improving Generalization in Meta-learning via Task Augmentation", 2021,
    arXiv 2007.13040; alpha is 2 for images and 0.5 for pose regression in the authors' code. Deviations:
    support examples are drawn with replacement, since the two sets may differ in size; the features are one
    of the stages; channel shuffle acts on the outer loss only (theirs in the inner loop too) and draws each
    channel independently (theirs one block of about a sixth of all channels).
    """

    def __init__(self, *, alpha: float = 2.0, channel_shuffle: float = 0.0) -> None:
        super().__init__()
        check_positive(self, alpha=alpha)
        if not 0 <= channel_shuffle < 1:
            raise MetaLensError(
                f"MetaMix: channel_shuffle must be 0 or more and below 1, got {channel_shuffle}."
            )
        self.alpha, self.channel_shuffle = alpha, channel_shuffle

    def bind(self, learner: NetworkLearner) -> None:
        super().bind(learner)
        if not learner.from_hidden:
            raise MetaLensError(
                f"MetaMix mixes activations, from which this {type(learner).__name__} cannot predict: it "
                "needs the inputs too."
            )

    def loss_terms(self, adapted: AdaptedTasks) -> dict[str, Tensor]:
        learner, (support, query) = adapted.learner, adapted.tasks[:2]
        assert isinstance(learner, NetworkLearner)  # `check` refuses others
        shuffles = self.channel_shuffle > 0
        if shuffles and query.y.is_floating_point():
            raise MetaLensError(
                "MetaMix: channel_shuffle is for classification, got real targets; set it to 0."
            )
        fields = learner.network.fields
        has_integers = not query.x.is_floating_point() or (fields is not None and fields.integers)
        first = 1 if shuffles or has_integers else 0
        layer = int(torch.randint(first, learner.network.depth + 1, ()))

        def activations(state: State, x: Tensor) -> Tensor:
            return learner.hidden(state, x, layer)

        support, query = (
            Examples(adapted.map(activations, adapted.states, x), y) for x, y in (support, query)
        )
        if shuffles:
            support, query = self._shuffle_channels(support, query)
        size, device = query.y.shape[:2], query.y.device
        rows = torch.arange(adapted.n_tasks, device=device).unsqueeze(1)
        partners = rows, torch.randint(support.y.shape[1], size, device=device)
        paired = Examples(support.x[partners], support.y[partners])
        lam = Beta(self.alpha, self.alpha).sample((adapted.n_tasks,)).to(query.x)

        def mixed_loss(state: State, lam: Tensor, paired: Examples, query: Examples) -> Tensor:
            predictions = learner.predict_hidden(state, lam * paired.x + (1 - lam) * query.x, layer)
            if query.y.is_floating_point():
                return learner.loss(predictions, lam * paired.y + (1 - lam) * query.y)
            return lam * learner.loss(predictions, paired.y) + (1 - lam) * learner.loss(predictions, query.y)

        return {"query": adapted.mean(adapted.map(mixed_loss, adapted.states, lam, paired, query))}

    def _shuffle_channels(self, support: Examples, query: Examples) -> tuple[Examples, Examples]:
        """Exchange channels between classes: the same channels, and the same classes, in both sets."""
        n, device, tasks = len(support.y), support.y.device, Task(support, query)
        size, width = n_classes(tasks), self.width(tasks)
        cycle, places = random_orders(n, size, width), torch.arange(width, device=device)
        before = torch.where(places < size, (places - 1) % size, places)
        giver = torch.empty_like(cycle).scatter(1, cycle, cycle[:, before])
        mask = torch.rand(n, support.x.shape[2], device=device) < self.channel_shuffle
        return _exchange(support, giver, mask), _exchange(query, giver, mask)


def _exchange(examples: Examples, giver: Tensor, mask: Tensor) -> Examples:
    """Take the channels of the mask `(T, d)` from a random example of the class `giver`, `(T, c)`, if any."""
    x, y = examples
    n_tasks, n = y.shape
    fits = y.unsqueeze(1) == giver.gather(1, y).unsqueeze(2)  # (T, takes, gives)
    itself = torch.eye(n, device=y.device)
    givers = torch.where(fits, 1 + torch.rand(fits.shape, device=y.device), itself).argmax(2)
    taken = x[torch.arange(n_tasks, device=y.device).unsqueeze(1), givers]
    mask = mask.view(n_tasks, 1, -1, *[1] * (x.dim() - 3))
    return Examples(torch.where(mask, taken, x), y)
