"""Two processes train to the weights of one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from snp_lib.data import Dataset
from snp_lib.models import create_model
from snp_lib.training import team
from snp_lib.training.loop import train
from tests.training.test_loop import RECIPE

TESTS = Path(__file__).resolve().parent.parent
SHARED = (str(TESTS.parent), str(TESTS))  # where a process of its own finds what tests share

WORKER = """
import sys
import torch
sys.path[:0] = sys.argv[2:]
import shared
from tests.training import test_team
from safetensors.torch import save_file
from snp_lib import store
from snp_lib.training import team
device = team.start(torch.device("cpu"))
model, history = test_team.fit(shared.first_digits())
if team.rank() == 0:
    save_file(model.state_dict(), sys.argv[1], metadata={key: str(history[-1][key]) for key in ("test_accuracy", "train_loss")})
finished = store.run(shared.shortened(), device="cpu", progress=False)
assert store.run(shared.shortened(), progress=False).record == finished.record
print(finished.record)
team.stop()
"""


def fit(dataset: Dataset) -> tuple[torch.nn.Module, list[dict[str, float]]]:
    """Without dropout and stochastic depth, which draw per process."""
    torch.manual_seed(0)
    model = create_model(
        "cct_2_3x1", num_classes=10, in_channels=1, image_size=8, embed_dim=12, num_heads=3, attention_dropout=0.0, stochastic_depth=0.0
    )
    return model, train(model, dataset, RECIPE, seed=0, device=torch.device("cpu"), progress=False)


def test_two_processes_give_the_weights_of_one(few_digits: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        rendezvous = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    rendezvous["SNP_RUNS_DIR"] = str(tmp_path / "runs")
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(path), *SHARED],
            env=os.environ | rendezvous | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    said = []
    for worker in workers:
        output, errors = worker.communicate(timeout=300)
        assert worker.returncode == 0, errors
        said.append(output.split()[-1])
    alone, history = fit(few_digits)
    together = load_file(path)
    for name, tensor in alone.state_dict().items():
        if name != "pool.bias":  # the softmax over tokens cancels it: its gradient is rounding error, which AdamW scales up
            torch.testing.assert_close(together[name], tensor, atol=1e-5, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    with safe_open(path, framework="pt") as file:
        found = {key: float(value) for key, value in file.metadata().items()}
    assert found == pytest.approx({key: history[-1][key] for key in found}, abs=1e-5)
    (stored,) = (tmp_path / "runs").glob("*/manifest.json")  # one of them wrote, both read
    files = json.loads(stored.read_text(encoding="utf-8"))["files"]
    assert said == [files["arrays.npz"][:8]] * 2


def test_a_process_on_its_own_is_a_team_of_one() -> None:
    batch = torch.arange(5)
    assert (team.rank(), team.size()) == (0, 1)
    assert team.start(torch.device("cpu")) == torch.device("cpu")
    assert torch.equal(team.share(batch), batch)
    assert torch.equal(team.total(batch.clone()), batch)
    assert team.decide(True)
    assert team.gather("x") == ["x"]


def test_a_batch_that_does_not_divide_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snp_lib.training.team.size", lambda: 2)
    with pytest.raises(ValueError, match="a batch of 5 does not divide among 2 processes"):
        team.share(torch.arange(5))
