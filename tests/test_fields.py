"""Several inputs of an example, packed into one tensor."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import metalens as ml
from metalens import ANIL, MAML, MLTI, ArrayTasks, Fields, MetaLensError, MetaMix, Objective, Ridge, TRLearner

FIELDS = Fields({"image": (1, 4, 4), "age": (), "site": ()}, integers=["site"])
N_SITES, N_WAY = 5, 3


class Clinic(nn.Module):
    """An image, a number and a code of an example."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.sites = nn.Embedding(N_SITES, 2)
        self.mix, self.out = nn.Linear(12 + 1 + 2, 8), nn.Linear(8, N_WAY)

    def forward(self, image, *, site, age):
        maps = self.conv(image).tanh().flatten(1)
        return self.out(self.mix(torch.cat([maps, age.unsqueeze(1), self.sites(site)], 1)).tanh())


class ByHand(Clinic):
    """The same on columns that stand side by side."""

    def forward(self, x):
        return super().forward(x[:, :16].view(-1, 1, 4, 4), age=x[:, 16], site=x[:, 17].long())


def parts(*lead, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "image": torch.rand(*lead, 1, 4, 4, generator=generator),
        "age": torch.randn(*lead, generator=generator),
        "site": torch.randint(N_SITES, lead, generator=generator),
    }


def batch(n_tasks=4):
    def examples(n, seed):
        y = (torch.arange(n) % N_WAY).expand(n_tasks, -1)
        return ml.Examples(FIELDS.pack(**parts(n_tasks, n, seed=seed)), y)

    return ml.Task(examples(6, 1), examples(9, 2)).as_batch()


@pytest.fixture(scope="module")
def networks():
    """The network of fields, and the one of columns with the same weights."""
    torch.manual_seed(0)
    module = Clinic()
    by_hand = ByHand()
    by_hand.load_state_dict(module.state_dict())
    x = FIELDS.pack(**parts(4))
    return (
        ml.wrap(module, "out", x, fields=FIELDS),
        ml.wrap(by_hand, "out", x),
    )


@pytest.fixture
def arrays():
    """Ten tasks of twelve examples, with a field of each kind."""
    rng, number = np.random.default_rng(0), np.random.default_rng(1).permutation(120)
    return {
        "image": rng.integers(0, 256, (120, 1, 4, 4), dtype=np.uint8),
        "age": rng.normal(50, 9, 120),
        "site": number % N_SITES,
        "y": np.array(["a", "b", "c"])[number % 3],
        "task": number // 12,
    }


SETTINGS = {"x": ["image", "age", "site"], "k_shot": 1, "n_query": 2}


def gradient(objective, tasks):
    loss = ml.objective.outer_loss(objective(tasks))
    gradients = torch.autograd.grad(loss, list(objective.parameters()), materialize_grads=True)
    return torch.cat([loss.detach().reshape(1), *(g.flatten() for g in gradients)])


def test_packing_is_exact_and_keeps_the_order():
    values = parts(7)
    values["site"][0] = 2**24 - 1
    x = FIELDS.pack(**dict(reversed(values.items())))
    assert x.shape == (7, FIELDS.width) == (7, 18)
    assert x.dtype == torch.float32
    found = FIELDS.unpack(x.double())
    assert list(found) == list(values)
    assert found["site"].dtype == torch.int64
    for name, value in values.items():
        assert torch.equal(found[name].to(value), value)


def test_fields_are_those_of_tensors():
    assert Fields.of(**parts(2)) == FIELDS
    assert Fields.of(b=torch.zeros(2, 3), a=torch.zeros(2)) != Fields.of(
        a=torch.zeros(2), b=torch.zeros(2, 3)
    )
    assert (
        FIELDS.pack(**{k: v.double() if k == "age" else v for k, v in parts(2).items()}).dtype
        == torch.float64
    )


