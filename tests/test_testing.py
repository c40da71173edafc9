"""`metalens.testing` finds what is wrong with a method, check by check."""

import itertools
import re

import pytest
import torch
from torch import nn

from metalens import (
    ANIL,
    MAML,
    Examples,
    LabelSmoothing,
    ProtoNet,
    Regularizer,
    Sinusoid,
    Task,
    TaskDistribution,
    mlp,
)
from metalens.testing import (
    check_distribution,
    check_learner,
    check_regularizer,
    distribution_checks,
    learner_checks,
    random_tasks,
    regularizer_checks,
)


def network():
    return mlp(5, 3, [6], activation=nn.Softplus)


def failing(checks):
    """Return the names of the checks that fail, and what they say."""
    said = {}
    for check in checks:
        try:
            check()
        except AssertionError as error:
            said[check.name] = str(error)
    return said


class Detached(ANIL):
    """Its gradient stops at the support set."""

    def adapt_encoded(self, z, y):
        return {name: value.detach() for name, value in super().adapt_encoded(z, y).items()}


class Mutating(ProtoNet):
    """It writes into its own parameters."""

    def adapt_encoded(self, z, y):
        with torch.no_grad():
            dict(self.network.named_parameters())["backbone.0.0.bias"].add_(1.0)
        return super().adapt_encoded(z, y)


class Overwriting(ProtoNet):
    """It writes into the support inputs."""

    def encode(self, x):
        x.mul_(1.0001)
        return super().encode(x)


class Remembering(ProtoNet):
    """Each task is adapted a little further than the one before it."""

    n_seen = 0

    def adapt_encoded(self, z, y):
        self.n_seen += 1
        return {name: value + self.n_seen for name, value in super().adapt_encoded(z, y).items()}


class Idle(ProtoNet):
    """It has a parameter that nothing uses."""

    def __init__(self, network):
        super().__init__(network)
        self.spare = nn.Parameter(torch.ones(1))


class Unsaved(ProtoNet):
    """Its scale is drawn at construction, and no part of the state dictionary."""

    def __init__(self, network):
        super().__init__(network)
        self.scale = next(SCALES)

    def predict_encoded(self, state, z):
        return self.scale * super().predict_encoded(state, z)


class Graphless(ProtoNet):
    """Without a graph it predicts something else."""

    def predict_encoded(self, state, z):
        return super().predict_encoded(state, z) + float(not torch.is_grad_enabled())


class Watched(ProtoNet):
    """Predictions keep their graph whatever the caller says."""

    def predict_encoded(self, state, z):
        with torch.enable_grad():
            return super().predict_encoded(state, z) * next(self.parameters()).sum().sign()


class Surface(ProtoNet):
    """From activations it predicts something else than from inputs."""

    def predict_hidden(self, state, hidden, layer):
        return super().predict_hidden(state, hidden, layer) + 1.0


class Branching(ProtoNet):
    """It asks for the value of a tensor, which `vmap` has not."""

    def predict_encoded(self, state, z):
        logits = super().predict_encoded(state, z)
        return logits if logits.sum().item() > 0 else 2 * logits


class Deaf(ANIL):
    """Its inner loop ends where it began."""

    def adapt_encoded(self, z, y):
        return self.initial_state(z, y)


class Hidden(ANIL):
    """Its inner loop moves what predictions do not read, as forgotten context parameters."""

    def predict_encoded(self, state, z):
        return super().predict_encoded(self.initial_state(z, z), z)


class Endless(ANIL):
    """The features by which tasks are related are not finite."""

    def features(self, z):
        return super().features(z) / 0


class Training(ProtoNet):
    """In training it predicts something else, which is no mistake."""

    def predict_encoded(self, state, z):
        return super().predict_encoded(state, z) * (2.0 if self.training else 1.0)


SCALES = itertools.count(1)
TOUCHES = "training_touches_nothing_and_reaches_every_parameter"


