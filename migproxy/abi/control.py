"""Messages of the control sockets: function ↔ broker and broker ↔ executor.

Unix sockets of type SOCK_SEQPACKET; one msgpack-encoded message a packet, at most `MAX_MESSAGE` bytes; file
descriptors travel
beside it (SCM_RIGHTS). Decoding validates types; unknown fields are refused. The first message of a function is
`Hello`; the
broker answers `Welcome` (with the arena's descriptors) or `Refused`.
"""

from __future__ import annotations

import msgspec

from migproxy.abi.message import MAX_MESSAGE as MAX_MESSAGE
from migproxy.abi.message import Message as Message
from migproxy.abi.sharing import Give, Given, Take, Taken, Withdraw


class Windows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Address ranges that must be the same in function and executor: arena window and device window, in bytes."""

    arena_base: int
    arena_size: int
    device_base: int
    device_size: int


class DeviceFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a function may know of its slice, so that queries need no reply.

    Attributes
    ----------
    kind : str
        ``"software"``, ``"gpu"`` or ``"mig"``.
    name : str
        The device's name as the driver tells it.
    uuid : bytes
        16 bytes.
    driver_version : int
        As ``cuDriverGetVersion``, e.g. 13000.
    total_memory : int
        The function's quota in bytes.
    attributes : dict of int to int
        Every ``CUdevice_attribute`` that the driver answers.
    pci_bus_id : str
    compute_capability : tuple of int
    stream_priorities : tuple of int
        Least, greatest.
    limits : dict of int to int
        ``CUlimit`` values of the context.
    context_bytes : int
        Device memory taken by the context, charged to the quota.
    checks_memory : bool
        The device wants to be told of allocations and frees: it examines what kernels access.
    card : dict of str to int or str
        What NVML told the broker of the card: see `migproxy.device.card`. The broker adds it, not the executor.
    """

    kind: str
    name: str
    uuid: bytes
    driver_version: int
    total_memory: int
    attributes: dict[int, int]
    pci_bus_id: str
    compute_capability: tuple[int, int]
    stream_priorities: tuple[int, int]
    limits: dict[int, int]
    context_bytes: int
    checks_memory: bool = False
    card: dict[str, int | str] = {}


class Hello(Message, frozen=True):
    """Function → broker: the first message; two descriptors may come with it, the function's stdout and stderr.

    `memory` is the quota asked for in bytes (0: the broker's default); `function_id` joins the sessions of one
    process tree (empty
    for the first); `libraries` maps distribution names to versions, for the compatibility check; `wait_s` is how
    long the broker may
    let it wait for room (negative: as long as the broker's limit says); `priority` and `deadline_ms` are for the
    policies of those names, as far as the broker allows them.
    """

    protocol: int
    pid: int
    memory: int
    device: str
    windows: Windows
    libraries: dict[str, str]
    function_id: str = ""
    program: str = ""
    wait_s: float = -1.0
    priority: int = 0
    deadline_ms: int = 0


class Welcome(Message, frozen=True):
    """Broker → function, with descriptors: one per arena segment, the control segment first.

    With `account_place` ≥ 0 one more follows: the function's quota account (`migproxy.arena.account`), read-only.
    """

    protocol: int
    session_id: str
    function_id: str
    windows: Windows
    segment_sizes: list[int]
    device: DeviceFacts
    quota: int
    account_place: int = -1


class Refused(Message, frozen=True):
    """Broker → function: no session; `reason` is one line for the user, `kind` one of protocol, version, device,
    memory, busy, usage."""

    kind: str
    reason: str


class GrowArena(Message, frozen=True):
    """Function → broker: add a segment of at least `size` bytes."""

    size: int


class Grown(Message, frozen=True):
    """Broker → function (with the descriptor) once the executor has mapped it: size 0 if refused."""

    size: int
    reason: str = ""


class Goodbye(Message, frozen=True):
    """Function → broker: the process ends in order."""


class Lost(Message, frozen=True):
    """Broker → function: the executor is gone."""

    reason: str


class SessionSpec(Message, frozen=True):
    """Broker → executor, with the arena's descriptors: serve this session.

    `kernel_seconds` is how long work may be on its way without progress until it counts as hung; 0: for ever. With
    `lease_place` ≥ 0 one more descriptor follows, that of the slice's lease page (`migproxy.abi.lease`); with
    `account_place` ≥ 0 another one, the function's quota account (`migproxy.arena.account`); with `stdio` two more, the
    function's stdout and stderr. `handles`, `modules` and `kernels` are the most that the function may keep, all its
    sessions together; 0: no limit.
    """

    protocol: int
    session_id: str
    windows: Windows
    segment_sizes: list[int]
    quota: int
    device: str
    owner_uid: int
    plugins: list[str]
    cache_dir: str = ""
    mode: str = "full_overlap"
    lease_place: int = -1
    kernel_seconds: float = 0.0
    account_place: int = -1
    stdio: bool = False
    handles: int = 0
    modules: int = 0
    kernels: int = 0