def test_truth_values_are_integers_and_there_may_be_no_examples():
    fields = Fields.of(is_male=torch.tensor([True, False]), age=torch.rand(2))
    x = fields.pack(is_male=torch.tensor([True, False]), age=torch.tensor([3.0, 4.0]))
    assert x.tolist() == [[1.0, 3.0], [0.0, 4.0]]
    assert fields.unpack(x)["is_male"].tolist() == [1, 0]
    assert FIELDS.pack(**parts(0)).shape == (0, 18)


def test_layouts_are_equal_in_whatever_order_integers_are_named():
    shapes = {"site": (), "age": (), "sex": (2,)}
    fields = Fields(shapes, integers=["sex", "site", "sex"])
    assert fields == Fields(shapes, integers=("site", "sex"))
    assert Fields(shapes, integers="site") == Fields(shapes, integers=["site"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"meta": torch.zeros(2)}, "pack takes the fields image, age, site, got image, age, site, meta"),
        (
            {"image": torch.zeros(2, 4, 4)},
            r"image must be examples of the shape \(1, 4, 4\), got \(2, 4, 4\)",
        ),
        ({"age": torch.zeros(3)}, r"as many examples, got \(2,\) of image, \(3,\) of age"),
        ({"age": torch.zeros(2).long()}, "age must be real numbers, got torch.int64"),
        ({"site": torch.zeros(2)}, "site must be whole numbers, got torch.float32"),
        ({"site": torch.tensor([0, -(2**24) - 1])}, "whole number 16777217, and only those up to 16777216"),
        ({"site": torch.tensor([0, -(2**63)])}, "whole number 9223372036854775808"),
        ({"age": [0.0, 1.0]}, "age must be of type Tensor, got list"),
    ],
)
def test_wrong_parts_are_refused(changes, message):
    with pytest.raises(MetaLensError, match=message):
        FIELDS.pack(**(parts(2) | changes))


def test_wrong_layouts_are_refused():
    with pytest.raises(MetaLensError, match="at least one"):
        Fields({})
    for shape in ((0, 3), (2.5,), 3, "ab", None):
        with pytest.raises(
            MetaLensError, match="shape of the field image must be whole numbers of at least 1"
        ):
            Fields({"image": shape})
    with pytest.raises(MetaLensError, match="integers must name some of image, got site"):
        Fields({"image": (3,)}, integers=["site"])
    with pytest.raises(MetaLensError, match=r"real numbers \(n, 18\), got torch.float32 of \(2, 17\)"):
        FIELDS.unpack(torch.zeros(2, 17))
    with pytest.raises(MetaLensError, match="not exact in"):
        FIELDS.unpack(torch.zeros(2, 18, dtype=torch.bfloat16))


@pytest.mark.parametrize("make", [MAML, ANIL, ml.ProtoNet])
def test_gradients_are_those_of_a_network_of_columns(networks, make):
    tasks, settings = batch(), {} if make is ml.ProtoNet else {"inner_lr": 0.1, "inner_steps": 2}

    def objective(network, **how):
        torch.manual_seed(0)
        made = Objective(make(copy.deepcopy(network), **settings), [TRLearner(weight=0.5)])
        for name, value in how.items():
            setattr(made, name, value)
        return made.double()

    tasks = ml.Task.of_tensors([t.double() if t.is_floating_point() else t for t in tasks.tensors])
    fused, by_hand = networks
    right = gradient(objective(by_hand, batching="loop"), tasks)
    for how in ({"batching": "vmap"}, {"batching": "loop"}, {"batching": "vmap", "chunk": 3}):
        torch.testing.assert_close(gradient(objective(fused, **how), tasks), right, rtol=1e-9, atol=1e-12)
    assert right[1:].abs().max() > 1e-3


