"""TRLearner against loops written straight from its formula, and what the formula implies."""

import numpy as np
import pytest
import torch
from small_networks import N_WAY, build_network, classification_tasks, regression_tasks
from torch.utils import _pytree as pytree

from metalens import (
    ANIL,
    MAML,
    AdaptedTasks,
    DropoutBins,
    MetaLensError,
    Objective,
    ProtoNet,
    Sinusoid,
    Task,
    TRLearner,
    mlp,
)
from metalens.relations import Cosine, Known, Mutual, Shuffled, Uniform
from metalens.relations.weights import model_weights


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def loss_by_loops(learner, regularizer: TRLearner, tasks) -> float:
    """sum_j loss(sum_p m_ip f_p(x_ij) / sum_p m_ip, y_ij) / q, tasks, models, heads and queries by loops."""
    n, q = tasks.query.y.shape[:2]
    omega = regularizer.relation.omega.detach().numpy()
    states, vectors = [], []
    for i in range(n):
        support = type(tasks.support)(tasks.support.x[i], tasks.support.y[i])
        states.append({name: value.detach() for name, value in learner.adapt(support).items()})
        vectors.append(learner.embed(support.x).detach().numpy().mean(0))
    m = np.array([[np.mean([cosine(w * a, w * b) for w in omega]) for b in vectors] for a in vectors])
    total = 0.0
    for i in range(n):
        nearest = sorted((p for p in range(n) if p != i), key=lambda p: -m[i, p])[: regularizer.neighbors]
        predictions = {p: learner.predict(states[p], tasks.query.x[i]).detach().numpy() for p in nearest}
        for j in range(q):
            weight = sum(max(m[i, p], 0.0) for p in predictions)
            average = sum(max(m[i, p], 0.0) * values[j] for p, values in predictions.items()) / weight
            if tasks.query.y.is_floating_point():
                total += ((average - tasks.query.y[i, j].numpy()) ** 2).mean() / (n * q)
            else:
                shifted = average - average.max()
                total -= (shifted[tasks.query.y[i, j]] - np.log(np.exp(shifted).sum())) / (n * q)
    return regularizer.weight * total


@pytest.mark.parametrize("network", ["mlp", "conv-norm"])
@pytest.mark.parametrize("make", [MAML, ANIL, ProtoNet])
@pytest.mark.parametrize("kind", [classification_tasks, regression_tasks])
@pytest.mark.parametrize("neighbors", [None, 2])
def test_equals_loops(network, make, kind, neighbors):
    if make is ProtoNet and kind is regression_tasks:
        pytest.skip("a classifier")
    learner = make(build_network(network))
    torch.manual_seed(5)
    regularizer = bound(TRLearner(weight=0.7, neighbors=neighbors), learner)
    tasks = kind(network)
    term = regularizer.loss_terms(AdaptedTasks(learner, tasks))["trlearner"]
    np.testing.assert_allclose(term.item(), loss_by_loops(learner, regularizer, tasks), rtol=1e-10)


def bound(method, learner=None):
    """A regularizer or relation with the parameters for a learner."""
    method.bind(MAML(build_network("mlp")) if learner is None else learner)
    return method.double()


def adapted(**settings) -> AdaptedTasks:
    return AdaptedTasks(MAML(build_network("mlp"), **settings), regression_tasks("mlp"))


@pytest.mark.parametrize("temperature", [None, 0.2])
@pytest.mark.parametrize(
    "make",
    [
        Cosine,
        Mutual,
        lambda **settings: Cosine(learned=False, **settings),
        lambda temperature: Uniform(),
        lambda **settings: Shuffled(Cosine(**settings)),
    ],
)
def test_relations_are_symmetric_with_unit_diagonal(make, temperature):
    relation = bound(make(temperature=temperature))
    matrix = relation(adapted())
    torch.testing.assert_close(matrix, matrix.T)
    torch.testing.assert_close(matrix.diagonal(), torch.ones(4, dtype=torch.float64))
    assert matrix.abs().max() <= 1 + 1e-12


def test_frozen_relations_are_the_cosine_of_mean_features():
    one = adapted()
    vectors = one.support_features.mean(1).detach().numpy()
    expected = [[cosine(a, b) for b in vectors] for a in vectors]
    np.testing.assert_allclose(Cosine(learned=False)(one).detach(), expected)