class Ready(Message, frozen=True):
    """Executor → broker: the session can start. `windows` are the ones really used."""

    windows: Windows
    device: DeviceFacts


class Failed(Message, frozen=True):
    """Executor → broker: the session cannot start or cannot go on; `reason` is one line."""

    reason: str


class MapSegment(Message, frozen=True):
    """Broker → executor, with a descriptor: map a further segment after the last one."""

    size: int


class SegmentMapped(Message, frozen=True):
    """Executor → broker; `reason` is empty on success."""

    size: int
    reason: str = ""


class Report(Message, frozen=True):
    """Executor → broker, at the end of a session and on demand: counters by name."""

    counters: dict[str, int]


class EndSession(Message, frozen=True):
    """Broker → executor: the function is gone; send a last `Report` and exit."""


class ReportNow(Message, frozen=True):
    """Broker → executor: send a `Report` of the counters so far."""


class TraceNow(Message, frozen=True):
    """Broker → executor: send `TraceEvents`, of what ended later than `after` (CLOCK_MONOTONIC ns)."""

    after: int = 0


class TraceEvent(msgspec.Struct, frozen=True, array_like=True):
    """Something a session did from `start` to `end` (CLOCK_MONOTONIC ns): ``computes`` or ``waits``, for the lease."""

    what: str
    start: int
    end: int


class TraceEvents(Message, frozen=True):
    """Executor → broker, and broker → command line: a session's latest events, oldest first."""

    events: list[TraceEvent]


class Note(Message, frozen=True):
    """Executor or function → broker: a line for the log that `migproxy logs` shows; never for the script's stderr."""

    level: str
    text: str


class LeaseChanged(Message, frozen=True):
    """Executor → broker: look at the slice's lease page, this session wants the lease or has just passed it on."""


# -- requests of the command line: any number on one connection, each answered at once ---------------------------------
class ListSessions(Message, frozen=True):
    """Command line → broker: the sessions of the caller's uid (root: of every uid, if `everyone`)."""

    everyone: bool = False


class SessionRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of `migproxy ps` and `migproxy top`.

    `gpu_time_ns` is how long it held the slice's lease; `counters` are those of its last report, which asking for
    sessions has it send anew.
    """

    session_id: str
    function_id: str
    uid: int
    pid: int
    executor_pid: int
    slice: str
    state: str
    quota: int
    peak_bytes: int
    arena_bytes: int
    age_s: float
    program: str
    gpu_time_ns: int = 0
    waits: bool = False
    counters: dict[str, int] = {}


class Sessions(Message, frozen=True):
    """Broker → command line."""

    rows: list[SessionRow]


class KillSession(Message, frozen=True):
    """Command line → broker: end a session; its function sees `SessionLost`."""

    session_id: str


class Done(Message, frozen=True):
    """Broker → command line: the request was carried out, or `reason` says why not."""

    reason: str = ""


class ReadLog(Message, frozen=True):
    """Command line → broker: log lines with numbers from `after` on, of one session if `session_id` is given."""

    after: int = 0
    session_id: str = ""


class LogLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of the broker's log."""

    number: int
    time: float
    level: str
    session_id: str
    text: str


class LogLines(Message, frozen=True):
    """Broker → command line; ask again with `after` = `next` for what follows."""

    lines: list[LogLine]
    next: int


class AskReport(Message, frozen=True):
    """Command line → broker: what the sessions of one function did, added up. Whoever names a function may read its
    report."""

    function_id: str


class FunctionReport(Message, frozen=True):
    """Broker → command line. `running` sessions have not ended yet, so their counters are those of their last
    report."""

    function_id: str
    sessions: int
    running: int
    counters: dict[str, int]


class AskTrace(Message, frozen=True):
    """Command line → broker: a session's events; asking has its executor send newer ones, for the next time."""

    session_id: str


class AskStatus(Message, frozen=True):
    """Command line → broker."""


class SliceStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One slice as `migproxy top` and `doctor` show it."""

    name: str
    kind: str
    device: str
    capacity: int
    reserved: int
    sessions: int
    mode: str = ""
    policy: str = ""
    holder: str = ""
    waiting: int = 0
    warm: int = 0
    """Executors that wait for a session."""


class Status(Message, frozen=True):
    """Broker → command line."""

    protocol: int
    version: str
    pid: int
    uptime_s: float
    default_memory: int
    max_memory: int
    slices: list[SliceStatus]


Request = ListSessions | KillSession | ReadLog | AskReport | AskTrace | AskStatus
Answer = Sessions | Done | LogLines | FunctionReport | TraceEvents | Status | Refused

ToBroker = Hello | GrowArena | Goodbye | Note | ListSessions | KillSession | ReadLog | AskReport | AskTrace | AskStatus
FromBroker = Welcome | Refused | Grown | Lost
ToExecutor = SessionSpec | MapSegment | EndSession | ReportNow | TraceNow | Given | Taken
FromExecutor = Ready | Failed | SegmentMapped | Report | Note | LeaseChanged | TraceEvents | Give | Take | Withdraw
