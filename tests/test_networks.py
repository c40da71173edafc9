"""Network builders: what they compute, their sizes, and right meta-gradients."""

import pytest
import torch
import torch.nn.functional as F
from mapping import mapped
from small_networks import randomize
from torch import nn

from metalens import (
    MAML,
    AdaptedTasks,
    Examples,
    MetaLensError,
    Network,
    Objective,
    SeasonalNaive,
    Task,
    conv4,
    forecast_mlp,
    mlp,
    pose_net,
    resnet12,
    timm_model,
    vit,
)

# Small networks, smooth but for max-pooling, with the shape of their input.
SMALL = {
    "conv4": (lambda: conv4(3, n_filters=2, in_channels=2, image_size=16), (2, 16, 16)),
    "conv4-group": (lambda: conv4(3, n_filters=2, in_channels=2, image_size=16, norm="group"), (2, 16, 16)),
    "resnet12": (
        lambda: resnet12(3, widths=(2, 3, 2, 4), in_channels=2, image_size=16, activation=nn.Softplus),
        (2, 16, 16),
    ),
    "pose_net": (lambda: pose_net(2, n_filters=2, image_size=16, activation=nn.Softplus), (1, 16, 16)),
    "mlp-norm": (lambda: mlp(6, 1, (5, 4), activation=nn.LeakyReLU, norm=True), (6,)),
    "forecast_mlp": (lambda: forecast_mlp(6, 4, season=3, hidden=(5,), activation=nn.Softplus), (6,)),
    "vit": (
        lambda: vit(3, image_size=6, patch_size=3, in_channels=2, width=8, depth=2, n_heads=2),
        (2, 6, 6),
    ),
}


def build(name: str) -> Network:
    torch.manual_seed(0)
    return randomize(SMALL[name][0]())  # pyright: ignore[reportReturnType]


def tasks_for(name: str, n_tasks: int = 2) -> Task:
    torch.manual_seed(1)
    n_outputs = SMALL[name][0]().n_outputs

    def examples(n: int) -> Examples:
        x = torch.randn(n_tasks, n, *SMALL[name][1], dtype=torch.float64)
        if n_outputs == 3:
            return Examples(x, torch.arange(3).repeat(n_tasks, n // 3))
        return Examples(x, torch.randn(n_tasks, n, n_outputs, dtype=torch.float64))

    return Task(examples(6), examples(3))


@pytest.mark.parametrize("name", SMALL)
def test_vmap_equals_loop(name):
    tasks, results = tasks_for(name), []
    for batching in ("loop", "vmap"):
        objective = mapped(Objective(MAML(build(name), inner_lr=0.05, inner_steps=2)), batching)
        loss = objective(tasks)["query"]
        results.append((loss.detach(), torch.autograd.grad(loss, list(objective.parameters()))))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(results[1][1], results[0][1], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", SMALL)
def test_meta_gradient_equals_finite_difference(name):
    """In steps so small that no maximum of a pool, or ReLU, changes sides."""
    objective = mapped(Objective(MAML(build(name), inner_lr=0.05, inner_steps=2)), "loop")
    tasks, parameters = tasks_for(name), list(objective.parameters())
    gradients = torch.autograd.grad(objective(tasks)["query"], parameters)
    torch.manual_seed(2)
    direction = [torch.randn_like(p) for p in parameters]
    slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))
    values, h = [], 1e-7
    with torch.no_grad():
        for move in (h, -2 * h):
            for parameter, d in zip(parameters, direction, strict=True):
                parameter.add_(move * d)
            values.append(objective(tasks)["query"])
    torch.testing.assert_close(slope, (values[0] - values[1]) / (2 * h), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("build", "inputs", "outputs", "n_features", "depth"),
    [
        (conv4, (1, 28, 28), 5, 64, 4),
        (lambda: conv4(3, n_filters=32, in_channels=3, image_size=84), (3, 84, 84), 3, 800, 4),
        (lambda: resnet12(widths=(4, 6, 8, 10)), (3, 84, 84), 5, 10, 5),
        (pose_net, (1, 128, 128), 1, 64, 6),
        (lambda: pose_net(2, n_filters=4, image_size=48), (1, 48, 48), 2, 4, 6),
        (lambda: mlp(64, 1, [8, 7, 6], norm=True), (64,), 1, 6, 3),
        (lambda: forecast_mlp(168, 48, season=24), (168,), 48, 176, 1),
        (vit, (1, 28, 28), 5, 64, 6),
        (lambda: vit(20, image_size=84, patch_size=12, in_channels=3, width=6, depth=1, n_heads=3),
         (3, 84, 84), 20, 6, 3),
    ],
)  # fmt: skip
def test_shapes(build, inputs, outputs, n_features, depth):
    network, x = build(), torch.randn(3, *inputs)
    assert network(x).shape == (3, outputs)
    assert network.embed(x).shape == (3, n_features)
    assert (network.n_features, network.n_outputs, network.depth) == (n_features, outputs, depth)


def n_parameters(build) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build().backbone.parameters())


