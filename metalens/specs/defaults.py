"""The default settings of methods on each kind of data, and the sources of their values.

Values chosen on validation tasks used other seeds than the results. A learner that a table does not name has
the defaults of its class.
"""

from typing import Any

Presets = dict[str, dict[str, Any]]


def _alike(names: str, **settings: Any) -> Presets:
    return dict.fromkeys(names.split(), settings)


# MAML: Finn, Abbeel, Levine 2017 (arXiv 1703.03400); learners with the same inner loop have the same.
# CAVIA: Zintgraf and others 2019 (arXiv 1810.03642).
# BOIL, IMAML, Reptile and FromScratch: a few settings were tried on validation tasks.
# ANIL and MAMLPlusPlus: ours, untuned.
SINUSOID_PRESETS: Presets = {
    **_alike("MAML MetaSGD MetaCurvature TNet MTNet", inner_lr=0.01, inner_steps=1),
    **_alike("BOIL MAMLPlusPlus", inner_lr=0.01, inner_steps=5),
    "ANIL": {"inner_lr": 0.1, "inner_steps": 5},
    "CAVIA": {"inner_lr": 1.0, "inner_steps": 1},
    "IMAML": {"proximity": 0.5, "inner_lr": 0.01, "inner_steps": 16},
    "Reptile": {"inner_lr": 0.01, "inner_steps": 8, "inner_optimizer": "sgd"},
    "FromScratch": {"inner_steps": 500},
}

# Ours, untuned.
HARMONIC_PRESETS: Presets = {
    "MAML": {"inner_lr": 0.01, "inner_steps": 5},
    "ANIL": {"inner_lr": 0.1, "inner_steps": 5},
}

# MAML: Finn, Abbeel, Levine 2017, for 5 classes; learners with the same inner loop have the same.
# IMAML, ProtoMAML and FromScratch: a few settings were tried on validation tasks.
# ANIL and MAMLPlusPlus: ours, untuned.
OMNIGLOT_PRESETS: Presets = {
    **_alike("MAML BOIL MetaSGD MetaCurvature TNet MTNet", inner_lr=0.4, inner_steps=1),
    "ANIL": {"inner_lr": 0.1, "inner_steps": 5},
    "MAMLPlusPlus": {"inner_lr": 0.1, "inner_steps": 3},
    "ProtoMAML": {"inner_lr": 0.01, "inner_steps": 3},
    "IMAML": {"proximity": 0.5, "inner_lr": 0.1, "inner_steps": 5},
    "FromScratch": {"inner_steps": 30},
}

# MAML: Finn, Abbeel, Levine 2017, for 20 classes; learners with the same inner loop have the same.
_SAME = "MAML BOIL MetaSGD MetaCurvature TNet MTNet"
OMNIGLOT_MANY_CLASSES: Presets = OMNIGLOT_PRESETS | _alike(_SAME, inner_lr=0.1, inner_steps=5)

# MAML and ANIL: ours, and the best of three and four step sizes on validation classes of CIFAR-FS.
# The others: ours, untuned.
IMAGE_PRESETS: Presets = {
    **_alike("MAML BOIL MetaSGD MetaCurvature TNet MTNet MAMLPlusPlus", inner_lr=0.05, inner_steps=5),
    "ANIL": {"inner_lr": 0.1, "inner_steps": 5},
    "ProtoMAML": {"inner_lr": 0.01, "inner_steps": 3},
    "IMAML": {"proximity": 0.5, "inner_lr": 0.05, "inner_steps": 5},
    "FromScratch": {"inner_steps": 30},
}

# MAML: the best of ten settings on validation kinases of KIBA. TNPD: the best of three floors on validation
# tasks of three tables. The others: ours, untuned.
TABLE_PRESETS: Presets = {
    **_alike("MAML MetaSGD MetaCurvature", inner_lr=0.03, inner_steps=5),
    "ANIL": {"inner_lr": 0.1, "inner_steps": 5},
    "TNPD": {"min_std": 0.5},
}

# KNN: the better of two distances on validation kinases of KIBA. Deep kernels: ours, untuned.
# Shrunken and ResidualGP: a linear mean of fingerprints takes seconds, boosted trees minutes.
MOLECULE_PRESETS: Presets = TABLE_PRESETS | {
    "KNN": {"metric": "cosine"},
    **_alike("DeepKernelGP DeepMultiTaskGP ADKF", domain_kernel="tanimoto"),
    **_alike("Shrunken ResidualGP", mean="linear"),
}

# MAML and ANIL: chosen on validation series. SeasonalNaive and SeasonalBoosting: the hours of a day.
M4_PRESETS: Presets = {
    "MAML": {"inner_lr": 0.01, "inner_steps": 5},
    "ANIL": {"inner_lr": 0.1, "inner_steps": 5},
    "SeasonalNaive": {"season": 24},
    "SeasonalBoosting": {"season": 24},
}

# The published setting of MAML on these objects; the others have the same.
POSE_PRESETS: Presets = _alike(
    "MAML MetaSGD MetaCurvature ANIL BOIL", inner_lr=0.01, inner_steps=5, test_inner_steps=20
)