def test_shuffled_relations_are_the_learned_ones_of_other_tasks():
    learned, shuffled = bound(Cosine()), bound(Shuffled())
    shuffled.relation.load_state_dict(learned.state_dict())
    one = adapted()
    torch.manual_seed(0)
    values = [r(one).flatten().sort().values for r in (learned, shuffled)]
    torch.testing.assert_close(*values)
    for _ in range(20):
        difference = learned(one) - shuffled(one)
        assert difference.abs().max() > 1e-3


@pytest.mark.parametrize("settings", [{}, {"vector": "labeled"}, {"temperature": 0.1}])
def test_identical_tasks_have_uniform_relations_and_cost_as_much_as_the_query_loss(settings):
    tasks = pytree.tree_map(lambda t: t[:1].expand(4, *t.shape[1:]), regression_tasks("mlp"))
    one = AdaptedTasks(MAML(build_network("mlp")), tasks)
    regularizer = bound(TRLearner(Cosine(**settings), weight=1.0))
    torch.testing.assert_close(regularizer.relation(one), torch.ones(4, 4, dtype=torch.float64))
    torch.testing.assert_close(regularizer.loss_terms(one)["trlearner"], one.loss(one.query_predictions))


def test_all_neighbors_equal_no_limit_and_one_neighbor_is_the_nearest():
    one = adapted()
    torch.manual_seed(0)
    literal = bound(TRLearner())
    values = {}
    for k in (None, 3, 1):
        regularizer = bound(TRLearner(neighbors=k))
        regularizer.load_state_dict(literal.state_dict())
        values[k] = regularizer.loss_terms(one)["trlearner"]
    torch.testing.assert_close(values[3], values[None])
    nearest = (literal.relation(one) - 2 * torch.eye(4)).argmax(1, keepdim=True)
    alone = one.cross_predictions(nearest).squeeze(1)
    torch.testing.assert_close(values[1], 0.1 * one.loss(alone))