def test_numbers_of_parameters_are_those_of_the_literature():
    assert n_parameters(conv4) == 111_936  # 113k with the head of 5-way Omniglot
    assert n_parameters(resnet12) == 12_424_320  # 12.4 million
    assert n_parameters(lambda: resnet12(widths=(64, 128, 256, 512))) == 7_996_800  # 8.0 million
    encoder = 320 + 32 * 48 * 9 + 48 + 48 * 64 * 9 + 64 + 4096 * 196 + 196
    assert n_parameters(pose_net) == encoder + 640 + 3 * (64 * 64 * 9 + 64) + 4 * 128
    base = {"image_size": 224, "patch_size": 16, "in_channels": 3, "mlp_ratio": 4}
    # ViT-Base has 86 million, of which 2 x 768 belong to its class token.
    assert n_parameters(lambda: vit(width=768, depth=12, n_heads=12, **base)) == 85_798_656 - 2 * 768
    block = 64 * 192 + 192 + 64 * 64 + 64 + 2 * 64 * 128 + 128 + 64 + 4 * 64
    assert n_parameters(vit) == 49 * 64 + 64 + 16 * 64 + 4 * block + 2 * 64
    assert vit().blocks[1].attention[1].n_heads == 4


def standardized(x: torch.Tensor, norm: nn.Module) -> torch.Tensor:
    axes = [axis for axis in range(x.dim()) if axis != 1]
    mean, var = x.mean(axes, keepdim=True), x.var(axes, unbiased=False, keepdim=True)
    shape = (-1, *[1] * (x.dim() - 2))
    return norm.weight.view(shape) * (x - mean) / (var + 1e-5).sqrt() + norm.bias.view(shape)


def test_conv4_is_its_formula():
    torch.manual_seed(0)
    network = randomize(conv4(3, n_filters=2, in_channels=2, image_size=20))
    x = torch.randn(4, 2, 20, 20, dtype=torch.float64)
    z = x
    for convolution, norm, *_ in network.blocks:
        z = standardized(F.conv2d(z, convolution.weight, convolution.bias, padding=1), norm)
        z = F.max_pool2d(z.relu(), 2)
    torch.testing.assert_close(network(x), F.linear(z.flatten(1), network.head.weight, network.head.bias))


def test_conv4_with_group_normalization_sees_each_image_by_itself():
    torch.manual_seed(0)
    network, x = conv4(3, n_filters=16, in_channels=2, image_size=16, norm="group"), torch.randn(4, 2, 16, 16)
    torch.testing.assert_close(network(x)[:1], network(x[:1]))
    with pytest.raises(MetaLensError, match="norm must be one of batch, group, got 'task'"):
        conv4(norm="task")  # pyright: ignore[reportArgumentType]


def test_activations_of_adapted_conv4_have_channels_last():
    """The layout that makes its pooling many times faster on a CPU, from an image of one channel on."""
    network, x = conv4(n_filters=2, image_size=16), torch.randn(4, 1, 16, 16)
    learner = MAML(network)
    state = learner.adapt(Examples(x, torch.arange(4)))
    for layer in (1, 2, 3):
        hidden = learner.hidden(state, x, layer)
        assert hidden.is_contiguous(memory_format=torch.channels_last)
        assert not hidden.is_contiguous()


def test_norms_are_right_under_a_vmap_of_ones_own():
    """Also in a loop within it, and with a learner that would loop."""
    tasks, learner = tasks_for("conv4"), MAML(build("conv4"), inner_lr=0.05)

    def loss(task: tuple[Examples, ...]) -> torch.Tensor:
        return AdaptedTasks(learner, Task(*(Examples(x[None], y[None]) for x, y in task)), "loop").outer_loss

    losses = AdaptedTasks(learner, tasks, "loop").outer_loss, torch.vmap(loss)(tasks[:2]).mean()
    looped, mapped = (torch.autograd.grad(value, list(learner.parameters())) for value in losses)
    torch.testing.assert_close(mapped, looped, rtol=1e-9, atol=1e-11)


