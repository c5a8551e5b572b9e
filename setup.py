"""What pyproject.toml alone cannot say: ``plugins/`` installs as ``migproxy_plugins``, and ``migproxy.pth`` goes
beside the packages.

The .pth wakes the interposition in interpreters that ``migproxy run`` starts; see docs/decisions/broker-wake.md.
"""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

PTH = "migproxy.pth"


class BuildWithPth(build_py):
    """Puts ``migproxy.pth`` into the wheel's root, for ordinary and for editable wheels."""

    def _pth_target(self) -> str:
        # An editable build takes nothing from build_lib; what lies in the install command's directory does get into
        # its wheel.
        root = self.get_finalized_command("install").install_lib if self.editable_mode else self.build_lib
        return str(Path(root, PTH))

    def run(self) -> None:
        """Build the modules, then add the .pth."""
        super().run()
        target = self._pth_target()
        self.mkpath(str(Path(target).parent))
        self.copy_file(str(Path(__file__).resolve().parent / PTH), target, preserve_mode=False)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Name the .pth too, so that uninstalling removes it."""
        outputs = super().get_outputs(include_bytecode)
        return outputs if self.editable_mode else [*outputs, self._pth_target()]


setup(
    packages=[
        *find_packages(include=["migproxy", "migproxy.*"]),
        "migproxy_plugins",
        *(f"migproxy_plugins.{name}" for name in find_packages("plugins")),
    ],
    package_dir={"migproxy_plugins": "plugins"},
    package_data={"": ["py.typed", "*.json", "*.toml", "data/*", "data/**/*"], "migproxy.cli": ["source_tree/*.py"]},
    cmdclass={"build_py": BuildWithPth},
)
