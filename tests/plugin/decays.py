"""A package from outside: a learner, a regularizer, a task distribution and a recipe."""

from dataclasses import dataclass

import numpy as np

import metalens as ml
from metalens.experiments import Recipe


class DampedMAML(ml.MAML):
    """MAML whose step sizes shrink from step to step."""

    def __init__(self, network, *, inner_lr=0.01, inner_steps=2, damping=0.5):
        super().__init__(network, inner_lr=inner_lr, inner_steps=inner_steps)
        self.damping = damping

    def step_sizes(self, state, n_steps):
        return [dict.fromkeys(state, self.inner_lr * self.damping**step) for step in range(n_steps)]


class FeaturePenalty(ml.Regularizer):
    """Mean square of the support features."""

    def __init__(self, *, weight=0.01):
        super().__init__()
        self.weight = weight

    def loss_terms(self, adapted):
        return {"feature_penalty": self.weight * adapted.support_features.square().mean()}


class Decay(ml.CurveDistribution):
    """Decay curves with random levels and rates."""

    def draw_functions(self, rng, n):
        level, rate = rng.uniform(1.0, 5.0, (n, 1, 1)), rng.uniform(0.2, 2.0, (n, 1, 1))

        def sample(size):
            return rng.uniform(0.0, 4.0, (n, size, 1))

        return sample, lambda x: level * np.exp(-rate * x)


@dataclass(frozen=True, kw_only=True)
class DecayRecipe(Recipe):
    """Regression of decay curves with a perceptron.

    Args:
        width: size of the hidden layer.
    """

    width: int = 8

    def distribution(self, split, seed):
        return Decay(split, k_shot=self.k_shot, n_query=self.n_query, seed=seed)

    def network(self):
        return ml.mlp(1, 1, [self.width])


recipe = DecayRecipe(
    name="decay",
    description="Decay curves from 5 points",
    learner=["DampedMAML"],
    regularizers=["none", "FeaturePenalty"],
    seeds=[0, 1],
    steps=4,
    meta_batch_size=3,
    n_val_tasks=4,
    validate_every=2,
    n_test_tasks=5,
)
