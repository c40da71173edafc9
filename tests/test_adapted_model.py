"""The model of one task as a module: its tensors, gradients, files and programs."""

import copy
import sys
import warnings

import pytest
import torch
from catalogue import LEARNER_VARIANTS, LEARNERS
from torch import nn

from metalens import (
    MAML,
    R2D2,
    AdaptedModel,
    DeepKernelGP,
    Examples,
    Learner,
    MatchingNet,
    ProtoNet,
    conv4,
    mlp,
    vit,
    wrap,
)
from metalens.errors import MetaLensError
from metalens.learners.adapted import TaskState

ENTRIES = LEARNERS | LEARNER_VARIANTS
del ENTRIES["ANIL-transductive"]  # whose predictions depend on each other, see test_anil_transductive
IN_TORCH = [name for name, entry in ENTRIES.items() if entry.vectorizes]
pytestmark = pytest.mark.filterwarnings(
    "ignore:A prediction depends on the other inputs"
)  # of ANIL-transductive
SIX = ("MAML", "ANIL", "R2D2", "DeepKernelGP", "ProtoNet", "MatchingNet")
PREPARED = [name for name, entry in ENTRIES.items() if not entry.is_fitted]


def of_entry(name):
    """Return the adapted model of an entry on a tiny network, and new inputs."""
    torch.manual_seed(0)
    entry = ENTRIES[name]
    learner = entry.build(mlp(3, 2, [4])).float()
    y = torch.arange(6) % 2 if entry.classifier else torch.randn(6, 2)
    return learner(Examples(torch.randn(6, 3), y)), torch.randn(7, 3)


def of_network(network, shape, learner=MAML):
    torch.manual_seed(0)
    model = learner(network)(Examples(torch.randn(6, *shape), torch.arange(6) % 2))
    return model, torch.randn(5, *shape)


def on_onnx(path, x):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["predictions"], {"x": x.numpy()})[0])


# A module


@pytest.mark.parametrize("name", PREPARED)
def test_the_state_is_that_of_the_learner_and_predicts_as_before(name):
    model, x = of_entry(name)
    assert isinstance(model, nn.Module)
    with torch.no_grad():
        assert torch.equal(model(x), model.learner.eval().predict(model.state, x))
    assert sum(key.startswith("task_state.") for key in model.state_dict()) == len(model.state)
    assert [id(p) for p in model.parameters()] == [id(p) for p in model.learner.parameters()]


def test_state_keeps_its_names_and_order():
    tensors = {
        "head.weight": torch.ones(1, 2),
        "a.b.c": torch.ones(1),
        "z": torch.zeros(3),
        "head.bias": torch.ones(1),
    }
    state = TaskState(tensors)
    assert list(state.tensors) == list(tensors)
    assert all(state.tensors[name] is tensor for name, tensor in tensors.items())
    assert repr(state) == "TaskState(head.weight=(1, 2), a.b.c=(1,), z=(3,), head.bias=(1,))"


@pytest.mark.parametrize("name", ["train", "a", "", "a.b.c"])
def test_names_that_no_buffer_can_have_are_refused(name):
    with pytest.raises(MetaLensError, match="cannot have the name"):
        TaskState({"a.b": torch.ones(1), name: torch.ones(1)})


def test_to_moves_learner_and_state_and_keeps_gradients():
    model, x = of_entry("ANIL")
    before, state = model(x), model.state
    assert model.to(torch.float64) is model
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float64}
    after = model(x.double())
    assert torch.allclose(after.float(), before, atol=1e-6)
    (slope,) = torch.autograd.grad(after.sum(), state["head.bias"])
    assert (slope == 7).all()


def test_state_that_holds_parameters_of_the_learner_goes_with_them():
    model, x = of_entry("DeepKernelGP")
    before = model(x)
    assert model.state["mean"] is model.learner.hyperparameters["mean"]
    model.double()
    assert model.state["mean"] is model.learner.hyperparameters["mean"]
    assert torch.allclose(model(x.double()).float(), before, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in IN_TORCH if ENTRIES[name].trains])