def test_arrays_from_a_file_are_packed(arrays, tmp_path):
    np.savez(tmp_path / "data.npz", **arrays)
    tasks = ArrayTasks(tmp_path / "data.npz", "train", **SETTINGS)
    alone = ArrayTasks(arrays, "train", **(SETTINGS | {"x": "age"}))
    assert tasks.fields == FIELDS
    drawn = tasks.batch(range(4))
    found = FIELDS.unpack(drawn.query.x)
    assert torch.equal(found["age"].unsqueeze(2), alone.batch(range(4)).query.x)
    by_age = {np.float32(a): n for n, a in enumerate(arrays["age"])}
    raw = ArrayTasks(arrays, "train", **SETTINGS, scale_inputs=False).batch(range(4))
    rows = np.vectorize(by_age.get)(FIELDS.unpack(raw.query.x)["age"].numpy())
    assert torch.equal(found["site"], torch.from_numpy(arrays["site"][rows]))
    assert torch.allclose(found["image"], torch.from_numpy(arrays["image"][rows] / np.float32(255)))
    assert torch.equal(tasks[2].support.x, tasks.batch([2]).support.x[0])
    assert tasks.in_split("test").fields == FIELDS


def test_rows_are_equal_if_all_fields_are(arrays):
    for name in ("image", "age"):
        arrays[name] = arrays[name][:1].repeat(120, 0)
    arrays["site"] = arrays["task"] * 0 + 1
    with pytest.raises(MetaLensError, match="None of the"):
        ArrayTasks(arrays, "train", **SETTINGS)
    arrays["site"] = np.arange(120)
    assert ArrayTasks(arrays, "train", **SETTINGS)[0].support.x.shape == (3, 18)


@pytest.mark.parametrize(
    ("changes", "x", "message"),
    [
        ({}, [], "x must name one array"),
        ({}, ["age", "age"], "once each"),
        ({}, ["age", "meta"], "no array meta"),
        ({"both": {"a": 1, "b": 2}}, "both", r"both holds several arrays; .* give x=\['a', 'b'\]"),
        ({"site": np.arange(120) + 2**24}, ["age", "site"], "site has the whole number 16777335"),
        ({"age": np.full(120, np.nan)}, ["age", "site"], r"age\[0\] is nan"),
        ({"age": np.arange(119.0)}, ["site", "age"], "Array age must have an entry for each of the 120"),
    ],
)
def test_wrong_arrays_are_refused(arrays, changes, x, message):
    with pytest.raises(MetaLensError, match=message):
        ArrayTasks(arrays | changes, "train", **(SETTINGS | {"x": x}))


@pytest.mark.parametrize("make", [MAML, ml.R2D2, ml.TNPD])
def test_a_training_from_arrays(arrays, networks, make, tmp_path):
    train = ArrayTasks(arrays, "train", **SETTINGS)
    settings = {"inner_lr": 0.1} if make is MAML else {}
    learner = make(copy.deepcopy(networks[0]), **settings)
    validation = ml.Validation(train.in_split("val"), n_tasks=2, every=2)
    ml.fit(Objective(learner, [MetaMix()]), train, steps=4, meta_batch_size=2, validation=validation)
    assert ml.evaluate(learner, train.in_split("test"), n_tasks=2).value.abs().max() < np.inf
    task = train.in_split("test")[0]
    model = learner(task.support)
    values = FIELDS.unpack(task.query.x)
    assert torch.equal(model(FIELDS.pack(**values)), model(task.query.x))
    program = model.export(task.query.x[:2])
    torch.testing.assert_close(program.module()(task.query.x), model(task.query.x), rtol=1e-5, atol=1e-6)
    model.save(tmp_path / "task.safetensors")
    assert torch.equal(
        ml.AdaptedModel.load(tmp_path / "task.safetensors", learner)(task.query.x), model(task.query.x)
    )


