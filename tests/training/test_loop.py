"""Training: the same bits after any interruption, and refusals that leave the model as it was."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from shared import unchecked
from torch import Tensor

from snp_lib.data import Dataset, Split
from snp_lib.models import create_model
from snp_lib.models.cct import CCT
from snp_lib.training import checkpoint
from snp_lib.training.checkpoint import CheckpointError
from snp_lib.training.loop import TrainingError, train
from snp_lib.training.optim import make_optimizer, warmup_cosine
from snp_lib.training.prediction import accuracy, predict
from snp_lib.training.recipe import Recipe
from snp_lib.training.seeds import epoch_seed, shuffled_batches, step_seed

RECIPE = Recipe(epochs=4, batch_size=48, lr=2e-3, weight_decay=0.05, warmup_epochs=1, crop_padding=1, eval_every=3)
TIMES = ("seconds", "images_per_second")


def network(seed: int = 0) -> CCT:
    """Small, and with everything random switched on."""
    torch.manual_seed(seed)
    options: dict[str, Any] = {"in_channels": 1, "image_size": 8, "embed_dim": 12, "num_heads": 3}
    return create_model("cct_2_3x1", num_classes=10, dropout=0.1, stochastic_depth=0.2, **options)


def fit(model: CCT, dataset: Dataset, recipe: Recipe = RECIPE, path: Path | None = None, seed: int = 0) -> list[dict[str, Any]]:
    cpu = torch.device("cpu")
    return train(model, dataset, recipe, seed=seed, device=cpu, fingerprint="one", checkpoint=path, checkpoint_seconds=0, progress=False)


def timeless(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in history]


def assert_same_bits(found: CCT, expected: dict[str, Tensor]) -> None:
    state = found.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name


@pytest.fixture(scope="module")
def uninterrupted(few_digits: Dataset) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    model = network()
    history = fit(model, few_digits)
    return model.state_dict(), timeless(history)


def test_training_learns_and_its_history_says_so(few_digits: Dataset) -> None:
    model = network()
    history = fit(model, few_digits, replace(RECIPE, epochs=25, lr=1e-2, label_smoothing=0.0, flip=False))
    assert [row["epoch"] for row in history] == list(range(1, 26))
    assert history[-1]["train_loss"] < 1.8 < 2.2 < history[0]["train_loss"] < 2.4  # ln 10 = 2.30 before anything is learned
    assert history[-1]["test_accuracy"] > 0.3  # chance is 0.1
    assert [row["epoch"] for row in history if "test_accuracy" in row] == [*range(3, 25, 3), 25]
    assert not model.training


def test_the_last_test_accuracy_is_that_of_the_model_returned(few_digits: Dataset) -> None:
    from snp_lib.data.augment.crops import Normalize

    model = network()
    history = fit(model, few_digits)
    logits = predict(model, few_digits.test, Normalize(few_digits.train.inputs), batch_size=7)
    assert history[-1]["test_accuracy"] == accuracy(logits, few_digits.test.labels)
    assert accuracy(torch.eye(4), torch.tensor([0, 1, 2, 0])) == 0.75


def stop_after(
    steps: int,
    path: Path,
    dataset: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    model: CCT | None = None,
    recipe: Recipe = RECIPE,
) -> None:
    """Train until the checkpoint of a step is written."""
    save = checkpoint.save

    def save_and_stop(*args: Any, **options: Any) -> None:
        save(*args, **options)
        if options["state"]["steps"] == steps:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("snp_lib.training.checkpoint.save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            fit(model or network(), dataset, recipe, path)


def coloured(dataset: Dataset) -> Dataset:
    """The same pictures in three channels: convolutions whose weights do not lie in memory as their shape says."""
    train, test = (Split(s.inputs.repeat(1, 3, 1, 1), s.labels) for s in (dataset.train, dataset.test))
    return replace(dataset, train=train, test=test)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_resuming_a_colour_network_gives_the_same_bits(
    optimizer: str, few_digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPE if optimizer == "adamw" else replace(RECIPE, optimizer="sgd", momentum=0.9, lr=0.01)
    dataset, path = coloured(few_digits), tmp_path / "checkpoint.safetensors"

    def colour_network(seed: int) -> CCT:
        torch.manual_seed(seed)
        return create_model("cct_2_3x1", num_classes=10, in_channels=3, image_size=8, embed_dim=12, num_heads=3)

    whole, resumed = colour_network(0), colour_network(9)
    history = fit(whole, dataset, recipe)
    stop_after(6, path, dataset, monkeypatch, colour_network(0), recipe)
    assert timeless(fit(resumed, dataset, recipe, path)) == timeless(history)
    assert_same_bits(resumed, whole.state_dict())


def test_resuming_at_any_step_gives_the_same_bits(
    uninterrupted: tuple[dict[str, Tensor], list[dict[str, Any]]], few_digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, history = uninterrupted
    for stop in (1, 4, 6, 15, 16):  # of 16 steps, 4 in each epoch
        path = tmp_path / f"stopped-after-{stop}.safetensors"
        stop_after(stop, path, few_digits, monkeypatch)
        torch.manual_seed(12345)  # the global generator of the resuming process stands elsewhere
        resumed = network(seed=99)
        assert timeless(fit(resumed, few_digits, path=path)) == history
        assert_same_bits(resumed, weights)


def test_a_full_disk_loses_nothing(
    uninterrupted: tuple[dict[str, Tensor], list[dict[str, Any]]], few_digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    stop_after(6, path, few_digits, monkeypatch)
    before = path.read_bytes()

    def disk_full(tensors: object, file: Path, metadata: object) -> None:
        file.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("snp_lib.training.checkpoint.save_file", disk_full)
    model = network()
    with pytest.warns(UserWarning, match=r"cannot write .*no space left on device.*the one before is whole, and the training goes on"):
        history = fit(model, few_digits, path=path)
    assert path.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {path.name, path.name + ".previous"}
    assert timeless(history) == uninterrupted[1]
    assert_same_bits(model, uninterrupted[0])


@pytest.fixture
def written(few_digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint in the middle of the second epoch, without one before it."""
    path = tmp_path / "checkpoint.safetensors"
    stop_after(6, path, few_digits, monkeypatch)
    checkpoint.previous(path).unlink()
    return path


