"""Every learner and regularizer that the contract suite goes through.

Adding a method = one entry here; the suite then tests it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from metalens import (
    ADKF,
    ANIL,
    BOIL,
    CAVIA,
    IMAML,
    KNN,
    MAML,
    MLTI,
    MRMAML,
    R2D2,
    TAML,
    TNPD,
    Baseline,
    Boosting,
    ConditionalNeuralProcess,
    CrossTaskConfidencePenalty,
    DeepKernelGP,
    DeepMultiTaskGP,
    DropoutBins,
    FromScratch,
    GaussianProcess,
    JointModel,
    LabelSmoothing,
    Learner,
    LinearProbe,
    LogisticRegression,
    MAMLPlusPlus,
    MatchingNet,
    MeanPredictor,
    MetaAug,
    MetaCRL,
    MetaCurvature,
    MetaMix,
    MetaOptNet,
    MetaSGD,
    MixedModel,
    MTNet,
    MultiTaskGP,
    NearestCentroid,
    Network,
    ProfileRidge,
    ProtoMAML,
    ProtoNet,
    RandomForest,
    Regularizer,
    Reptile,
    ResidualGP,
    Ridge,
    SeasonalBoosting,
    SeasonalNaive,
    Shrunken,
    TNet,
    TRLearner,
)
from metalens.relations import Cosine, Known, Mutual, Relation, Shuffled, Stacked, Uniform


@dataclass(frozen=True)
class LearnerEntry:
    """A learner with small settings, and what holds for it."""

    build: Callable[[Network], Learner]
    classifier: bool = False  # class targets only
    gradient_steps: bool = True  # adapts by gradient steps from an initial model
    own_head: bool = True  # predicts by the network's linear head
    exact_gradient: bool = True  # others follow another direction than the gradient of the outer loss
    trains: bool = True  # others have no meta-parameters
    random: bool = False  # draws random numbers at every step
    vectorizes: bool = True  # others loop over tasks, whatever the network
    prepares: bool = False  # looks at the training tasks before the first step
    adapts: bool = True  # others predict the same whatever the support

    @property
    def is_fitted(self) -> bool:
        """Whether it is a model of all training tasks, fitted to them without gradients."""
        return self.prepares and not self.trains


def maml_plus_plus(network: Network) -> Learner:
    learner = MAMLPlusPlus(network, inner_lr=0.1, inner_steps=3, multi_step_until=0.5)
    learner.set_progress(0.2)  # in the middle of the multi-step loss
    return learner


def baseline(
    cls: Callable[..., Baseline], *, classifier: bool = False, prepares: bool = False, adapts: bool = True,
    **settings: Any,
) -> LearnerEntry:  # fmt: skip
    return LearnerEntry(
        lambda network: cls(network.n_outputs, **settings).double(),
        classifier=classifier,
        gradient_steps=False,
        own_head=False,
        trains=False,
        vectorizes=False,
        prepares=prepares,
        adapts=adapts,
    )


# One entry for each learner: the full table of learners, regularizers and networks.
LEARNERS = {
    "MAML": LearnerEntry(lambda network: MAML(network, inner_lr=0.1, inner_steps=2)),
    "MAML-first-order": LearnerEntry(
        lambda network: MAML(network, inner_lr=0.1, inner_steps=2, first_order=True), exact_gradient=False
    ),
    "ANIL": LearnerEntry(lambda network: ANIL(network, inner_lr=0.1, inner_steps=3)),
    "BOIL": LearnerEntry(lambda network: BOIL(network, inner_lr=0.1, inner_steps=2)),
    "CAVIA": LearnerEntry(lambda network: CAVIA(network, n_context=3, inner_lr=0.3, inner_steps=2)),
    "MetaSGD": LearnerEntry(lambda network: MetaSGD(network, inner_lr=0.1, inner_steps=2)),
    "MetaCurvature": LearnerEntry(lambda network: MetaCurvature(network, inner_lr=0.1, inner_steps=2)),
    "TNet": LearnerEntry(lambda network: TNet(network, inner_lr=0.1, inner_steps=2)),
    "MTNet": LearnerEntry(lambda network: MTNet(network, inner_lr=0.1, inner_steps=2), random=True),
    "MAMLPlusPlus": LearnerEntry(maml_plus_plus),
    "ProtoMAML": LearnerEntry(
        lambda network: ProtoMAML(network, inner_lr=0.05, inner_steps=2), classifier=True, own_head=False
    ),
    "IMAML": LearnerEntry(
        lambda network: IMAML(network, proximity=100.0, cg_steps=10, inner_lr=0.009, inner_steps=20)
    ),
    "Reptile": LearnerEntry(
        lambda network: Reptile(network, inner_lr=0.01, inner_steps=2, inner_optimizer="sgd"),
        exact_gradient=False,
    ),
    "ProtoNet": LearnerEntry(ProtoNet, classifier=True, gradient_steps=False, own_head=False),
    "MatchingNet": LearnerEntry(MatchingNet, classifier=True, gradient_steps=False, own_head=False),
    "MetaOptNet": LearnerEntry(
        lambda network: MetaOptNet(network, cost=0.6), classifier=True, gradient_steps=False, own_head=False
    ),
    "R2D2": LearnerEntry(R2D2, gradient_steps=False, own_head=False),
    "DeepKernelGP": LearnerEntry(DeepKernelGP, gradient_steps=False, own_head=False),
    "DeepMultiTaskGP": LearnerEntry(
        lambda network: DeepMultiTaskGP(network, n_known=3, n_rows=4),
        gradient_steps=False,
        own_head=False,
        prepares=True,
    ),
    "ADKF": LearnerEntry(
        lambda network: ADKF(network, inner_steps=8, deviation=0.2), gradient_steps=False, own_head=False
    ),
    "ConditionalNeuralProcess": LearnerEntry(
        lambda network: ConditionalNeuralProcess(network, width=6), gradient_steps=False, own_head=False
    ),
    "TNPD": LearnerEntry(
        lambda network: TNPD(network, width=6, depth=2, n_heads=2), gradient_steps=False, own_head=False
    ),
    "LinearProbe": LearnerEntry(lambda network: LinearProbe(network, inner_steps=5)),
    "FromScratch": LearnerEntry(lambda network: FromScratch(network, inner_steps=3), trains=False),
    "Ridge": baseline(Ridge),
    "KNN": baseline(KNN),
    "MeanPredictor": baseline(MeanPredictor),
    "GaussianProcess": baseline(GaussianProcess),
    "ProfileRidge": baseline(ProfileRidge),
    "MixedModel": baseline(MixedModel, prepares=True, n_tasks=20),
    "Boosting": baseline(Boosting, prepares=True, adapts=False, n_tasks=20, max_rounds=5),
    "Shrunken": baseline(Shrunken, prepares=True, n_tasks=20, mean="linear"),
    "ResidualGP": baseline(ResidualGP, prepares=True, n_tasks=20, mean="linear"),
    "MultiTaskGP": baseline(MultiTaskGP),
    "JointModel": LearnerEntry(JointModel, gradient_steps=False, adapts=False),
    "NearestCentroid": baseline(NearestCentroid, classifier=True),
    "LogisticRegression": baseline(LogisticRegression, classifier=True),
    "RandomForest": baseline(RandomForest, n_trees=3),
    "SeasonalBoosting": baseline(SeasonalBoosting, prepares=True, adapts=False, n_tasks=20, max_rounds=5),
    "SeasonalNaive": baseline(SeasonalNaive, adapts=False),
}

# Further settings of learners, without rival regularizers.
LEARNER_VARIANTS = {
    "ANIL-momentum": LearnerEntry(
        lambda network: ANIL(network, inner_lr=0.1, inner_steps=3, inner_momentum=0.9, inner_clip=0.3)
    ),
    "ANIL-adam": LearnerEntry(
        lambda network: ANIL(network, inner_lr=0.1, inner_steps=2, inner_optimizer="adam", inner_momentum=0.9)
    ),
    "ANIL-transductive": LearnerEntry(
        lambda network: ANIL(network, transductive=True, inner_lr=0.1, inner_steps=2)
    ),
    "MAML-weights": LearnerEntry(
        lambda network: MAML(network, inner_lr=0.1, inner_steps=2, adapting="weight")
    ),
    "MAML-momentum": LearnerEntry(
        lambda network: MAML(network, inner_lr=0.1, inner_steps=3, inner_momentum=0.9, inner_clip=0.3)
    ),
    "MetaSGD-adam": LearnerEntry(
        lambda network: MetaSGD(network, inner_lr=0.01, inner_steps=2, inner_optimizer="adam")
    ),
    "R2D2-prior": LearnerEntry(
        lambda network: R2D2(network, prior_mean=True), gradient_steps=False, own_head=False
    ),
    "DeepKernelGP-predictive": LearnerEntry(
        lambda network: DeepKernelGP(network, domain_kernel="rbf", objective="predictive", inner_steps=2),
        gradient_steps=False,
        own_head=False,
    ),
    "DeepKernelGP-network": LearnerEntry(
        lambda network: DeepKernelGP(network, mean="network"), gradient_steps=False, own_head=False
    ),
}


@dataclass(frozen=True)
class RegularizerEntry:
    """Regularizers with their settings, and what holds for them."""

    build: Callable[[Learner], list[Regularizer]]
    random: bool = False  # draws random numbers at every step
    weighted: bool = False  # has a `weight`, at 0 of which the learner is plain
    compiles: bool = True  # makes no choice by the value of a tensor


def trlearner(
    relation: Callable[[], Relation] = Cosine, **settings: Any
) -> Callable[[Learner], list[Regularizer]]:
    return lambda learner: [TRLearner(relation(), weight=0.5, **settings)]


# One entry for each regularizer of the full table.
REGULARIZERS = {
    "none": RegularizerEntry(lambda learner: []),
    "TRLearner": RegularizerEntry(weighted=True, build=trlearner()),
    "MetaMix": RegularizerEntry(lambda learner: [MetaMix()], random=True, compiles=False),
    "MLTI": RegularizerEntry(lambda learner: [MLTI()], random=True),
    "MetaAug": RegularizerEntry(lambda learner: [MetaAug()], random=True),
    "TAML": RegularizerEntry(weighted=True, build=lambda learner: [TAML(weight=0.3)]),
    "MRMAML": RegularizerEntry(lambda learner: [MRMAML(beta=0.01, initial_sigma=0.1)], random=True),
    "DropoutBins": RegularizerEntry(lambda learner: [DropoutBins(p=0.2)], random=True),
    "LabelSmoothing": RegularizerEntry(weighted=True, build=lambda learner: [LabelSmoothing(weight=0.5)]),
    "CrossTaskConfidencePenalty": RegularizerEntry(
        weighted=True, build=lambda learner: [CrossTaskConfidencePenalty(weight=0.5)]
    ),
    "MetaCRL": RegularizerEntry(weighted=True, build=lambda learner: [MetaCRL(n_factors=4, hidden=5)]),
}

# Further settings of regularizers, with some learners only.
VARIANTS = {
    "TRLearner-mutual": RegularizerEntry(weighted=True, build=trlearner(Mutual)),
    "TRLearner-frozen": RegularizerEntry(weighted=True, build=trlearner(lambda: Cosine(learned=False))),
    "TRLearner-uniform": RegularizerEntry(weighted=True, build=trlearner(Uniform)),
    "TRLearner-shuffled": RegularizerEntry(weighted=True, build=trlearner(Shuffled), random=True),
    "TRLearner-known": RegularizerEntry(weighted=True, build=trlearner(Known)),
    "TRLearner-known-shuffled": RegularizerEntry(
        weighted=True, build=trlearner(lambda: Shuffled(Known(scale=0.7))), random=True
    ),
    "TRLearner-centered": RegularizerEntry(
        weighted=True, build=trlearner(lambda: Cosine(center=True, temperature=0.5))
    ),
    "TRLearner-labeled": RegularizerEntry(
        weighted=True, build=trlearner(lambda: Cosine(vector="labeled", temperature=0.5))
    ),
    "TRLearner-adaptation": RegularizerEntry(
        weighted=True, build=trlearner(lambda: Cosine(vector="adaptation"))
    ),
    "TRLearner-stacked": RegularizerEntry(weighted=True, build=trlearner(lambda: Stacked(ridge=0.3))),
    "TRLearner-stacked-cosine": RegularizerEntry(
        weighted=True, build=trlearner(lambda: Stacked(ridge=0.3, toward=Cosine()))
    ),
    "TRLearner-slots": RegularizerEntry(weighted=True, build=trlearner(slot_temperature=0.1)),
    "TRLearner-cheap": RegularizerEntry(
        weighted=True, build=trlearner(neighbors=2, n_query_hat=3, n_tasks_hat=2), random=True
    ),
    "MetaMix-shuffle": RegularizerEntry(
        lambda learner: [MetaMix(channel_shuffle=0.5)], random=True, compiles=False
    ),
    "TAML-entropy": RegularizerEntry(
        weighted=True, build=lambda learner: [TAML(weight=0.5, measure="entropy")]
    ),
    "TAML-gini": RegularizerEntry(weighted=True, build=lambda learner: [TAML(weight=0.5, measure="gini")]),
    "DropoutBins-bins": RegularizerEntry(lambda learner: [DropoutBins(n_bins=3, p=0.0)]),
}
VARIANT_LEARNERS = ("MAML", "ANIL", "ProtoNet")


@dataclass(frozen=True)
class Refusal:
    """Combinations that have no meaning, and words of the error that says so.

    `learners` tells which learners it covers, by name and entry; regularizers and networks are listed by
    name. `None` stands for all.
    """

    words: str
    learners: Callable[[str, LearnerEntry], bool] | None = None
    regularizers: Collection[str] | None = None
    networks: Collection[str] | None = None
    kind: str | None = None

    def covers(self, learner: str, regularizer: str, network: str, kind: str) -> bool:
        entry = (LEARNERS | LEARNER_VARIANTS)[learner]
        return (
            (self.learners is None or self.learners(learner, entry))
            and (self.regularizers is None or regularizer in self.regularizers)
            and (self.networks is None or network in self.networks)
            and self.kind in (None, kind)
        )


ALL_REGULARIZERS = set(REGULARIZERS | VARIANTS) - {"none"}

# Every combination without a meaning, in this one place, first reason first; the suite asserts that each is
# refused.
REFUSALS = (
    Refusal("channel_shuffle is for class", regularizers=["MetaMix-shuffle"], kind="regression"),
    Refusal("needs parameters that adapt", lambda name, _: name == "ProtoNet", ["TRLearner-adaptation"]),
    Refusal("predicts numbers, got classes", lambda _, entry: entry.is_fitted, kind="classification"),
    Refusal("it is fitted to all training tasks", lambda _, entry: entry.is_fitted, ALL_REGULARIZERS),
    Refusal("it moves the initialization toward", lambda name, _: name == "Reptile", ALL_REGULARIZERS),
    Refusal(
        "it learns one model for all of them",
        lambda name, _: name in ("LinearProbe", "JointModel"),
        ALL_REGULARIZERS,
    ),
    Refusal("it learns nothing across tasks", lambda _, entry: not entry.trains, ALL_REGULARIZERS),
    Refusal(
        "needs an initial model",
        lambda _, entry: not entry.gradient_steps,
        ["TAML", "TAML-entropy", "TAML-gini"],
    ),
    Refusal(
        "needs a linear head to replace",
        lambda _, entry: not entry.own_head,
        ["DropoutBins", "DropoutBins-bins"],
    ),
    Refusal("masks change from step to step", lambda name, _: name == "IMAML", ["DropoutBins"]),
    Refusal("whose implicit gradient", lambda name, _: name == "IMAML", ["MRMAML"]),
    Refusal("cannot train the 1 stages", lambda name, _: name in ("IMAML", "Reptile"), networks=["shared"]),
    Refusal(
        "is for classification",
        regularizers=["LabelSmoothing", "CrossTaskConfidencePenalty"],
        kind="regression",
    ),
    Refusal("forecasts numbers", lambda name, _: name == "SeasonalNaive", kind="classification"),
    Refusal("is a classifier, got real targets", lambda _, entry: entry.classifier, kind="regression"),
    Refusal("is for classification", regularizers=["TRLearner-slots", "TAML-entropy"], kind="regression"),
)
