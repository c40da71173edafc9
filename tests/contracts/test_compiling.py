"""The recorded step equals the plain one, for whatever can be recorded."""

import torch
from test_gradients import gradient

from metalens.compiling import CompiledObjective


def test_compiled_equals_plain(compiled_case):
    loss, gradients = gradient(compiled_case, "vmap")
    objective = compiled_case.objective("vmap")
    compiled = CompiledObjective(objective, backend="eager")
    value = compiled_case.loss(compiled, compiled_case.tasks())
    weights = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    slopes = torch.autograd.grad(value, list(weights.values()), materialize_grads=True)
    torch.testing.assert_close(value, loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(dict(zip(weights, slopes, strict=True)), gradients, rtol=1e-9, atol=1e-11)
