"""Tables and curves for a notebook: whole, small, and with every text escaped."""

from xml.etree import ElementTree

from kameleon.notebook import html_table, svg_curves

NASTY = "<script>alert('&')</script>"


def test_a_table_escapes_title_columns_and_cells():
    shown = html_table([NASTY], [[NASTY], [3]], title=NASTY)
    assert "<script" not in shown and shown.count("&lt;script&gt;") == 3
    assert [cell.text for cell in ElementTree.fromstring(shown).iter("td")] == [NASTY, "3"]


def test_curves_are_lines_inside_of_their_picture_each_with_its_name():
    shown = svg_curves({NASTY: [(1, 3.0), (2, 1.5), (4, 0.0)], "looks": [(2, 6.0), (4, 3.0)]}, x="step", y="nats")
    picture = ElementTree.fromstring(shown)
    first, second = (one.attrib["points"] for one in picture.iter("{http://www.w3.org/2000/svg}polyline"))
    assert first == "44.0,100.0 201.3,128.0 516.0,156.0"
    assert second == "201.3,44.0 516.0,100.0"
    assert NASTY in [one.text for one in picture.iter("{http://www.w3.org/2000/svg}text")]


def test_a_long_curve_keeps_its_ends_and_one_without_two_points_is_not_drawn():
    shown = svg_curves({"loss": [(step, 1.0) for step in range(10_001)]}, x="step", y="nats")
    assert len(shown) < 10_000 and "44.0," in shown and "516.0," in shown
    assert svg_curves({"loss": [(1, 1.0)], "looks": []}, x="step", y="nats") == ""
