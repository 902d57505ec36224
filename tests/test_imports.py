"""Import rules and forbidden calls, checked in the syntax trees of all product code."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PACKAGES = ("agents", "envs", "conf", "ablation", "studies", "system", "mimpala")
ENTRY_POINTS = ("train.py", "evaluate.py", "doctor.py", "ablate.py", "population.py", "search.py")
SOURCES = sorted(
    [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    + [ROOT / name for name in ENTRY_POINTS if (ROOT / name).exists()]
)
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}

ADAPTERS = {
    "envpool": "envs/*/envpool_*.py",
    "minigrid": "envs/*/minigrid_*.py",
    "vizdoom": "envs/vizdoom/*.py",
    "deepmind_lab": "envs/dmlab30/*.py",
    "dmlab2d": "envs/dmlab2d/*.py",
    "dm_env": "envs/dm_env_adapter/*.py",
    "ale_py": "envs/atari/*.py",
    "wandb": "agents/run/trackers/wandb_run.py",
    "mlflow": "agents/run/trackers/mlflow_run.py",
}
"""Optional engine or tracker -> the only files that may import it."""

IMPORTS_BY_NAME = ("envs/gymnasium_ids/build_env.py", "agents/setup/plugins.py")
"""May import modules by name: the first one the user's environments and wrappers, of which it calls only subclasses of
gymnasium.Wrapper; the second one plugins, of which it calls `register`.
"""


def imported(path: str, node: ast.AST) -> list[str]:
    """Dotted names that an import statement makes available, relative ones resolved."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        package = path.removesuffix(".py").split("/")[: -node.level] if node.level else []
        module = ".".join([*package, *([node.module] if node.module else [])])
        return [f"{module}.{alias.name}" for alias in node.names]
    return []


def imports(path: str) -> Iterator[str]:
    """Dotted names that a file imports anywhere."""
    for node in ast.walk(TREES[path]):
        yield from imported(path, node)


def under(name: str, *packages: str) -> bool:
    """Whether a dotted name is one of the packages or inside one."""
    return any(name == package or name.startswith(package + ".") for package in packages)


def find_forbidden(prefix: str, *forbidden: str) -> list[str]:
    """Imports of forbidden packages in the files whose path starts with `prefix`, one sentence each."""
    paths = [path for path in TREES if path.startswith(prefix)]
    assert paths, f"no file matches {prefix}"
    return [f"{path} imports {name}" for path in paths for name in imports(path) if under(name, *forbidden)]


def test_the_rules_read_all_packages() -> None:
    assert {
        "train.py",
        "agents/learning/learner.py",
        "agents/runtime/local.py",
        "agents/fusion/base.py",
        "conf/loading.py",
        "conf/schema.py",
    } <= TREES.keys()
    assert "agents.learning.popart.PopArt" in set(imports("agents/learning/objective.py"))


FLOORS = (
    ("system",),
    ("envs.spec", "envs.faults", "envs.schedule", "envs.instructions"),
    ("envs.seeding", "envs.scores", "envs.spec_changes", "envs.shared_arrays"),
    ("envs.gymnasium_adapter", "envs.dm_env_adapter"),
    ("envs.engines",),
    ("envs.suite", "envs.vector"),
    ("envs.holdout",),
    tuple(
        f"envs.{name}"
        for name in (
            "atari",
            "babyai",
            "conditional",
            "dmlab2d",
            "dmlab30",
            "envpool_families",
            "gymnasium_ids",
            "vizdoom",
        )
    ),
    ("envs.suites",),
    ("envs.trial",),
    ("conf",),
    ("agents.cli", "agents.fusion"),
    ("agents.network",),
    ("agents.trajectory",),
    ("agents.learning", "agents.acting", "agents.storage"),
    ("agents.runtime",),
    ("agents.setup",),
    ("agents.distributed",),
    ("agents.run",),
    ("agents.evaluation",),
    ("ablation.analysis",),
    ("ablation.run_files",),
    ("ablation.load", "ablation.report"),
    ("ablation.grid",),
    ("ablation.population",),
    ("ablation.search",),
    ("studies.harness",),
    ("studies.models",),
    ("studies.data",),
    ("studies.language_training",),
    ("studies.synthetic", "studies.regression", "studies.neural_process", "studies.language"),
    ("train", "evaluate", "ablate", "population", "search", "doctor"),
    ("mimpala",),
)
"""Packages and modules from the lowest floor to the highest. An import names a lower floor or its own package."""

