"""The settings of methods on each kind of data, where none are given."""

from __future__ import annotations

from typing import Any

_SINUSOID = {"inner_lr": 0.01, "inner_steps": 1}


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


HARMONIC_PRESETS: dict[str, dict[str, Any]] = {
    "MAML": {"inner_lr": 0.01, "inner_steps": 5},
    "ANIL": {"inner_lr": 0.1, "inner_steps": 5},
}


_OMNIGLOT = {"inner_lr": 0.4, "inner_steps": 1}


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


_IMAGES = {"inner_lr": 0.05, "inner_steps": 5}


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


TABLE_PRESETS: dict[str, dict[str, Any]] = {
    "MAML": {"inner_lr": 0.03, "inner_steps": 5},
    "MetaSGD": {"inner_lr": 0.03, "inner_steps": 5},
    "ANIL": {"inner_lr": 0.1, "inner_steps": 5},
}


MOLECULE_PRESETS: dict[str, dict[str, Any]] = TABLE_PRESETS | {
    "KNN": {"metric": "cosine"},
    "DeepKernelGP": {"domain_kernel": "tanimoto"},
}


M4_PRESETS: dict[str, dict[str, Any]] = {
    "MAML": {"inner_lr": 0.01, "inner_steps": 5},
    "ANIL": {"inner_lr": 0.1, "inner_steps": 5},
    "SeasonalNaive": {"season": 24},
}


_POSE = {"inner_lr": 0.01, "inner_steps": 5, "test_inner_steps": 20}


POSE_PRESETS: dict[str, dict[str, Any]] = {"MAML": _POSE, "MetaSGD": _POSE, "ANIL": _POSE, "BOIL": _POSE}
