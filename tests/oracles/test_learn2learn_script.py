"""The script of the page for people from learn2learn: its meta-gradient is that of clone and adapt."""

import re
from pathlib import Path

import pytest
import small_omniglot
import torch
from torch import Tensor, nn
from torch.func import functional_call

import metalens as ml

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "migrate.md"
LINES_OF_LEARN2LEARN = 151  # of examples/vision/maml_omniglot.py, version 0.2.0
SMALL = {"n_way=5": "n_way=3", "nn.Linear(64, 5)": "nn.Linear(64, 3)", "steps=60_000": "steps=2"}
SMALL |= {"meta_batch_size=32": "meta_batch_size=4", "n_tasks=32": "n_tasks=2", "every=100": "every=1"}

pytestmark = pytest.mark.filterwarnings(f"ignore:{small_omniglot.PARTIAL}")


def script() -> str:
    section = PAGE.read_text(encoding="utf-8").split("### A whole script")[1].split("\n## ")[0]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def namespace(tmp_path, monkeypatch):
    """What the script defines, run with fewer classes and steps on a small copy of the files."""
    small_omniglot.write_zips(tmp_path / "omniglot")
    monkeypatch.setenv("METALENS_DATA", str(tmp_path))
    text = script()
    for name, value in SMALL.items():
        assert name in text
        text = text.replace(name, value)
    found: dict[str, object] = {}
    exec(compile(text, PAGE, "exec"), found)
    return found


def clone_and_adapt(model: nn.Module, tasks: ml.Task, inner_lr: float, steps: int) -> list[Tensor]:
    """The loop of learn2learn: for each task a copy of the weights, adapted by `autograd.grad`."""
    start, loss = dict(model.named_parameters()), nn.CrossEntropyLoss()
    for i in range(len(tasks.query.x)):
        weights = start
        for _ in range(steps):
            error = loss(functional_call(model, weights, tasks.support.x[i]), tasks.support.y[i])
            gradients = torch.autograd.grad(error, list(weights.values()), create_graph=True)
            weights = {n: w - inner_lr * g for (n, w), g in zip(weights.items(), gradients, strict=True)}
        loss(functional_call(model, weights, tasks.query.x[i]), tasks.query.y[i]).backward()
    return [p.grad / len(tasks.query.x) for p in start.values() if p.grad is not None]


@pytest.mark.parametrize("steps", [1, 3])
def test_the_meta_gradient_is_that_of_clone_and_adapt(namespace, steps):
    model, train = namespace["model"].double(), namespace["train"]  # stock layers: what `wrap` copied
    tasks = train.batch(range(4)).map(lambda e: ml.Examples(e.x.double(), e.y))
    network = ml.wrap(model, head="5", example=tasks.support.x[0])
    learner = ml.MAML(network, inner_lr=0.5, inner_steps=steps)
    own = torch.autograd.grad(ml.Objective(learner)(tasks)["query"], list(learner.parameters()))
    expected = clone_and_adapt(model, tasks, 0.5, steps)
    assert max(gradient.abs().max() for gradient in expected) > 1e-3
    torch.testing.assert_close(list(own), expected, atol=1e-10, rtol=1e-6)


def test_the_script_is_shorter_and_its_model_that_of_the_example(namespace):
    assert script().count("\n") <= LINES_OF_LEARN2LEARN
    assert [p.shape[0] for n, p in namespace["model"].named_parameters() if n.endswith("0.weight")] == [
        256, 128, 64, 64,
    ]  # fmt: skip
    assert (namespace["learner"].inner_lr, namespace["learner"].inner_steps) == (0.5, 1)
    assert set(namespace["curve"].split) == {"train", "val"}