FORBIDDEN_IMPORTS = {
    "envs/": ("torch", "hydra", "omegaconf"),
    "conf/": ("torch",),
    "agents/network/": ("conf",),
    "agents/fusion/": ("conf",),
    "agents/learning/": ("conf",),
    "agents/acting/": ("conf",),
    "agents/storage/": ("conf",),
    "agents/runtime/": ("conf", "agents.learning"),
    "agents/cli/": ("torch", "conf"),
    "system/": ("torch",),
    "ablation/analysis/": ("torch", "agents", "conf", "envs", "hydra", "omegaconf"),
    "ablation/report/": ("torch", "conf", "envs"),
}
"""Imports that the floors alone would permit."""


def floor_of(name: str) -> tuple[int, str]:
    """The floor of a module, and its entry there. The longest entry counts."""
    found = [
        (len(entry), floor, entry) for floor, entries in enumerate(FLOORS) for entry in entries if under(name, entry)
    ]
    assert found, f"{name} has no floor: add it to FLOORS"
    return max(found)[1:]


def test_no_import_runs_upwards_and_no_packages_import_each_other() -> None:
    wrong = []
    project = (*PACKAGES, *(name.removesuffix(".py") for name in ENTRY_POINTS))
    for path in TREES:
        own = [name for name in imports(path) if under(name, *project)]
        if not own:
            continue
        floor, package = floor_of(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
        for name in own:
            other_floor, other = floor_of(name)
            if other != package and other_floor >= floor:
                wrong.append(f"{path} imports {name}")
    assert not wrong


@pytest.mark.parametrize("package", FORBIDDEN_IMPORTS)
def test_a_package_imports_nothing_beyond_its_purpose(package: str) -> None:
    assert not find_forbidden(package, *FORBIDDEN_IMPORTS[package])


def test_no_package_has_more_than_a_dozen_modules() -> None:
    folders = {Path(path).parent for path in TREES if "/" in path}
    modules = {
        folder: [path for path in TREES if Path(path).parent == folder and "__init__" not in path] for folder in folders
    }
    assert not [folder for folder, found in modules.items() if len(found) > 13]


def run_in_new_process(code: str) -> None:
    """Runs code that begins with `import sys` and `loaded`: a function whose result are those of its arguments that are imported."""
    begin = "import sys\ndef loaded(*names): return [name for name in names if name in sys.modules]\n"
    subprocess.run([sys.executable, "-c", begin + code], cwd=ROOT, timeout=120, check=True)


def test_importing_the_environments_imports_no_torch() -> None:
    """Neither directly nor through another module."""
    unwanted = (
        "torch",
        "hydra",
        "agents",
        "envpool",
        "minigrid",
        "ale_py",
        "cv2",
        "vizdoom",
        "dmlab2d",
        "dm_env",
        "deepmind_lab",
    )
    run_in_new_process(f"import envs.suites; assert not loaded(*{unwanted})")


def test_preloading_the_fork_server_does_not_initialize_cuda() -> None:
    """A process forked after CUDA's initialization cannot use a GPU."""
    run_in_new_process("""
import torch
torch.cuda.is_available = torch.cuda.device_count = torch.cuda.init = lambda: 1 / 0
import agents.setup.preload
assert not torch.cuda.is_initialized()
""")


def test_the_fork_server_preloads_what_actors_and_servers_import() -> None:
    modules = ("torch", "agents.setup.builder", "agents.runtime.processes.actor_process", "agents.learning.learner")
    run_in_new_process(f"import agents.setup.preload; assert sys.modules.keys() >= set({modules!r})")


COMPILER = ("torch._dynamo", "torch._inductor", "torch.onnx", "sympy")
"""Packages of torch.compile. They take a second, and torch's optimisers and FlopCounterMode import them."""


def test_bad_input_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    run_in_new_process(f"""
import train
for arguments in (["fusion=no"], ["learner.discounting=2"], ["env.tasks=[no]"], ["run={tmp_path}"]):
    assert train.main(arguments) == 2
assert not loaded("torch", "ray", "tensorboard")
""")


def test_the_fork_server_starts_before_torch_is_imported(tmp_path: Path) -> None:
    """So that both processes import at the same time."""
    run_in_new_process(f"""
import train
def start_fork_server():
    assert not loaded("torch")
    raise KeyboardInterrupt
train.start_fork_server = start_fork_server
assert train.main(["env=conditional", "run={tmp_path / "run"}"]) == 130
""")


@pytest.mark.slow
def test_a_run_and_its_fork_server_do_not_import_torchs_compiler(tmp_path: Path) -> None:
    run_in_new_process(f"""
import train
settings = ["env=conditional", "runtime=serial", "learner.unroll_length=4", "total_frames=1000", "display=false"]
assert train.main([*settings, "run={tmp_path / "run"}"]) == 0
assert not loaded(*{COMPILER}, "matplotlib", "scipy", "pandas", "ray")
""")
    run_in_new_process(f"""
import agents.setup.preload
assert not loaded(*{COMPILER}, "hydra", "rich", "tensorboard", "matplotlib", "scipy", "pandas", "ray")
""")


@pytest.mark.parametrize("name", ["vtrace", "popart", "losses", "rewards"])
def test_mathematical_modules_import_only_tensors(name: str) -> None:
    allowed = ("__future__", "typing", "collections", "math", "torch", "numpy")
    names = set(imports(f"agents/learning/{name}.py"))
    assert not [found for found in names if not under(found, *allowed)]
    assert not [found for found in names if under(found, "torch.nn", "torch.utils", "torch.optim")]


def test_only_studies_import_studies_and_only_their_programs_import_conf() -> None:
    users = {path for path in TREES if any(under(name, "studies") for name in imports(path))}
    assert users and all(path.startswith("studies/") for path in users)
    programs = {
        f"studies/{name}.py" for name in ("harness/program", "synthetic", "regression", "neural_process", "language")
    }
    inside = [path for path in TREES if path.startswith("studies/")]
    assert {path for path in inside if any(under(name, "conf") for name in imports(path))} == programs


def test_only_conf_and_the_entry_points_import_hydra() -> None:
    for path in TREES:
        if path not in ENTRY_POINTS and not path.startswith("conf/"):
            assert not find_forbidden(path, "hydra", "omegaconf"), path


def test_only_the_modules_of_ray_import_ray() -> None:
    users = (
        "agents/runtime/ray_groups/connection.py",
        "agents/runtime/ray_groups/actor_group.py",
        "ablation/grid/ray_executor.py",
    )
    for path in TREES:
        if path not in users:
            assert not find_forbidden(path, "ray"), path


@pytest.mark.parametrize("engine", ADAPTERS)
def test_only_functions_of_its_adapter_import_an_optional_engine(engine: str) -> None:
    for path, tree in TREES.items():
        if not any(under(name, engine) for name in imports(path)):
            continue
        assert Path(path).match(ADAPTERS[engine]), f"{path} imports {engine}"
        inside = {
            node
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            for node in ast.walk(function)
        }
        for node in ast.walk(tree):
            if any(under(name, engine) for name in imported(path, node)):
                assert node in inside, f"{path} imports {engine} outside of functions"


def dotted(node: ast.AST) -> str:
    """`a.b.c` for the expression a.b.c; empty for any other expression."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


FORBIDDEN_CALLS = {
    *(f"pickle.{name}" for name in ("load", "loads", "Unpickler")),
    *(f"yaml.{name}" for name in ("load", "load_all", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all")),
    *("eval", "exec", "__import__", "importlib.import_module", "hydra.utils.instantiate", "hydra.utils.call"),
    *("instantiate", "joblib.load", "marshal.loads", "dill.load", "torch.jit.load", "torch.package.PackageImporter"),
    *("os.system", "numpy.load", "np.load"),
}


def find_violation(call: ast.Call) -> str:
    """The reason why a call is forbidden; empty if it is allowed."""
    name = dotted(call.func)
    if name in FORBIDDEN_CALLS:
        return name
    if name == "torch.load":
        safe = [word for word in call.keywords if word.arg == "weights_only"]
        if not (safe and isinstance(safe[0].value, ast.Constant) and safe[0].value.value is True):
            return "torch.load without weights_only=True"
    if any(word.arg == "shell" for word in call.keywords):
        return f"{name} with shell="
    return ""


def test_no_code_executes_data() -> None:
    # Imports count too, because `from torch import load` gives the function another name.
    risky = {"torch.load", "pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load", "hydra.utils.instantiate"}
    found = [f"{path} imports {name}" for path in TREES for name in risky & set(imports(path))]
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and (
                path not in IMPORTS_BY_NAME or dotted(node.func) != "importlib.import_module"
            ):
                found += [f"{path}:{node.lineno}: {name}" for name in [find_violation(node)] if name]
            if isinstance(node, ast.Constant) and node.value == "_target_":
                found.append(f"{path}:{node.lineno}: _target_")
    assert not found


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "torch.load(p, weights_only=x)",
        "pickle.loads(b)",
        "yaml.load(t)",
        "eval(t)",
    ],
)
def test_the_check_finds_forbidden_calls(line: str) -> None:
    (statement,) = ast.parse(line).body
    assert isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call) and find_violation(statement.value)


def test_no_config_has_a_target_or_an_interpolation() -> None:
    def keys(node: object) -> Iterator[str]:
        if isinstance(node, dict):
            for key, value in node.items():
                yield str(key)
                yield from keys(value)
        elif isinstance(node, list):
            for value in node:
                yield from keys(value)

    files = sorted((ROOT / "conf").rglob("*.yaml"))
    assert files
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert not [key for key in keys(yaml.safe_load(text)) if key.startswith("_") and key != "_self_"], file
        assert "${" not in text, file