@pytest.mark.parametrize(
    ("learner", "check", "words"),
    [
        (Detached, "gradient_equals_finite_difference", "must be that of the outer loss"),
        (
            Mutating,
            TOUCHES,
            "changed learner.network.backbone",
        ),
        (Overwriting, TOUCHES, "must not change the tasks"),
        (Idle, TOUCHES, "not learner.spare; freeze"),
        (Remembering, "permuting_tasks_keeps_the_loss", "must not depend on the order"),
        (Remembering, "permuting_tasks_permutes_predictions", "must permute the predictions alike"),
        (Remembering, "single_task_equals_its_place_in_the_batch", "A task alone must have"),
        (Unsaved, "state_dict_round_trip", "keep all state in the state_dict"),
        (Graphless, "evaluation_without_a_graph_gives_the_same_predictions", "the same under torch.no_grad"),
        (Watched, "evaluation_without_a_graph_gives_the_same_predictions", "must not require a gradient"),
        (Surface, "hidden_activations_lead_to_the_same_predictions", "after 0 stages"),
        (Branching, "vmap_and_chunks_equal_loop", "cannot be vectorized"),
        (Deaf, "the_support_decides_the_predictions", "must change the predictions"),
        (Hidden, "the_support_decides_the_predictions", "must change the predictions"),
        (Endless, "task_vectors_have_their_lengths", "Task vectors of features must be finite"),
    ],
)
def test_a_broken_learner_is_found(learner, check, words):
    checks = {each.name: each for each in learner_checks(lambda: learner(network()))}
    with pytest.raises(AssertionError, match=re.escape(words)):
        checks[check]()


def test_a_sound_learner_passes_and_claims_leave_checks_out():
    held = check_learner(lambda: Training(network()))
    assert len(held) == len(set(held)) == 13
    assert check_learner(lambda: MAML(network(), first_order=True), exact_gradient=False)
    with pytest.raises(AssertionError, match="must be that of the outer loss"):
        check_learner(lambda: Detached(network()))
    fewer = check_learner(lambda: Branching(network()), vectorizes=False)
    assert "vmap_and_chunks_equal_loop" not in fewer
    tasks = random_tasks(n_outputs=2, classification=False)
    assert check_learner(lambda: MAML(mlp(5, 2, [4], activation=nn.Softplus), inner_steps=2), tasks=tasks)


def test_checks_leave_the_random_stream_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    check_learner(lambda: ProtoNet(network()))
    assert torch.equal(torch.rand(1), expected)


class Constant(Regularizer):
    """Its term stays where its weight is 0."""

    weight = 1.0

    def loss_terms(self, adapted):
        return {"constant": 1.0 + self.weight * adapted.outer_loss}


class Ordered(Regularizer):
    """Later tasks count more."""

    weight = 1.0

    def loss_terms(self, adapted):
        order = torch.arange(adapted.n_tasks, dtype=adapted.outer_losses.dtype)
        return {"ordered": self.weight * (order * adapted.outer_losses).mean()}


class Straight(Regularizer):
    """Its gradient stops at the loss."""

    weight = 1.0

    def loss_terms(self, adapted):
        return {"straight": self.weight * adapted.outer_loss.detach().square()}


class Counting(Regularizer):
    """It counts batches in a buffer."""

    weight = 1.0

    def __init__(self):
        super().__init__()
        self.register_buffer("n_batches", torch.zeros(()))

    def loss_terms(self, adapted):
        self.n_batches += 1
        return {"counting": self.weight * adapted.outer_loss}


@pytest.mark.parametrize(
    ("regularizer", "check", "words"),
    [
        (Constant, "weight_zero_equals_no_regularizer", "With weight 0"),
        (Ordered, "permuting_tasks_keeps_the_loss", "must not depend on the order"),
        (Straight, "gradient_equals_finite_difference", "must be that of the outer loss"),
        (
            Counting,
            TOUCHES,
            "changed regularizers.0.n_batches",
        ),
        (Regularizer, "weight_zero_equals_no_regularizer", "pass weighted=False"),
    ],
)
def test_a_broken_regularizer_is_found(regularizer, check, words):
    said = failing(regularizer_checks(lambda learner: regularizer()))
    assert words in said.pop(check)
    assert not said


