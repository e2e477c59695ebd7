"""The folder tree is the architecture: imports go one way, without circles, and public names are explained.

Everything is read from the source, so that what Python adds by itself (a dataclass's docstring) does not count.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import kameleon

SOURCE = Path(kameleon.__file__).parent
ORDER = (
    "terminal",
    "errors",
    "scratch",
    "home",
    "bug_report",
    "telemetry",
    "waiting",
    "machine",
    "words",
    "arguments",
    "notebook",
    "settings",
    "ops",
    "torch_modules",
    "lab",
    "weights",
    "model",
    "text",
    "bases",
    "adapters",
    "home_format",
    "data",
    "generation",
    "training",
    "housekeeping",
    "evaluation",
    "serving",
    "plan",
    "unloaded",
    "api",
    "jobs",
    "http",
    "studio",
    "bench",
    "cli",
    "__main__",
)
"""Each may import from those before it."""
PLANNED = {"jobs", "studio"}
"""Folders of ORDER that do not exist yet."""
APART = {("training", "serving"), ("evaluation", "serving"), ("plan", "serving"), ("lab", "ops")}
"""Pairs that must not import each other although their order would allow it."""
MOST_LINES = 400

Imports = dict[str, set[str]]


def module_name(path: Path, root: Path) -> str:
    """`root/a/b.py` as "a.b", and `root/a/__init__.py` as "a"."""
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def imports_of(root: Path) -> Imports:
    """For each module the modules that it imports, anywhere in the file, in type checks and as strings too."""
    modules = {module_name(path, root): path for path in sorted(root.rglob("*.py"))}

    def targets(name: str, importer: str) -> Iterator[str]:
        parts = name.split(".")
        if parts[0] != "kameleon":
            return
        inner = ".".join(parts[1:])
        while inner and inner not in modules:  # a name inside a module
            inner = inner.rpartition(".")[0]
        if inner and inner != importer:
            yield inner

    return {
        module: {
            target
            for node in ast.walk(ast.parse(path.read_text()))
            for name in names_in(node, module if path.name == "__init__.py" else module.rpartition(".")[0])
            for target in targets(name, module)
        }
        for module, path in modules.items()
    }


def names_in(node: ast.AST, folder: str) -> list[str]:
    """The full names that a node imports, or gives as a string, in a file of this folder ("" is the package's own)."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        start = node.module or ""
        if node.level:
            above = folder.split(".") if folder else []
            kept = above[: len(above) - node.level + 1]
            start = ".".join(["kameleon", *kept, *([node.module] if node.module else [])])
        return [f"{start}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        name = node.value.partition(":")[0]  # "kameleon.cli.bench:app" and import_module("kameleon.api")
        return [name] if name.startswith("kameleon.") and name.replace(".", "").isidentifier() else []
    return []


def out_of_order(imports: Imports) -> list[str]:
    """Imports of a folder that comes later in ORDER, or from which this one keeps apart."""
    wrong = []
    for module, targets in imports.items():
        part = module.partition(".")[0]
        if not part:  # the package itself hands names on from everywhere
            continue
        for target in targets:
            other = target.partition(".")[0]
            if ORDER.index(other) > ORDER.index(part) or {(part, other), (other, part)} & APART:
                wrong.append(f"{module} imports {target}")
    return wrong


def circles(imports: Imports) -> list[set[str]]:
    """Sets of files of which each reaches the others by imports. A package's `__init__` only hands names on."""

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        stack = [start]
        while stack:
            for target in imports[stack.pop()] - seen:
                seen.add(target)
                stack.append(target)
        return seen

    reached = {module: reach(module) for module in imports}
    rings = {frozenset(n for n in reached[m] if m in reached[n]) for m in imports if m in reached[m]}
    return sorted((set(ring) for ring in rings), key=min)


def files_only(imports: Imports, root: Path) -> Imports:
    """Without `__init__` files: an import of a name that such a file hands on leads to the name's own file."""
    handed = {
        (module_name(path, root), alias.asname or alias.name): (node.module or "")[9:]
        for path in root.rglob("__init__.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kameleon.")
        for alias in node.names
    }
    packages = {module_name(path, root) for path in root.rglob("__init__.py")}
    direct: Imports = {}
    for path in root.rglob("*.py"):
        module = module_name(path, root)
        if module in packages:
            continue
        direct[module] = {target for target in imports[module] if target not in packages}
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kameleon"):
                for alias in node.names:
                    package, name = (node.module or "")[9:], alias.name
                    while (home := handed.get((package, name), package)) != package:
                        direct[module] |= {home} - packages
                        package = home
    return direct


def public_definitions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Functions, classes and methods without an underscore in front.

    A method of a derived class may be an override; an overload is explained by the definition that follows it.
    """
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    for node in tree.body:
        if isinstance(node, kinds) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef) and not node.bases:
                inner = (n for n in node.body if isinstance(n, kinds) and not n.name.startswith("_"))
                yield from (n for n in inner if "overload" not in map(ast.unparse, n.decorator_list))


IMPORTS = imports_of(SOURCE)
MODULES = sorted(SOURCE.rglob("*.py"))
PACKAGES = sorted(path for path in SOURCE.rglob("__init__.py") if path.parent != SOURCE)


def test_each_folder_and_file_has_its_place_in_the_order():
    there = {module.partition(".")[0] for module in IMPORTS} - {""}
    assert there == set(ORDER) - PLANNED, "ORDER and PLANNED must name what exists, and nothing else"


def test_imports_go_one_way():
    assert out_of_order(IMPORTS) == []


def test_no_two_files_import_each_other():
    assert circles(files_only(IMPORTS, SOURCE)) == []


@pytest.mark.parametrize("path", PACKAGES, ids=lambda p: module_name(p, SOURCE))
def test_names_that_a_folder_hands_on_exist_and_have_a_docstring_in_the_source(path):
    tree = ast.parse(path.read_text())
    declared = next(n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__")
    handed = {
        alias.asname or alias.name: ((node.module or "")[9:], alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    here = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert set(ast.literal_eval(declared)) <= set(handed) | here


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_file_says_what_it_is_is_short_and_explains_its_public_names(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "no docstring"
    assert len(text.splitlines()) <= MOST_LINES
    silent = [node.name for node in public_definitions(tree) if not ast.get_docstring(node)]
    assert silent == [], "public names without a docstring in the source"


def test_no_test_file_is_long():
    tests = Path(__file__).parent
    long = [str(p.relative_to(tests)) for p in tests.rglob("*.py") if len(p.read_text().splitlines()) > MOST_LINES]
    assert long == []


def test_the_changelog_speaks_of_this_version():
    changelog = (SOURCE.parents[1] / "CHANGELOG.md").read_text()
    assert f"## {kameleon.__version__}" in changelog
