"""Which part may import which, and no circles. Every import counts, those in functions and those for types alone, too.

Only what is under `if __name__ == "__main__"` does not: such a file is an entry point then.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "serve": {"training", "data", "evaluation", "cli", "integrations", "demo", "nano"},
    "lavida": {"training", "data", "evaluation", "cli", "integrations", "demo", "nano"},
    "data": {"lavida", "training", "evaluation", "cli"},
    "training": {"evaluation", "cli"},
    "evaluation": {"training", "cli"},
}
"""Part -> parts that it does not import. `gate` imports torch alone, and only entry points import `cli`."""
GATE_MAY = {"gate", "torch", *sys.stdlib_module_names}
SCRIPTS = ("lora_training", "dataset_preparation", "evaluation")
ENTRY_POINTS = {"shirg.__main__", "shirg.run_shirg_lora_training", "shirg.test_shirg_lora"}
ENTRY_POINTS |= {f"shirg.shirg_{name}" for name in SCRIPTS}


def all_modules() -> dict[str, Path]:
    paths = (
        path for folder in ("shirg", "benchmarks", "examples", "scripts") for path in ROOT.glob(f"{folder}/**/*.py")
    )
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imports(name: str, path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """What a file imports: the full name of a module of ours, the first part of another's."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if "__name__ == '__main__'" not in ast.unparse(getattr(node, "test", node))]
    inside = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(tree):
        found = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = inside[: len(inside) + 1 - node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            found = [full if (full := f"{base}.{alias.name}") in modules else base for alias in node.names]
        yield from (one if one in modules else one.split(".")[0] for one in found)


def part(module: str) -> str:
    """ "lavida" of "shirg.lavida.model", "torch" of "torch"."""
    names = module.split(".")
    return names[1] if names[0] == "shirg" and len(names) > 1 else names[0]


def is_wrong(importer: str, imported: str) -> bool:
    of, other = part(importer), part(imported)
    if of == "gate":
        return other not in GATE_MAY
    return other in FORBIDDEN.get(of, ()) or (other == "cli" != of and importer not in ENTRY_POINTS)


def reached(start: str, graph: dict[str, set[str]]) -> set[str]:
    seen, waiting = set(), [start]
    while waiting:
        fresh = graph.get(waiting.pop(), set()) - seen
        seen |= fresh
        waiting += fresh
    return seen


MODULES = all_modules()
GRAPH = {name: set(imports(name, path, MODULES)) for name, path in MODULES.items()}


def test_parts_import_what_they_may():
    assert {(of, other) for of, others in GRAPH.items() for other in others if is_wrong(of, other)} == set()


def test_no_module_imports_itself_through_others():
    reach = {name: reached(name, GRAPH) for name in GRAPH}
    circles = {frozenset(m for m in reach[name] if name in reach.get(m, ())) for name in GRAPH if name in reach[name]}
    assert circles == set()


def test_every_kind_of_import_is_seen():
    assert "shirg.gate.clusters" in GRAPH["shirg.gate"]  # relative
    assert "shirg.gate" in GRAPH["shirg.cli.select"]  # for types alone
    assert "shirg.lavida.loading" in GRAPH["shirg.cli.models"]  # in a function, a module of a package
    assert GRAPH["shirg.gate.groups"] == {"__future__", "torch"}
    assert not GRAPH["shirg.integrations.lmms_task"] & {"shirg.cli", "shirg.cli.lmms_task"}  # under __main__
