"""The file of API keys: what its lines mean, and who else may read it or change it."""

import os
from pathlib import Path

import pytest

from kameleon.errors import SettingError
from kameleon.http import KeyRing, open_socket
from kameleon.settings import HttpSettings

KEY = "0123456789abcdef"


@pytest.fixture
def written(tmp_path):
    """Write a key file as safely as `openssl rand -hex 32 > keys` and `chmod 600 keys` do."""

    def write(text=f"{KEY}\n", mode=0o600):
        path = tmp_path / "keys"
        path.write_text(text)
        path.chmod(mode)
        return path

    return write


@pytest.mark.parametrize(
    ("rest", "models", "role"),
    [
        ("", None, "admin"),
        ("  # a comment, role=use", None, "admin"),
        (" law, tiny  # a guest", {"law", "tiny"}, "use"),
        (" law,medicine role=train", {"law", "medicine"}, "train"),
        (" role=use", None, "use"),
        ("\trole=admin", None, "admin"),
        (" use", {"use"}, "use"),  # a model that is called like a role
        (" admin,train role=use", {"admin", "train"}, "use"),
        (" smollm2 in nf4,law role=use", {"smollm2 in nf4", "law"}, "use"),
    ],
)
def test_a_line_is_a_key_then_its_models_then_its_role(written, rest, models, role):
    key = KeyRing.read(written(f"{KEY}{rest}\n")).find(KEY)
    assert (key.models, key.role) == (models, role)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("tooshort law", "begins with no key"),
        (f"{KEY}#comment", "begins with no key"),
        (f"{KEY} law role=r00t", "its role must be one of use, train, admin"),
        (f"{KEY} role=", "its role must be one of"),
        (f"{KEY} role=use law", "a role stands last"),
        (f"{KEY} law role=use role=train", "a role stands last"),
        (f"{KEY} law, Role=use", "a role stands last"),
        (f"{KEY} law train", "a role stands last"),
        (f"{KEY} law,,medicine", "a comma stands where a model is missing"),
        (f"{KEY} law role=admin", "an admin's key is for all models"),
        (f"a-second-key-{KEY}", "has the key of line 2"),
    ],
)
def test_a_line_that_could_be_misread_is_refused_by_its_number_and_never_shown(written, line, told):
    path = written(f"# ours\na-second-key-{KEY}\n\n{line}\n")
    with pytest.raises(SettingError) as caught:
        KeyRing.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line 4") and told in message
    assert KEY not in message and "tooshort" not in message and "r00t" not in message


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o602, 0o644, 0o666])
def test_a_key_file_that_others_read_or_change_is_refused_where_others_reach_the_server(written, mode):
    path = written(mode=mode)
    with pytest.raises(SettingError, match="chmod 600"):
        open_socket(HttpSettings(host="0.0.0.0", port=0, api_key_file=path))
    with pytest.warns(UserWarning, match="chmod 600"):
        open_socket(HttpSettings(port=0, api_key_file=path)).close()


def test_a_key_file_of_ones_own_is_taken(written):
    for mode in (0o600, 0o400):
        open_socket(HttpSettings(host="0.0.0.0", port=0, api_key_file=written(mode=mode))).close()
    with pytest.raises(SettingError, match="cannot be read"):
        open_socket(HttpSettings(port=0, api_key_file=written().with_name("none")))


def test_a_link_is_as_safe_as_the_file_and_every_folder_on_the_way(written, tmp_path):
    path, folder = written(), tmp_path / "folder"
    folder.mkdir()
    link = folder / "link"
    link.symlink_to("../keys")
    settings = HttpSettings(host="0.0.0.0", port=0, api_key_file=link)
    open_socket(settings).close()
    folder.chmod(0o777)  # somebody could put another link there
    with pytest.raises(SettingError, match=f"chmod o-w {folder}"):
        open_socket(settings)
    folder.chmod(0o1777)  # as /tmp: only the link's owner can
    open_socket(settings).close()
    path.chmod(0o644)
    with pytest.raises(SettingError, match=f"chmod 600 {path}"):
        open_socket(settings)
    path.chmod(0o600)
    (tmp_path / "outer").symlink_to(folder)
    folder.chmod(0o777)
    with pytest.raises(SettingError, match="chmod o-w"):
        open_socket(HttpSettings(host="0.0.0.0", port=0, api_key_file=tmp_path / "outer" / ".." / "keys"))


def test_a_key_file_of_another_user_is_refused(written, monkeypatch):
    path = written()
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(SettingError, match="belong to another user"):
        open_socket(HttpSettings(host="0.0.0.0", port=0, api_key_file=path))


def test_a_pipe_that_is_nobody_elses_is_taken():
    reading, writing = os.pipe()
    os.write(writing, f"{KEY}\n".encode())
    os.close(writing)
    settings = HttpSettings(host="0.0.0.0", port=0, api_key_file=Path(f"/dev/fd/{reading}"))
    open_socket(settings).close()
    os.close(reading)
