"""Where rows come from: local files, and the splits of data sets on a hub."""

import importlib
import threading
from http.server import ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pytest
from data.records import pair
from hub import Answering, oid
from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from kameleon.data import Record, find_data, read_records, sources
from kameleon.errors import DataError

client = importlib.import_module(HTTPError.__module__.partition(".")[0])  # httpx or its successor


def test_a_local_file_is_found_before_the_hub_is_asked(write, monkeypatch):
    monkeypatch.setattr(sources, "list_repo_files", lambda *_, **__: pytest.fail("asked the hub"))
    path = write([pair("a")])
    assert find_data(path) == find_data(str(path)) == (path,)


def test_a_path_that_cannot_be_looked_at_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read: .*File name too long"):
        find_data(tmp_path / ("a" * 300 + ".jsonl"))
    with pytest.raises(DataError, match=r"~nobody-of-this-name/rows\.jsonl cannot be read"):
        find_data("~nobody-of-this-name/rows.jsonl")


@pytest.mark.parametrize("source", ["rows.dat", "rows"])
def test_a_file_of_another_kind_is_refused(write, source):
    with pytest.raises(DataError, match=r"expected one of \.jsonl, \.ndjson, \.json, \.csv, \.tsv, \.parquet"):
        find_data(write(b"{}", source))


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("rows.xlsx", "is a spreadsheet: save it as “CSV UTF-8”"),
        ("ROWS.XLS", "is a spreadsheet"),
        ("rows.ods", "LibreOffice"),
        ("rows.docx", "is a document without rows: copy each question and its answer"),
        ("rows.pdf", "is a document without rows"),
        ("rows.txt", "is text without rows"),
        ("rows.jsonl.gz", "is packed: unpack it first"),
    ],
)
def test_a_file_of_an_office_program_says_how_to_export_it(write, source, what):
    with pytest.raises(DataError, match=what):
        find_data(write(b"PK", source))


@pytest.mark.parametrize("name", ["rows.JSONL", "rows.Csv", "rows.TSV", "rows.PARQUET", "rows.tsv", "rows.ndjson"])
def test_the_case_of_a_suffix_does_not_matter(write, name):
    path = write(b"", name)
    assert find_data(path) == (path,) and list(read_records(path)) == []


def test_a_file_that_is_not_there_is_told_with_the_nearest_name(write):
    path = write(b"", "rows.csv")
    with pytest.raises(DataError, match=r"there is no file .*row\.csv; did you mean 'rows.csv'\?"):
        find_data(path.with_name("row.csv"))


def test_a_folder_is_told_as_a_folder(tmp_path):
    with pytest.raises(DataError, match="is a folder; give a file in it"):
        find_data(tmp_path)


