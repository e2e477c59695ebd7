"""A base is planned for from its config and headers alone, on disk or on a hub."""

import json
import shutil
import threading
from http.server import ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pytest
import torch
from hub import Answering
from tiny import PACKED_SIZES, save_base

from kameleon.bench.packed_bases import MIXES, write_packed_shape
from kameleon.errors import FetchError, SettingError, WeightsError
from kameleon.model import open_weights
from kameleon.plan import read_base_header

REVISION = "0123456789abcdef0123456789abcdef01234567"


def cut(path, keep_bytes):
    with path.open("r+b") as file:
        file.truncate(keep_bytes)


def test_a_folders_header_lists_every_tensor_with_its_bytes(tiny_folder):
    header = read_base_header(str(tiny_folder))
    weights = open_weights(tiny_folder)
    assert sorted(header.tensors) == list(weights.names())
    for name, stored in header.tensors.items():
        tensor = weights.tensor(name)
        assert stored.shape == tensor.shape
        assert (stored.kind, stored.size_bytes) == ("F32", tensor.numel() * 4)
    assert header.fetch_bytes == 0


def test_weights_that_are_still_coming_are_counted_from_their_header(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "base")
    whole = read_base_header(str(tiny_folder))
    weights = folder / "model.safetensors"
    cut(weights, 8 + int.from_bytes(weights.read_bytes()[:8], "little") + 100)
    header = read_base_header(str(folder))
    assert header.tensors == whole.tensors
    weights.unlink()
    header = read_base_header(f"{folder}/.")
    assert {name: t.size_bytes for name, t in header.tensors.items()}.items() <= {
        name: t.size_bytes for name, t in whole.tensors.items()
    }.items()
    assert header.fetch_bytes == header.size_bytes > 0


@pytest.mark.parametrize("mix", ["Q4_0", "Q4_K_M"])
def test_a_ggufs_header_needs_only_its_beginning(tmp_path, mix):
    path = tmp_path / "whole.gguf"
    write_packed_shape(path, "llama", PACKED_SIZES, MIXES[mix])
    part = tmp_path / "part.gguf"
    shutil.copy(path, part)
    first = min(open_weights(path).info(name).offset for name in open_weights(path).names())
    cut(part, first + 10)
    whole, header = read_base_header(str(path)), read_base_header(str(part))
    assert header.tensors == whole.tensors
    assert header.config == whole.config
    assert whole.fetch_bytes == 0 < header.fetch_bytes
    with pytest.raises(WeightsError, match="is not whole"):
        open_weights(part)
    cut(part, first // 2)
    with pytest.raises(WeightsError, match="cut short"):
        read_base_header(f"{tmp_path}/./part.gguf")


@pytest.mark.parametrize("where", [[], {"a": 3}, {"a": "../model.safetensors"}])
def test_an_index_of_another_form_is_refused(tiny_folder, tmp_path, where):
    folder = shutil.copytree(tiny_folder, tmp_path / "base")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    with pytest.raises(
        WeightsError, match=r"index\.json (is not a weight index|names files that are not in its folder)"
    ):
        read_base_header(str(folder))


def test_a_base_that_lacks_a_matrix_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_base(tmp_path / "base")
    save_file({"model.norm.weight": torch.ones(64)}, tmp_path / "base" / "model.safetensors")
    with pytest.raises(WeightsError, match=r"lacks model\.embed_tokens\.weight"):
        read_base_header(str(tmp_path / "base"))


def test_nf4_counts_what_the_packed_file_will_hold(tiny_folder):
    from kameleon.weights import Nf4File, SafetensorsFolder

    plain, packed = read_base_header(str(tiny_folder)), read_base_header(str(tiny_folder), "nf4")
    written = Nf4File(SafetensorsFolder(tiny_folder)).packed_path.stat().st_size
    assert packed.size_bytes < plain.size_bytes
    assert 0 < written - packed.cache_bytes < 8192  # its own header


def test_a_gguf_cannot_be_packed_again(tmp_path):
    write_packed_shape(tmp_path / "x.gguf", "llama", PACKED_SIZES, MIXES["Q4_0"])
    with pytest.raises(SettingError, match="in its own blocks already"):
        read_base_header(str(tmp_path / "x.gguf"), "nf4")


# On a hub


class Hub(Answering):
    """A hub that counts the bytes it gives of each file; ranges are honoured."""

    def do_GET(self):
        path, files = unquote(urlsplit(self.path).path), self.server.files
        api = "/api/models/owner/name"
        if path in (api, f"{api}/revision/main"):
            siblings = [{"rfilename": name} for name in files]
            return self.answer(json.dumps({"id": "owner/name", "sha": REVISION, "siblings": siblings}).encode())
        if path == f"{api}/tree/{REVISION}":
            listed = [{"type": "file", "path": k, "size": len(v), "oid": "0" * 40} for k, v in files.items()]
            return self.answer(json.dumps(listed).encode())
        name = path.rsplit("/", 1)[-1]
        if not path.startswith("/owner/name/resolve/") or name not in files:
            return self.answer(b"{}", 404, {"X-Error-Code": "EntryNotFound"})
        content = files[name]
        wanted = self.headers.get("range")
        if wanted:
            first, last = wanted.removeprefix("bytes=").split("-")
            content = content[int(first) : int(last) + 1]
        if self.command == "GET":
            self.server.given[name] = self.server.given.get(name, 0) + len(content)
        status = 206 if wanted else 200
        return self.answer(content, status, {"ETag": f'"{name}"', "X-Repo-Commit": REVISION})


@pytest.fixture
def hub(tiny_folder, tmp_path, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files = {path.name: path.read_bytes() for path in tiny_folder.iterdir() if path.is_file()}
    server.files["model.safetensors"] += bytes(1 << 20)  # so long that nobody would fetch it by chance
    server.given = {}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    for key, value in (("NO_PROXY", "127.0.0.1"), ("no_proxy", "127.0.0.1"), ("HF_ENDPOINT", endpoint)):
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    read_base_header.cache_clear()
    yield server
    read_base_header.cache_clear()
    server.shutdown()
    server.server_close()
    thread.join()


def test_of_a_base_on_a_hub_only_small_files_and_the_header_are_fetched(hub, tiny_folder):
    header = read_base_header("owner/name")
    assert header.tensors == read_base_header(str(tiny_folder)).tensors
    assert header.fetch_bytes == header.size_bytes
    assert hub.given["model.safetensors"] < 1 << 18
    assert header.template().encode_text("abc")


def test_a_hub_without_that_base_is_a_fetch_error(hub):
    hub.files.clear()
    with pytest.raises(FetchError, match=r"has no config\.json|no weights that can be read|did not deliver"):
        read_base_header("owner/name")


def test_what_to_do_without_a_hub_is_said():
    with pytest.raises(FetchError, match=r"cannot look at 'smollm2': .*OFFLINE.*; try `kameleon.load\('smollm2'\)`"):
        read_base_header("smollm2")
    with pytest.raises(FetchError, match=r"cannot look at 'owner/name': .*; or give a folder or a \.gguf file of it"):
        read_base_header("owner/name")