def test_learners_that_would_misread_fields_are_refused(arrays, networks):
    tasks = ArrayTasks(arrays, "train", **SETTINGS)
    fit = {"steps": 1, "meta_batch_size": 2}
    for learner in (Ridge(N_WAY), MAML(ml.mlp(18, N_WAY), inner_lr=0.1)):
        with pytest.raises(MetaLensError, match="reads inputs as real numbers, and the field site"):
            ml.evaluate(learner, tasks, n_tasks=1)
    with pytest.raises(MetaLensError, match="reads inputs as real numbers, and the field site"):
        ml.fit(Objective(MAML(ml.mlp(18, N_WAY), inner_lr=0.1)), tasks, **fit)
    other = ArrayTasks(arrays, "train", **(SETTINGS | {"x": ["age", "image", "site"]}))
    with pytest.raises(MetaLensError, match=r"takes Fields\(image.*, and the tasks have Fields\(age"):
        ml.fit(Objective(MAML(networks[0], inner_lr=0.1)), other, **fit)
    with pytest.raises(MetaLensError, match="MLTI interpolates inputs, and the field site holds whole"):
        Objective(MAML(copy.deepcopy(networks[0]), inner_lr=0.1), [MLTI()])
    with pytest.raises(MetaLensError, match="not exact in"):
        MAML(copy.deepcopy(networks[0]).bfloat16(), inner_lr=0.1)(tasks[0].support)
    plain = ArrayTasks(arrays, "train", **(SETTINGS | {"x": ["age", "image"]}))
    assert ml.evaluate(Ridge(N_WAY), plain, n_tasks=1).value.abs().max() < np.inf


def test_related_models_have_the_fields_of_their_learner(arrays, networks):
    tasks = ArrayTasks(arrays, "train", **SETTINGS)
    learner = MAML(copy.deepcopy(networks[0]), inner_lr=0.1)
    alone = ml.evaluate(learner, tasks, n_tasks=2)
    related = ml.RelatedModels(learner, tasks, n_tasks=3, share=0.0)
    np.testing.assert_allclose(ml.evaluate(related, tasks, n_tasks=2).value, alone.value, rtol=1e-5)
    with pytest.raises(MetaLensError, match="MAML reads inputs as real numbers, and the field site"):
        ml.RelatedModels(MAML(ml.mlp(18, N_WAY), inner_lr=0.1), tasks, n_tasks=3)


def test_domains_have_equal_fields(arrays):
    tasks = ArrayTasks(arrays, "train", **SETTINGS)
    assert ml.MultiDomain({"a": tasks, "b": tasks}).fields == FIELDS
    with pytest.raises(MetaLensError, match="All domains must have equal fields, and b has"):
        ml.MultiDomain({"a": tasks, "b": ArrayTasks(arrays, "train", **(SETTINGS | {"x": ["age"]}))})


def test_metamix_leaves_whole_numbers_alone(networks):
    objective = Objective(MAML(copy.deepcopy(networks[0]), inner_lr=0.1), [MetaMix()])
    mixed = []
    layer = objective.learner.network.backbone.module.sites
    layer.register_forward_hook(lambda _, inputs, __: mixed.append(inputs[0]))
    objective.batching = "loop"
    for _ in range(8):
        objective(batch())
    known = {tuple(of.flatten().tolist()) for x in batch()[:2] for of in FIELDS.unpack(x.x)["site"]}
    assert {tuple(sites.flatten().tolist()) for sites in mixed} <= known


def test_modules_that_do_not_fit_are_refused(networks):
    x = FIELDS.pack(**parts(4))
    with pytest.raises(MetaLensError, match=r"does not take the fields image, age, site, code .*unexpected"):
        ml.wrap(Clinic(), "out", x, fields=Fields({"image": (1, 3, 3), "age": (), "site": (), "code": (7,)}))
    with pytest.raises(MetaLensError, match=r"Clinic does not take the fields image .*missing"):
        ml.wrap(Clinic(), "out", torch.zeros(2, 16), fields=Fields({"image": (1, 4, 4)}))
    with pytest.raises(MetaLensError, match=r"real numbers \(n, 18\)"):
        ml.wrap(Clinic(), "out", x[:, 1:], fields=FIELDS)
    with pytest.raises(
        MetaLensError, match="The example of wrap must be of type Tensor, got dict; pack several"
    ):
        ml.wrap(Clinic(), "out", parts(4))
    with pytest.raises(MetaLensError, match="Clinic fails on the example"):
        ml.wrap(Clinic(), "out", torch.zeros(4, 18), fields=Fields({"image": (16,), "age": (), "site": ()}))
    support = ml.Examples(tuple(parts(4).values()), torch.arange(4) % N_WAY)
    with pytest.raises(MetaLensError, match=r"support set.x must be of type Tensor, got tuple; pack several"):
        MAML(networks[0], inner_lr=0.1)(support)
