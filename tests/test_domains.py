"""Several domains: their tasks in turn, and results by domain."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from metalens import MetaLensError, MultiDomain, Sinusoid, stack_tasks
from metalens.data import Harmonic, TaskDistribution
from metalens.experiments import RECIPES
from metalens.reports import by_domain, paired_differences, results_table, summarize
from metalens.tasks import Examples, Task


class Labels(TaskDistribution):
    """Tasks whose inputs are their numbers, with targets that are classes."""

    def __init__(self, split="train", *, n_classes=3, seed=0):
        super().__init__(split, seed=seed)
        self.n_classes = n_classes

    def __getitem__(self, index):
        part = Examples(torch.full((2, 1), float(index)), torch.tensor([0, 1]))
        return Task(part, part)

    def with_global_labels(self):
        return self


def test_domains_come_in_turn():
    domains = {"a": Labels(), "b": Labels(n_classes=4), "c": Labels(n_classes=5)}
    tasks = MultiDomain(domains)
    batch = tasks.batch([0, 1, 2, 7, 3])
    assert batch.support.x[:, 0, 0].tolist() == [0, 0, 0, 2, 1]
    assert batch.descriptors.argmax(1).tolist() == [0, 1, 2, 1, 0]
    assert [tasks.domain(index) for index in (0, 1, 2, 7)] == ["a", "b", "c", "b"]
    assert tasks.task_name(7) == "b 2"
    stacked = stack_tasks([tasks[index] for index in (0, 1, 2, 7, 3)])
    assert all(torch.equal(one, other) for one, other in zip(batch.tensors, stacked.tensors, strict=True))
    assert tasks.n_classes == 12
    assert tasks.with_global_labels().batch([0, 1, 2]).query.y.tolist() == [[0, 1], [3, 4], [7, 8]]
    real = MultiDomain({"sine": Sinusoid("test"), "harmonic": Harmonic("test")}, unseen=["harmonic"])
    assert torch.equal(real.with_global_labels()[3].query.y, Harmonic("test")[1].query.y)
    assert real.metadata() == {"sine": {}, "harmonic": {}, "unseen": ["harmonic"]}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MultiDomain({}), "at least one, and all of one split, got none"),
        (lambda: MultiDomain({"a": Labels("val"), "b": Labels("test")}), "all of one split, got test, val"),
        (lambda: MultiDomain({"a": Labels()}, unseen=["b"]), "unseen must name some of a, got b"),
        (lambda: MultiDomain({"a": Labels()}).batch([]), "Task numbers must be 0 or more"),
        (lambda: replace(RECIPES["cross-domain"], unseen=["tinyimagenet"]), "name each data set once"),
        (lambda: replace(RECIPES["cross-domain"], unseen=[]), "unseen one to test on"),
    ],
)
def test_wrong_domains_are_refused(make, words):
    with pytest.raises(MetaLensError, match=words):
        make()


def test_results_are_paired_by_domain():
    domains = ["a", "b", "c"] * 4
    rows = []
    for learner, shift in (("MAML", 0.0), ("ANIL", 0.1)):
        for seed in (0, 1):
            for task, domain in enumerate(domains):
                value = 0.5 + shift * (domain == "c") + 0.01 * task + 0.001 * seed * (learner == "ANIL")
                split = "test" if domain == "a" else "test_unseen"
                rows.append([learner, "none", "uniform", seed, split, domain, task, "accuracy", value])
    columns = ["learner", "regularizers", "sampler", "seed", "split", "domain", "task", "metric", "value"]
    results = pd.DataFrame(rows, columns=columns)
    parts = by_domain(results)
    assert list(parts) == ["domains of training", "unseen domains", "a", "b (unseen)", "c (unseen)"]
    assert sum(len(parts[title]) for title in list(parts)[2:]) == len(results)
    differences = {title: paired_differences(part)["difference"].iloc[0] for title, part in parts.items()}
    expected = [0.0005, 0.0505, 0.0005, 0.0005, 0.1005]
    assert list(differences.values()) == pytest.approx(expected)
    assert summarize(parts["a"])["n_tasks"].tolist() == [4, 4]
    assert str(results_table(parts["a"], "a").title) == "a"
    assert by_domain(results.drop(columns="domain")) == {}
