"""A file of rows for training: what is kept, what is refused, and what is held out."""

import hashlib
from types import SimpleNamespace

import pytest
from data.records import pair
from hypothesis import given
from hypothesis import strategies as st

from kameleon import Reading
from kameleon.data import (
    Corpus,
    Example,
    Origin,
    corpus,
    encode_row,
    fitting,
    make_row,
    read_corpus,
    read_rows,
    split_held_out,
)
from kameleon.data.records import Record
from kameleon.errors import DataError


def of(examples):
    count = len(examples)
    return Corpus(examples, tuple((e,) for e in examples), Origin("here", "0", count, count, raw=False))


def numbered(count):
    return of(tuple(Example(i, (i, i), (False, True)) for i in range(count)))


def test_a_file_becomes_examples_with_their_origin(chatml, write):
    path = write([pair("a"), {"text": "b"}])
    got = read_corpus(path, chatml)
    assert [e.row for e in got.examples] == [1, 2]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert got.origin == Origin(path.name, digest, 2, 3 + 1, raw=False) and got.doubts == ()


def test_a_hub_data_set_keeps_its_name_as_origin(chatml, write, monkeypatch):
    path = write([pair("a")])
    monkeypatch.setattr(corpus, "find_data", lambda source: (path,))
    assert read_corpus("someone/rows", chatml).origin.path == "someone/rows"


def test_the_origin_of_a_data_set_in_parts_is_a_hash_of_them_all(chatml, write, monkeypatch):
    parts = write([pair("a"), pair("b")], "1.jsonl"), write([pair("c")], "2.jsonl")
    monkeypatch.setattr(corpus, "find_data", lambda source: parts)
    got = read_corpus("someone/rows", chatml)
    assert [e.row for e in got.examples] == [1, 2, 3]
    assert got.origin.sha256 == hashlib.sha256(parts[0].read_bytes() + parts[1].read_bytes()).hexdigest()


def test_other_right_answers_are_encoded_beside_their_row(chatml, write):
    got = read_corpus(write([pair("a", also=["Hey", "Yo"]), pair("b")]), chatml)
    wanted = tuple(encode_row(make_row(Record(1, pair("a", other))), chatml) for other in ("Hey", "Yo"))
    assert got.alternatives == (wanted, ())


def test_raw_reaches_rows_alternatives_and_origin(llama3, write):
    got = read_corpus(write([pair("a", also=["Hey"])]), llama3, raw=True)
    assert llama3.tokenizer.decode(got.examples[0].tokens) == "<|begin_of_text|>aHo<|eot_id|>"
    assert llama3.tokenizer.decode(got.alternatives[0][0].tokens) == "<|begin_of_text|>aHey<|eot_id|>"
    assert got.origin.raw


def test_rows_with_nothing_to_learn_are_left_out_and_reported(chatml, write):
    got = read_corpus(write([pair("a"), pair("p" * 99, also=["Hey"]), pair("b")]), chatml, max_tokens=60)
    assert [e.row for e in got.examples] == [1, 3] and got.alternatives == ((), ())
    assert [f.row for f in got.doubts] == [2] and got.origin.rows == 2


def test_data_in_which_everything_is_masked_is_refused(chatml, write):
    with pytest.raises(DataError, match=r"rows\.jsonl: none of the 2 rows has a token to learn: all labels are masked"):
        read_corpus(write([pair("a"), pair("b")]), chatml, max_tokens=10)


def test_fatal_rows_are_named_by_reason_the_first_five(chatml, write):
    wrong = [pair("b", ""), *({"messages": [{"role": f"r{n}", "content": "x"}]} for n in range(6))]
    with pytest.raises(DataError) as caught:
        read_corpus(write([pair("a"), *wrong, *([pair("b", "")] * 4)]), chatml)
    told = str(caught.value)
    assert "rows.jsonl: row 2, 9, 10 and 2 more: empty answer ('completion'); row 3: unknown role 'r0'" in told
    assert (
        "; and 2 more reasons (see `base.check(rows)`); to go on without bad rows: `reading=Reading(skip_bad=True)`"
        in told
    )


