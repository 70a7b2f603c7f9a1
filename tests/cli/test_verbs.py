"""The command ``snp``: every option explained, wrong usage in one line, and each subcommand once."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from snp_lib import cli, experiments
from snp_lib.performance import summarize
from snp_lib.store import Run


@pytest.fixture
def finished(catalogue: Path, smoke_run: Run) -> Path:
    """The shared run stands among this test's own runs."""
    shutil.copytree(smoke_run.path, catalogue / "runs" / smoke_run.experiment.id)
    return catalogue


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from parsers(sub)


def test_every_command_and_every_option_has_a_help_text() -> None:
    found = list(parsers(cli._parser()))
    assert len(found) >= 8
    for parser in found:
        assert parser.description, parser.prog
        for action in parser._actions:
            if not isinstance(action, argparse._SubParsersAction):
                assert action.help, f"{parser.prog} {action.dest}"
            else:
                assert all(choice.help for choice in action._choices_actions)


def test_help_of_every_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    for parser in parsers(cli._parser()):
        with pytest.raises(SystemExit) as stop:
            cli.main([*parser.prog.split()[1:], "--help"])
        assert stop.value.code == 0
        assert parser.prog in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["train"],
        ["train", "nothing"],
        ["train", "cct", "--scale", "huge"],
        ["train", "cct", "--seeds", "0,0"],
        ["train", "cct", "--seeds", "one"],
        ["train", "cct", "--threads", "0"],
        ["train", "cct", "--device", "tpu"],
        ["train", "cct", "--fast"],
        ["measure", "cct", "--theta", "1"],
        ["measure", "cct", "--theta", "nan"],
        ["measure", "cct", "--unit", "filter"],
        ["data", "mnist"],
        ["data", "digits", "--size", "-1"],
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert "--help" in printed.err


def test_experiments_lists_every_scale_with_cost_and_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["experiments"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, entry in experiments.CATALOGUE.items():
        assert f"{name}: {entry.summary}" in lines
        for scale in entry.cost:
            assert any(line.startswith(f"  {scale}") and entry.cost[scale] in line for line in lines)
    assert any(
        line.startswith("  small") and "; test accuracy 0.566 ± 0.003 on cifar100 (n = 3)" in line for line in lines
    )  # of the records
    assert any(line.endswith("; 0.8092 published") for line in lines)


def test_help_comes_at_once_without_torch() -> None:
    code = "import sys; from snp_lib import cli; cli._parser().format_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_set_has_its_old_name_too(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["make", "none", "--scale", "smoke"], ["record", "--scale", "smoke", "--set", "none"]):
        with pytest.raises(SystemExit):
            cli.main(arguments)
        assert "argument SET: no set 'none'; there are cct, variants, elsewhere, filters, stages, orders, curve" in capsys.readouterr().err


def test_train_prints_accuracy_and_the_place_of_the_run(catalogue: Path, smoke_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "cct-test", "--scale", "smoke", "--device", "cpu"]) == 0
    accuracy = f"{smoke_run.metrics['test_accuracy']:.2%}"
    expected = f"cct-test-smoke-s0: test accuracy {accuracy}, 60,587 parameters, {catalogue / 'runs' / 'cct-test-smoke-s0'}\n"
    assert capsys.readouterr().out == expected


def test_measure_prints_one_line_per_site(finished: Path, smoke_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["measure", "cct-test", "--scale", "smoke", "--theta", "0.4"]) == 0
    header, columns, *rows = capsys.readouterr().out.splitlines()
    assert header == f"cct-test-smoke-s0 · nodes · θ = 0.4 · record {smoke_run.record}"
    assert [row.split()[0] for row in rows] == list(smoke_run.sites)
    s = summarize(smoke_run.matrices("block3"), 0.4)
    expected = [s.labels_per_unit(), s.clusters_per_unit(), s.cluster_size, s.noise_per_unit(), s.signal, s.snr]
    assert columns.split() == ["site", "accuracy", "labels", "clusters", "size", "noise", "signal", "SNR"]
    np.testing.assert_allclose([float(number) for number in rows[-1].split()[2:]], expected, atol=0.005 + 1e-9)
    assert cli.main(["measure", "cct-test", "--scale", "smoke", "--unit", "head"]) == 0
    assert [row.split()[0] for row in capsys.readouterr().out.splitlines()[2:]] == ["block1.mha", "block2.mha", "block3.mha"]