def test_gradients_flow_through_the_model_to_the_learner(name):
    model, x = of_entry(name)
    learner = model.learner.eval()
    trained = [p for p in learner.parameters() if p.requires_grad]
    slopes = torch.autograd.grad(model(x).square().sum(), trained, allow_unused=True, retain_graph=True)
    expected = torch.autograd.grad(learner.predict(model.state, x).square().sum(), trained, allow_unused=True)
    for found, known in zip(slopes, expected, strict=True):
        assert found is None if known is None else torch.equal(found, known)


def test_model_shares_its_learner_and_a_detached_one_does_not():
    model, x = of_entry("R2D2")
    own, before = model.detached(), model(x)
    assert torch.equal(own(x), before)
    assert not any(tensor.requires_grad for tensor in own.state_dict(keep_vars=True).values())
    assert all(p.requires_grad for p in model.learner.parameters())
    with torch.no_grad():
        model.learner.network.backbone[0][0].weight.mul_(2)
    assert not torch.allclose(model(x), before)
    assert torch.equal(own(x), before)


def test_state_dict_goes_into_another_model():
    model, x = of_entry("MAML")
    other = model.detached()
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.zero_()
    assert not torch.allclose(other(x), model(x))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))


# Files


@pytest.mark.parametrize("name", PREPARED)
def test_saved_states_return_into_the_learner(name, tmp_path):
    model, x = of_entry(name)
    model.save(tmp_path / "task.safetensors")
    again = AdaptedModel.load(tmp_path / "task.safetensors", copy.deepcopy(model.learner))
    assert list(again.state) == list(model.state)
    assert torch.equal(again(x), model(x))
    assert [path.name for path in tmp_path.iterdir()] == ["task.safetensors"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda learner: MAML(mlp(3, 2, [4])), r"is not of this MAML but of MatchingNet\("),
        (lambda learner: setattr(learner, "scale", 5.0) or learner, r"scale=10.0.*this is .*scale=5.0"),
        (
            lambda learner: MatchingNet(mlp(3, 2, [4])),
            "not of this MatchingNet but of one with other weights",
        ),
        (lambda learner: learner.double(), "not of this MatchingNet but of one with other weights"),
    ],
)
def test_states_of_other_learners_are_refused(change, words, tmp_path):
    model, _ = of_entry("MatchingNet")
    model.save(tmp_path / "task.safetensors")
    with pytest.raises(MetaLensError, match=words):
        AdaptedModel.load(tmp_path / "task.safetensors", change(copy.deepcopy(model.learner)))


@pytest.mark.parametrize("content", [None, b"", b"words", b"\xff" * 100])
def test_files_that_are_no_states_are_refused(content, tmp_path):
    path = tmp_path / "task.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MetaLensError, match="is no saved task state"):
        AdaptedModel.load(path, R2D2(mlp()))


def test_a_file_without_signs_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"weights": torch.ones(41, 1)}, tmp_path / "task.safetensors")
    with pytest.raises(MetaLensError, match="is not of this R2D2"):
        AdaptedModel.load(tmp_path / "task.safetensors", R2D2(mlp()))


# Programs


@pytest.mark.parametrize("name", IN_TORCH)
def test_programs_predict_as_the_model_for_any_number_of_inputs(name):
    model, x = of_entry(name)
    parts = [x] if model.is_transductive else [x[:1], x, x[:0]]  # of a fixed number, or of any
    program = model.export(parts[0]).module()
    for rows in parts:
        assert torch.allclose(program(rows), model(rows), atol=1e-5)


@pytest.mark.parametrize(
    "name", [name if name in SIX else pytest.param(name, marks=pytest.mark.slow) for name in IN_TORCH]
)
def test_onnx_predicts_as_the_model_for_any_number_of_inputs(name, tmp_path, capsys):
    model, x = of_entry(name)
    parts = [x] if model.is_transductive else [x[:1], x]
    model.to_onnx(tmp_path / "a.onnx", parts[0])
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]
    assert capsys.readouterr() == ("", "")
    for rows in parts:
        assert torch.allclose(on_onnx(tmp_path / "a.onnx", rows), model(rows), atol=1e-5)


@pytest.mark.parametrize("name", SIX)
def test_models_can_be_given_to_torch_export_as_they_are(name):
    model, x = of_entry(name)
    model = model.detached()
    with torch.no_grad():
        program = torch.export.export(model, (x,)).module()
        assert torch.equal(program(x), model(x))