def test_a_sound_regularizer_passes():
    held = check_regularizer(lambda learner: LabelSmoothing(weight=0.5), learner=lambda: ProtoNet(network()))
    assert len(held) == 7
    with pytest.raises(AssertionError, match="With weight 0"):
        check_regularizer(lambda learner: Constant())


class Slopes(TaskDistribution):
    """A sound distribution, whose parts the broken ones replace."""

    def generator(self, index):
        split = ("train", "val", "test").index(self.split)
        return torch.Generator().manual_seed(1000 * self.seed + 100 * split + index)

    def __getitem__(self, index):
        x = torch.randn(8, 1, generator=self.generator(index))
        return Task(Examples(x[:4], index * x[:4]), Examples(x[4:], index * x[4:]))


class Stream(Slopes):
    """A task depends on those drawn before it."""

    n_drawn = 0

    def generator(self, index):
        self.n_drawn += 1
        return super().generator(index + self.n_drawn)


class Leaking(Slopes):
    """Every split has the same tasks."""

    def generator(self, index):
        return torch.Generator().manual_seed(self.seed * 1000 + index)


class Pool(Slopes):
    """Splits draw other examples of the same tasks."""

    def source(self, index):
        return f"task {index % 3}"


class Seedless(Slopes):
    """The seed changes nothing."""

    def generator(self, index):
        self.seed = 0
        return super().generator(index)


class Closed(Slopes):
    """It cannot be pickled."""

    def __init__(self, split, *, seed):
        super().__init__(split, seed=seed)
        self.scale = lambda: 1.0


class Sorted(Slopes):
    """A batch comes in the order of its numbers."""

    def batch(self, indices):
        return super().batch(sorted(indices))


class Infinite(Slopes):
    """One target is not finite."""

    def __getitem__(self, index):
        return super().__getitem__(index).map(lambda examples: Examples(examples.x, examples.y / 0))


class Flat(Slopes):
    """Real targets have no axis for outputs."""

    def __getitem__(self, index):
        return super().__getitem__(index).map(lambda examples: Examples(examples.x, examples.y[:, 0]))


class Narrowing(Slopes):
    """Another type in every other task."""

    def __getitem__(self, index):
        task = super().__getitem__(index)
        return task if index % 2 else task.map(lambda examples: Examples(examples.x.double(), examples.y))


class Relabeled(Slopes):
    """Global labels forget which class is which."""

    n_classes = 2

    def __getitem__(self, index):
        return super().__getitem__(index).map(lambda e: Examples(e.x, (torch.arange(4) % 2)))

    def with_global_labels(self):
        return Merged(self.split, seed=self.seed)


class Merged(Relabeled):
    def __getitem__(self, index):
        return super().__getitem__(index).map(lambda e: Examples(e.x, 0 * e.y))


@pytest.mark.parametrize(
    ("distribution", "check", "words"),
    [
        (Stream, "tasks_are_functions_of_their_index", "must be the same when it is drawn again"),
        (Closed, "pickling_keeps_the_tasks", "must be picklable"),
        (Sorted, "batch_equals_stacked_tasks", "must equal the stacked tasks"),
        (Leaking, "splits_are_disjoint", "is in the train split too"),
        (Pool, "splits_are_disjoint", "the source task 0 of task 0 of the val split is in the train split"),
        (Seedless, "seeds_give_different_tasks", "must differ"),
        (Infinite, "numbers_are_finite", "support.y of task 0"),
        (Flat, "shapes_and_types_are_those_of_tasks", "must be (n, c), got (4,)"),
        (Narrowing, "shapes_and_types_are_those_of_tasks", "must have the same types"),
        (Relabeled, "global_labels_keep_the_tasks", "one number of its own"),
    ],
)
def test_a_broken_distribution_is_found(distribution, check, words):
    said = failing(distribution_checks(lambda split, seed: distribution(split, seed=seed)))
    assert words in said[check]


def test_a_sound_distribution_passes():
    assert len(check_distribution(lambda split, seed: Slopes(split, seed=seed))) == 8
    assert len(check_distribution(lambda split, seed: Sinusoid(split, seed=seed), splits=["test"])) == 7
    with pytest.raises(AssertionError, match="is in the train split too"):
        check_distribution(lambda split, seed: Leaking(split, seed=seed))
