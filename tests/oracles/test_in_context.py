"""TabICL and TabPFN predict what their packages do; here with small models of random weights."""

import numpy as np
import pandas as pd
import pytest
import torch

from metalens import Examples, MetaLensError, MetaRegressor, TabICL, TabPFN
from metalens.learners.classification import MIN_PROBABILITY

N_CLASSES = 3


def write_tabicl(path, max_classes):
    pytest.importorskip("tabicl", reason="the extra tabicl is not installed")
    from tabicl._model import tabicl

    config = {
        "max_classes": max_classes, "num_quantiles": 9, "embed_dim": 16, "col_num_blocks": 1, "col_nhead": 2,
        "col_num_inds": 4, "row_num_blocks": 1, "row_nhead": 2, "row_num_cls": 2, "icl_num_blocks": 1,
        "icl_nhead": 2, "ff_factor": 1,
    }  # fmt: skip
    model = disturbed(tabicl.TabICL(**config))
    torch.save({"config": config, "state_dict": model.state_dict()}, path)


def write_tabpfn(path, max_classes):
    pytest.importorskip("tabpfn", reason="the extra tabpfn is not installed")
    from tabpfn.architectures import tabpfn_v2
    from tabpfn.architectures.shared.bar_distribution import FullSupportBarDistribution

    config = {"emsize": 12, "nlayers": 2, "nhead": 2, "max_num_classes": max_classes, "num_buckets": 20}
    state = disturbed(tabpfn_v2.get_architecture(tabpfn_v2.parse_config(config)[0])).state_dict()
    if not max_classes:
        bars = FullSupportBarDistribution(torch.linspace(-4, 4, 21)).state_dict()
        state |= {f"criterion.{name}": value for name, value in bars.items()}
    torch.save({"config": config, "state_dict": state}, path)


