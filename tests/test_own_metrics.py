"""Losses, targets and metrics of the user's own decide validation, and dense predictions work."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalens import (
    ANIL,
    MAML,
    AdaptedTasks,
    CrossTaskConfidencePenalty,
    Examples,
    LabelSmoothing,
    Machine,
    MetaCRL,
    MetaLensError,
    Objective,
    ProtoNet,
    Sinusoid,
    Task,
    TaskDistribution,
    TRLearner,
    Validation,
    evaluate,
    fit,
    mlp,
    wrap,
)
from metalens.evaluation import mean_scores, undefined_scores
from metalens.metrics import METRICS, Metric
from metalens.relations import Cosine

LEVELS = torch.tensor([0.1, 0.5, 0.9])


class Own(TaskDistribution):
    """Tasks of a kind of targets; the test tasks differ from the others."""

    def __init__(self, kind: str, split="train"):
        super().__init__(split)
        self.kind = kind

    def __getitem__(self, index: int) -> Task:
        g = torch.Generator().manual_seed(index + 1000 * ("train", "val", "test").index(self.split))
        x = torch.randn(12, 1, 4, 4, generator=g) if self.kind.startswith("pixels") else None
        x = torch.randn(12, 2, generator=g) if x is None else x
        y = {
            "numbers": lambda: x[:, :1] + torch.randn(12, 1, generator=g),
            "counts": lambda: torch.poisson(x[:, :1].exp(), generator=g),
            "labels": lambda: (x @ (2 * torch.eye(2, 3) + 0.4 * torch.randn(2, 3, generator=g)) > 0).float(),
            "grades": lambda: (2 * x[:, 0]).round().long().clamp(-1, 2) + 1,
            "pixels": lambda: (x[:, 0] > 0.3).long(),
            "pixels of numbers": lambda: x.sin(),
        }[self.kind]()
        return Task(Examples(x[:6], y[:6]), Examples(x[6:], y[6:]))


def pinball(p: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(LEVELS * (y - p), (LEVELS - 1) * (y - p)).mean()


def likelihood(p: Tensor, y: Tensor) -> Tensor:
    return (0.5 * (y - p[:, :1]).square() * (-2 * p[:, 1:]).exp() + p[:, 1:]).mean()


def ordinal(p: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(p, (y[:, None] > torch.arange(3)).to(p))


def pixels(n_outputs: int):
    module = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, n_outputs, 1))
    return wrap(module, head="2", example=torch.randn(2, 1, 4, 4))


OWN = {
    "several labels": ("labels", 3, F.binary_cross_entropy_with_logits),
    "quantiles": ("numbers", 3, pinball),
    "Gaussian likelihood": ("numbers", 2, likelihood),
    "counts": ("counts", 1, F.poisson_nll_loss),
    "grades": ("grades", 3, ordinal),
    "absolute error": ("numbers", 1, F.l1_loss),
    "segmentation": ("pixels", 2, lambda p, y: F.cross_entropy(p, y, label_smoothing=0.1)),
    "surrogate": ("pixels of numbers", 1, lambda p, y: F.smooth_l1_loss(p, y)),
}


def learner_of(name: str, make=MAML, **settings):
    kind, n_outputs, loss = OWN[name]
    torch.manual_seed(0)
    network = pixels(n_outputs) if kind.startswith("pixels") else mlp(2, n_outputs, [8])
    return make(network, inner_lr=0.1, loss=loss, **settings), kind, loss


@pytest.mark.filterwarnings("ignore:Tasks will be looped over")
@pytest.mark.parametrize("make", [MAML, ANIL])
@pytest.mark.parametrize("name", OWN)
def test_own_losses_are_validated_and_scored_by_themselves(name, make):
    learner, kind, loss = learner_of(name, make)
    found = evaluate(learner, Own(kind, "test"), n_tasks=3)
    assert found.metric.unique().tolist() == ["loss"]
    for number, value in zip(found.task, found.value, strict=True):
        support, query = Own(kind, "test")[number][:2]
        expected = loss(learner(support)(query.x), query.y)
        assert value == pytest.approx(expected.item(), rel=1e-4)
    validation = Validation(Own(kind, "val"), n_tasks=4, every=2)
    settings = {"steps": 6, "meta_batch_size": 3, "outer_lr": 0.3, "machine": Machine(compile=False)}
    curve = fit(Objective(learner, [TRLearner()]), Own(kind), validation=validation, **settings)
    scores = curve[curve.split == "val"]
    assert set(scores.metric) == {"loss"}
    kept = mean_scores(evaluate(learner, Own(kind, "val"), n_tasks=4))["loss"]
    assert kept == pytest.approx(scores.value.min(), rel=1e-5)


def test_squared_error_of_logits_does_not_choose_the_weights_of_labels():
    """As logits grow, their squared error to 0 and 1 grows, and the first weights looked best."""
    found = {}
    for metric in ("loss", "mse"):
        learner, kind, _ = learner_of("several labels", inner_steps=2)
        validation = Validation(Own(kind, "val"), n_tasks=20, every=10, metrics=[metric])
        settings = {"steps": 80, "meta_batch_size": 4, "outer_lr": 2e-2, "machine": Machine(compile=False)}
        fit(Objective(learner), Own(kind), validation=validation, **settings)
        found[metric] = mean_scores(evaluate(learner, Own(kind, "test"), n_tasks=20))["loss"]
    assert found["loss"] < 0.9 * found["mse"]


def rows_right(predictions: Tensor, y: Tensor, known: Tensor) -> Tensor:
    return ((predictions > 0) == (y > 0)).all(-1).to(predictions).mean(1)


EXACT = Metric("exact", rows_right, "higher", "fraction")


def test_metrics_are_those_of_the_call_the_learner_the_tasks_or_the_loss():
    learner, kind, _ = learner_of("several labels")
    tasks = Own(kind, "test")

    def names(**settings):
        return evaluate(learner, tasks, n_tasks=1, **settings).metric.tolist()

    assert names() == ["loss"]
    tasks.metrics = ["rmse", EXACT, "loss", "rmse"]
    assert names() == ["rmse", "exact", "loss"]
    learner.metrics = (EXACT,)
    assert names() == ["exact"]
    assert names(metrics=["mse", "loss"]) == ["mse", "loss"]
    tasks.extra_metrics = ["r2"]
    assert names() == ["exact", "r2"]
    assert names(metrics=["loss"]) == ["loss"]


@pytest.mark.parametrize("place", ["validation", "learner", "tasks"])
@pytest.mark.parametrize("metric", [EXACT, "loss", "rmse"])
def test_the_first_metric_keeps_the_weights(metric, place):
    learner, kind, _ = learner_of("several labels")
    held_out, settings = Own(kind, "val"), {}
    if place == "validation":
        settings["metrics"] = [metric, "mse"]
    elif place == "learner":
        learner.metrics = [metric, "mse"]
    else:
        held_out.metrics = [metric, "mse"]
    validation = Validation(held_out, n_tasks=10, every=5, **settings)
    how = {"steps": 30, "meta_batch_size": 4, "outer_lr": 0.1, "machine": Machine(compile=False)}
    curve = fit(Objective(learner), Own(kind), validation=validation, **how)
    name = metric if isinstance(metric, str) else metric.name
    scores = curve[(curve.split == "val") & (curve.metric == name)].value
    kept = mean_scores(evaluate(learner, held_out, n_tasks=10, metrics=[metric]))[name]
    assert kept == pytest.approx(scores.max() if metric is EXACT else scores.min(), rel=1e-5)


def test_a_loss_of_ones_own_that_diverged_is_a_loss_of_nan():
    learner, kind, _ = learner_of("quantiles")
    assert undefined_scores(learner, Own(kind, "test"), n_tasks=2).metric.tolist() == ["loss"] * 2
    assert undefined_scores(learner, Own(kind, "test"), n_tasks=2).value.isna().all()


@pytest.mark.parametrize(
    ("metrics", "name", "words"),
    [
        (["accuracy"], "quantiles", "Scores of classes need class indices, got real targets"),
        (["mse"], "grades", "Scores of real targets got class indices"),
        (["mse"], "quantiles", r"Real targets must have the shape of the predictions, \(1, 6, 3\), got"),
        (["elo"], "quantiles", "There is no metric 'elo'"),
        (["mase"], "quantiles", "'mase' takes more than predictions and targets"),
        ([Metric("all", lambda p, y, known: p.mean(), "lower")], "quantiles", "'all' must return a score of"),
    ],
)
def test_metrics_of_other_targets_are_refused(metrics, name, words):
    learner, kind, _ = learner_of(name)
    with pytest.raises(MetaLensError, match=words):
        evaluate(learner, Own(kind, "test"), n_tasks=1, metrics=metrics)


def test_a_first_metric_that_says_nothing_is_refused():
    with pytest.raises(MetaLensError, match="pearson_r2 says nothing about tasks of 5 support and 2 query"):
        evaluate(MAML(mlp()), Sinusoid("test", k_shot=5, n_query=2), n_tasks=1, metrics=["pearson_r2"])


def test_dense_classes_are_scored_by_pixel():
    torch.manual_seed(0)
    learner, tasks = MAML(pixels(2), inner_lr=0.1), Own("pixels", "test")
    found = evaluate(learner, tasks, n_tasks=2)
    assert found.metric.unique().tolist() == ["accuracy", "cross_entropy"]
    for number in range(2):
        support, query = tasks[number][:2]
        logits = learner(support)(query.x).detach()
        assert logits.shape == (6, 2, 4, 4)
        values = found[found.task == number].set_index("metric").value
        assert values["accuracy"] == pytest.approx((logits.argmax(1) == query.y).float().mean().item())
        assert values["cross_entropy"] == pytest.approx(F.cross_entropy(logits, query.y).item(), rel=1e-4)


@pytest.mark.parametrize("batching", ["vmap", "loop"])
def test_dense_meta_gradients_are_those_of_plain_pytorch(batching):
    torch.manual_seed(0)
    learner, batch = MAML(pixels(2).double(), inner_lr=0.1), Own("pixels").batch(range(3))
    batch = Task.of_tensors([t.double() if t.is_floating_point() else t for t in batch.tensors])
    objective = Objective(learner)
    objective.batching = batching
    parameters = dict(learner.network.named_parameters())
    ours = torch.autograd.grad(objective(batch)["query"], list(parameters.values()))
    losses = []
    for x, y, new_x, new_y in zip(*batch.tensors[:4], strict=True):
        inner = F.cross_entropy(learner.network(x), y)
        slopes = torch.autograd.grad(inner, list(parameters.values()), create_graph=True)
        adapted = {n: p - 0.1 * g for (n, p), g in zip(parameters.items(), slopes, strict=True)}
        logits = torch.func.functional_call(learner.network, adapted, (new_x,))
        losses.append(F.cross_entropy(logits, new_y))
    expected = torch.autograd.grad(torch.stack(losses).mean(), list(parameters.values()))
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


def test_a_wrapped_dense_module_predicts_as_before():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 5, 1))
    network = wrap(module, head="2", example=torch.randn(2, 1, 4, 4))
    assert (network.n_features, network.n_outputs) == (48, 5)
    x = torch.randn(3, 1, 4, 4)
    torch.testing.assert_close(network(x), module(x))
    torch.testing.assert_close(network.embed(x), module[:2](x).flatten(1))


@pytest.mark.parametrize("make", [LabelSmoothing, CrossTaskConfidencePenalty])
def test_penalties_on_confidence_are_means_over_pixels(make):
    torch.manual_seed(0)
    learner, batch = MAML(pixels(2), inner_lr=0.1), Own("pixels").batch(range(3))
    adapted = AdaptedTasks(learner, batch)
    (found,) = make(weight=1.0).loss_terms(adapted).values()
    logits = adapted.query_predictions
    if make is CrossTaskConfidencePenalty:
        others = adapted.cross_predictions()
        logits = torch.stack([(others[i].sum(0) - others[i, i]) / 2 for i in range(3)])
    rows = logits.movedim(2, -1).reshape(-1, 2)
    uniform = torch.full_like(rows, 0.5)
    torch.testing.assert_close(found, F.kl_div(rows.log_softmax(1), uniform, reduction="batchmean"))


@pytest.mark.parametrize(
    ("make", "regularizer"),
    [
        (MAML, lambda: TRLearner(slot_temperature=0.1)),
        (MAML, lambda: TRLearner(Cosine(vector="labeled"))),
        (MAML, MetaCRL),
    ],
)
def test_what_needs_one_class_of_each_example_says_so(make, regularizer):
    objective = Objective(make(pixels(2), inner_lr=0.1), [regularizer()])
    with pytest.raises(MetaLensError, match=r"needs one class of each example, got .* \(6, 4, 4\)"):
        objective(Own("pixels").batch(range(4)))


def test_classifiers_of_whole_examples_refuse_dense_targets():
    with pytest.raises(MetaLensError, match=r"must be int64 of shape \(6,\), got .* \(6, 4, 4\)"):
        Objective(ProtoNet(pixels(2)))(Own("pixels").batch(range(4)))


def test_the_loss_is_a_metric_by_name():
    assert METRICS["loss"].better == "lower"
    scores = evaluate(MAML(mlp()), Sinusoid("test"), n_tasks=2, metrics=["mse", "loss"])
    of_mse, of_loss = (scores[scores.metric == name].value.tolist() for name in ("mse", "loss"))
    assert of_mse == pytest.approx(of_loss)


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ([lambda p, y, known: p.mean()], "A metric must be a name or a Metric, got function; make Metric"),
        ([Metric("mse", rows_right, "higher"), "mse"], "Two metrics have the name 'mse'"),
        ([Metric("one", lambda p, y, known: 1.0, "higher")], r"must return .* a tensor \(1,\), got float"),
    ],
)
def test_metrics_of_another_form_are_refused(metrics, words):
    learner, kind, _ = learner_of("several labels")
    with pytest.raises(MetaLensError, match=words):
        evaluate(learner, Own(kind, "test"), n_tasks=1, metrics=metrics)


def test_a_metric_is_better_higher_or_lower():
    with pytest.raises(MetaLensError, match="one: better must be 'higher' or 'lower', got 'up'"):
        Metric("one", rows_right, "up")


@pytest.mark.parametrize("name", ["balanced_accuracy", "brier_score", "roc_auc", "average_precision"])
def test_scores_of_whole_examples_refuse_pixels(name):
    learner = MAML(pixels(2), inner_lr=0.1)
    with pytest.raises(MetaLensError, match=r"of predictions \(n, c\) for a task, got \(6, 2, 4, 4\)"):
        evaluate(learner, Own("pixels", "test"), n_tasks=1, metrics=[name])


@pytest.mark.parametrize("name", ["r2", "pearson_r2"])
def test_scores_of_single_numbers_refuse_pixels(name):
    learner = MAML(pixels(1), inner_lr=0.1)
    with pytest.raises(MetaLensError, match=r"of predictions \(n, c\) for a task, got \(6, 1, 4, 4\)"):
        evaluate(learner, Own("pixels of numbers", "test"), n_tasks=1, metrics=[name])


def test_pixels_without_a_class_are_no_errors_of_a_model():
    class Void(Own):
        def __getitem__(self, index):
            support, query, _ = super().__getitem__(index)
            query.y[:, 0] = -100  # which PyTorch's cross-entropy leaves out
            return Task(support, query)

    learner = MAML(pixels(2), inner_lr=0.1, loss=lambda p, y: F.cross_entropy(p, y))
    assert evaluate(learner, Void("pixels", "test"), n_tasks=1).value.notna().all()
    with pytest.raises(MetaLensError, match="Scores of classes need classes from 0 on, got -100"):
        evaluate(learner, Void("pixels", "test"), n_tasks=1, metrics=["accuracy"])
