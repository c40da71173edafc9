"""Related models: against loops over tasks and formulas, and where relations must and must not help."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from metalens import (
    ANIL,
    MAML,
    Examples,
    MetaLensError,
    Objective,
    ProtoNet,
    RelatedModels,
    Sinusoid,
    Task,
    TaskDistribution,
    Validation,
    conv4,
    evaluate,
    fit,
    mlp,
    task_loss,
)

TEST = Sinusoid("test", k_shot=6, n_query=4)
TRAIN = Sinusoid("train", k_shot=3, n_query=5)


class Images(TaskDistribution):
    """Two classes of small images, always in the same slots."""

    def __getitem__(self, index):
        y = torch.arange(2).repeat(2)
        x = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(index)) + y[:, None, None, None]
        return Task(Examples(x, y), Examples(x.flip(0), y.flip(0)))


def double(examples):
    return Examples(*(t.double() if t.is_floating_point() else t for t in examples))


def regression(learner=MAML):
    torch.manual_seed(0)
    return learner(mlp(hidden=[8]), inner_lr=0.05, inner_steps=2).double().eval()


def images(learner=MAML):
    torch.manual_seed(0)
    return learner(conv4(2, n_filters=3, image_size=16)).double().eval()


@pytest.mark.parametrize(
    ("learner", "train", "test"),
    [
        (regression(), TRAIN, TEST),
        (regression(ANIL), TRAIN, TEST),
        (images(), Images(), Images()),
        (images(ProtoNet), Images(), Images()),
    ],
    ids=["MAML", "ANIL", "MAML on images", "ProtoNet on images"],
)
@pytest.mark.parametrize(
    "related_by", ["predictions", "regression", "features", "adaptation", "uniform", "shuffled"]
)
@pytest.mark.filterwarnings("ignore:A prediction depends on the other inputs")
def test_predictions_are_those_of_the_formula(learner, train, test, related_by):
    if related_by == "adaptation" and not learner.adapted_parameters():
        with pytest.raises(MetaLensError, match="'adaptation' needs parameters that adapt"):
            RelatedModels(learner, train, n_tasks=5, related_by=related_by)
        return
    if related_by == "regression" and train is not TRAIN:
        with pytest.raises(MetaLensError, match="related_by='regression' takes classes with slots='random'"):
            RelatedModels(learner, train, n_tasks=5, related_by=related_by)(train[0].map(double).support)
        return
    related = RelatedModels(learner, train, n_tasks=5, related_by=related_by, share=0.3, temperature=0.7)

    def vector(model, support):
        if related_by == "features":
            return learner.embed(support.x).mean(0)
        before = learner.adapted_parameters()
        return torch.cat([(model.state[name] - value).flatten() for name, value in before.items()])

    known = [train[number].map(double) for number in range(5)]
    supports = [Examples(*map(torch.cat, zip(task.support, task.query, strict=True))) for task in known]
    models = [learner(support) for support in supports]
    task = test[2].map(double)
    own = learner(task.support)
    if related_by in ("features", "adaptation"):
        mine = vector(own, task.support)
        pairs = zip(models, supports, strict=True)
        relations = [F.cosine_similarity(mine, vector(model, s), dim=0) for model, s in pairs]
    elif related_by == "uniform":
        relations = [torch.zeros(())] * 5
    else:
        relations = [-task_loss(model(task.support.x), task.support.y) for model in models]
        relations = relations[-1:] + relations[:-1] if related_by == "shuffled" else relations
    weights = torch.softmax(torch.stack(relations).double() / 0.7, 0)
    if related_by == "regression":
        rows = torch.stack([model(task.support.x)[:, 0] for model in models]).T
        equal, y = torch.full((5,), 0.2, dtype=torch.float64), task.support.y[:, 0]
        left = rows.T @ rows + len(y) * 0.7 * torch.eye(5, dtype=torch.float64)
        weights = torch.linalg.solve(left, rows.T @ y + len(y) * 0.7 * equal)
    average = sum(w * model(task.query.x) for w, model in zip(weights, models, strict=True))
    expected = 0.7 * own(task.query.x) + 0.3 * average
    torch.testing.assert_close(related(task.support)(task.query.x), expected, rtol=1e-8, atol=1e-10)
    scores = evaluate(related, test, n_tasks=3)
    primary = scores[(scores.task == 2) & (scores.metric == scores.metric.iloc[0])].value.item()
    if task.query.y.is_floating_point():
        assert primary == pytest.approx(task_loss(expected, task.query.y).item())
    else:
        assert primary == (expected.argmax(-1) == task.query.y).double().mean()


@pytest.mark.parametrize("related_by", ["predictions", "regression", "features", "uniform", "shuffled"])
@pytest.mark.parametrize("make", [MAML, ProtoNet])
@pytest.mark.filterwarnings("ignore:A prediction depends on the other inputs")
def test_random_slots_are_those_of_the_formula(make, related_by):
    learner, share, temperature = images(make), 0.4, 0.3
    settings = {"related_by": related_by, "share": share, "temperature": temperature, "slots": "random"}
    related = RelatedModels(learner, Images(), n_tasks=4, **settings)
    task, known = Images()[7].map(double), [Images()[number].map(double) for number in range(4)]
    supports = [Examples(*map(torch.cat, zip(one.support, one.query, strict=True))) for one in known]
    models = [learner(support) for support in supports]
    x, y = task.support

    def meanings(model):
        pi = model(x).softmax(1).detach().numpy()
        table = np.zeros((2, 2))
        for row, label in zip(pi, y.tolist(), strict=True):
            table[:, label] += row
        table += 5e-7
        return table / table.sum(1, keepdims=True)

    maps = [torch.from_numpy(meanings(model)) for model in models]
    of_support = [model(x).softmax(1) @ table for model, table in zip(models, maps, strict=True)]
    if related_by == "features":
        mine = learner.embed(x).mean(0)
        relations = [F.cosine_similarity(mine, learner.embed(s.x).mean(0), dim=0) for s in supports]
    elif related_by == "uniform":
        relations = [torch.zeros(())] * 4
    else:
        relations = [-task_loss(pi.log(), y) for pi in of_support]
        relations = relations[-1:] + relations[:-1] if related_by == "shuffled" else relations
    weights = torch.softmax(torch.stack(relations).double() / temperature, 0)
    if related_by == "regression":
        rows = torch.stack(of_support).flatten(1).T
        left = rows.T @ rows + len(y) * temperature * torch.eye(4, dtype=torch.float64)
        right = rows.T @ F.one_hot(y).double().flatten() + len(y) * temperature * 0.25
        weights = torch.linalg.solve(left, right)
    of_query = [model(task.query.x).softmax(1) @ table for model, table in zip(models, maps, strict=True)]
    average = sum(w * pi for w, pi in zip(weights, of_query, strict=True))
    own = learner(task.support)(task.query.x)
    expected = (1 - share) * own + share * average.clamp(min=1e-6).log()
    torch.testing.assert_close(related(task.support)(task.query.x), expected, rtol=1e-8, atol=1e-10)
    table = related.choose(Validation(Images(), n_tasks=3), shares=[share], temperatures=[temperature])
    assert table.score.item() == evaluate(related, Images(), n_tasks=3, metrics=["accuracy"]).value.mean()


@pytest.mark.filterwarnings("ignore:A prediction depends on the other inputs")
def test_known_models_with_their_classes_turned_around_predict_the_same():
    class Turned(Images):
        def __getitem__(self, index):
            return super().__getitem__(index).map(lambda part: Examples(part.x, 1 - part.y))

    learner, task = images(ProtoNet), Images()[9].map(double)
    settings = {"n_tasks": 3, "related_by": "regression", "share": 1.0, "slots": "random"}
    models = [RelatedModels(learner, known, **settings)(task.support) for known in (Images(), Turned())]
    torch.testing.assert_close(*(model(task.query.x) for model in models))


def test_random_slots_of_numbers_are_refused():
    with pytest.raises(MetaLensError, match="slots='random' is for classes as targets, got numbers"):
        RelatedModels(regression(), TRAIN, n_tasks=3, slots="random")(TEST[0].map(double).support)


def test_without_a_share_it_is_the_learner_itself():
    learner = regression()
    related = RelatedModels(learner, TRAIN, n_tasks=3, share=0.0)
    np.testing.assert_array_equal(
        evaluate(related, TEST, n_tasks=60).value, evaluate(learner, TEST, n_tasks=60).value
    )


def test_the_choice_is_the_best_by_evaluation():
    related = RelatedModels(regression(), TRAIN, n_tasks=60)
    validation = Validation(Sinusoid("val"), n_tasks=55)
    grid = {"shares": [0.0, 0.5, 1.0], "temperatures": [0.1, 2.0]}
    table = related.choose(validation, **grid)
    chosen = related.share, related.temperature
    scores = {}
    for row in table.itertuples():
        related.share, related.temperature = row.share, row.temperature
        scores[row.share, row.temperature] = evaluate(related, Sinusoid("val"), n_tasks=55).value.mean()
        assert row.score == pytest.approx(scores[row.share, row.temperature], rel=1e-6)
    assert chosen == min(scores, key=scores.get)
    assert len(scores) == 6


@pytest.mark.slow
def test_models_of_related_tasks_help_and_those_of_wrong_tasks_do_not():
    torch.manual_seed(1)
    learner = MAML(mlp(), inner_steps=3)
    tasks = {split: Sinusoid(split, k_shot=5) for split in ("train", "val", "test")}
    fit(Objective(learner), tasks["train"], steps=400, meta_batch_size=8, outer_lr=0.01)
    scores = {}
    for kind in ("predictions", "shuffled"):
        related = RelatedModels(learner, tasks["train"], n_tasks=100, related_by=kind, share=0.0)
        own = evaluate(related, tasks["test"], n_tasks=100).value.mean()
        related.choose(Validation(tasks["val"], n_tasks=50))
        scores[kind] = evaluate(related, tasks["test"], n_tasks=100).value.mean() / own
    assert scores["predictions"] < 0.75 < 0.95 < scores["shuffled"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_tasks": 0}, "n_tasks must be at least 1"),
        ({"share": 1.5}, "share must be from 0 to 1"),
        ({"share": "half"}, "share must be a number, got 'half'"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"slots": "loose"}, "slots must be one of fixed, random"),
        ({"related_by": "love"}, "related_by must be one of predictions, regression, features"),
    ],
)
def test_wrong_settings_are_refused(settings, words):
    with pytest.raises(MetaLensError, match=words):
        RelatedModels(regression(), TRAIN, **settings)


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"shares": []}, "needs at least one of shares and of temperatures"),
        ({"temperatures": []}, "needs at least one of shares and of temperatures"),
        ({"shares": [0.5, 7]}, "share must be from 0 to 1, got 7"),
        ({"temperatures": [0.0]}, "temperature must be above 0"),
    ],
)
def test_wrong_choices_are_refused(grid, words):
    related = RelatedModels(regression(), TRAIN, n_tasks=3)
    with pytest.raises(MetaLensError, match=words):
        related.choose(Validation(Sinusoid("val"), n_tasks=2), **grid)
    assert (related.share, related.temperature) == (0.5, 0.1)


def test_it_is_not_trained_and_leaves_its_learner_as_it_was():
    learner = regression().train()
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    related = RelatedModels(learner, TRAIN, n_tasks=3)
    related.choose(Validation(Sinusoid("val"), n_tasks=3))
    assert learner.training
    for name, value in learner.state_dict().items():
        assert torch.equal(value, before[name])
    with pytest.raises(MetaLensError, match="RelatedModels is not trained"):
        fit(Objective(related.float()), TRAIN, steps=1, meta_batch_size=3)


def test_its_models_move_with_it():
    related = RelatedModels(regression(), TRAIN, n_tasks=3).float()
    assert {value.dtype for value in related.models.values()} == {torch.float32}
    assert math.isfinite(evaluate(related, TEST, n_tasks=2).value.mean())