def disturbed(model):
    """The model with random weights also where it starts with zeros, so that inputs make a difference."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    return model


def package_classes(learner):
    if learner is TabICL:
        from tabicl import TabICLClassifier, TabICLRegressor

        return TabICLRegressor, TabICLClassifier
    from tabpfn import TabPFNClassifier, TabPFNRegressor

    return TabPFNRegressor, TabPFNClassifier


@pytest.fixture(scope="module", params=[TabICL, TabPFN], ids=lambda learner: learner.__name__)
def both(request, tmp_path_factory):
    """The learner, and its files of weights for numbers and for classes."""
    folder = tmp_path_factory.mktemp(request.param.__name__)
    write = write_tabicl if request.param is TabICL else write_tabpfn
    for_numbers, for_classes = folder / "numbers.ckpt", folder / "classes.ckpt"
    write(for_numbers, 0)
    write(for_classes, 4)
    return request.param, for_numbers, for_classes


def task_of(seed, n=8, d=3):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)).astype(np.float32)
    x = x[np.argsort(x[:, 0])]  # in the order in which the learner has them
    return x, np.stack([x[:, 0] + 5, 40 * x[:, 1]], axis=1)  # in single precision, as the learner has them


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of TabPFN with random weights
def test_numbers_are_those_of_the_package(both):
    learner, file, _ = both
    x, y = task_of(0)
    new = task_of(1, n=5)[0]
    state = torch.random.get_rng_state()
    found = learner(2, weights=file, n_estimators=2, seed=3)(Examples(*map(torch.tensor, (x, y))))
    found = found(torch.tensor(new)).numpy()
    assert torch.equal(torch.random.get_rng_state(), state)
    order = np.lexsort([*y.T, *x.T])
    for column in range(2):
        model = package_classes(learner)[0](
            model_path=str(file), n_estimators=2, random_state=3, device="cpu"
        )
        expected = model.fit(x[order], y[order, column].astype(float)).predict(new)
        np.testing.assert_allclose(found[:, column], expected, rtol=1e-4)
        assert np.ptp(expected) > 1e-3 * np.abs(expected).max()


def test_classes_are_those_of_the_package(both):
    learner, _, file = both
    x = task_of(2)[0]
    y = np.array([0, 2, 2, 0, 0, 2, 2, 0])
    new = task_of(3, n=5)[0]
    support = Examples(torch.tensor(x), torch.tensor(y))
    found = learner(N_CLASSES, weights=file, n_estimators=2)(support)(torch.tensor(new)).softmax(1).numpy()
    model = package_classes(learner)[1](model_path=str(file), n_estimators=2, random_state=0, device="cpu")
    order = np.lexsort([y, *x.T])
    expected = model.fit(x[order], y[order]).predict_proba(new)
    np.testing.assert_allclose(found[:, [0, 2]], expected, rtol=1e-4)
    assert (found[:, 1] < 2 * MIN_PROBABILITY).all()


@pytest.mark.parametrize("case", ["one", "constant inputs", "constant targets"])
def test_what_has_no_context_is_predicted_by_the_mean(both, case):
    learner, for_numbers, for_classes = both
    x, y = task_of(4)
    labels = np.array([0, 0, 1, 1, 1, 1, 1, 1])
    if case == "one":
        x, y, labels = x[:1], y[:1], labels[:1]
    elif case == "constant inputs":
        x = np.ones_like(x)
    else:
        y, labels = np.full_like(y, 7.0), np.ones_like(labels)
    x = torch.tensor(x)
    found = learner(2, weights=for_numbers)(Examples(x, torch.tensor(y).float()))(x)
    np.testing.assert_allclose(found, np.repeat(y.mean(0)[None], len(x), 0), rtol=1e-5)
    found = learner(2, weights=for_classes)(Examples(x, torch.tensor(labels)))(x).softmax(1)[0]
    np.testing.assert_allclose(found, np.bincount(labels, minlength=2) / len(labels), atol=1e-5)


def test_an_estimator_compares_it_without_training_it(both, tmp_path):
    learner, file, _ = both
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"unit": np.repeat(np.arange(12), 8), "a": rng.random(96), "b": rng.random(96)})
    table["y"] = table.a + table.unit % 3
    text = f"{learner.__name__}(weights='{file}', n_estimators=1)"
    model = MetaRegressor(steps=2, hidden=[4], baselines=[text], k_shot=4)
    model.fit(table, task="unit", target="y", splits=(0.5, 0.25, 0.25))
    assert set(model.comparison_.model) >= {"R2D2", learner.__name__}
    model.chosen_ = learner.__name__
    model.save(tmp_path / "model")
    again = MetaRegressor.load(tmp_path / "model")
    few, new = table[:4], table[4:8][["a", "b"]]
    np.testing.assert_array_equal(again.adapt(few).predict(new), model.adapt(few).predict(new))


def test_wrong_files_are_one_sentence(both, tmp_path):
    learner, for_numbers, for_classes = both
    x, y = map(torch.tensor, task_of(5))
    name = learner.__name__
    with pytest.raises(MetaLensError, match=f"{name} cannot use .*give a file with weights for numbers"):
        learner(2, weights=for_classes)(Examples(x, y.float()))(x)
    (damaged := tmp_path / "damaged.ckpt").write_bytes(b"no weights")
    with pytest.raises(MetaLensError, match=f"{name} cannot use .*damaged.ckpt for numbers"):
        learner(2, weights=damaged)(Examples(x, y.float()))(x)
    with pytest.raises(MetaLensError, match="n_estimators must be at least 1"):
        learner(2, weights=for_numbers, n_estimators=0)


@pytest.mark.parametrize(("learner", "package"), [(TabICL, "tabicl"), (TabPFN, "tabpfn")])
def test_a_missing_file_or_package_is_one_sentence(learner, package, tmp_path, monkeypatch):
    with pytest.raises(MetaLensError, match=f"{learner.__name__} needs weights, .* there is none at .*lost"):
        learner(1, weights=tmp_path / "lost.ckpt")
    (file := tmp_path / "some.ckpt").touch()
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(MetaLensError, match=rf"{package} is not installed; run pip install 'metalens\["):
        learner(1, weights=file)