def test_negative_relations_count_as_zero_and_a_row_without_any_is_uniform():
    matrix = torch.tensor([[1.0, -0.5, -0.2], [-0.5, 1.0, 0.3], [-0.2, 0.3, 1.0]], dtype=torch.float64)
    models, weights = model_weights(matrix, None)
    assert models is None
    assert weights.tolist() == [[0.0, 0.5, 0.5], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    models, weights = model_weights(matrix, 1)
    assert models.tolist() == [[2], [2], [1]]
    assert weights.tolist() == [[1.0], [1.0], [1.0]]


def test_without_positive_relations_all_neighbors_weigh_the_same():
    matrix = torch.tensor([[1.0, -0.1, -0.2, -0.3], [-0.1, 1.0, -0.2, 0.0], [-0.2, -0.2, 1.0, -0.5]])
    models, weights = model_weights(matrix, 2)
    assert models is not None
    assert models[0].tolist() == [1, 2]
    assert torch.equal(weights, torch.full((3, 2), 0.5))
    models, weights = model_weights(matrix, None)
    assert torch.equal(weights, (1 - torch.eye(3, 4)) / 3)


def test_prototype_slots_undo_a_relabeling():
    """Tasks that differ only in the order of their classes agree after their slots are mapped."""
    support, query, _ = classification_tasks("mlp")
    order = torch.tensor([2, 0, 1])
    tasks = type(classification_tasks("mlp"))(
        *(
            type(support)(e.x[:1].expand(4, *e.x.shape[1:]), torch.stack([e.y[0], order[e.y[0]]] * 2))
            for e in (support, query)
        )
    )
    learner = ProtoNet(build_network("mlp"))
    one = AdaptedTasks(learner, tasks)
    plain = bound(TRLearner(weight=1.0), learner)
    mapped = bound(TRLearner(weight=1.0, slot_temperature=1e-5), learner)
    own = one.loss(one.query_predictions)
    torch.testing.assert_close(mapped.loss_terms(one)["trlearner"], own, rtol=1e-4, atol=1e-4)
    assert plain.loss_terms(one)["trlearner"] > own + 0.01


@pytest.mark.parametrize("weights", [None, [0.4, 0.3, 0.2, 0.1]])
@pytest.mark.parametrize("kind", [classification_tasks, regression_tasks])
@pytest.mark.parametrize(
    ("network", "settings"),
    [
        ("mlp", {"n_query_hat": 1}),
        ("mlp", {"n_tasks_hat": 1}),
        ("mlp", {"n_query_hat": 2, "n_tasks_hat": 2}),
        ("mlp", {"n_query_hat": 1, "n_tasks_hat": 1, "neighbors": 2}),
        ("conv-norm", {"n_tasks_hat": 1}),  # every set that is normalized is whole
    ],
)
def test_estimates_are_unbiased(network, settings, kind, weights, monkeypatch):
    """The mean of the term and its gradient over all that can be drawn is that of the whole term."""
    tasks = kind(network)
    n, q = tasks.query.y.shape[:2]
    learner = MAML(build_network(network), inner_steps=1)
    whole = bound(TRLearner(neighbors=settings.get("neighbors")), learner)
    estimate = bound(TRLearner(**settings), learner)
    estimate.load_state_dict(whole.state_dict())
    parameters = [*learner.parameters(), whole.relation.omega]
    parts = [*learner.parameters(), estimate.relation.omega]
    weights = None if weights is None else torch.tensor(weights, dtype=torch.float64)[:n]

    def term_and_gradient(regularizer, by):
        adapted = AdaptedTasks(learner, tasks, weights=weights)
        term = regularizer.loss_terms(adapted)["trlearner"]
        return torch.cat([value.flatten() for value in (term, *torch.autograd.grad(term, by))])

    found = []
    for shift in range(n * q):
        monkeypatch.setattr(
            torch,
            "randperm",
            lambda size, shift=shift, **_: torch.arange(size).roll(shift // (n if size == q else 1)),
        )
        found.append(term_and_gradient(estimate, parts))
    expected = term_and_gradient(whole, parameters)
    torch.testing.assert_close(torch.stack(found).mean(0), expected, rtol=1e-9, atol=1e-9)


def test_relations_are_trained():
    learner = MAML(mlp())
    objective = Objective(learner, [TRLearner(weight=0.5)])
    sum(objective(Sinusoid().batch(range(5))).values()).backward()
    assert objective.relation.omega.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"weight": -1.0}, "weight must be 0 or more"),
        ({"neighbors": 0}, "neighbors must be at least 1"),
        ({"n_query_hat": 0}, "n_query_hat must be at least 1"),
        ({"n_tasks_hat": 0}, "n_tasks_hat must be at least 1"),
        ({"slot_temperature": -1.0}, "slot_temperature must be above 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(MetaLensError, match=words):
        TRLearner(**settings)


@pytest.mark.parametrize(
    ("make", "settings", "words"),
    [
        (Cosine, {"heads": 0}, "heads must be at least 1"),
        (Cosine, {"temperature": 0.0}, "temperature must be above 0"),
        (Mutual, {"temperature": 0.0}, "temperature must be above 0"),
        (Known, {"scale": 0.0}, "scale must be above 0"),
        (Cosine, {"vector": "x"}, "vector must be one of"),
    ],
)
def test_settings_of_relations_out_of_range_are_refused(make, settings, words):
    with pytest.raises(MetaLensError, match=words):
        make(**settings)


def test_defaults_are_those_of_the_paper():
    one = bound(TRLearner())
    names = ("weight", "neighbors", "n_query_hat", "n_tasks_hat", "slot_temperature")
    assert [getattr(one, name) for name in names] == [0.1, None, None, None, None]
    names = ("heads", "vector", "learned", "center", "temperature")
    assert [getattr(one.relation, name) for name in names] == [4, "features", True, False, None]
    assert one.relation.omega.shape == (4, 7)
    wide = bound(Cosine(), MAML(mlp(hidden=[4000]))).omega
    assert abs(wide.mean() - 1) < 0.01
    assert abs(wide.std() - 0.1) < 0.01


def test_parameters_are_made_once_and_for_one_size():
    regularizer = TRLearner()
    with pytest.raises(MetaLensError, match="has no omega yet"):
        regularizer.relation(adapted())
    learner = MAML(mlp(hidden=[9]).double())
    Objective(learner, [regularizer])
    omega = regularizer.relation.omega
    assert omega.dtype == torch.float64
    Objective(learner, [regularizer])
    assert regularizer.relation.omega is omega
    with pytest.raises(MetaLensError, match=r"omega is for task vectors of length 9, but those .* length 40"):
        Objective(MAML(mlp()), [regularizer])


def test_refusals_at_assembly_and_for_small_batches():
    with pytest.raises(MetaLensError, match="needs parameters that adapt, and ProtoNet has none"):
        Objective(ProtoNet(mlp(5, N_WAY)), [TRLearner(Cosine(vector="adaptation"))])
    objective = Objective(MAML(mlp()), [TRLearner()])
    with pytest.raises(MetaLensError, match="at least 3 tasks, got 2: with 2"):
        objective(Sinusoid().batch(range(2)))
    slots = Objective(MAML(mlp()), [TRLearner(slot_temperature=0.1)])
    with pytest.raises(MetaLensError, match="is for classification"):
        slots(Sinusoid().batch(range(3)))


def test_a_network_changed_by_another_regularizer_is_named():
    moved = Cosine(vector="adaptation")
    objective = Objective(MAML(mlp()), [TRLearner(moved), DropoutBins()])
    with pytest.raises(MetaLensError, match="as another regularizer has changed the network"):
        objective(Sinusoid().batch(range(4)))
    after = Objective(MAML(mlp()), [DropoutBins(), TRLearner(Cosine(vector="adaptation"))])
    assert after(Sinusoid().batch(range(4)))["trlearner"] > 0


@pytest.mark.parametrize("network", ["mlp", "conv-norm"])
@pytest.mark.parametrize("make", [MAML, ANIL, ProtoNet])
@pytest.mark.parametrize("temperature", [None, 0.3])
def test_mutual_relations_are_how_well_models_predict_each_others_supports(network, make, temperature):
    learner, tasks = make(build_network(network)), classification_tasks(network)
    matrix = Mutual(temperature=temperature)(AdaptedTasks(learner, tasks)).detach()
    n = len(tasks.query.y)
    supports = [type(tasks.support)(tasks.support.x[i], tasks.support.y[i]) for i in range(n)]
    states = [learner.adapt(support) for support in supports]
    losses = np.array(
        [[learner.loss(learner.predict(state, x), y).item() for state in states] for x, y in supports]
    )
    distances = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            excess = losses[i, j] - losses[i, i] + losses[j, i] - losses[j, j]
            distances[i, j] = max(0.0, excess / 2)
    scale = distances[~np.eye(n, dtype=bool)].mean() if temperature is None else temperature
    np.testing.assert_allclose(matrix, np.exp(-distances / scale), rtol=1e-8)


def test_known_relations_fall_with_the_distance_of_traits():
    tasks, descriptors = regression_tasks("mlp"), torch.randn(4, 3, dtype=torch.float64)
    adapted = AdaptedTasks(MAML(build_network("mlp")), Task(tasks.support, tasks.query, descriptors))
    t = descriptors.numpy()
    distances = ((t[:, None] - t[None]) ** 2).sum(-1)
    by_batch = distances[~np.eye(4, dtype=bool)].mean() / 2
    for scale, divisor in ((None, by_batch), (0.5, 2 * 0.5**2)):
        matrix = Known(scale=scale)(adapted)
        np.testing.assert_allclose(matrix, np.exp(-distances / divisor), rtol=1e-12)
    shuffled = Shuffled(Known(scale=0.5))(adapted)
    assert torch.equal(shuffled, shuffled.T)
    assert not (shuffled == matrix)[~torch.eye(4, dtype=torch.bool)].all()
    torch.testing.assert_close(shuffled.sort().values.sum(0), matrix.sort().values.sum(0))
    assert not list(bound(TRLearner(Known())).parameters())


def test_known_relations_of_equal_tasks_are_all_one():
    tasks = Task(*regression_tasks("mlp")[:2], torch.ones(4, 3, dtype=torch.float64))
    adapted = AdaptedTasks(MAML(build_network("mlp")), tasks)
    assert (Known()(adapted) == 1).all()


def test_known_relations_need_traits():
    objective = Objective(MAML(build_network("mlp")), [TRLearner(Known())])
    with pytest.raises(MetaLensError, match="needs tasks with descriptors, got tasks without; let their"):
        objective(regression_tasks("mlp"))
