"""What a warm executor has behind it before its session is known: all of it would otherwise be part of a start."""

from __future__ import annotations

import json
import subprocess
import sys

#: Every function of the executor that compiles machine code, with how often it has: LLVM takes 20 to 100 ms for each.
COMPILERS = """
import json, pkgutil, sys
import migproxy.executor
from migproxy.executor.__main__ import preload
preload()
found = {}
for each in pkgutil.iter_modules(migproxy.executor.__path__):
    module = sys.modules.get(f"migproxy.executor.{each.name}")
    for name, value in vars(module).items() if module else ():
        if name.startswith("compile_") and hasattr(value, "cache_info"):
            found[f"{value.__module__}.{name}"] = value.cache_info().currsize
print(json.dumps(found))
"""


def test_all_machine_code_is_compiled_before_a_session_is_known() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMPILERS], capture_output=True, text=True, timeout=120, check=True
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert len(found) >= 4, found
    assert not [name for name, compiled in found.items() if not compiled], found