@pytest.mark.parametrize("learner", [R2D2, DeepKernelGP])
def test_models_without_support_are_exported(learner):
    model = learner(mlp(3, 2, [4]))(Examples(torch.zeros(0, 3), torch.zeros(0, 2)))
    x = torch.randn(5, 3)
    assert torch.allclose(model.export(x).module()(x), model(x), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kernels", [("matern52", "none"), ("linear", "rbf"), ("rbf", "tanimoto")])
def test_onnx_of_every_kernel(kernels, tmp_path):
    kernel, domain = kernels
    x = (torch.rand(6, 3) > 0.5).float()
    learner = DeepKernelGP(mlp(3, 2, [4]), kernel=kernel, domain_kernel=domain)
    model = learner(Examples(x, torch.randn(6, 2)))
    model.to_onnx(tmp_path / "a.onnx", x)
    assert torch.allclose(on_onnx(tmp_path / "a.onnx", x), model(x), atol=1e-5)


@pytest.mark.slow
def test_onnx_keeps_what_the_model_needs_alone(tmp_path):
    onnx = pytest.importorskip("onnx")
    model, x = of_entry("MAML")  # whose initial weights have no part in its predictions
    model.to_onnx(tmp_path / "a.onnx", x)
    names = {tensor.name for tensor in onnx.load(tmp_path / "a.onnx").graph.initializer}
    assert names == {f"task_state.{name}" for name in model.state}


def transformer():
    layer = nn.TransformerEncoderLayer(4, 2, 4, dropout=0.0, batch_first=True)
    return wrap(nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 2)), "2", torch.randn(4, 3, 4)), (3, 4)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.gru(x)[0][:, -1])


def recurrent():
    with pytest.warns(UserWarning, match="looped"):
        return wrap(Recurrent(), "head", torch.randn(4, 5, 3)), (5, 3)


def group_norm():
    return conv4(2, n_filters=4, image_size=16, norm="group"), (1, 16, 16)


def attention():
    return vit(2, image_size=4, patch_size=2, width=4, depth=1, n_heads=1), (1, 4, 4)


@pytest.mark.parametrize("learner", [MAML, ProtoNet])
@pytest.mark.parametrize("network", [transformer, recurrent, group_norm, attention])
def test_programs_of_other_networks(network, learner):
    model, x = of_network(*network(), learner=learner)
    assert torch.allclose(model.export(x[:1]).module()(x), model(x), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("network", [transformer, recurrent, group_norm, attention])
def test_onnx_of_other_networks(network, tmp_path):
    model, x = of_network(*network())
    model.to_onnx(tmp_path / "a.onnx", x[:1])
    assert torch.allclose(on_onnx(tmp_path / "a.onnx", x), model(x), atol=1e-5)


@pytest.mark.parametrize("build", [conv4, "wrapped"])
def test_a_model_that_normalizes_by_its_inputs_is_exported_for_as_many(build):
    if build == "wrapped":
        layers = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 14 * 14, 2)
        network = wrap(nn.Sequential(*layers), "4", torch.randn(4, 1, 16, 16))
    else:
        network = build(2, n_filters=4, image_size=16)
    model, x = of_network(network, (1, 16, 16))
    with pytest.warns(UserWarning, match="depends on the other inputs"):
        program = model.export(x).module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.allclose(program(x), model(x), atol=1e-5)
    with pytest.warns(UserWarning, match="depends on the other inputs") as said:
        model(x)
    assert said[0].filename == __file__
    with pytest.raises(AssertionError, match="Guard failed"):
        program(x[:3])


@pytest.mark.slow
def test_onnx_of_a_model_that_normalizes_by_its_inputs_takes_as_many(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model, x = of_network(conv4(2, n_filters=4, image_size=16), (1, 16, 16))
    with pytest.warns(UserWarning, match="depends on the other inputs"):
        model.to_onnx(tmp_path / "a.onnx", x)
    with pytest.warns(UserWarning, match="depends on the other inputs"):
        assert torch.allclose(on_onnx(tmp_path / "a.onnx", x), model(x), atol=1e-5)
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):
        on_onnx(tmp_path / "a.onnx", x[:3])


