"""What runs on a GPU runs there altogether: on a pretended one, with the numbers of the CPU, bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pretended
import pytest
import torch
from shared import shortened

from snp_lib import experiments, store
from snp_lib.data import Dataset
from snp_lib.models import create_model
from snp_lib.results.heads import Ablation
from snp_lib.results.latency import Comparison, PrunedLatency, latencies
from snp_lib.results.pruning import Pruning
from snp_lib.results.setting import Measurement
from snp_lib.results.stages import SilencedNodes, Stage
from snp_lib.store import Run
from snp_lib.training import Stopped
from snp_lib.training.loop import Training, train
from tests.training.test_loop import RECIPE, network
from tests.training.test_recipe import PUBLISHED

GPU = pretended.CUDA


@pytest.fixture
def gpu() -> Iterator[None]:
    with pretended.gpu():
        yield


def test_the_pretended_gpu_refuses_what_a_gpu_refuses(gpu: None) -> None:
    here, there = torch.ones(3), torch.ones(3, device="cuda")
    layer = torch.nn.Linear(3, 2)
    for mixed in (lambda: here + there, lambda: torch.stack([here, there]), lambda: layer(there), lambda: layer.to("cuda")(here)):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    with pytest.raises(RuntimeError, match="same device"):
        here[torch.tensor([0], device="cuda")]
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    for device, of in (("cuda", "cpu"), ("cpu", "cuda")):
        with pytest.raises(RuntimeError, match="device type for generator"):
            torch.rand(2, device=device, generator=torch.Generator(of))
    with pytest.raises(RuntimeError, match="device type for generator"):
        torch.bernoulli(there, generator=torch.Generator())


def test_the_pretended_gpu_lets_pass_what_a_gpu_lets_pass(gpu: None) -> None:
    there = torch.arange(6.0, device="cuda").view(2, 3)
    assert there.device == (there + torch.tensor(1.0)).device == there[torch.tensor([1])].device == GPU
    assert there.cpu().device.type == there.to("cpu").device.type == "cpu"
    assert torch.rand(2, device="cuda", generator=torch.Generator("cuda").manual_seed(0)).is_cuda
    assert np.array_equal(there.cpu().numpy(), np.arange(6.0).reshape(2, 3))
    layer = torch.nn.Linear(3, 2).to("cuda")
    layer(there).sum().backward()
    assert layer.weight.grad is not None
    assert {layer.weight.device, layer.weight.grad.device} == {GPU}
    assert torch.ones(2).device.type == "cpu"


@pytest.fixture(scope="module")
def gpu_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run of ``smoke_run``, made on the GPU."""
    with pytest.MonkeyPatch.context() as patch, pretended.gpu():
        patch.setenv("SNP_RUNS_DIR", str(tmp_path_factory.mktemp("gpu")))
        return store.run(shortened(), device="cuda", progress=False)


def test_a_run_made_on_a_gpu_is_that_of_the_cpu(gpu_run: Run, smoke_run: Run) -> None:
    assert gpu_run.manifest["device"] == "pretended GPU"
    assert gpu_run.metrics == smoke_run.metrics
    assert gpu_run.manifest["files"] == smoke_run.manifest["files"]  # the same bytes


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_takes_its_steps_on_a_gpu(few_digits: Dataset, name: str) -> None:
    recipe = replace(PUBLISHED[name], batch_size=48, precision="float32")
    colours = replace(few_digits, train=replace(few_digits.train, inputs=few_digits.train.inputs.repeat(1, 3, 1, 1)))

    def stepped(device: torch.device) -> tuple[dict[str, torch.Tensor], list[float]]:
        torch.manual_seed(0)
        model = create_model("cct_2_3x1", num_classes=10, image_size=8, embed_dim=12, num_heads=3, dropout=0.1, stochastic_depth=0.2)
        training = Training(model, colours, recipe, 0, device, "", None)
        for inputs, targets in itertools.islice(training.batches(), 2):
            training.step(model, inputs, targets)
        training.check()
        return {name: tensor.cpu() for name, tensor in model.state_dict().items()}, training.loss_and_hits.tolist()

    expected, total = stepped(torch.device("cpu"))
    with pretended.gpu():
        found, total_there = stepped(GPU)
    assert total_there == total
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_training_on_a_gpu_goes_on_from_its_checkpoint(few_digits: Dataset, tmp_path: Path, gpu: None) -> None:
    whole, stopped = network(), network()
    masks = {"classifier.weight": torch.rand(whole.classifier.weight.shape, device=GPU) < 0.5}
    options: dict[str, Any] = {"seed": 0, "device": GPU, "masks": masks, "progress": False}
    train(whole, few_digits, RECIPE, **options)
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Stopped):
        train(stopped, few_digits, RECIPE, checkpoint=path, deadline=0.0, **options)
    resumed = network(seed=1)
    train(resumed, few_digits, RECIPE, checkpoint=path, **options)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize("name", ["vit", "resnet", "cct-k1-separable2"])
def test_other_networks_too(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smoke = experiments.get(name, "smoke", 0)
    short = smoke.vary(f"{name}-test", recipe=replace(smoke.recipe, epochs=1), readout=replace(smoke.readout, epochs=1))
    monkeypatch.setenv("SNP_RUNS_DIR", str(tmp_path / "cpu"))
    expected = store.run(short, device="cpu", progress=False)
    monkeypatch.setenv("SNP_RUNS_DIR", str(tmp_path / "gpu"))
    with pretended.gpu():
        found = store.run(short, device="cuda", progress=False)
    assert found.metrics == expected.metrics
    for key, array in expected.arrays.items():  # torch multiplies strided tensors of a subclass in another order: ViTs
        np.testing.assert_allclose(found.arrays[key].astype(float), array.astype(float), rtol=0, atol=1e-3, err_msg=key)


MEASURED: dict[str, Measurement] = {
    "heads at a stage": Stage(epoch=0, unit="head"),
    "silenced first": SilencedNodes(),
    "mean ablation": Ablation(replacement="mean"),
    "ANDC": Pruning(arm="andc", thetas=(0.3,)),
    "fresh": Pruning(arm="fresh", thetas=(0.3,), encoder=2),
}


@pytest.mark.parametrize("name", MEASURED)
def test_what_is_measured_of_a_run_is_the_same_on_a_gpu(name: str, smoke_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNP_RUNS_DIR", str(tmp_path / "cpu"))
    expected = MEASURED[name].make(smoke_run, device="cpu", progress=False)
    monkeypatch.setenv("SNP_RUNS_DIR", str(tmp_path / "gpu"))
    with pretended.gpu():
        found = MEASURED[name].make(smoke_run, device="cuda", progress=False)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert np.array_equal(found[key], value), key


def test_networks_are_timed_on_a_gpu(smoke_run: Run, own_folders: Path, gpu: None) -> None:
    pruned = PrunedLatency(thetas=(0.3,), batches=(1,), seconds=0.1, device="cuda").make(smoke_run)
    assert (pruned["ratio"] > 0).all()
    networks = {"network": [smoke_run], "committee": [smoke_run, smoke_run]}
    comparison = Comparison(networks=networks, label="test", device="cuda")
    comparison.make(smoke_run)
    table = latencies(comparison).set_index("network")
    assert table.macs["committee"] == 2 * table.macs["network"]
    assert (table.seconds > 0).all()
    assert (own_folders / "runs" / "derived" / smoke_run.experiment.id / "latency-test-cuda.npz").exists()