@pytest.mark.filterwarnings("always::UserWarning")
def test_bad_rows_are_skipped_on_request_also_those_that_a_base_cannot_take(chatml, write):
    path = write([pair("a"), pair("b", ""), pair("c" * 80), pair("d")])
    with pytest.warns(UserWarning, match=r"1 of 4 rows are left out. row 2: empty answer"):
        whole = read_corpus(path, chatml, reading=Reading(skip_bad=True))
    config = SimpleNamespace(max_sequence_tokens=100, vocab_size=10**6)
    with pytest.raises(DataError, match=r"row 3: longer than the base's context of 100 tokens.*skip_bad=True"):
        fitting(whole, config)
    with pytest.warns(UserWarning, match=r"1 of 3 rows are left out. row 3: longer"):
        fit = fitting(whole, config, skip_bad=True)
    assert [example.row for example in fit.examples] == [1, 4]
    assert (fit.origin.rows, fit.origin.skipped) == (2, 2)
    assert fitting(fit, config) is fit


def test_one_broken_line_stops_training_and_is_named(chatml, write):
    with pytest.raises(DataError, match=r"row 2: broken JSON"):
        read_corpus(write(b'{"text": "a"}\n{"text": "b\n{"text": "c"}\n'), chatml)


EMPTY = {
    "rows.jsonl": {b"": "0 bytes", b"\n \n": "only blank lines", b"\xef\xbb\xbf": "only blank lines"},
    "rows.json": {b"": "0 bytes", b" \n": "only blank lines", b"[]": "a list of no rows"},
    "rows.csv": {b"": "0 bytes", b"\n\n": "only blank lines", b"prompt,completion\n": "a header and no rows"},
    "rows.parquet": {b"": "0 bytes"},
}


@pytest.mark.parametrize(("name", "held"), [(name, held) for name, kinds in EMPTY.items() for held in kinds])
def test_an_empty_file_is_told_as_empty(chatml, write, name, held):
    path = write(held, name)
    for read in (lambda: read_corpus(path, chatml), lambda: read_rows(path)):
        with pytest.raises(DataError) as caught:
            read()
        assert str(caught.value) == f"{path} is empty: {EMPTY[name][held]}"


def test_a_parquet_file_without_rows_is_told_as_empty(chatml, tmp_path):
    arrow = pytest.importorskip("pyarrow")
    path = tmp_path / "rows.parquet"
    pytest.importorskip("pyarrow.parquet").write_table(arrow.table({"prompt": [], "completion": []}), path)
    with pytest.raises(DataError, match=r"rows\.parquet is empty: a table of no rows"):
        read_corpus(path, chatml)


def test_of_several_parts_one_may_be_empty(chatml, write, monkeypatch):
    parts = write(b"", "1.jsonl"), write([pair("c")], "2.jsonl")
    monkeypatch.setattr(corpus, "find_data", lambda source: parts)
    assert len(read_corpus("someone/rows", chatml).examples) == 1


def test_picking_rows_keeps_their_alternatives_and_counts_anew():
    whole = numbered(5)
    part = whole.pick([3, 1])
    assert [e.row for e in part.examples] == [3, 1] and part.alternatives == ((part.examples[0],), (part.examples[1],))
    assert (part.origin.rows, part.origin.trained_tokens, part.origin.sha256) == (2, 2, "0")


@given(count=st.integers(1, 500), seed=st.integers(0, 99))
def test_held_out_rows_and_the_rest_are_disjoint_and_complete(count, seed):
    whole = numbered(count)
    rest, aside = split_held_out(whole, seed)
    rows = [[e.row for e in part.examples] for part in (rest, aside)]
    assert sorted(rows[0] + rows[1]) == list(range(count)) and rows == [sorted(r) for r in rows]
    held = count // 20 if count >= 320 else 0
    assert len(rows[1]) == held == aside.origin.rows and rest.origin.rows == count - held
    assert all(a == (e,) for part in (rest, aside) for e, a in zip(part.examples, part.alternatives, strict=True))
    assert split_held_out(whole, seed) == (rest, aside)


