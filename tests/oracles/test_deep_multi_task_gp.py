"""A deep kernel process with known tasks against a joint Gaussian by NumPy, and what the formula implies."""

import numpy as np
import pytest
import torch
from torch import nn

from metalens import (
    DeepKernelGP,
    DeepMultiTaskGP,
    Examples,
    MetaLensError,
    Network,
    Objective,
    Task,
    TaskDistribution,
    evaluate,
    fit,
    mlp,
)

HYPER = {
    "log_noise": -1.2,
    "log_amplitude": 0.3,
    "log_length_scale": -0.2,
    "log_related": 0.7,
    "log_own": -0.4,
}


class Lines(TaskDistribution):
    """Ten tasks with six fixed rows of two inputs, four of them in the support at random."""

    n_train_tasks = 10

    def __init__(self, split="train", *, classes=False, n_outputs=1):
        super().__init__(split)
        self.classes, self.n_outputs = classes, n_outputs

    def rows(self, name):
        rng = np.random.default_rng([name, len(self.split)])
        x = rng.normal(size=(6, 2))
        y = x @ rng.normal(size=(2, self.n_outputs)) + 0.1 * rng.normal(size=(6, self.n_outputs))
        if self.classes:
            return Examples(torch.from_numpy(x), torch.arange(3).repeat(2))
        return Examples(torch.from_numpy(x), torch.from_numpy(y))

    def task_name(self, index):
        return str(index % 10)

    def __getitem__(self, index):
        x, y = self.rows(index % 10)
        order = torch.from_numpy(np.random.default_rng(index).permutation(6))
        return Task(Examples(x[order[:4]], y[order[:4]]), Examples(x[order[4:]], y[order[4:]]))

    def examples_by_task(self, n):
        return {str(name): self.rows(name) for name in range(10)}


def trained(relations="learned", tasks=None, n_outputs=1, **settings) -> DeepMultiTaskGP:
    torch.manual_seed(0)
    network = mlp(2, n_outputs, hidden=[5]).double()
    learner = DeepMultiTaskGP(network, relations=relations, **settings).double()
    learner.prepare(Lines() if tasks is None else tasks)
    with torch.no_grad():
        for name, value in learner.hyperparameters.items():
            value.copy_(torch.full_like(value, HYPER.get(name, 0.1)))
    return learner.eval()


class Oracle:
    """The process from its definition: functions of known tasks, then one big Gaussian."""

    def __init__(self, learner, known):
        self.learner, self.known = learner, known
        self.relations, self.noise = learner.relations, np.exp(HYPER["log_noise"])

    def kernel(self, a, b):
        a, b = (self.learner.embed(part).detach().numpy() for part in (a, b))
        squares = (
            np.square(a[:, None] - b[None]).sum(-1) / a.shape[1] * np.exp(-2 * HYPER["log_length_scale"])
        )
        return np.exp(HYPER["log_amplitude"]) * np.exp(-squares / 2)

    def mean(self, x):
        hyper = self.learner.hyperparameters
        return (hyper["mean"] + self.learner.embed(x) @ hyper["mean_weights"]).detach().numpy()

    def functions(self, x):
        found = []
        for of_x, of_y in self.known:
            k = self.kernel(of_x, of_x)
            s = self.noise + 1e-4 * np.diag(k).mean()
            left = np.linalg.inv(k + s * np.eye(len(k))) @ (of_y.numpy() - self.mean(of_x))
            found.append(self.kernel(x, of_x) @ left)
        found = np.array(found)  # (P, n, c)
        return found.mean(0) if self.relations == "equal" else np.moveaxis(found, 1, 0).reshape(len(x), -1)

    def covariance(self, a, b):
        if self.relations == "none":
            return self.kernel(a, b)
        u, v = self.functions(a), self.functions(b)
        own = np.exp(HYPER["log_own"]) * self.kernel(a, b)
        return own + np.exp(HYPER["log_related"]) / u.shape[1] * u @ v.T

    def __call__(self, support, x):
        k = self.covariance(support.x, support.x)
        s = self.noise + 1e-4 * np.diag(k).mean()
        inverse = np.linalg.inv(k + s * np.eye(len(k)))
        cross = self.covariance(x, support.x)
        mean = self.mean(x) + cross @ inverse @ (support.y.numpy() - self.mean(support.x))
        return mean, np.diag(self.covariance(x, x) - cross @ inverse @ cross.T) + s


