"""Checks of the contracts that every learner, regularizer and task distribution keeps.

`check_learner`, `check_regularizer` and `check_distribution` check a method of your own as the tests of
MetaLens check its methods. Each raises an `AssertionError` that says what does not hold. Their companions
yield the checks one by one, for example as the cases of a parametrized test:

    @pytest.mark.parametrize("check", learner_checks(lambda: MyLearner(mlp(5, 3))), ids=str)
    def test_my_learner(check):
        check()
"""

from metalens.testing.checks import Check
from metalens.testing.distributions import check_distribution, distribution_checks
from metalens.testing.learners import check_learner, learner_checks
from metalens.testing.regularizers import check_regularizer, regularizer_checks
from metalens.testing.tasks import random_tasks

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