def test_the_answers_of_one_conversation_are_held_out_together():
    examples = tuple(Example(i // 3, (i, i), (False, True)) for i in range(1200))
    rest, aside = split_held_out(of(examples), 0)
    assert len(aside.examples) == 3 * (400 // 20) and len(rest.examples) + len(aside.examples) == 1200
    assert not {e.row for e in rest.examples} & {e.row for e in aside.examples}


@given(distinct=st.integers(1, 700), copies=st.integers(1, 4), seed=st.integers(0, 9))
def test_equal_rows_are_all_learned_or_all_held_out(distinct, copies, seed):
    examples = tuple(Example(i, (i % distinct, 1), (False, True)) for i in range(distinct * copies))
    rest, aside = split_held_out(of(examples), seed)
    learned, held = ({e.tokens for e in part.examples} for part in (rest, aside))
    assert not learned & held
    assert len(held) == (distinct // 20 if distinct >= 320 else 0) and len(aside.examples) == len(held) * copies


def test_a_row_that_fills_much_of_a_file_is_learned():
    examples = tuple(Example(i, (min(i, 400), 1), (False, True)) for i in range(1000))
    for seed in range(40):
        rest, aside = split_held_out(of(examples), seed)
        assert (400, 1) not in {e.tokens for e in aside.examples} and len(aside.examples) == 20
        assert len(rest.examples) == 980


def test_at_most_two_hundred_rows_are_held_out():
    assert len(split_held_out(numbered(5000), 0)[1].examples) == 200


def test_the_seed_decides_which_rows_are_held_out():
    assert len({tuple(e.row for e in split_held_out(numbered(400), seed)[1].examples) for seed in range(5)}) == 5


PIRATE = {"role": "system", "content": "You are a pirate."}


def talk(*more, question="Hi", answer="Arr"):
    return {"messages": [*more, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def test_the_system_prompt_that_all_rows_share_is_known(chatml, write):
    sharegpt = {
        "system": "You are a pirate.",
        "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Arr"}],
    }
    both = [PIRATE, {"role": "user", "content": "Hi"}], [{"role": "assistant", "content": "Arr"}]
    rows = [talk(PIRATE), sharegpt, {"prompt": both[0], "completion": both[1]}]
    got = read_corpus(write(rows), chatml)
    assert got.system_prompt == got.pick([1]).system_prompt == "You are a pirate."
    assert read_corpus(write([talk({"role": "system", "content": ""})] * 2), chatml).system_prompt == ""


@pytest.mark.parametrize(
    "other", [talk(), talk({"role": "system", "content": "You are a cook."}), pair("Hi"), {"text": "Arr"}]
)
def test_rows_that_do_not_share_a_system_prompt_have_none(other, chatml, write):
    assert read_corpus(write([talk(PIRATE), other]), chatml).system_prompt is None
    assert read_corpus(write([other]), chatml).system_prompt in (None, "You are a cook.")


def test_raw_rows_have_no_system_prompt_and_take_none(chatml, write):
    got = read_corpus(write([pair("a")]), chatml, raw=True)
    assert got.system_prompt is None and got.with_system_prompt(chatml, "You are a pirate.") is got


def test_rows_without_a_system_message_are_encoded_with_one_as_if_it_were_written_there(chatml, rewriting, write):
    cook = talk({"role": "system", "content": "You are a cook."})
    several = [*talk()["messages"], *talk(question="And?")["messages"]]
    given = [pair("a", also=["Hey", "Yo"]), talk(), cook, {"text": "b"}, {"messages": several}]
    asked, answers = talk(question="a")["messages"][:1], ({"role": "assistant", "content": one} for one in "xy")
    given.append({"prompt": asked, "completion": list(answers)[:1]})
    written = [talk(PIRATE, question="a", answer="Ho"), talk(PIRATE), cook, {"text": "b"}]
    written += [{"messages": [PIRATE, *several]}, {"prompt": [PIRATE, *asked], "completion": given[-1]["completion"]}]
    for template in (chatml, rewriting):
        got = read_corpus(write(given), template).with_system_prompt(template, "You are a pirate.")
        assert got.examples == read_corpus(write(written), template).examples
        for other, answer in zip(got.alternatives[0], ("Hey", "Yo"), strict=True):
            assert other == read_corpus(write([talk(PIRATE, question="a", answer=answer)]), template).examples[0]
        assert got.with_system_prompt(template, "Another.") is got


def test_what_an_answer_loses_at_its_end_does_not_depend_on_the_system_prompt(chatml, write):
    short = read_corpus(write([talk(answer="A" * 50)]), chatml, max_tokens=60)
    got = short.with_system_prompt(chatml, "You are a pirate." * 9)
    assert got.examples[0].trained_tokens == short.examples[0].trained_tokens
    assert got.examples[0].cut_tokens == short.examples[0].cut_tokens > 0