@pytest.mark.parametrize("relations", ["learned", "equal", "none"])
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_mean_and_variance_are_those_of_the_joint_gaussian(relations, n_outputs):
    learner = trained(relations, Lines(n_outputs=n_outputs), n_outputs=n_outputs)
    task = Lines("test", n_outputs=n_outputs)[3]
    known = [Lines(n_outputs=n_outputs).rows(name) for name in range(10)]
    mean, variance = Oracle(learner, known)(task.support, task.query.x)
    state = learner.adapt(task.support)
    found = learner.predict_distribution(state, task.query.x)
    np.testing.assert_allclose(found[0].detach(), mean, rtol=1e-9)
    np.testing.assert_allclose(found[1].detach()[:, 0], variance, rtol=1e-9)


def test_a_known_task_does_not_see_itself():
    learner, task = trained(), Lines()[13]  # another draw of task 3
    others = [Lines().rows(name) for name in range(10)]
    others[3] = Examples(others[3].x, torch.zeros_like(others[3].y) + 0.0)
    oracle = Oracle(learner, others)
    everything = oracle.functions
    oracle.functions = lambda x: np.where(np.arange(10) == 3, 0.0, everything(x))
    mean, _ = oracle(task.support, task.query.x)
    found = learner(task.support)(task.query.x)
    np.testing.assert_allclose(found.detach(), mean, rtol=1e-9)
    changed = Examples(task.support.x, task.support.y + 1e-2 * torch.eye(4)[:, :1])  # one row differs
    assert learner._others(learner.encode(changed.x), changed.y).all()


@pytest.mark.parametrize("level", [0.0, 1e4])
def test_a_known_task_is_told_from_others_whatever_the_level_of_inputs(level):
    class Raised(Lines):
        def rows(self, name):
            x, y = super().rows(name)
            return Examples((x + level).float(), y.float())

    learner = DeepMultiTaskGP(mlp(2, 1, hidden=[5]))
    learner.prepare(Raised())
    for tasks, own in ((Raised(), 7), (Raised("test"), None)):
        support = tasks[7].support
        others = learner._others(learner.encode(support.x), support.y)
        assert others.tolist() == [float(name != own) for name in range(10)]


def test_of_classes_the_slots_of_known_tasks_do_not_matter():
    class Turned(Lines):
        def rows(self, name):
            x, y = super().rows(name)
            return Examples(x, (y + name) % 3)

    models = [trained(tasks=of(classes=True), n_outputs=3) for of in (Lines, Turned)]
    task = Lines("test", classes=True)[5]
    first, second = (model(task.support)(task.query.x) for model in models)
    assert first.shape == (2, 3)
    torch.testing.assert_close(first, second)
    own = Lines(classes=True)[7]
    assert models[0]._others(models[0].encode(own.support.x), own.support.y).tolist() == [
        float(name != 7) for name in range(10)
    ]


def test_known_tasks_of_different_sizes_are_padded():
    class Uneven(Lines):
        def examples_by_task(self, n):
            found = super().examples_by_task(n)
            return {name: Examples(*(part[: 2 + int(name) % 4] for part in of)) for name, of in found.items()}

    learner, task = trained(tasks=Uneven()), Lines("test")[1]
    known = list(Uneven().examples_by_task(10).values())
    mean, _ = Oracle(learner, known)(task.support, task.query.x)
    np.testing.assert_allclose(learner(task.support)(task.query.x).detach(), mean, rtol=1e-9)


def test_without_known_tasks_it_is_a_deep_kernel():
    torch.manual_seed(0)
    learner = DeepMultiTaskGP(mlp(2, 1, hidden=[5]), relations="none").double()
    torch.manual_seed(0)
    plain = DeepKernelGP(mlp(2, 1, hidden=[5]), mean="network", objective="predictive").double()
    task = Lines("test")[0]
    torch.testing.assert_close(learner(task.support)(task.query.x), plain(task.support)(task.query.x))
    learner.prepare(Lines())
    assert len(learner.known_x) == 0


def test_an_empty_support_is_predicted_by_the_mean():
    learner, x = trained(), Lines("test")[0].query.x
    empty = Examples(torch.zeros(0, 2).double(), torch.zeros(0, 1).double())
    torch.testing.assert_close(
        learner(empty)(x), learner._mean({**learner.hyperparameters}, learner.encode(x))
    )


