"""Body-only inner loop."""

from torch import nn

from metalens.learners.maml import MAML


class BOIL(MAML):
    """MAML whose inner loop adapts the backbone alone; the head is shared by all tasks.

    `g_{t+1} = g_t - alpha * grad_g L(w(g_t(support)))`, with the head w fixed in the inner loop.

    Settings: see `GradientLearner`.

    >>> from metalens import BOIL, Sinusoid, mlp
    >>> BOIL(mlp(), inner_lr=0.01)(Sinusoid("test")[0].support).state.keys() & {"head.weight", "head.bias"}
    set()

    Source: J. Oh, H. Yoo, C. Kim, S.-Y. Yun, "BOIL: Towards Representation Change for Few-shot Learning",
    2021, arXiv 2008.08882.
    """

    def adapted_parameters(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in super().adapted_parameters().items() if not name.startswith("head.")}
