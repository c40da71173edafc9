"""A prediction depends on its input and the support, not on the other inputs, nor on the order of rows."""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from metalens import (
    ANIL,
    BOIL,
    CAVIA,
    IMAML,
    KNN,
    MAML,
    R2D2,
    TNPD,
    ConditionalNeuralProcess,
    DeepKernelGP,
    Examples,
    FromScratch,
    GaussianProcess,
    JointModel,
    Learner,
    LinearProbe,
    LogisticRegression,
    MatchingNet,
    MeanPredictor,
    MetaClassifier,
    MetaCurvature,
    MetaOptNet,
    MetaRegressor,
    MetaSGD,
    NearestCentroid,
    ProfileRidge,
    ProtoMAML,
    ProtoNet,
    RandomForest,
    Ridge,
    conv4,
    mlp,
    wrap,
)
from metalens.estimators.choice import STACKED

OF_CLASSES = {
    **{
        of.__name__: lambda of=of: of(mlp(4, 3))
        for of in (MAML, ANIL, BOIL, CAVIA, MetaCurvature, MetaSGD, IMAML, R2D2, FromScratch)
    },
    **{of.__name__: lambda of=of: of(mlp(4, 3)) for of in (ProtoNet, MatchingNet, ProtoMAML, DeepKernelGP)},
    **{of.__name__: lambda of=of: of(mlp(4, 3)) for of in (MetaOptNet, ConditionalNeuralProcess, TNPD)},
    "LinearProbe": lambda: LinearProbe(mlp(4, 3), n_classes=3),
    "FromScratch": lambda: FromScratch(mlp(4, 3), inner_steps=5),
    "JointModel": lambda: JointModel(mlp(4, 3)),
    **{of.__name__: lambda of=of: of(3) for of in (MeanPredictor, NearestCentroid, LogisticRegression, KNN)},
    "RandomForest": lambda: RandomForest(3, n_trees=10),
    "ProfileRidge": lambda: profile(3),
}
OF_NUMBERS = {
    **{of.__name__: lambda of=of: of(mlp(4, 2)) for of in (MAML, ANIL, BOIL, R2D2, DeepKernelGP)},
    **{of.__name__: lambda of=of: of(mlp(4, 2)) for of in (CAVIA, ConditionalNeuralProcess, TNPD)},
    "LinearProbe": lambda: LinearProbe(mlp(4, 2)),
    "JointModel": lambda: JointModel(mlp(4, 2)),
    **{of.__name__: lambda of=of: of(2) for of in (MeanPredictor, Ridge, KNN, GaussianProcess)},
    "RandomForest": lambda: RandomForest(2, n_trees=10),
    "ProfileRidge": lambda: profile(2),
}
OF_IMAGES = {
    "ProtoNet": lambda: ProtoNet(conv4(3, n_filters=4, image_size=16, norm="group")),
    "MAML": lambda: MAML(conv4(3, n_filters=4, image_size=16, norm="group")),
    "wrapped": lambda: ProtoNet(
        wrap(
            nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4), nn.Flatten(), nn.Linear(784, 3)),
            head="3",
            example=torch.randn(2, 1, 16, 16),
        )
    ),
}


def profile(n_outputs: int) -> Learner:
    learner = ProfileRidge(n_outputs)
    generator = torch.Generator().manual_seed(0)
    learner.slopes, learner.intercepts = torch.randn(5, 4, generator=generator), torch.zeros(5)
    return learner


