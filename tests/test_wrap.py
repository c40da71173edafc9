"""People's own networks: right gradients, or a refusal that names the layer and the remedy."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad
from torch.nn.attention import SDPBackend, sdpa_kernel

from metalens import MAML, MetaLensError, Network, Sinusoid, evaluate, wrap
from metalens.batching import task_map


def image_net(norm: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))


IMAGES = torch.randn(4, 1, 8, 8)


def test_the_trap_is_real():
    """Stock layer normalization is wrong under `torch.vmap`: the reason for all of this.

    When this test fails, PyTorch has mended it, and the exchange of norms can go.
    """
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 1)).double()
    parameters = dict(net.named_parameters())
    x, y = torch.randn(3, 5, 4).double(), torch.randn(3, 5, 1).double()

    def loss(values, x, y):
        return F.mse_loss(functional_call(net, values, (x,)), y)

    def adapted(x, y):
        gradients = grad(loss)(parameters, x, y)
        return loss({name: p - 0.1 * gradients[name] for name, p in parameters.items()}, x, y)

    results = {}
    for plan in ("loop", "vmap"):
        total = task_map(adapted, x, y, plan=plan).mean()
        results[plan] = total, torch.autograd.grad(total, net[0].weight)[0]
    torch.testing.assert_close(results["vmap"][0], results["loop"][0])
    assert not torch.allclose(results["vmap"][1], results["loop"][1], rtol=1e-4)


@pytest.mark.parametrize(
    "norm", [nn.LayerNorm([4, 6, 6]), nn.InstanceNorm2d(4, affine=True), nn.GroupNorm(2, 4), nn.Identity()]
)
def test_wrapping_keeps_what_the_module_computes(norm):
    module = image_net(norm)
    network = wrap(module, head="4", example=IMAGES)
    torch.testing.assert_close(network(IMAGES), module(IMAGES))
    assert network.vmap_refusal is None


def test_batch_norm_uses_the_set_at_hand_and_the_module_stays_as_it_was():
    module = image_net(nn.BatchNorm2d(4))
    network = wrap(module, head="4", example=IMAGES)
    network.eval()
    torch.testing.assert_close(network(IMAGES), module.train()(IMAGES))
    assert type(module[1]) is nn.BatchNorm2d
    assert not [name for name in network.state_dict() if "running" in name]


def test_what_derives_from_batch_norm_uses_the_set_at_hand_too():
    """Its running statistics would be changed in place in training, and hide its gradients in evaluation."""
    with pytest.warns(UserWarning, match="wrong gradients for backbone.0.weight, backbone.0.bias; a"):
        network = wrap(image_net(type("Mine", (nn.BatchNorm2d,), {})(4)), head="4", example=IMAGES)
    torch.testing.assert_close(network.train()(IMAGES), network.eval()(IMAGES))


def test_a_relu_at_its_kink_casts_no_doubt_on_gradients(recwarn):
    """A residual branch that starts with a scale of 0 leaves exact zeros before the next ReLU."""

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
            nn.init.zeros_(self.branch[1].weight)

        def forward(self, x):
            return (x + self.branch(x)).relu()

    torch.manual_seed(0)
    stem = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()]
    module = nn.Sequential(*stem, Residual(), Residual(), nn.Flatten(), nn.Linear(144, 5))
    wrap(module, head="6", example=IMAGES)
    assert not recwarn.list


def test_a_recurrent_layer_is_named_and_looped_over():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(1, 4, batch_first=True)
            self.fc = nn.Linear(4, 1)

        def forward(self, x):
            return self.fc(self.gru(x.unsqueeze(-1))[0][:, -1])

    with pytest.warns(UserWarning, match="gru: recurrent layers have no vectorized form"):
        network = wrap(Net(), head="fc", example=torch.randn(3, 1))
    learner = MAML(network)
    assert learner.plan("auto") == "loop"
    assert len(evaluate(learner, Sinusoid("test"), n_tasks=3)) == 3
    with pytest.raises(MetaLensError, match=r"batching='vmap' is not possible: .*gru"):
        learner.plan("vmap")


def test_a_custom_layer_that_vmap_gets_wrong_is_found_by_measuring():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(1 + 0.1 * torch.randn(6))
            self.shift = nn.Parameter(torch.zeros(6))

        def forward(self, x):
            return F.layer_norm(x, (6,), self.scale, self.shift)

    module = nn.Sequential(nn.Linear(4, 6), Hidden(), nn.Tanh(), nn.Linear(6, 2))
    with pytest.warns(UserWarning, match=r"torch.vmap gives wrong gradients for backbone.0.weight"):
        network = wrap(module, head="3", example=torch.randn(5, 4))
    assert MAML(network).plan("auto") == "loop"


def test_what_cannot_be_differentiated_twice_is_refused():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.fc = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            x = self.first(x).view(-1, 1, 3, 2)
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                return self.fc(F.scaled_dot_product_attention(x, x, x).flatten(1))

    with pytest.raises(MetaLensError, match=r"fails the check .*flash_attention.* replace the layer"):
        wrap(Net(), head="fc", example=torch.randn(5, 4))


@pytest.mark.filterwarnings("ignore:Tasks will be looped over")
def test_a_backward_that_is_not_differentiable_is_found_by_measuring():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return x**2

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, gradient):
            return gradient * 2 * ctx.saved_tensors[0].detach()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.fc = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.fc(Square.apply(self.first(x)))

    with pytest.warns(UserWarning, match="The meta-gradient of Net is .* finite differences give"):
        wrap(Net(), head="fc", example=torch.randn(5, 4))


def test_a_module_that_asserts_another_size_is_refused():
    class Picky(nn.Linear):
        def forward(self, x):
            assert x.shape[1] == 5, "size does not match"
            return super().forward(x)

    with pytest.raises(MetaLensError, match=r"Sequential fails on the example .*size does not match"):
        wrap(nn.Sequential(Picky(5, 6), nn.Linear(6, 2)), head="1", example=torch.randn(3, 4))


def test_many_wrong_gradients_are_counted():
    layers = [layer for _ in range(3) for layer in (nn.Linear(4, 4), type("Mine", (nn.LayerNorm,), {})(4))]
    with pytest.warns(UserWarning, match=r"for backbone.0.weight, backbone.\S+, backbone.\S+ and \d more; a"):
        wrap(nn.Sequential(*layers, nn.Tanh(), nn.Linear(4, 2)), head="7", example=torch.randn(5, 4))


def test_wrong_heads_and_examples_are_refused():
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2), nn.Softmax(1))
    example = torch.randn(3, 4)
    with pytest.raises(MetaLensError, match=r"no submodule 'fc' .* \['0', '1', '2', '3'\]"):
        wrap(module, head="fc", example=example)
    with pytest.raises(MetaLensError, match="'2' is not the last operation of Sequential"):
        wrap(module, head="2", example=example)
    with pytest.raises(MetaLensError, match="fails on the example of shape"):
        wrap(module[:3], head="2", example=torch.randn(3, 5))
    with pytest.raises(
        MetaLensError, match="The example of wrap must be of type Tensor, got list; pack several inputs"
    ):
        wrap(module, head="2", example=[[1.0]])
    with pytest.raises(MetaLensError, match="no trainable parameter"):
        wrap(nn.Sequential(nn.Linear(4, 2)).requires_grad_(False), head="0", example=example)
    with pytest.raises(MetaLensError, match="two or more inputs"):
        wrap(module, head="2", example=torch.randn(4))


def test_a_bare_module_or_stock_norm_is_refused_with_the_remedy():
    with pytest.raises(MetaLensError, match=r"needs a metalens Network, got Sequential; use metalens.wrap"):
        MAML(image_net(nn.Identity()))
    with pytest.raises(MetaLensError, match=r"backbone.1 is a BatchNorm2d.* metalens.wrap"):
        Network(image_net(nn.BatchNorm2d(4))[:4], nn.Linear(144, 5), n_features=144, n_outputs=5)


@pytest.mark.parametrize(
    "layer",
    [nn.LSTM(4, 4), nn.GRUCell(4, 4), nn.MultiheadAttention(4, 2), type("Mine", (nn.LayerNorm,), {})(4)],
)
def test_every_unsafe_layer_is_refused_in_a_plain_network(layer):
    with pytest.raises(MetaLensError, match=rf"backbone.0 is a {type(layer).__name__}"):
        Network(nn.Sequential(layer), nn.Linear(4, 5), n_features=4, n_outputs=5)


def test_wraps_without_gradients_too():
    with torch.no_grad():
        assert wrap(image_net(nn.BatchNorm2d(4)), head="4", example=IMAGES).vmap_refusal is None
