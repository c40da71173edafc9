"""Networks from timm: a stand-in for it, and the real ones where it is."""

import importlib
import sys

import pytest
import torch

from metalens import MAML, Examples, MetaLensError, timm_model


def test_a_timm_model_gets_its_settings(stand_in):
    network = timm_model("free", 4, in_channels=2)
    assert network(torch.randn(3, 2, 7, 7)).shape == (3, 4)
    assert (network.n_features, network.n_outputs, network.vmap_refusal) == (4, 4, None)
    assert stand_in.calls[0].img_size is None
    assert stand_in.calls[0].pretrained is False
    timm_model("fixed")
    assert stand_in.calls[1].img_size == (10, 12)
    network = timm_model("fixed", image_size=8)
    assert stand_in.calls[2].img_size == (8, 8)
    assert network(torch.randn(3, 3, 8, 8)).shape == (3, 5)


def test_timm_models_that_cannot_be_built_are_refused(stand_in):
    with pytest.raises(MetaLensError, match=r"timm has no model 'fre'; near names: free\."):
        timm_model("fre")
    with pytest.raises(MetaLensError, match=r"near names: none; see timm.list_models\(\)"):
        timm_model("xyz")
    with pytest.raises(MetaLensError, match="'two_heads' has no single layer as its head"):
        timm_model("two_heads")
    with pytest.raises(
        MetaLensError, match=r"timm cannot build 'free' with these settings: no connection\.$"
    ):
        timm_model("free", pretrained=True)


def test_missing_timm_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MetaLensError, match=r"timm cannot be imported .*pip install 'metalens\[vision\]'"):
        timm_model("resnet18")


def test_timm_beside_a_foreign_torchvision_is_named_with_the_remedy(monkeypatch):
    def fail(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(MetaLensError, match=r"torchvision::nms .* a torchvision that fits"):
        timm_model("resnet18")


@pytest.mark.parametrize(("name", "image_size"), [("test_resnet", 40), ("resnet18", 32), ("test_vit", 32)])
def test_real_timm_models_pass_the_check_of_wrap(name, image_size, recwarn):
    try:
        importlib.import_module("timm")
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm cannot be imported: {error}")
    torch.manual_seed(0)
    network = timm_model(name, 3, image_size=image_size)
    assert not recwarn.list
    model = MAML(network)(Examples(torch.randn(3, 3, image_size, image_size), torch.arange(3)))
    assert model(torch.randn(2, 3, image_size, image_size)).shape == (2, 3)
