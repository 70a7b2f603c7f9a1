"""Released weights under our names: the same logits as the network they come from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from vit_pytorch import cct as public_cct

from snp_lib.models.released import load_released, translated
from tests.models.test_cct import images, lively

SHAPE = {"img_size": 16, "num_classes": 7, "embedding_dim": 24, "num_layers": 2, "num_heads": 3, "mlp_ratio": 2.0}
OURS = {"num_classes": 7, "image_size": 16, "embed_dim": 24, "num_heads": 3, "mlp_ratio": 2.0}


@pytest.fixture
def public() -> public_cct.CCT:
    torch.manual_seed(0)
    convolution = {"kernel_size": 3, "stride": 1, "padding": 1, "n_conv_layers": 1, "positional_embedding": "learnable"}
    return lively(public_cct.CCT(**SHAPE, **convolution)).eval()


@pytest.mark.parametrize("kind", ["plain", "wrapped", "parallel", "safetensors"])
def test_weights_of_a_file_give_the_same_logits(public: public_cct.CCT, kind: str, tmp_path: Path) -> None:
    weights, path = public.state_dict(), tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pth")
    if kind == "safetensors":
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    else:
        parallel = {f"module.{name}": tensor for name, tensor in weights.items()}
        torch.save({"plain": weights, "wrapped": {"state_dict": weights, "epoch": 3}, "parallel": parallel}[kind], path)
    network = load_released(path, "cct_2_3x1", **OURS)
    assert not network.training
    torch.testing.assert_close(network(images()), public(images()), rtol=1e-5, atol=1e-5)


def test_another_network_is_named_by_its_first_other_tensor(public: public_cct.CCT, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(public.state_dict(), path)
    with pytest.raises(ValueError, match=r"is no cct_2_3x1 of 9 labels: classifier.bias has shape \(7,\) there, expected \(9,\)"):
        load_released(path, "cct_2_3x1", **(OURS | {"num_classes": 9}))
    with pytest.raises(ValueError, match=r"encoders.2.attention.qkv.weight has shape none there, expected \(72, 24\)"):
        load_released(path, "cct_3_3x1", **OURS)


class Dangerous:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run!",)


def test_nothing_in_a_file_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"classifier.fc.weight": Dangerous()}, path)
    with pytest.raises(ValueError, match="cannot read weights from"):
        load_released(path, "cct_2_3x1", **OURS)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_what_is_no_file_of_weights_is_said(content: bytes | None, tmp_path: Path) -> None:
    for name in ("weights.pth", "weights.safetensors"):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"cannot read weights from .*{name}"):
            load_released(tmp_path / name, "cct_2_3x1", **OURS)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list.pth holds no state dict"):
        load_released(tmp_path / "list.pth", "cct_2_3x1", **OURS)


@pytest.mark.parametrize("key", ["encoder.weight", "classifier.blocks.0.linear3.weight", "classifier.other.weight", "classifier"])
def test_an_unknown_name_is_named(key: str) -> None:
    with pytest.raises(ValueError, match=f"'{key}' is no tensor of a released CCT"):
        translated({key: torch.zeros(1)})
