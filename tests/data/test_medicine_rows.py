"""The demo's builder of medicine rows, on a classification of a few lines."""

import hashlib
import importlib.util
import json
import zipfile
from pathlib import Path

import pytest

from kameleon.errors import DataError

BUILDER = Path(__file__).parents[2] / "examples" / "demo" / "medicine.py"
BOOK = b"""<book>
  <chapter><name>1</name><desc>Infections</desc>
    <section id="A00-A09"><desc>Gut</desc>
      <diag><name>A00</name><desc>Cholera</desc>
        <inclusionTerm><note>classical   cholera</note><note>too short</note><note>eight ch</note></inclusionTerm>
        <diag><name>A00.0</name><desc> Flu, severe </desc></diag>
        <diag><name>A00.01</name><desc>beyond five characters</desc>
          <inclusionTerm><note>kept, though its code is long</note></inclusionTerm>
          <inclusionTerm><note>%s</note><note>%s</note></inclusionTerm></diag>
      </diag>
    </section>
  </chapter>
  <chapter><name>2</name><diag><name>C00</name><desc>CHOLERA!</desc></diag></chapter>
  <chapter><name>18</name><diag><name>R00</name><desc>FLU severe: again</desc></diag></chapter>
  <chapter><name>19</name><diag><name>S00</name><desc>Injury of the head</desc></diag></chapter>
</book>""" % (b"a" * 119, b"b" * 120)


@pytest.fixture(scope="module")
def medicine():
    spec = importlib.util.spec_from_file_location("medicine", BUILDER)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_descriptions_of_short_codes_and_inclusion_terms_of_middle_length_are_taken(medicine):
    assert list(medicine.read_terms(BOOK)) == [
        ("Cholera", "A00", "infectious"),
        ("classical   cholera", "A00", "infectious"),
        ("too short", "A00", "infectious"),
        ("Flu, severe", "A00.0", "infectious"),
        ("kept, though its code is long", "A00.01", "infectious"),
        ("a" * 119, "A00.01", "infectious"),
        ("CHOLERA!", "C00", "neoplasm"),
        ("FLU severe: again", "R00", "symptom"),
    ]


def test_of_terms_with_the_same_words_the_first_is_kept(medicine):
    kept = [term.text for term in medicine.distinct(medicine.read_terms(BOOK))]
    assert "Cholera" in kept and "CHOLERA!" not in kept
    assert "FLU severe: again" in kept and len(kept) == 7


def test_a_category_is_held_out_whole(medicine):
    held = {
        code
        for code in (f"{letter}{number:02}" for letter in "ABCDE" for number in range(100))
        if medicine.is_held_out(code)
    }
    assert 50 < len(held) < 100
    assert all(medicine.is_held_out(f"{code}.1") for code in held)


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        (b'<!DOCTYPE b [<!ENTITY a "aa">]><b>&a;</b>', "declares entities"),
        (BOOK[: len(BOOK) // 2], "not whole XML"),
    ],
)
def test_xml_that_is_cut_or_unfolds_is_refused(medicine, xml, reason):
    with pytest.raises(DataError, match=reason):
        list(medicine.read_terms(xml))


def test_rows_are_written_once_and_only_with_the_expected_hash(medicine, monkeypatch, tmp_path):
    monkeypatch.setattr(medicine, "fetch_xml", lambda: BOOK)
    with pytest.raises(DataError, match="the train rows built have sha256"):
        medicine.build(tmp_path)
    assert not list(tmp_path.iterdir())

    terms = list(medicine.distinct(medicine.read_terms(BOOK)))
    sides = {}
    for side, seed in (("train", 0), ("test", 1)):
        chosen = [term for term in terms if medicine.is_held_out(term.code) == (side == "test")]
        medicine.random.Random(seed).shuffle(chosen)
        content = "".join(map(medicine.to_line, chosen[:5]))
        sides[side] = (5, seed, hashlib.sha256(content.encode()).hexdigest())
    monkeypatch.setattr(medicine, "SIDES", sides)
    medicine.build(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert rows and all(
        row["prompt"].startswith("Diagnosis: ") and row["prompt"].endswith("\nChapter:") for row in rows
    )
    assert {row["completion"] for row in rows} <= {f" {chapter}" for chapter in medicine.CHAPTERS}

    monkeypatch.setattr(medicine, "fetch_xml", lambda: pytest.fail("it is there already"))
    medicine.build(tmp_path)


def test_a_package_with_another_hash_is_not_opened(medicine, monkeypatch, tmp_path):
    name = "simple_icd_10_cm-1.5.0-py3-none-any.whl"
    info = "simple_icd_10_cm-1.5.0.dist-info"
    with zipfile.ZipFile(tmp_path / name, "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: simple-icd-10-cm\nVersion: 1.5.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(DataError, match="it was not used"):
        medicine.fetch_xml()


def test_the_chapters_are_eighteen_words_that_differ(medicine):
    assert len(set(medicine.CHAPTERS)) == 18
