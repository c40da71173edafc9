"""MLTI against loops over tasks and examples, with the draws that it made."""

import numpy as np
import pytest
import torch
from small_networks import N_TASKS, build_network, classification_tasks, regression_tasks
from torch.distributions import Beta

from metalens import MAML, MLTI, Examples, MetaLensError, Objective, Sinusoid, Task


class Draws:
    """What was drawn last: the other tasks and lam."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.others, self.lam, self.alpha = None, None, None
        randint, sample = torch.randint, Beta.sample

        def recorded_randint(*args, **kwargs):
            self.others = randint(*args, **kwargs)
            return self.others

        def recorded_sample(beta, shape):
            self.lam = sample(beta, shape)
            self.alpha = beta.concentration1.item(), beta.concentration0.item()
            return self.lam

        monkeypatch.setattr(torch, "randint", recorded_randint)
        monkeypatch.setattr(Beta, "sample", recorded_sample)


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> Draws:
    return Draws(monkeypatch)


@pytest.mark.parametrize("network", ["mlp", "conv-norm"])
def test_regression_tasks_are_interpolated_in_inputs_and_targets(network, draws):
    tasks = regression_tasks(network)
    before = [tensor.clone() for examples in tasks[:2] for tensor in examples]
    new = MLTI().transform_tasks(tasks)
    assert draws.lam.shape == draws.others.shape == (N_TASKS,)
    assert draws.lam.std() > 0
    for old_set, new_set in zip(tasks[:2], new[:2], strict=True):
        for old, mixed in zip(old_set, new_set, strict=True):
            assert mixed.dtype == torch.float64
            for i, (lam, j) in enumerate(zip(draws.lam.tolist(), draws.others.tolist(), strict=True)):
                expected = lam * old[i].numpy() + (1 - lam) * old[j].numpy()
                np.testing.assert_allclose(mixed[i].numpy(), expected, rtol=1e-12)
    after = [tensor for examples in tasks[:2] for tensor in examples]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def shuffled_tasks(shape: tuple[int, ...], n_way: int = 3, seed: int = 0) -> Task:
    """Balanced tasks whose examples come in any order."""
    generator = torch.Generator().manual_seed(seed)

    def examples(k: int) -> Examples:
        labels = torch.arange(n_way).repeat(k)
        y = torch.stack([labels[torch.randperm(len(labels), generator=generator)] for _ in range(N_TASKS)])
        return Examples(torch.randn(*y.shape, *shape, generator=generator, dtype=torch.float64), y)

    return Task(examples(2), examples(4))


def partner_of(mixed: torch.Tensor, own: torch.Tensor, lam: float, candidates: torch.Tensor) -> int:
    """Which candidate x_j explains mixed = lam own + (1 - lam) x_j: exactly one."""
    rests = [(mixed - lam * own - (1 - lam) * x).abs().max().item() for x in candidates]
    (found,) = (place for place, rest in enumerate(rests) if rest < 1e-12)
    return found


@pytest.mark.parametrize("shape", [(5,), (1, 3, 3)])
def test_classes_meet_one_to_one_and_their_examples_too(shape, draws):
    torch.manual_seed(0)
    tasks = shuffled_tasks(shape)
    maps, pairings = set(), set()
    for _ in range(25):
        new = MLTI().transform_tasks(tasks)
        for i, (lam, j) in enumerate(zip(draws.lam.tolist(), draws.others.tolist(), strict=True)):
            met = {}
            for old_set, new_set in zip(tasks[:2], new[:2], strict=True):
                assert torch.equal(new_set.y, old_set.y)
                partners = [
                    partner_of(new_set.x[i, n], old_set.x[i, n], lam, old_set.x[j])
                    for n in range(old_set.y.shape[1])
                ]
                assert sorted(partners) == list(range(old_set.y.shape[1]))  # each meets one, all are met
                for n, partner in enumerate(partners):
                    own, other = old_set.y[i, n].item(), old_set.y[j, partner].item()
                    assert met.setdefault(own, other) == other  # support and query share the map
            pairings.add((i, j, tuple(partners)))
            maps.add(tuple(met[own] for own in range(3)))
    assert len(maps) == 6  # all permutations of 3 classes
    assert len(pairings) > 60  # examples of a class are paired anew


def test_each_task_has_its_own_map_of_classes(draws):
    torch.manual_seed(0)
    x = torch.eye(3, dtype=torch.float64).expand(N_TASKS, 3, 3)
    examples = Examples(x, torch.arange(3).expand(N_TASKS, 3))
    maps = set()
    for _ in range(5):
        new = MLTI().transform_tasks(Task(examples, examples)).support.x
        draw = {str((new[i] - draws.lam[i] * x[i]).gt(1e-9).tolist()) for i in range(N_TASKS)}
        maps.add(len(draw))
    assert max(maps) > 1


def test_any_task_of_the_batch_is_a_partner(draws):
    pairs = set()
    for _ in range(40):
        MLTI().transform_tasks(regression_tasks("mlp"))
        pairs |= set(enumerate(draws.others.tolist()))
    assert pairs == {(i, j) for i in range(N_TASKS) for j in range(N_TASKS)}


@pytest.mark.parametrize("alpha", [None, 0.5])
def test_lam_is_beta_distributed(alpha, draws):
    (MLTI() if alpha is None else MLTI(alpha=alpha)).transform_tasks(regression_tasks("mlp"))
    assert draws.alpha == ((2.0, 2.0) if alpha is None else (0.5, 0.5))


def test_the_objective_adapts_to_interpolated_tasks():
    tasks, learner = regression_tasks("mlp"), MAML(build_network("mlp"))
    torch.manual_seed(0)
    loss = Objective(learner, [MLTI()])(tasks)["query"]
    torch.manual_seed(0)
    torch.testing.assert_close(loss, Objective(learner)(MLTI().transform_tasks(tasks))["query"])


@pytest.mark.parametrize(
    ("support", "query", "n_classes"),
    [
        ([[0, 0, 1, 1], [0, 1, 1, 1]], [[0, 1], [0, 1]], 2),  # one task is unbalanced
        ([[0, 1, 1], [0, 1, 1]], [[0, 1], [0, 1]], 2),  # both are
        ([[0, 1], [0, 1]], [[0, 1, 0], [0, 1, 0]], 2),
        ([[0, 1], [0, 1]], [[0, 1, 2], [0, 1, 2]], 3),  # a class without support
        ([[0, 0, 1, 1], [2, 2, 1, 1]], [[0, 1], [2, 1]], 3),  # other classes
        ([[0, 0, 1], [0, 0, 1]], [[0, 1, 2], [0, 1, 2]], 3),
    ],
)
def test_unbalanced_classes_are_refused(support, query, n_classes):
    tasks = Task(*(Examples(torch.zeros(2, len(y[0]), 1), torch.tensor(y)) for y in (support, query)))
    words = (
        "^MLTI pairs the classes of tasks, so the support sets of a batch must have equally many examples of "
        f"every class, and so must the query sets; got unequal numbers of {n_classes} classes.$"
    )
    with pytest.raises(MetaLensError, match=words):
        MLTI().transform_tasks(tasks)


def test_refusals():
    for alpha in (0.0, float("inf"), float("nan")):
        with pytest.raises(MetaLensError, match=f"^MLTI: alpha must be above 0 and finite, got {alpha}.$"):
            MLTI(alpha=alpha)
    assert MLTI(alpha=0.01).alpha == 0.01
    _, y = classification_tasks("mlp").support
    tokens = Examples(torch.ones(*y.shape, 7, dtype=torch.int64), y)
    words = "^MLTI interpolates inputs, which must be real numbers, got torch.int64; convert them.$"
    with pytest.raises(MetaLensError, match=words):
        MLTI().transform_tasks(Task(tokens, tokens))
    with pytest.raises(MetaLensError, match="MLTI needs a meta-batch of at least 2 tasks, got 1"):
        Objective(MAML(build_network("mlp")), [MLTI()]).double()(
            Task(*(Examples(x[:1], y[:1]) for x, y in regression_tasks("mlp")[:2]))
        )
    assert MLTI().transform_tasks(Sinusoid().batch(range(2))).query.y.shape == (2, 15, 1)