def test_it_takes_few_rows_of_each_task_and_the_same_ones_always():
    learner = trained(n_rows=3)
    assert learner.known_x.shape == (10, 3, 2)
    assert learner.prints.shape == (10, 6)
    again = trained(n_rows=3)
    assert torch.equal(learner.known_x, again.known_x)
    for name in range(10):
        rows = {tuple(row) for row in Lines().rows(name).x.tolist()}
        assert {tuple(row) for row in learner.known_x[name].tolist()} <= rows


def test_known_tasks_are_saved_and_loaded():
    learner, task = trained(), Lines("test")[2]
    other = DeepMultiTaskGP(mlp(2, 1, hidden=[5]).double()).double()
    other.load_state_dict(learner.state_dict())
    assert torch.equal(other(task.support)(task.query.x), learner(task.support)(task.query.x))


def test_inputs_of_whole_numbers_are_kept_as_such():
    class Words(Lines):
        def rows(self, name):
            x, y = super().rows(name)
            return Examples((x * 2).round().long().clamp(0, 3), y)

    def learner():
        torch.manual_seed(0)
        backbone = nn.Sequential(nn.Embedding(4, 3), nn.Flatten())
        return DeepMultiTaskGP(Network(backbone, nn.Linear(6, 1), n_features=6, n_outputs=1))

    first, second, task = learner(), learner(), Words("test")[0].map(single)
    first.prepare(Words())
    assert first.known_x.dtype == torch.int64
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(task.support)(task.query.x), second(task.support)(task.query.x))


def single(examples):
    return Examples(examples.x, examples.y.float())


def test_the_gradient_goes_through_the_functions_of_known_tasks():
    learner, task = trained().train(), Lines("test").batch([4])
    weight = learner.network.backbone[0][0].weight
    loss = Objective(learner)(task)["query"]
    (gradient,) = torch.autograd.grad(loss, weight)
    with torch.no_grad():
        found = []
        for step in (1e-5, -1e-5):
            weight[1, 0] += step
            found.append(Objective(learner)(task)["query"].item())
            weight[1, 0] -= step
    assert gradient[1, 0].item() == pytest.approx((found[0] - found[1]) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("relations", ["learned", "equal", "none"])
def test_training_prepares_it(relations):
    torch.manual_seed(0)
    learner = DeepMultiTaskGP(mlp(2, 1, hidden=[5]), relations=relations).double()
    before = evaluate(learner, Lines("test"), n_tasks=10).value.mean()
    fit(Objective(learner), Lines(), steps=10, meta_batch_size=4, outer_lr=0.03)
    assert (len(learner.known_x) == 0) == (relations == "none")
    assert evaluate(learner, Lines("test"), n_tasks=10).value.mean() < before


def test_relations_to_known_tasks_tell_a_function_from_few_rows():
    class Waves(Lines):
        """Every task is a weighted sum of the same two waves."""

        def rows(self, name):
            rng = np.random.default_rng([name, len(self.split)])
            x = rng.uniform(-2, 2, size=(24, 1))
            y = rng.normal() * np.sin(2 * x) + rng.normal() * np.cos(3 * x)
            return Examples(torch.from_numpy(x), torch.from_numpy(y))

        def __getitem__(self, index):
            x, y = self.rows(index % 10)
            order = torch.from_numpy(np.random.default_rng(index).permutation(24))
            return Task(Examples(x[order[:4]], y[order[:4]]), Examples(x[order[4:]], y[order[4:]]))

    errors = {}
    for relations in ("learned", "equal", "none"):
        torch.manual_seed(0)
        network = mlp(1, 1, hidden=[20])
        learner = DeepMultiTaskGP(network, relations=relations, domain_kernel="rbf", noise=0.01).double()
        fit(Objective(learner), Waves(), steps=20, meta_batch_size=4, outer_lr=0.03)
        errors[relations] = evaluate(learner, Waves("test"), n_tasks=10).value.mean()
    assert errors["learned"] < 0.3 * min(errors["equal"], errors["none"])


def test_mistakes():
    with pytest.raises(MetaLensError, match="relations must be one of learned, equal, none"):
        DeepMultiTaskGP(mlp(), relations="known")
    with pytest.raises(MetaLensError, match="n_rows"):
        DeepMultiTaskGP(mlp(), n_rows=0)
    with pytest.raises(MetaLensError, match="targets"):
        DeepMultiTaskGP(mlp(2, 1)).prepare(Lines(n_outputs=2))