def test_what_measure_is_asked_to_make_it_names(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(finished / "runs" / "cct-test-smoke-s0", finished / "records" / "cct-test-smoke-s0")
    (finished / "runs" / "cct-test-smoke-s0" / "weights.safetensors").unlink()
    asked = ["measure", "cct-test", "--scale", "smoke", "--what"]
    assert cli.main([*asked, "stages,ablation"]) == 1  # said before anything is made
    printed = capsys.readouterr()
    assert printed.err.startswith("snp: ")
    assert "holds no weights.safetensors: records come without weights. Measure there, or train it here with `snp train" in printed.err
    assert cli.main([*asked, "stages", "--unit", "head"]) == 1
    assert "--theta and --unit go with the printed table" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["measure", "record"])
def test_without_a_run_the_command_that_makes_it_is_named(command: str, catalogue: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "cct-test", "--scale", "smoke", "--seeds", "3"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "snp: cct-test-smoke-s3 has no finished run; make it with `snp train cct-test --scale smoke --seeds 3`\n"


def test_record_promotes(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["record", "cct-test", "--scale", "smoke"]) == 0
    assert capsys.readouterr().out.startswith(f"cct-test-smoke-s0: {finished / 'records' / 'cct-test-smoke-s0'} (")
    assert (finished / "records" / "cct-test-smoke-s0" / "arrays.npz").exists()


def test_a_scale_that_an_experiment_lacks_is_named(catalogue: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "cct-test", "--scale", "paper"]) == 1
    assert capsys.readouterr().err == "snp: experiment 'cct-test' has no scale 'paper'; it has smoke\n"


def test_an_interruption_says_that_training_goes_on(
    catalogue: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("snp_lib.store.make.train", interrupt)
    assert cli.main(["train", "cct-test", "--scale", "smoke"]) == 130
    assert "goes on from its last checkpoint" in capsys.readouterr().err


def test_data_prints_what_a_data_set_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "digits"]) == 0
    first, train, test = capsys.readouterr().out.splitlines()
    assert first.startswith("digits: 10 labels, SHA-256 9c870f8d")
    assert train.split() == ["train", "1,347", "inputs", "of", "1", "x", "8", "x", "8"]
    assert test.split()[:2] == ["test", "450"]


def test_doctor_prints_versions_and_folders_even_where_none_exists(own_folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["runs"] == f"0 in {own_folders / 'runs'}"
    assert lines["records"] == f"0 in {own_folders / 'records'}"
    assert {"snp_lib", "python", "torch", "device", "disk", "cifar100"} <= lines.keys()


def test_a_table_of_ones_own_goes_the_whole_way(
    own_folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SNP_DATA_DIR", str(own_folders / "data"))
    mine = own_folders / "My tickets.csv"
    rows = [f"please {word} it, number {n},{label}" for label, word in (("open", "unlock"), ("close", "lock")) for n in range(40)]
    mine.write_text("\n".join(["text,label", *(f'"{row.rsplit(",", 1)[0]}",{row.rsplit(",", 1)[1]}' for row in rows)]), encoding="utf-8")
    assert cli.main(["train", "text", "--data", str(mine), "--scale", "smoke", "--device", "cpu"]) == 0
    assert "text-own-my-tickets-smoke-s0: test accuracy" in capsys.readouterr().out
    assert cli.main(["measure", "text-own-my-tickets", "--scale", "smoke", "--what", "tokens,baselines,superclasses"]) == 0
    printed = capsys.readouterr().out
    assert "driving-tokens" in printed
    assert "has no superclasses to measure" in printed
    assert cli.main(["data", "own-my-tickets"]) == 0
    assert "2 labels" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["train", "text"], ["train", "cct", "--data", "mine.csv"]])
def test_a_table_and_the_word_text_go_together(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 1
    assert "give both, or another experiment" in capsys.readouterr().err


def test_a_table_that_cannot_be_is_refused_before_anything_is_trained(own_folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "text", "--data", str(own_folders / "none.csv")]) == 1
    assert "give a CSV file with the columns text and label" in capsys.readouterr().err
    assert not (own_folders / "runs").exists()