def support_and_query(kind: str) -> tuple[Examples, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (1, 16, 16) if kind == "images" else (4,)
    x = torch.randn(12, *shape, generator=generator).double()
    if kind == "ties":  # rows at equal distances, and equal rows of several targets
        x = x.sign()
    y = torch.arange(12).remainder(3)
    if kind == "numbers":
        y = torch.randn(12, 2, generator=generator).double()
    return Examples(x, y), torch.randn(7, *shape, generator=generator).double()


CASES = [
    pytest.param(kind, build, id=f"{kind}-{name}")
    for kind, learners in (
        ("classes", OF_CLASSES),
        ("numbers", OF_NUMBERS),
        ("images", OF_IMAGES),
        ("ties", OF_CLASSES),
    )
    for name, build in learners.items()
]


@pytest.mark.parametrize(("kind", "build"), CASES)
@torch.no_grad()
def test_one_row_alone_is_the_same_row_among_others_in_any_order(kind, build):
    torch.manual_seed(0)
    learner = build().double()
    support, x = support_and_query(kind)
    model = learner(support)
    close = partial(torch.testing.assert_close, rtol=1e-6, atol=1e-8)
    together = model(x)
    close(torch.cat([model(one[None]) for one in x]), together)
    order = torch.randperm(len(x))
    close(model(x[order]), together[order])


@pytest.mark.parametrize(("kind", "build"), CASES)
@torch.no_grad()
def test_the_order_of_support_rows_does_not_matter(kind, build):
    torch.manual_seed(0)
    learner = build().double()
    support, x = support_and_query(kind)
    expected = learner(support)(x)
    for seed in range(3):
        order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
        found = learner(Examples(support.x[order], support.y[order]))(x)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "network",
    [
        conv4(3, n_filters=4, image_size=16),
        wrap(
            nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(784, 3)),
            head="3",
            example=torch.randn(2, 1, 16, 16),
        ),
    ],
    ids=["conv4", "wrapped"],
)
def test_a_model_that_normalizes_by_the_set_at_hand_says_so(network):
    support, x = support_and_query("images")
    model = ProtoNet(network).double()(support)
    with pytest.warns(UserWarning, match="A prediction depends on the other inputs of its call") as told:
        together = model(x)
    assert told[0].filename == __file__  # the call at fault
    with pytest.warns(UserWarning, match=r"conv4\(norm='group'\)"):
        assert not torch.allclose(model(x[:1]), together[:1])


# The estimators: frames in and out


INPUTS = ["a", "b", "word"]


def rows(seed: int, n_tasks: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"task": np.repeat([f"t{i}" for i in range(n_tasks)], 10)})
    frame["a"], frame["b"] = rng.normal(size=(2, len(frame)))
    frame["word"] = rng.choice(["x", "y"], len(frame))
    frame["y"] = frame.a * np.repeat(rng.normal(size=n_tasks), 10) + (frame.word == "x")
    frame["label"] = np.where(frame.a + frame.b > 0, "up", "down")
    return frame


@pytest.fixture(scope="module", params=["numbers", "classes"])
def adapts(request):
    """A fitted estimator, and the name of its target."""
    settings = {"steps": 2, "hidden": [4], "k_shot": 4, "n_query": 4, "fallback": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if request.param == "numbers":
            return MetaRegressor(**settings).fit(rows(0, 20), task="task", target="y", inputs=INPUTS), "y"
        return MetaClassifier(**settings).fit(
            rows(0, 20), task="task", target="label", inputs=INPUTS
        ), "label"


@pytest.mark.slow
def test_every_model_of_an_estimator_ignores_the_crowd(adapts):
    """Each of those that were compared, as any may be the one that adapts."""
    estimator, target = adapts
    names = [name for name in estimator.comparison_.model.unique() if name != STACKED]
    assert len(names) > 5
    new = rows(1, 1)
    support, query = new[:6].drop(columns="task"), new[6:].drop(columns=["task", "y", "label"])
    before = estimator._choices
    for name in names:
        estimator._choices = {
            k: choice._replace(model=name, weights={name: 1.0}) for k, choice in before.items()
        }
        answer = getattr(estimator.adapt(support), "predict" if target == "y" else "predict_proba")
        shuffled = getattr(estimator.adapt(support[::-1]), "predict" if target == "y" else "predict_proba")
        together = answer(query)
        np.testing.assert_allclose(answer(query[::-1])[::-1], together, rtol=1e-5, atol=1e-6)
        alone = np.concatenate([answer(query[i : i + 1]) for i in range(len(query))])
        np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(shuffled(query), together, rtol=1e-4, atol=1e-5)
    estimator._choices = before
