"""Texts: what the data sets hold, how they become tokens, and which tables of one's own are refused."""

from __future__ import annotations

import http.server
import os
import re
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from shared import skip

from snp_lib import data
from snp_lib.data import DataError, bags, ceiling, languages, text
from snp_lib.data.files import fetch
from snp_lib.data.text import Texts, own_texts, tokenised


def real(name: str) -> Path:
    """The folder with the real data set; skips where there is none."""
    root = os.environ.get("SNP_TEST_DATA")
    if not root or not (Path(root) / name).is_dir():
        skip(name)
    return Path(root)


def words_of(dataset: data.Dataset, split: data.Split, row: int) -> str:
    assert dataset.vocabulary is not None
    return " ".join(dataset.vocabulary[token] for token in split.inputs[row].tolist() if token)


def test_names_in_a_hundred_languages() -> None:
    names = data.load("cldr")
    assert names.num_classes == 100 == data.SOURCES["cldr"].labels
    assert torch.equal(torch.bincount(names.train.labels), torch.full((100,), 500))
    assert torch.equal(torch.bincount(names.test.labels), torch.full((100,), 100))
    assert names.train.inputs.shape == (50_000, 32)
    assert names.superclasses is not None
    groups = dict(zip(names.class_names, names.superclasses, strict=True))
    assert (groups["Upper Sorbian"], groups["Dutch"], groups["Zulu"]) == ("Slavic", "Germanic", "Bantu")
    assert 0.85 < ceiling(names.test) < 0.95  # names are shared between languages
    assert data.load("cldr").checksum == names.checksum


def test_no_name_of_a_language_is_in_both_splits_and_another_order_of_babel_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = languages.names("cs")
    assert (len(set(train)), len(set(test)), set(train) & set(test)) == (500, 100, set())
    assert "pondělí" in {*train, *test}
    assert languages.names("cs") == (train, test)
    monkeypatch.setattr(languages, "TRAIN", 50_000)
    with pytest.raises(DataError, match=r"names in 'cs', expected 50100: install the version of babel"):
        languages.names("cs")


def test_the_languages_are_a_hundred_with_one_family_each() -> None:
    codes = [code for line in languages.FAMILIES.values() for code in line.split()]
    assert len(codes) == len(set(codes)) == 100
    assert list(languages.families()) == sorted(codes)
    assert set(languages.FEW) <= set(codes)


def test_banking77_on_its_official_split() -> None:
    bank = data.load("banking77", real("banking77"))
    assert (len(bank.train), len(bank.test), bank.num_classes) == (10_003, 3_080, 77)
    counts = torch.bincount(bank.train.labels)
    assert (int(counts.min()), int(counts.max())) == (35, 187)
    assert torch.bincount(bank.test.labels).unique().tolist() == [40]
    assert list(bank.class_names) == sorted(bank.class_names, key=str.lower)
    assert bank.class_names[51] == "Refund_not_showing_up"
    assert bank.vocabulary is not None
    assert len(bank.vocabulary) == 1_498
    assert words_of(bank, bank.train, 0) == "i am still waiting on my card ?"
    assert bank.superclasses is None


def test_clinc150_on_its_official_split() -> None:
    clinc = data.load("clinc150", real("clinc150"))
    assert (len(clinc.train), len(clinc.split("validation")), len(clinc.test)) == (15_000, 3_000, 4_500)
    assert torch.bincount(clinc.train.labels).unique().tolist() == [100]
    assert torch.bincount(clinc.test.labels).unique().tolist() == [30]
    assert "oos" not in clinc.class_names
    assert clinc.superclasses is not None
    assert Counter(Counter(clinc.superclasses).values()) == {15: 10}
    assert clinc.superclasses[clinc.class_names.index("translate")] == "travel"
    unknown = (clinc.test.inputs == 1).sum() / (clinc.test.inputs > 0).sum()
    assert 0.03 < unknown < 0.04


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    shutil.copytree(real("banking77") / "banking77", tmp_path / "banking77")
    (tmp_path / "banking77" / "test.csv").write_text("text,category\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"banking77: .*test\.csv is damaged: SHA-256 .* expected d12d6e3bc4c3"):
        data.load("banking77", tmp_path)


def test_without_a_network_the_way_out_is_said_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "CLINC150", "http://127.0.0.1:9/")
    with pytest.raises(DataError, match=r"clinc150: not found at .*copy the folder clinc150 \(data_full\.json, domains\.json from http"):
        data.load("clinc150", tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "file").write_bytes(bytes(range(256)) * 1000)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(tmp_path / "served"))  # type: ignore[arg-type]

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


