"""Files of prompts that are to be answered."""

from kameleon.data import read_prompts


def test_a_table_of_prompts_alone_is_read_and_so_are_rows_whose_answer_is_missing(tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_text("prompt;id\nOne, two?;1\n\nThree?;2\n")
    assert [(row.number, row.prompt, row.fields["id"]) for row in read_prompts(path)] == [
        (2, "One, two?", "1"),
        (4, "Three?", "2"),
    ]
    path.write_text("prompt,completion\nOne?,\n")
    assert [row.prompt for row in read_prompts(path)] == ["One?"]