def test_resnet12_is_its_formula():
    torch.manual_seed(0)
    network = randomize(resnet12(3, widths=(2, 3, 2, 4), in_channels=2, image_size=18))
    x = torch.randn(4, 2, 18, 18, dtype=torch.float64)
    expected = x
    for block in network.blocks[:4]:
        convolutions = [layer for layer in block.modules() if isinstance(layer, nn.Conv2d)]
        norms = [layer for layer in block.modules() if type(layer).__name__ == "TransductiveBatchNorm"]
        assert [layer.bias for layer in convolutions] == [None] * 4
        z = expected
        for number in range(3):
            z = standardized(F.conv2d(z, convolutions[number].weight, padding=1), norms[number])
            z = F.leaky_relu(z, 0.1) if number < 2 else z
        shortcut = standardized(F.conv2d(expected, convolutions[3].weight), norms[3])
        expected = F.max_pool2d(F.leaky_relu(z + shortcut, 0.1), 2)
    expected = expected.mean((2, 3))
    torch.testing.assert_close(network.embed(x), expected)
    torch.testing.assert_close(network(x), F.linear(expected, network.head.weight, network.head.bias))


def test_pose_net_is_its_formula():
    torch.manual_seed(0)
    network = randomize(pose_net(n_filters=3, image_size=32))
    x = torch.rand(4, 1, 32, 32, dtype=torch.float64)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    norms = [layer for layer in network.modules() if type(layer).__name__ == "TransductiveBatchNorm"]
    z = x
    for number, layer in enumerate(layers[:3]):
        z = F.conv2d(z, layer.weight, layer.bias, stride=2, padding=1).relu()
        z = F.max_pool2d(z, 2) if number == 1 else z
    z = F.linear(z.flatten(1), layers[3].weight, layers[3].bias).view(4, 1, 14, 14)
    torch.testing.assert_close(network(x, stop=1), z)
    for layer, norm in zip(layers[4:8], norms, strict=True):
        z = standardized(F.conv2d(z, layer.weight, layer.bias, padding=1), norm).relu()
    torch.testing.assert_close(network(x), F.linear(z.mean((2, 3)), layers[8].weight, layers[8].bias))


def test_mlp_with_norm_is_its_formula():
    torch.manual_seed(0)
    network = randomize(mlp(6, 1, (5, 4), activation=nn.LeakyReLU, norm=True))
    x = torch.randn(7, 6, dtype=torch.float64)
    z = x
    for linear, norm, _ in network.blocks:
        z = F.leaky_relu(standardized(z @ linear.weight.T + linear.bias, norm), 0.01)
    torch.testing.assert_close(network(x), z @ network.head.weight.T + network.head.bias)


def test_forecast_mlp_starts_as_the_seasonal_naive_forecast_and_is_its_formula():
    torch.manual_seed(0)
    network, x = forecast_mlp(7, 5, season=3, hidden=(4,)), torch.randn(6, 7)
    naive = x[:, [4, 5, 6, 4, 5]]
    assert torch.equal(network(x), naive)
    assert torch.equal(network(x), SeasonalNaive(network.n_outputs, season=3)(Examples(x, naive))(x))
    network, x = randomize(network), x.double()
    hidden = network.backbone[0].features[0][0]
    seen = torch.cat([F.linear(x, hidden.weight, hidden.bias).relu(), naive.double()], dim=1)
    torch.testing.assert_close(network(x), F.linear(seen, network.head.weight, network.head.bias))


def test_vit_equals_pytorch_encoder_layers_on_convolved_patches():
    torch.manual_seed(0)
    network = randomize(vit(3, image_size=6, patch_size=2, in_channels=2, width=8, depth=2, n_heads=2))
    x = torch.randn(4, 2, 6, 6, dtype=torch.float64)
    embedding, *blocks, pooling = network.blocks
    kernels = embedding.projection.weight.view(8, 2, 2, 2)
    z = F.conv2d(x, kernels, embedding.projection.bias, stride=2).flatten(2).transpose(1, 2)
    z = z + embedding.positions
    for block in blocks:
        layer = nn.TransformerEncoderLayer(
            8, 2, 16, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        ).double()
        ours = list(block.state_dict().values())  # norm1, attention (in, out), norm2, linear1, linear2
        names = ["norm1", "self_attn.in_proj_", "self_attn.out_proj", "norm2", "linear1", "linear2"]
        keys = [
            name + part if name.endswith("_") else f"{name}.{part}"
            for name in names
            for part in ("weight", "bias")
        ]
        layer.load_state_dict(dict(zip(keys, ours, strict=True)))
        z = layer(z)
    features = F.layer_norm(z, (8,), pooling.norm.weight, pooling.norm.bias).mean(1)
    torch.testing.assert_close(network.embed(x), features)


