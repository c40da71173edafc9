"""The columns that name an arm in every table of results, and the label that they make."""

ARM = ["learner", "regularizers", "sampler"]


def arm_label(learner: str, regularizers: str, sampler: str) -> str:
    """Return the label of an arm: its learner, and what is added to it.

    >>> arm_label("MAML", "none", "Uniform"), arm_label("MAML", "TRLearner", "HardMining")
    ('MAML', 'MAML + TRLearner + HardMining')
    """
    parts = [learner]
    if regularizers != "none":
        parts.append(regularizers)
    if sampler != "Uniform":
        parts.append(sampler)
    return " + ".join(parts)
