"""What the files of a base say of its name, its id on the hub and its licence."""

import gguf
import pytest
from hub import snapshot
from tiny import save_base, write_out

import kameleon
from kameleon.bases import reference_of
from kameleon.bases.provenance import Provenance, provenance_of
from kameleon.model import open_gguf
from kameleon.weights import SafetensorsFolder


def gguf_saying(path, **texts):
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in texts.items():
        writer.add_string(key.replace("__", "."), value)
    write_out(writer)
    return open_gguf(path)


def test_a_base_of_the_catalogue_has_its_id_and_licence_there(tiny_folder):
    known = provenance_of("smollm2", tiny_folder, SafetensorsFolder(tiny_folder))
    assert known == Provenance("smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct", "Apache-2.0")


def test_a_local_folder_has_its_name_and_no_id(tiny_folder):
    known = provenance_of(str(tiny_folder), tiny_folder, SafetensorsFolder(tiny_folder))
    assert known == Provenance("tiny", None, None)


@pytest.mark.parametrize(
    ("readme", "licence"),
    [
        ("---\nlicense: mit\n---\n# Model", "mit"),
        ("---\nlicense: other\nlicense_name: free\nlicense_link: https://example.org/free\n---\n",
         "free (https://example.org/free)"),
        ("---\nlicense: [broken\n---\n", None),
        ("# No metadata", None),
        ("---\nlicense: 3\n---\n", None),
    ],
)  # fmt: skip
def test_a_copy_in_the_hubs_cache_has_its_id_and_the_licence_of_its_readme(readme, licence, hub_cache, tmp_path):
    save_base(tmp_path / "made")
    files = {file.name: file.read_bytes() for file in (tmp_path / "made").iterdir()}
    path = snapshot(hub_cache, "owner/name", {**files, "README.md": readme.encode()})
    assert provenance_of("owner/name", path, SafetensorsFolder(path)) == Provenance("owner/name", "owner/name", licence)


@pytest.mark.parametrize(
    ("said", "hub_id"),
    [
        ({"general__source__repo_url": "https://huggingface.co/owner/name"}, "owner/name"),
        ({"general__source__huggingface__repository": "owner/name"}, "owner/name"),
        ({"general__source__url": "https://example.org/owner/name"}, None),
        ({"general__base_model__0__repo_url": "https://huggingface.co/owner/name"}, None),  # perhaps of a fine-tune
        ({}, None),
    ],
)
def test_a_gguf_file_may_name_what_it_was_converted_from(said, hub_id, tmp_path):
    file = gguf_saying(tmp_path / "mine-Q8.gguf", general__license="mit\nand more", **said)
    known = provenance_of(str(file.path), file.path, file)
    assert known == Provenance("mine-Q8", hub_id, "mit and more")


def test_a_local_base_is_found_by_its_fingerprint_although_its_name_has_no_folder(tiny_folder, tmp_path):
    base = kameleon.load(str(tiny_folder)).base
    assert base.name == "tiny"
    assert reference_of(base.name, base.fingerprint) == (str(tiny_folder), None)
    assert reference_of(f"{base.name} in nf4", base.fingerprint) == (str(tiny_folder), "nf4")
    assert reference_of("smollm2", "sha256:0") == ("smollm2", None)
