"""The check that a learner's network reads the fields that tasks have."""

from metalens.data import TaskDistribution
from metalens.errors import MetaLensError
from metalens.learners.base import Learner


def check_fields(learner: Learner, tasks: TaskDistribution) -> None:
    """Refuse tasks whose packed inputs a learner would take for others.

    Real fields are numbers side by side, which every learner can read as one vector; whole numbers, such as
    those of sites, are not.

    Raises:
        MetaLensError: the network takes other fields, or none where tasks have whole numbers.

    >>> import numpy as np
    >>> from metalens import ArrayTasks, Ridge
    >>> data = {"site": np.arange(60) % 7, "y": np.arange(60.0), "task": np.arange(60) // 10}
    >>> check_fields(Ridge(n_outputs=1), ArrayTasks(data, "train", x=["site"], k_shot=2, n_query=2))
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: Ridge reads inputs as real numbers, and the field site of the tasks ...
    """
    name, own, fields = type(learner).__name__, learner.fields, tasks.fields
    if fields is None or fields == own:
        return
    if own is not None:
        raise MetaLensError(
            f"The network of {name} takes {own}, and the tasks have {fields}; build it by "
            "wrap(..., fields=tasks.fields)."
        )
    if fields.integers:
        raise MetaLensError(
            f"{name} reads inputs as real numbers, and the field {fields.integers[0]} of the tasks holds "
            "whole numbers; give a network by wrap(..., fields=tasks.fields), or leave the field out."
        )
