"""Budgets of the code base, what importing costs, and that the project's files agree with each other."""

import ast
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import manykin
from manykin.config import options
from manykin.models import get, name_of, names

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))
FILE_LINES = 350
BODY_LINES = 50
FLAT_LISTS = {"contract.py": 500, "spaces.py": 550}
"""Long files that are flat lists of siblings, and how long they may get."""


FOREIGN = {"state_dict"}
"""Methods whose signature torch chooses."""


def source_id(path):
    return str(path.relative_to(ROOT / "src" / "manykin"))


def modules():
    found = [module.name for module in pkgutil.walk_packages(manykin.__path__, "manykin.")]
    return [importlib.import_module(name) for name in found if not name.endswith("__main__")]


def functions(tree):
    """Every function of a module with its qualified name, and whether all parts of the name are public and none is nested in a function."""
    stack = [(node, "", True) for node in tree.body]
    while stack:
        node, prefix, public = stack.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            name = f"{prefix}{node.name}"
            yield node, name, public and (not node.name.startswith("_") or node.name == "__init__")
            stack += [(child, f"{name}.", False) for child in node.body]
        elif isinstance(node, ast.ClassDef):
            stack += [(child, f"{prefix}{node.name}.", public and not node.name.startswith("_")) for child in node.body]
        elif isinstance(node, (ast.If, ast.Try)):
            stack += [(child, prefix, public) for child in node.body]


@pytest.mark.parametrize("path", SOURCES, ids=source_id)
def test_source_file_keeps_its_budgets(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert len(text.splitlines()) <= FLAT_LISTS.get(path.name, FILE_LINES), "split this file by topic"
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", text)
    for node, name, visible in functions(tree):
        first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
        assert node.end_lineno - first.lineno + 1 <= BODY_LINES, f"the body of {name} is too long"
        assert not (visible and node.args.kwarg and node.name not in FOREIGN), f"{name} takes **{node.args.kwarg.arg}: name its arguments"


@pytest.mark.parametrize("path", SOURCES, ids=source_id)
def test_source_file_does_not_unpickle(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found = {alias.name.split(".")[0] for alias in node.names} | {(getattr(node, "module", None) or "").split(".")[0]}
            assert not found & {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib"}
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("torch.load", "torch.save", "eval", "exec"), f"line {node.lineno} calls {called}"
            if called in ("np.load", "numpy.load"):
                assert [ast.unparse(word.value) for word in node.keywords if word.arg == "allow_pickle"] == ["False"], f"line {node.lineno}"


def public(module):
    """The public classes and functions that a module defines itself."""
    for name, value in vars(module).items():
        if (
            not name.startswith("_")
            and getattr(value, "__module__", None) == module.__name__
            and (inspect.isclass(value) or inspect.isfunction(value))
        ):
            yield name, value


def members(cls):
    """The public methods and properties that a class defines itself."""
    return [key for key, value in vars(cls).items() if not key.startswith("_") and (callable(value) or isinstance(value, property))]


def inherits_docstring(cls, key, protocols):
    """Whether a protocol that the class implements documents this method: implementing is inheriting its description."""
    return any(key in members(each) and all(hasattr(cls, member) for member in members(each)) for each in protocols)


def test_every_public_name_has_a_docstring():
    found = [(module, name, value) for module in modules() for name, value in public(module)]
    protocols = [value for _, _, value in found if getattr(value, "_is_protocol", False)]
    bare = [module.__name__ for module in modules() if not module.__doc__]
    bare += [f"{module.__name__}.{name}" for module, name, value in found if not inspect.getdoc(value)]
    for module, name, cls in found:
        if inspect.isclass(cls):
            undocumented = [key for key in members(cls) if not inspect.getdoc(getattr(cls, key))]
            bare += [f"{module.__name__}.{name}.{key}" for key in undocumented if cls in protocols or not inherits_docstring(cls, key, protocols)]
    assert bare == []


@pytest.mark.parametrize("code", ["import manykin", "import manykin.cli.run; assert manykin.cli.run.run(['--help']) == 0"])
def test_cheap_calls_import_no_heavy_package(code):
    heavy = ["torch", "numpy", "sklearn", "pandas", "matplotlib", "rich", "lightning_fabric", "scipy"]
    check = f"{code}\nimport sys\nprint([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("verb", ["models", "data", "fit", "sample", "complete", "evaluate", "compare", "check", "report", "demo"])
def test_help_of_a_verb_imports_neither_torch_nor_a_model(verb):
    seen = "print('torch' in sys.modules, 'manykin.models.classical' in sys.modules)"
    check = f"import sys, manykin.cli.run as r\nassert r.run([{verb!r}, '--help']) == 0\n{seen}"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[0].startswith(f"Usage: manykin {verb}")
    assert done.stdout.splitlines()[-1] == "False False"


def test_public_names_resolve():
    assert sorted(manykin.__all__) == sorted(manykin._PUBLIC)
    for name in manykin.__all__:
        assert getattr(manykin, name).__doc__
    with pytest.raises(AttributeError, match="nonsense"):
        _ = manykin.nonsense


@pytest.mark.parametrize("name", names())
def test_model_of_the_table_resolves(name):
    model = get(name)
    assert name_of(model) == name
    assert model.family
    assert model.paper
    assert {"tiny", "default"} <= set(model.presets)
    assert all(info.help for info in options(model.config_class)), "every option needs a line of help"


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def normal(name):
    return re.sub(r"[-_.]+", "-", re.split(r"[<>=!~;\[ ]", name)[0]).lower()


def pins():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines), "exact versions only, without local labels"
    return {normal(line): line.split("==")[1] for line in lines}


def test_constraints_pin_every_dependency_within_its_bounds():
    extras = project()["optional-dependencies"]
    for text in [*project()["dependencies"], *(each for extra in extras.values() for each in extra)]:
        requirement = Requirement(text)
        assert normal(requirement.name) in pins(), f"{requirement.name} has no line in constraints.txt"
        assert requirement.specifier.contains(pins()[normal(requirement.name)], prereleases=True), f"{text} excludes the version in constraints.txt"
    assert pins()["torch"] == "2.13.0"


def test_project_files_agree():
    assert project()["version"] == manykin.__version__
    assert project()["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    assert (ROOT / "CHANGELOG.md").is_file()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test", "test-slow", "bench", "lint", "docs", "clean"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target} is missing"
