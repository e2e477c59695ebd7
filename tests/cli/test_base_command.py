"""kameleon base: list and show."""

import json


def test_base_show_has_the_fingerprint(on_tiny, tiny_folder):
    status, out, _ = on_tiny("base", "show", tiny_folder, "--json", base=False)
    document = json.loads(out)
    assert status == 0
    assert document["fingerprint"].startswith("sha256:")
    assert (document["family"], document["layers"]) == ("llama", 3)
    assert "smollm2" in on_tiny("base", "list", base=False)[1]


def test_base_list_has_the_catalogue_and_what_else_is_here(on_tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    path = tmp_path / "kameleon-home" / "bases" / "mine.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF")
    listed = json.loads(on_tiny("base", "list", "--json", base=False)[1])
    assert [(entry["name"], entry["here"]) for entry in listed] == [
        ("smollm2", False),
        ("gemma3-270m", False),
        (str(path), True),
    ]
    assert "https://ai.google.dev/gemma/terms" in listed[1]["licence"]
    assert on_tiny("base", "list", base=False)[0] == 0
