"""All written ways to install bring torch's build for CPUs: PyPI's for Linux comes with gigabytes of CUDA."""

import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCKS = [ROOT / "locks" / name for name in ("install.txt", "dev.txt", "clients.txt")]
CPU_BUILDS = ("--index-url https://download.pytorch.org/whl/cpu", "--torch-backend cpu")
PLACES = ("*.md", "docs/*.md", "Makefile", "*.txt", ".ci/*", "src/**/*.py", "examples/demo/*.py", "benchmarks/*.py")


def commands(path):
    """What stands behind each `pip install` of a file, or behind Makefile's $(PIP)."""
    text = path.read_text()
    if path.suffix == ".py":
        text = re.sub(r'"\s*\n\s*f?"', "", text)  # one string, broken into lines
    return [found.strip() for found in re.findall(r"(?:pip install|\$\(PIP\))(.*?)(?=`|\n|&&)", text)]


def brings_cpu_build(command):
    return any(words in command for words in CPU_BUILDS)


def test_what_installs_torch_names_the_index_of_cpu_builds():
    found = [(path.name, one) for place in PLACES for path in ROOT.glob(place) for one in commands(path)]
    of_torch = [(name, one) for name, one in found if re.search(r"(^|\s)torch\b", one)]
    assert {"README.md", "Makefile", "doctor.py"} <= {name for name, _ in of_torch}
    assert [one for one in of_torch if not brings_cpu_build(one[1])] == []


@pytest.mark.parametrize("name", ["README.md", "Makefile"])
def test_the_cpu_build_is_there_before_the_packages_that_would_bring_another(name):
    has_torch, packages = False, 0
    for command in commands(ROOT / name):
        has_torch = has_torch or brings_cpu_build(command)
        needs_torch = bool(re.search(r"locks/|LOCKED|\.\[", command))
        packages += needs_torch
        assert has_torch or not needs_torch, command
    assert packages


def test_pip_waits_seconds_for_an_index_that_does_not_answer():
    (torch,) = (one for one in commands(ROOT / "Makefile") if brings_cpu_build(one))
    assert "--no-deps" in torch  # so that nothing else is looked for there
    assert "--retries 1 --timeout 10" in torch


def pins(lock):
    """The packages of a lock file: name, version, and what stands behind these."""
    return re.findall(r"^([\w.-]+)==(\S+)((?:[^\n]*\\\n)*[^\n]*)$", lock.read_text(), re.MULTILINE)


def extras():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {"": project["dependencies"], **project["optional-dependencies"]}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_locked_package_has_hashes(lock):
    assert all("--hash=sha256:" in behind for _, _, behind in pins(lock))
    assert len(pins(lock)) == len(re.findall(r"^[a-zA-Z]", lock.read_text(), re.MULTILINE))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_no_lock_brings_cuda(lock):
    assert [name for name, _, _ in pins(lock) if re.match(r"nvidia|cuda|triton", name)] == []


def test_every_requirement_is_locked_in_a_version_that_it_allows():
    locked = {(name, version) for lock in LOCKS for name, version, _ in pins(lock)}
    for one in (Requirement(said) for said in chain.from_iterable(extras().values())):
        if one.name != "kameleon":
            versions = [version for name, version in locked if name == canonicalize_name(one.name)]
            assert versions and all(one.specifier.contains(version) for version in versions), str(one)


def test_all_locks_agree():
    unlike = {name: version for name, version, behind in pins(LOCKS[0]) if ";" not in behind}
    for lock in LOCKS[1:]:
        theirs = {name: version for name, version, behind in pins(lock) if ";" not in behind}
        assert {
            name: (unlike[name], theirs[name]) for name in unlike.keys() & theirs if unlike[name] != theirs[name]
        } == {}


def test_the_locked_torch_is_one_that_both_builds_satisfy():
    (version,) = (version for name, version, _ in pins(ROOT / "locks" / "install.txt") if name == "torch")
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)  # 2.13.0+cpu is 2.13.0 too
    assert f"torch=={version}" in (ROOT / "README.md").read_text()
