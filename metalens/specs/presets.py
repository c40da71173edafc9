"""The settings of methods on each kind of data, where none are given, and where their numbers come from.

Validation tasks on which numbers were chosen were of other seeds than those of the results. A learner that a
table does not name has the defaults of its class.
"""

from __future__ import annotations

from typing import Any

_SINUSOID = {"inner_lr": 0.01, "inner_steps": 1}


# MAML: Finn, Abbeel, Levine 2017 (arXiv 1703.03400); learners with the same inner loop have the same.
# BOIL, IMAML, Reptile and FromScratch: a few settings were tried on validation tasks.
# ANIL and MAMLPlusPlus: ours, untuned.
SINUSOID_PRESETS: dict[str, dict[str, Any]] = {
    "MAML": _SINUSOID,
    "ANIL": {"inner_lr": 0.1, "inner_steps": 5},
    "BOIL": {"inner_lr": 0.01, "inner_steps": 5},
    "MetaSGD": _SINUSOID,
    "TNet": _SINUSOID,
    "MTNet": _SINUSOID,
    "MAMLPlusPlus": {"inner_lr": 0.01, "inner_steps": 5},
    "IMAML": {"proximity": 0.5, "inner_lr": 0.01, "inner_steps": 16},
    "Reptile": {"inner_lr": 0.01, "inner_steps": 8, "inner_optimizer": "sgd"},
    "FromScratch": {"inner_steps": 500},
}


# Ours, untuned.
HARMONIC_PRESETS: dict[str, dict[str, Any]] = {
    "MAML": {"inner_lr": 0.01, "inner_steps": 5},
    "ANIL": {"inner_lr": 0.1, "inner_steps": 5},
}


_OMNIGLOT = {"inner_lr": 0.4, "inner_steps": 1}


# MAML: Finn, Abbeel, Levine 2017, for 5 classes; learners with the same inner loop have the same.
# IMAML, ProtoMAML and FromScratch: a few settings were tried on validation tasks.
# ANIL and MAMLPlusPlus: ours, untuned.
OMNIGLOT_PRESETS: dict[str, dict[str, Any]] = {
    "MAML": _OMNIGLOT,
    "ANIL": {"inner_lr": 0.1, "inner_steps": 5},
    "BOIL": _OMNIGLOT,
    "MetaSGD": _OMNIGLOT,
    "TNet": _OMNIGLOT,
    "MTNet": _OMNIGLOT,
    "MAMLPlusPlus": {"inner_lr": 0.1, "inner_steps": 3},
    "ProtoMAML": {"inner_lr": 0.01, "inner_steps": 3},
    "IMAML": {"proximity": 0.5, "inner_lr": 0.1, "inner_steps": 5},
    "FromScratch": {"inner_steps": 30},
}


# MAML and its kin for more than 5 classes: Finn, Abbeel, Levine 2017, for 20 classes.
OMNIGLOT_MANY_CLASSES: dict[str, Any] = {"inner_lr": 0.1, "inner_steps": 5}


_IMAGES = {"inner_lr": 0.05, "inner_steps": 5}


# MAML and ANIL: ours, and the best of three and four step sizes on validation classes of CIFAR-FS.
# The others: ours, untuned.
IMAGE_PRESETS: dict[str, dict[str, Any]] = {
    "MAML": _IMAGES,
    "ANIL": {"inner_lr": 0.1, "inner_steps": 5},
    "BOIL": _IMAGES,
    "MetaSGD": _IMAGES,
    "TNet": _IMAGES,
    "MTNet": _IMAGES,
    "MAMLPlusPlus": _IMAGES,
    "ProtoMAML": {"inner_lr": 0.01, "inner_steps": 3},
    "IMAML": {"proximity": 0.5, "inner_lr": 0.05, "inner_steps": 5},
    "FromScratch": {"inner_steps": 30},
}


# MAML: the best of ten settings on validation kinases of KIBA. The others: ours, untuned.
TABLE_PRESETS: dict[str, dict[str, Any]] = {
    "MAML": {"inner_lr": 0.03, "inner_steps": 5},
    "MetaSGD": {"inner_lr": 0.03, "inner_steps": 5},
    "ANIL": {"inner_lr": 0.1, "inner_steps": 5},
}


# KNN: the better of two distances on validation kinases of KIBA. DeepKernelGP: ours, untuned.
MOLECULE_PRESETS: dict[str, dict[str, Any]] = TABLE_PRESETS | {
    "KNN": {"metric": "cosine"},
    "DeepKernelGP": {"domain_kernel": "tanimoto"},
}


# MAML and ANIL: chosen on validation series. SeasonalNaive: the hours of a day.
M4_PRESETS: dict[str, dict[str, Any]] = {
    "MAML": {"inner_lr": 0.01, "inner_steps": 5},
    "ANIL": {"inner_lr": 0.1, "inner_steps": 5},
    "SeasonalNaive": {"season": 24},
}


# The published setting of MAML on these objects; the others have the same.
_POSE = {"inner_lr": 0.01, "inner_steps": 5, "test_inner_steps": 20}


POSE_PRESETS: dict[str, dict[str, Any]] = {"MAML": _POSE, "MetaSGD": _POSE, "ANIL": _POSE, "BOIL": _POSE}