@pytest.mark.parametrize("source", ["none.jsonl", "folder/none.jsonl", "./a/b", "/a/b", "~/b", "a/b/c", "alone"])
def test_what_can_only_be_a_path_is_not_asked_of_the_hub(source, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "list_repo_files", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(DataError, match="there is no file"):
        find_data(source)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub data set that holds these files (or raises); returns what was downloaded."""

    def holding(*files, error=None):
        asked = []

        def listed(name, repo_type):
            assert (name, repo_type) == ("someone/rows", "dataset")
            if error:
                raise error
            return list(files)

        def download(name, file, repo_type):
            assert (name, repo_type) == ("someone/rows", "dataset")
            asked.append(file)
            return str(tmp_path / file)

        monkeypatch.setattr(sources, "list_repo_files", listed)
        monkeypatch.setattr(sources, "hf_hub_download", download)
        monkeypatch.chdir(tmp_path)
        return asked

    return holding


@pytest.mark.filterwarnings("ignore:someone/rows. the split")
@pytest.mark.parametrize(
    ("files", "wanted", "chosen"),
    [
        (["README.md", "test.jsonl", "train.jsonl"], "", "train.jsonl"),
        (["data/test-0-of-1.parquet", "data/train-0-of-1.parquet"], "", "data/train-0-of-1.parquet"),
        (["data/train-00000-of-00001-a3ecf927.parquet"], "", "data/train-00000-of-00001-a3ecf927.parquet"),
        (["data/train-0-of-1-a3.parquet", "data/test-0-of-1-b4.parquet"], ":test", "data/test-0-of-1-b4.parquet"),
        (["train/0.parquet", "test/0.parquet"], ":test", "test/0.parquet"),
        (["constrain.jsonl", "train.jsonl", "trains.jsonl"], "", "train.jsonl"),
        (["test.csv", "train.csv", "dataset_infos.json"], ":test", "test.csv"),
        (["README.md", "everything.json"], "", "everything.json"),
        (["data/train_sft-0-of-1.jsonl", "data/train_gen-0-of-1.jsonl"], ":train_sft", "data/train_sft-0-of-1.jsonl"),
        (["main/train-0-of-1.jsonl", "socratic/train-0-of-1.jsonl"], ":main", "main/train-0-of-1.jsonl"),
        (["main/train-0-of-1.jsonl", "main/test-0-of-1.jsonl"], ":main/test", "main/test-0-of-1.jsonl"),
        (["main/train-0-of-1.jsonl", "main/test-0-of-1.jsonl"], ":test", "main/test-0-of-1.jsonl"),
        (["train.jsonl", "train_v2.jsonl"], ":train", "train.jsonl"),
        (["train_v1.jsonl", "train_v2.jsonl"], ":train_v2", "train_v2.jsonl"),
    ],
)
def test_a_hub_data_set_gives_the_file_of_its_split(hub, tmp_path, files, wanted, chosen):
    asked = hub(*files)
    assert find_data(f"someone/rows{wanted}") == (tmp_path / chosen,)
    assert asked == [chosen]


def test_a_split_that_nobody_named_is_told_where_there_are_others(hub):
    hub("train.jsonl", "test.jsonl")
    with pytest.warns(UserWarning, match=r"the split train is read, out of test, train \(name another as"):
        find_data("someone/rows")


@pytest.mark.parametrize(
    ("files", "wanted", "told"),
    [
        (["README.md", "a.zip"], "", "has no file that ends in one of .*: it holds README.md, a.zip"),
        (["a.jsonl", "b.jsonl"], "", "no split 'train'; it has the splits a, b: name one as someone/rows:SPLIT"),
        (["train.jsonl", "validation.csv"], ":validaton", "did you mean 'validation'.; it has the splits train, valid"),
        (["a.jsonl", "b.jsonl"], ":c.jsonl", "no file 'c.jsonl'; .*it has the files a.jsonl, b.jsonl"),
    ],
)
def test_a_hub_data_set_without_that_split_names_what_it_holds(hub, files, wanted, told):
    hub(*files)
    with pytest.raises(DataError, match=told):
        find_data(f"someone/rows{wanted}")


@pytest.mark.filterwarnings("ignore:someone/rows. the split")
@pytest.mark.parametrize(
    ("files", "parts"),
    [
        (["data/test-0-of-1", "data/train-00001-of-2", "data/train-00000-of-2"], (2, 1)),
        (["data/train-00001-of-00002-0b1c", "data/train-00000-of-00002-ff00"], (1, 0)),
        (["train-3", "train-2", "train-1", "validation-1"], (2, 1, 0)),
        (["train/1/0", "train/0/1", "train/0/0"], (2, 1, 0)),
        ([f"train-{n}" for n in range(11)], tuple(range(11))),
    ],
)
def test_all_parts_of_a_split_are_taken_in_the_order_of_their_numbers(hub, tmp_path, files, parts):
    asked = hub(*(f"{file}.parquet" for file in files))
    assert find_data("someone/rows") == tuple(tmp_path / f"{files[place]}.parquet" for place in parts)
    assert len(asked) == len(parts)


@pytest.mark.parametrize(
    "files",
    [
        ["en/train.jsonl", "de/train.jsonl"],
        ["2023/train.jsonl", "2024/train.jsonl"],
        ["train.jsonl", "train_small.jsonl"],
        ["train_v1.jsonl", "train_v2.jsonl"],
        ["train_1.jsonl", "train_2.jsonl"],
        ["train_sft-0-of-1.jsonl", "train_gen-0-of-1.jsonl"],
    ],
    ids=["languages", "years", "sizes", "versions", "numbers", "kinds"],
)
def test_of_several_splits_that_could_be_meant_none_is_taken(hub, files):
    asked = hub(*files)
    with pytest.raises(DataError, match=r"has several splits that could be meant: .*; it has the splits .*: name one"):
        find_data("someone/rows")
    assert not asked


@pytest.mark.parametrize(
    "files",
    [
        ["train.csv", "train.jsonl"],
        ["train-0-of-3.jsonl", "train-1-of-3.jsonl"],
        ["train-0-of-2.jsonl", "train-1-of-2.jsonl", "train-0-of-1.jsonl"],
        ["train-2023.jsonl", "train-2024.jsonl"],
        ["train-0.jsonl", "train-1.jsonl", "train-3.jsonl"],
        ["train.jsonl", "train-1.jsonl"],
    ],
    ids=["formats", "a part missing", "two cuts", "years", "a gap", "a whole and a part"],
)
def test_files_of_a_split_that_are_not_the_parts_of_one_are_not_taken(hub, files):
    asked = hub(*files)
    with pytest.raises(DataError, match=r"the split train .*not the parts of one, or not all.*; name one as"):
        find_data("someone/rows")
    assert not asked


def test_a_file_of_a_hub_data_set_can_be_named(hub, tmp_path):
    asked = hub("a.jsonl", "more/b.jsonl")
    assert find_data("someone/rows:more/b.jsonl") == (tmp_path / "more" / "b.jsonl",) and asked == ["more/b.jsonl"]


def response(status):
    return client.Response(status, request=client.Request("GET", "https://hub.test"))


@pytest.mark.parametrize(
    "error",
    [
        RepositoryNotFoundError("gone", response=response(404)),
        LocalEntryNotFoundError("offline"),
        ConnectionError("no network"),
        client.ConnectError("no network"),
        client.ReadTimeout("slow"),
        HFValidationError("not a name"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_hub_that_does_not_deliver_is_a_data_error(hub, error):
    hub(error=error)
    with pytest.raises(DataError, match="someone/rows"):
        find_data("someone/rows")


PARTS = {
    "README.md": b"rows",
    "data/test-00000-of-00001-0a1b2c3d4e5f6789.jsonl": b'{"text": "never"}\n',
    "data/train-00000-of-00002.jsonl": b'{"text": "a"}\n{"text": "b"}\n',
    "data/train-00001-of-00002.jsonl": b'{"text": "c"}\n',
}


class Hub(Answering):
    """As much of the hub's interface as one data set needs."""

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        file = path.removeprefix("/datasets/someone/rows/resolve/main/")
        if path == "/api/datasets/someone/rows/tree/main":
            listed = [{"type": "file", "path": k, "size": len(v), "oid": oid(v)} for k, v in PARTS.items()]
            self.json(listed)
        elif file in PARTS:
            self.answer(PARTS[file], 200, {"ETag": f'"{oid(PARTS[file])}"', "X-Repo-Commit": "0" * 40})
        else:
            self.answer(b"{}", 404, {"X-Error-Code": "RepoNotFound"})


def test_a_data_set_in_parts_comes_whole_from_a_hub(tmp_path, monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        # The hub's library reads its environment when it is imported.
        monkeypatch.setattr(sources.list_repo_files.__self__, "endpoint", endpoint)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        got = list(read_records(*find_data("someone/rows:train")))
        test = list(read_records(*find_data("someone/rows:test")))
        with pytest.raises(DataError, match="neither a file nobody/rows nor a hub data set"):
            find_data("nobody/rows")
        server.shutdown()
    assert got == [Record(1, {"text": "a"}), Record(2, {"text": "b"}), Record(3, {"text": "c"})]
    assert test == [Record(1, {"text": "never"})]
