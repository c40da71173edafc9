"""Checks of the contracts of learners, regularizers and task distributions.

`check_learner`, `check_regularizer` and `check_distribution` test a custom method as the tests of MetaLens
test its own, and raise an `AssertionError` that says what does not hold. `learner_checks` and its siblings
yield the checks one by one, for example as the cases of a parametrized test:

    def make():
        return MyLearner(mlp(5, 3, activation=nn.Softplus))  # smooth, for finite differences

    @pytest.mark.parametrize("check", learner_checks(make), ids=str)
    def test_my_learner(check):
        check()
"""

from metalens.testing.checks import Check, random_tasks
from metalens.testing.distributions import check_distribution, distribution_checks
from metalens.testing.learners import check_learner, learner_checks
from metalens.testing.regularizers import check_regularizer, regularizer_checks

__all__ = [
    "Check",
    "check_distribution",
    "check_learner",
    "check_regularizer",
    "distribution_checks",
    "learner_checks",
    "random_tasks",
    "regularizer_checks",
]