def test_a_download_is_the_bytes_that_were_served(server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch(server + "file", tmp_path / "copy", progress=True)
    assert (tmp_path / "copy").read_bytes() == bytes(range(256)) * 1000
    assert "copy" in capsys.readouterr().err  # the progress bar
    with pytest.raises(OSError, match="404"):
        fetch(server + "other", tmp_path / "other", progress=False)


def test_texts_are_whole_words_of_the_training_split_and_are_cut_at_their_end() -> None:
    long = " ".join(["go"] * 60)
    texts = Texts(train=[("Go, go home!", "b"), ("go home", "A"), (long, "b")], test=[("GO away now!", "A"), (long, "b")])
    dataset = tokenised("tiny", texts)
    assert dataset.class_names == ("A", "b")
    assert dataset.vocabulary == ("", "<unknown>", "go", "home")
    assert dataset.train.inputs.shape == (3, 40)
    assert dataset.train.inputs[0].tolist()[:6] == [2, 1, 2, 3, 1, 0]  # the comma is there once, so unknown
    assert dataset.test.inputs[0].tolist()[:5] == [2, 1, 1, 1, 0]
    assert dataset.test.inputs[1].tolist() == [2] * 40
    with pytest.raises(DataError, match=r"tiny: the text ' ' of label 'b' has no word in it"):
        tokenised("tiny", Texts(train=texts.train, test=[(" ", "b")]))


def test_equal_texts_set_the_ceiling() -> None:
    inputs = torch.tensor([[2, 0], [2, 0], [2, 0], [3, 2]])
    assert ceiling(data.Split(inputs, torch.tensor([0, 0, 1, 1]))) == 0.75


def test_texts_have_no_size() -> None:
    with pytest.raises(ValueError, match="cldr-10 holds texts, which have no size"):
        data.load("cldr-10", size=32)


def test_a_bag_of_words_tells_what_words_tell() -> None:
    train = [(f"please {word} it {number}", word) for word in ("open", "close", "sell") for number in range(8)]
    test = [(f"could you {word} it", word) for word in ("open", "close", "sell")]
    assert bags.bag_accuracy(Texts(train=train, test=test)) == {"linear SVM": 1.0, "logistic regression": 1.0}
    told = [(number, label) for (number, _), label in zip(train, ["open", "close", "sell"] * 8, strict=True)]
    assert bags.bag_accuracy(Texts(train=told, test=test, characters=True))["linear SVM"] < 1


ROWS = "".join(f"text {word} {number},{label}\n" for label, word in (("yes", "fine"), ("no", "bad")) for number in range(10))


def table(folder: Path, content: str | bytes) -> Path:
    path = folder / "mine.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_table_of_ones_own_holds_out_every_fifth_text_of_a_label(tmp_path: Path) -> None:
    texts = own_texts(table(tmp_path, "text,label\n" + ROWS))
    assert Counter(label for _, label in texts.test) == {"yes": 2, "no": 2}
    assert texts.test[0] == ("text fine 4", "yes")
    split = "label,split,text\nyes,train,all is well\nno,train,no way\nyes,test,well then\nno,test,never\n"
    assert own_texts(table(tmp_path, "\ufeff" + split)).test == [("well then", "yes"), ("never", "no")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sentence,label\na,b\n", "has the columns sentence, label; expected text and label"),
        ("", "has the columns none; expected text and label"),
        ("text,label\n" + ROWS + "...,no\n", "row 22: no text"),
        ("text,label\n" + ROWS + "well,\n", "row 22: no label"),
        ("text,label\n" + ROWS + "well\n", "row 22: no label"),
        ("text,label,split\nwell,yes,dev\n", "row 2: split is 'dev'; expected train or test"),
        ("text,label\n" + ROWS + "rare,once\n", "label 'once' has no text to test with. Give it 5 texts or more"),
        ("text,label,split\nwell,yes,test\n", "label 'yes' has no text to train on"),
        ("text,label\n" + "".join(line for line in ROWS.splitlines(keepends=True) if "yes" in line), "has 1 labels; expected 2 to 256"),
        ("text,label\nna\xefve,yes\n".encode("latin-1"), "is no UTF-8 (byte 13)"),
    ],
)
def test_tables_that_cannot_be_are_refused(content: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        own_texts(table(tmp_path, content))


def test_what_a_reader_should_know_of_a_data_set() -> None:
    texts = Texts(train=[("go now", "a"), ("go on now", "b")], test=[("go now", "a"), ("go now", "b"), ("stay", "b")])
    said = data.hygiene(tokenised("tiny", texts))
    assert said == (
        "of the test split 20.0% are unknown and 2 inputs are in the training split too; equal inputs leave an accuracy of at most "
        "66.7%; 50.0% of the training inputs fill every place"
    )


def test_a_table_is_kept_once_and_never_half(tmp_path: Path) -> None:
    mine = table(tmp_path, "text,label\n" + ROWS)
    assert text.keep_own(mine, tmp_path / "data") == "own-mine"
    assert text.keep_own(mine, tmp_path / "data") == "own-mine"
    kept = data.load("own-mine", tmp_path / "data")
    assert (kept.num_classes, len(kept.train), len(kept.test)) == (2, 16, 4)
    source = data.source("own-mine", tmp_path / "data")
    assert (source.labels, source.tokens, source.superclasses) == (2, True, False)
    assert source.baselines is not None
    assert set(source.baselines(tmp_path / "data", False)) == {"linear SVM", "logistic regression"}
    table(tmp_path, "text,label\n" + ROWS + "one more,yes\n")
    with pytest.raises(DataError, match=r"another table is kept as .*mine\.csv: give mine\.csv another name"):
        text.keep_own(mine, tmp_path / "data")
    assert [path.name for path in (tmp_path / "data" / "own").iterdir()] == ["mine.csv"]
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match=r"cannot write .* choose another folder by SNP_DATA_DIR"):
        text.keep_own(mine, tmp_path / "file")
    with pytest.raises(ValueError, match="unknown data set 'own-yours'"):
        data.load("own-yours", tmp_path / "data")


def test_a_table_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*nowhere\.csv .*give a CSV file with the columns text and label"):
        own_texts(tmp_path / "nowhere.csv")