def rewrite(path: Path, *, drop: str = "", signed: bool = True, tensors: dict[str, Tensor] | None = None, **metadata: str) -> None:
    """Change a checkpoint; ``signed`` gives it the checksum of its new content."""
    with safe_open(path, framework="pt") as file:
        kept = {key: file.get_tensor(key) for key in file.keys()} | (tensors or {})  # noqa: SIM118 - safe_open has no iterator
        described = {key: value for key, value in (file.metadata() | metadata).items() if key != drop}
    if signed:
        described["sha256"] = checkpoint.digest(kept, {k: v for k, v in described.items() if k != "sha256"})
    save_file(kept, path, metadata=described)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-100]), "cannot read"),
    "no safetensors": (lambda path: path.write_bytes(b"PK\x03\x04 a pickle in a zip, perhaps"), "cannot read"),
    "empty": (lambda path: path.write_bytes(b""), "cannot read"),
    "one bit": (lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])), "SHA-256"),
    "state": (lambda path: rewrite(path, signed=False, state="{}"), "SHA-256"),
    "no checksum": (lambda path: rewrite(path, drop="sha256", signed=False), "SHA-256"),
    "foreign": (lambda path: rewrite(path, fingerprint="another"), "belongs to another training"),
    "other version": (lambda path: rewrite(path, format="snp-checkpoint-1"), "has format 'snp-checkpoint-1'"),
    "other tensors": (lambda path: rewrite(path, tensors={"model.classifier.bias": torch.zeros(3)}), "not hold the tensors"),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_other_checkpoints_are_refused_and_the_model_is_as_before(how: str, written: Path, few_digits: Dataset) -> None:
    damage, reason = DAMAGES[how]
    damage(written)
    content, model = written.read_bytes(), network(seed=5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=f"{reason}.*Delete .*{written.name} and .*previous to train from the beginning"):
        fit(model, few_digits, path=written)
    assert_same_bits(model, before)
    assert written.read_bytes() == content


