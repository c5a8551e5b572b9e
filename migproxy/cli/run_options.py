"""What stands before the script in ``migproxy run``.

Every function starts through this command, so what it imports is part of each start: usual options are read here, and
`argparse` is imported only for help and for what is wrong; see docs/decisions/run-without-typer.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

HELP = "Run SCRIPT, or -m MODULE, through the broker. Options after the script are the script's own."
#: Options that a value follows, and the others, with the attributes of `Options` that hold them.
VALUES = {"-m": "module", "--broker": "broker", "--memory": "memory", "--device": "device"}
FLAGS = {"--private": "private", "--require-isolation": "require_isolation", "--report": "report"}


class Options:
    """The options of ``migproxy run``, as they are without any; ``migproxy run --help`` says what they mean."""

    module = ""
    broker = ""
    private = False
    memory = ""
    device = "auto"
    require_isolation = False
    report = False


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split into this command's own arguments, and the script (unless ``-m`` names a module) with its arguments."""
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        if argument == "--":
            return arguments[:position], arguments[position + 1 :]
        if argument == "-" or not argument.startswith("-"):
            break
        position += 2 if argument in VALUES else 1
        if argument.startswith("-m"):
            break
    return arguments[:position], arguments[position:]


def parse(own: list[str]) -> Options | None:
    """Read this command's own arguments, as `split` returned them; None for any that `make_parser` is to judge."""
    options = Options()
    words = iter(own)
    for word in words:
        name, equals, value = word.partition("=")
        if word in FLAGS:
            setattr(options, FLAGS[word], True)
            continue
        if word.startswith("-m") and len(word) > 2:
            name, value = "-m", word[2:]
        elif not equals:
            value = next(words, "")
        if name not in VALUES or (name == "-m" and equals) or not value or value.startswith("-"):
            return None
        setattr(options, VALUES[name], value)
    return options


def parse_fully(own: list[str]) -> Options:
    """Read this command's own arguments with `argparse`, which prints help and says what is wrong.

    Raises
    ------
    migproxy.errors.UsageError
        Something is wrong.
    """
    return make_parser().parse_args(own, Options())


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of what stands before the script."""
    import argparse
    from typing import NoReturn

    from migproxy.errors import UsageError

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise UsageError(f"{message}; see migproxy run --help")

    # Not the class's attributes: what is not given stays as Options has it.
    parser = Parser(
        prog="migproxy run",
        description=HELP,
        allow_abbrev=False,
        usage="%(prog)s [OPTIONS] SCRIPT|-m MODULE [ARGS]...",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("-m", dest="module", metavar="MODULE", help="run a module, like python -m")
    parser.add_argument("--broker", metavar="PATH", help="socket of the broker to use")
    parser.add_argument("--private", action="store_true", help="start a broker for this run only")
    parser.add_argument("--memory", metavar="SIZE", help="device memory quota, like 2GiB (the broker's)")
    parser.add_argument("--device", metavar="NAME", help="auto, software, a GPU's index, a GPU-… or MIG-… UUID (auto)")
    parser.add_argument(
        "--require-isolation", action="store_true", help="refuse to run where the script could open the GPU itself"
    )
    parser.add_argument("--report", action="store_true", help="at the end, print what was executed")
    return parser