def test_vit_is_vectorized_by_default_and_knows_positions():
    torch.manual_seed(0)
    network = vit(3, image_size=6, patch_size=3, width=8, depth=1, n_heads=2)
    assert MAML(network).plan("auto") == "vmap"
    positions = network.blocks[0].positions
    assert 0.01 < positions.std() < 0.03
    x = torch.randn(1, 1, 6, 6)
    assert not torch.equal(network(x), network(x.flip(2)))


@pytest.mark.parametrize(
    ("build", "settings", "words"),
    [
        (conv4, {"n_way": 1}, "n_way must be at least 2, got 1"),
        (conv4, {"image_size": 15}, "conv4 needs image_size >= 16 .*image_size=15"),
        (conv4, {"n_filters": 0}, "n_filters=0"),
        (conv4, {"in_channels": 0}, "in_channels=0"),
        (resnet12, {"n_way": 1}, "n_way must be at least 2, got 1"),
        (resnet12, {"widths": (2, 2, 2)}, r"resnet12 needs four widths .*widths=\(2, 2, 2\)"),
        (resnet12, {"widths": (2, 2, 0, 2)}, r"widths=\(2, 2, 0, 2\)"),
        (resnet12, {"in_channels": 0}, "in_channels=0"),
        (resnet12, {"image_size": 15}, "image_size=15"),
        (pose_net, {"n_outputs": 0}, "pose_net needs n_outputs >= 1.*n_outputs=0"),
        (pose_net, {"n_filters": 0}, "n_filters=0"),
        (pose_net, {"image_size": 0}, "image_size=0"),
        (pose_net, {"image_size": 40}, "multiple of 16 .*image_size=40"),
        (mlp, {"n_inputs": 0}, "n_inputs=0"),
        (mlp, {"hidden": ()}, "at least one hidden layer"),
        (forecast_mlp, {"length": 4, "horizon": 2, "season": 5}, "season of 1 to 4 values.*got 5"),
        (forecast_mlp, {"length": 4, "horizon": 0}, "n_outputs=0"),
        (vit, {"n_way": 1}, "n_way must be at least 2, got 1"),
        (vit, {"image_size": 0}, "vit needs sizes of at least 1.*image_size=0"),
        (vit, {"patch_size": 0}, "patch_size=0"),
        (vit, {"in_channels": 0}, "in_channels=0"),
        (vit, {"width": 0}, "width=0"),
        (vit, {"depth": 0}, "depth=0"),
        (vit, {"n_heads": 0}, "n_heads=0"),
        (vit, {"mlp_ratio": 0}, "mlp_ratio=0"),
        (vit, {"patch_size": 8}, "multiple of patch_size.*patch_size=8"),
        (vit, {"n_heads": 5}, "width a multiple of n_heads.*n_heads=5"),
        (timm_model, {"name": "resnet18", "n_way": 1}, "n_way must be at least 2, got 1"),
        (timm_model, {"name": "resnet18", "in_channels": 0}, "in_channels=0"),
        (timm_model, {"name": "resnet18", "image_size": 0}, "image_size=0"),
    ],
)
def test_wrong_sizes_are_refused(build, settings, words):
    with pytest.raises(MetaLensError, match=words):
        build(**settings)


@pytest.mark.parametrize(
    ("build", "settings"),
    [
        (conv4, {"n_way": 2, "image_size": 16, "n_filters": 1}),
        (resnet12, {"n_way": 2, "widths": (1, 1, 1, 1), "in_channels": 1, "image_size": 16}),
        (pose_net, {"n_filters": 1, "image_size": 16}),
        (mlp, {"n_inputs": 1, "hidden": (1,), "norm": True}),
        (vit, {"n_way": 2, "width": 1, "depth": 1, "n_heads": 1, "mlp_ratio": 1, "image_size": 1,
               "patch_size": 1}),
    ],
)  # fmt: skip
def test_smallest_sizes_are_accepted(build, settings):
    build(**settings)