@pytest.mark.parametrize("how", ["truncated", "one bit", "gone"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    how: str,
    uninterrupted: tuple[dict[str, Tensor], list[dict[str, Any]]],
    few_digits: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    stop_after(6, path, few_digits, monkeypatch)
    resumed = network(seed=5)
    if how == "gone":  # a crash between the two renamings: nothing is damaged, nothing to warn of
        path.unlink()
        history = fit(resumed, few_digits, path=path)
    else:
        DAMAGES[how][0](path)
        with pytest.warns(UserWarning, match=r"Going on from the one before it, checkpoint.safetensors.previous"):
            history = fit(resumed, few_digits, path=path)
    assert timeless(history) == uninterrupted[1]
    assert_same_bits(resumed, uninterrupted[0])


@pytest.mark.parametrize("other", [{"seed": 1}, {"recipe": replace(RECIPE, lr=1e-3)}, {"dataset": "coloured"}])
def test_a_checkpoint_of_another_seed_recipe_or_data_is_refused(other: dict[str, Any], written: Path, few_digits: Dataset) -> None:
    dataset = replace(few_digits, checksum="another") if "dataset" in other else few_digits
    with pytest.raises(CheckpointError, match="belongs to another training"):
        fit(network(), dataset, other.get("recipe", RECIPE), written, seed=other.get("seed", 0))


def test_the_advice_of_a_refused_checkpoint_works(few_digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.safetensors"
    stop_after(6, path, few_digits, monkeypatch)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint.safetensors.previous belongs to another training"):
        fit(network(), few_digits, path=path, seed=1)  # what is left is named, not what is gone
    checkpoint.remove(path)
    assert len(fit(network(), few_digits, path=path, seed=1)) == RECIPE.epochs


def test_a_weight_that_is_not_finite_after_the_last_step_is_no_result(few_digits: Dataset) -> None:
    one_step = replace(RECIPE, epochs=1, batch_size=192, warmup_epochs=0, lr=1e38)
    with pytest.raises(TrainingError, match="a weight is no longer finite after step 1"):
        fit(network(), few_digits, replace(one_step, weight_decay=10.0))


def test_a_loss_that_explodes_names_step_seed_and_checkpoint(few_digits: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    wild = replace(RECIPE, lr=1e30, warmup_epochs=0)
    with pytest.raises(TrainingError, match=rf"in epoch 1, step 2 of 4 \(seed 3, batch seed {step_seed(3, 1)}, lr 9.9") as error:
        fit(network(), few_digits, wild, path, seed=3)
    assert "Last good" in str(error.value)  # the first step was taken with a good loss
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["state"])["steps"] == 1


def test_training_leaves_the_global_generator_alone(few_digits: Dataset) -> None:
    model, state = network(), torch.get_rng_state()
    fit(model, few_digits, replace(RECIPE, epochs=1))
    assert torch.equal(torch.get_rng_state(), state)


def test_another_seed_is_another_training(uninterrupted: tuple[dict[str, Tensor], Any], few_digits: Dataset) -> None:
    model = network()
    fit(model, few_digits, seed=1)
    assert not torch.equal(model.classifier.weight, uninterrupted[0]["classifier.weight"])


def test_more_images_than_one_batch_are_needed(few_digits: Dataset) -> None:
    few = replace(few_digits, train=Split(few_digits.train.inputs[:40], few_digits.train.labels[:40]))
    with pytest.raises(ValueError, match="batch_size 48 exceeds the 40 training inputs"):
        fit(network(), few)


def test_bfloat16_trains_and_keeps_float32_weights(few_digits: Dataset) -> None:
    model = network()
    history = fit(model, few_digits, replace(RECIPE, epochs=2, precision="bfloat16"))
    assert all(math.isfinite(row["train_loss"]) for row in history)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_schedule_at_its_corners() -> None:
    at = {step: warmup_cosine(step, total=110, warmup=10, peak=1.0, start=0.1, end=0.01) for step in (0, 5, 10, 60, 110, 999)}
    expected = {0: 0.1, 5: 0.55, 10: 1.0, 60: 0.505, 110: 0.01, 999: 0.01}
    assert at == pytest.approx(expected)
    assert warmup_cosine(0, total=10, warmup=0, peak=1.0) == 1.0
    assert warmup_cosine(5, total=5, warmup=5, peak=1.0) == 1.0


def test_the_schedule_rises_then_falls() -> None:
    rates = [warmup_cosine(step, total=50, warmup=7, peak=1.0) for step in range(51)]
    assert rates[:8] == sorted(rates[:8])
    assert rates[7:] == sorted(rates[7:], reverse=True)


def test_only_matrices_and_kernels_are_decayed() -> None:
    model = network()
    decayed, plain = make_optimizer(model, RECIPE).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)
    assert {names[id(p)] for p in plain["params"]} == {n for n in names.values() if n.endswith("bias") or "norm" in n}
    assert len(decayed["params"]) + len(plain["params"]) == len(names)


def test_an_epoch_is_a_permutation_in_full_batches() -> None:
    batches = list(shuffled_batches(10, 3, torch.Generator().manual_seed(0)))
    assert [len(batch) for batch in batches] == [3, 3, 3]
    assert len(set(torch.cat(batches).tolist())) == 9
    assert torch.cat(batches).tolist() != torch.cat(list(shuffled_batches(10, 3, torch.Generator().manual_seed(1)))).tolist()


def test_epoch_seeds_differ_between_neighbouring_seeds_and_epochs() -> None:
    seeds = {epoch_seed(seed, epoch) for seed in range(50) for epoch in range(300)}
    assert len(seeds) == 50 * 300
    assert all(0 <= s < 2**63 for s in seeds)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"eval_every": 0},
        {"lr": -1.0},
        {"weight_decay": -1.0},
        {"warmup_epochs": -0.5},
        {"warmup_lr": -1.0},
        {"min_lr": -1.0},
        {"crop_padding": -1},
        {"label_smoothing": 1.0},
        {"precision": "float16"},
    ],
)
def test_recipes_out_of_range_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with unchecked(), pytest.raises(ValueError, match=next(iter(wrong))):
        replace(RECIPE, **wrong)