@pytest.mark.slow
def test_double_precision_stays(tmp_path):
    model, x = of_entry("ProtoNet")
    model.double()
    model.to_onnx(tmp_path / "a.onnx", x.double())
    found = on_onnx(tmp_path / "a.onnx", x.double())
    assert found.dtype == torch.float64
    assert torch.allclose(found, model(x.double()), atol=1e-12)


@pytest.mark.slow
def test_onnx_says_what_it_holds(tmp_path):
    onnx = pytest.importorskip("onnx")
    model, x = of_entry("ANIL")
    model.to_onnx(tmp_path / "a.onnx", x)
    content = onnx.load(tmp_path / "a.onnx")
    facts = {prop.key: prop.value for prop in content.metadata_props}
    assert facts["learner"].startswith('"ANIL(')
    assert "metalens" in facts
    assert content.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "rows"


# What is refused


@pytest.mark.parametrize("name", [name for name in PREPARED if name not in IN_TORCH])
def test_classical_baselines_are_refused(name):
    model, x = of_entry(name)
    with pytest.raises(MetaLensError, match="cannot be exported: it is a model of scikit-learn or NumPy"):
        model.export(x)


class Own(Learner):
    """A learner of one's own, whose prediction is a function of the state and the inputs."""

    def __init__(self, function):
        super().__init__()
        self.scale, self.function = nn.Parameter(torch.ones(1)), function

    def adapt_encoded(self, z, y):
        return {"mean": y.mean(0)}

    def predict_encoded(self, state, z):
        return self.function(state["mean"], z)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (
            lambda mean, z: torch.as_tensor(z.numpy() + mean.numpy()),
            "by torch.export .*predict by tensors alone",
        ),
        (lambda mean, z: mean.expand(len(z), -1) + z, "by torch.export .*x.shape\\[0\\]"),
        (lambda mean, z: z + mean if z.sum() > 0 else z, "by torch.export .*predict by tensors alone"),
        (lambda mean, z: z + torch.rand(1), "the program of torch.export predicts otherwise"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(function, words, capsys):
    model = Own(function)(Examples(torch.ones(3, 2), torch.ones(3, 2)))
    with pytest.raises(MetaLensError, match=f"^Own cannot be exported.*{words}") as error:
        model.export(torch.ones(2, 2))
    assert "\n" not in str(error.value)
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_what_onnx_lacks_is_one_sentence(tmp_path):
    model = Own(lambda mean, z: z @ torch.linalg.svdvals(mean.expand(2, 2) + z[:1]).diag())
    adapted = model(Examples(torch.ones(3, 2), torch.ones(3, 2)))
    with pytest.raises(
        MetaLensError, match=r"Own cannot be exported by ONNX .*No ONNX function found"
    ) as error:
        adapted.to_onnx(tmp_path / "a.onnx", torch.ones(2, 2))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "rows", "words"),
    [
        ("a.onnx", 0, "needs one input or more, got none"),
        ("a.pt2", 2, "a.pt2 must end in .onnx; for a program of torch.export call export"),
        ("no/a.onnx", 2, "Cannot write to"),
    ],
)
def test_wrong_calls_are_refused(path, rows, words, tmp_path):
    model, x = of_entry("ANIL")
    with pytest.raises(MetaLensError, match=words):
        model.to_onnx(tmp_path / path, x[:rows])


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_names_its_extra(package, tmp_path, monkeypatch):
    if package == "onnxruntime":
        monkeypatch.setattr("metalens.io.programs._write_onnx", lambda *_: None)  # which takes seconds
    monkeypatch.setitem(sys.modules, package, None)
    model, x = of_entry("ANIL")
    words = rf"{package} is not installed; run pip install 'metalens\[onnx\]'"
    with pytest.raises(MetaLensError, match=words):
        model.to_onnx(tmp_path / "a.onnx", x)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("example", "words"),
    [
        (
            torch.ones(2, 5),
            r"ANIL fails on x \(2, 5\) float32: .*; make the tasks, the network",
        ),
        (
            [1.0, 2.0, 3.0],
            "The example must be of type Tensor, got list; pack several inputs by metalens.Fields",
        ),
    ],
)
def test_examples_that_are_no_inputs_are_refused(example, words):
    with pytest.raises(MetaLensError, match=words):
        of_entry("ANIL")[0].export(example)
