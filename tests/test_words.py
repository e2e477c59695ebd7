from kameleon.words import did_you_mean, first_few, nearest


def test_a_long_list_ends_with_the_number_of_those_not_shown():
    assert first_few("ab", 2) == "a, b"
    assert first_few("abcde", 2) == "a, b and 3 more"
    assert first_few(["a is bad", "b is bad", "c is bad"], 1, separator="; ") == "a is bad; and 2 more"
    assert first_few("abc", 1, separator="; ", rest="more prompts") == "a; and 2 more prompts"
    assert first_few("abc", 2) == "a, b, c"  # a single further one is shown
    assert first_few([], 2) == ""


def test_the_nearest_known_name_is_named_and_none_where_all_are_far():
    assert did_you_mean("rnak", ("rank", "alpha")) == "did you mean 'rank'?"
    assert did_you_mean("zzz", ("rank", "alpha")) == ""
    assert did_you_mean("zzz", ("rank",), cutoff=0.0) == "did you mean 'rank'?"
    assert nearest("q_prj", ["q_proj", "k_proj", "gate"], most=2) == ["q_proj", "k_proj"]
