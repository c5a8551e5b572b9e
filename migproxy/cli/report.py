"""What ``migproxy run --report`` prints."""

from __future__ import annotations

from typing import TextIO

from migproxy.abi.control import FunctionReport
from migproxy.sizes import format_size

#: Operations that count as kernel launches; a graph counts once.
_LAUNCHES = ("launch", "launch_ex", "graph_launch")


def print_report(report: FunctionReport | None, stream: TextIO) -> None:
    """Print a function's counters as a table."""
    if report is None:
        print("migproxy: no report, the broker is gone", file=stream)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title="migproxy: what was executed", title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("how much", justify="right")
    for name, value in report_rows(report):
        table.add_row(name, value)
    Console(file=stream, highlight=False).print(table)


def report_rows(report: FunctionReport) -> list[tuple[str, str]]:
    """Return the table's rows."""
    count = report.counters
    quota = count.get("quota_bytes", 0)
    peak = count.get("peak_device_bytes", 0)
    share = f" of {format_size(quota)} ({100 * peak / quota:.1f}%)" if quota else ""
    rows = [
        ("sessions", f"{report.sessions:,}" + (f" ({report.running} still running)" if report.running else "")),
        ("kernel launches", f"{sum(count.get(name, 0) for name in _LAUNCHES):,}"),
        *(
            (f"copies {words}", f"{count.get(f'copy_{key}', 0):,}, {format_size(count.get(f'bytes_{key}', 0))}")
            for key, words in (("htod", "host to device"), ("dtoh", "device to host"))
        ),
        ("peak device memory", format_size(peak) + share),
    ]
    if "reply_wait_ns" in count:
        rows.append(("time waited for replies", _seconds(count["reply_wait_ns"])))
    # A slice without a compute lease measures neither.
    if "gpu_time_ns" in count:
        rows.append(("time waited for the compute lease", _seconds(count.get("waited_ns", 0))))
        rows.append(("time with the compute lease", _seconds(count["gpu_time_ns"])))
        rows.append(("time with kernels on their way", _seconds(count.get("gpu_busy_ns", 0))))
    shown = {
        *_LAUNCHES, "copy_htod", "copy_dtoh", "bytes_htod", "bytes_dtoh",
        "peak_device_bytes", "quota_bytes", "device_bytes", "waited_ns", "gpu_time_ns", "gpu_busy_ns",
        "reply_wait_ns",
    }  # fmt: skip
    rows += [(_words(name), f"{value:,}") for name, value in sorted(count.items()) if name not in shown]
    return rows


def _words(name: str) -> str:
    """Return a counter's name as the report shows it."""
    if name.startswith("calls_"):
        return "calls of " + ".".join(name.removeprefix("calls_").split(".")[-2:])
    if name.startswith("handles_"):
        return "handles left, " + name.removeprefix("handles_").replace("_", " ")
    return name.replace("_", " ")


def _seconds(nanoseconds: int) -> str:
    if nanoseconds < 1_000_000:
        return f"{nanoseconds / 1000:.0f} µs"
    return f"{nanoseconds / 1e6:.1f} ms" if nanoseconds < 1_000_000_000 else f"{nanoseconds / 1e9:.2f} s"
