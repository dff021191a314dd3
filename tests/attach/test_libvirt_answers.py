"""Evaluation of libvirt's answers: odd ones, late ones, and those of a scripted module libvirt."""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rondo_tools.attach.naming import Identity
from rondo_tools.attach.sources.adapters import Adapters, RefusedError, Target
from rondo_tools.attach.sources.choose import parse_uri
from rondo_tools.attach.sources.libvirt import LibvirtAdapter
from rondo_tools.attach.sources.libvirt_client import Client, Description, Event, Record
from rondo_tools.attach.sources.libvirt_domain import VCPU_TIMES, Domain, devices_of, parse_xml
from rondo_tools.attach.sources.readings import DURATION, Report
from rondo_tools.errors import UsageError
from tests.support.needs import PATIENCE_S

UUID = "6f0d9ad9-7f43-4d0e-8d4c-0b8a54a3b4e1"
PID = 4711
READ = 'blk_requests_total{op="read"}'


# --- a domain ------------------------------------------------------------------------------------


def disk(at: int = 0, *, reads: int, name: str = "vda") -> dict[str, object]:
    """A disk's counters, 512 bytes and 10 ns for each read."""
    fields = {"rd.reqs": reads, "rd.bytes": reads * 512, "rd.times": reads * 10}
    rest = ("wr.reqs", "wr.bytes", "wr.times", "fl.reqs", "fl.times")
    return {f"block.{at}.name": name} | {
        f"block.{at}.{k}": v for k, v in {**fields, **dict.fromkeys(rest, 0)}.items()
    }


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc with a QEMU of the domain."""
    (tmp_path / str(PID)).mkdir()
    (tmp_path / str(PID) / "cmdline").write_bytes(b"qemu-kvm\0-uuid\0" + UUID.upper().encode() + b"\0")
    return tmp_path


def target(pid: int = PID, uuid: str = UUID, interval_s: float = 0.05) -> Target:
    return Target(pid, Identity("vm", "-name", "qemu", uuid), interval_s, has=VCPU_TIMES)


def domain(proc: Path) -> Domain:
    # Reports and domains have asyncio's events, which need a loop only for waiting.
    return Domain(UUID, target(), Report(), str(proc))


def counters(report: Report) -> dict[str, float]:
    assert report.reading is not None
    return {str(series): value for series, value in report.reading.counters.items()}


def test_a_busy_domain_keeps_its_counters(proc: Path) -> None:
    one = domain(proc)
    one.take(
        Record(UUID, 3, {"block.count": 2, **disk(reads=5), **disk(1, reads=2, name="vdb")}), time.monotonic()
    )
    busy: dict[str, object] = {"state.state": 1, "block.count": 2, "block.0.name": "vda", "net.count": 1}
    one.take(Record(UUID, 3, busy), time.monotonic())
    assert counters(one.report)[READ] == 7
    one.take(Record(UUID, 3, {"block.count": 1, **disk(reads=6)}), time.monotonic())  # vdb was taken out
    assert counters(one.report)[READ] == 8
    assert one.report.reading is not None
    assert one.report.reading.means == {DURATION: (8, 80)}


def test_counters_of_an_overtaken_call_are_ignored(proc: Path) -> None:
    one = domain(proc)
    before_s = time.monotonic()
    one.take(Record(UUID, 3, {"block.count": 1, **disk(reads=5)}), time.monotonic())
    one.take(Record(UUID, 3, {"block.count": 1, **disk(reads=3)}), before_s)
    assert counters(one.report)[READ] == 5


def test_a_call_older_than_the_vm_is_ignored(proc: Path) -> None:
    before_s = time.monotonic()
    one = domain(proc)
    one.take(Record(UUID, 3, {"block.count": 1, **disk(reads=5)}), before_s)
    assert one.report.reading is None


def test_another_run_of_the_domain_is_another_vm(proc: Path) -> None:
    one, late = domain(proc), domain(proc)
    one.take(Record(UUID, 3, {"block.count": 1, **disk(reads=5)}), time.monotonic())
    (proc / str(PID) / "cmdline").write_bytes(b"")  # it is dead
    one.take(Record(UUID, 4, {"block.count": 1, **disk(reads=1)}), time.monotonic())
    assert counters(one.report)[READ] == 5
    late.take(Record(UUID, 4, {"block.count": 1, **disk(reads=1)}), time.monotonic())
    assert late.report.reading is None


def test_vcpus_and_nics(proc: Path) -> None:
    one = domain(proc)
    stats: dict[str, object] = {"vcpu.current": 1, "vcpu.maximum": 2}
    stats |= {"vcpu.1.time": 2_000_000_000, "vcpu.1.delay": 500_000_000}
    stats |= {
        "net.count": 2,
        "net.0.name": "",
        "net.1.name": "vnet1",
    }  # the first is no tap: it has no counters
    stats |= {
        f"net.1.{field}": n for n, field in enumerate(("rx.bytes", "tx.bytes", "rx.pkts", "tx.pkts"), 1)
    }
    one.take(Record(UUID, 3, stats), time.monotonic())
    assert counters(one.report) == {
        "vcpu_cpu_seconds_total": 2,
        "vcpu_wait_seconds_total": 0.5,
        'net_bytes_total{direction="receive"}': 1,
        'net_bytes_total{direction="transmit"}': 2,
        'net_packets_total{direction="receive"}': 3,
        'net_packets_total{direction="transmit"}': 4,
    }


@pytest.mark.parametrize("odd", [-1, 1 << 63, "7", 1.5, None, True])
def test_a_device_with_an_invalid_number_is_left_out(odd: object) -> None:
    stats = {**disk(reads=5), **disk(1, reads=2, name="vdb"), "block.0.rd.bytes": odd}
    assert list(devices_of(stats, "block", 2, ("rd.reqs", "rd.bytes"))) == ["vdb"]


ANYTHING = st.none() | st.integers() | st.floats() | st.text()


@given(st.dictionaries(st.sampled_from([*disk(reads=0), "block.count"]), ANYTHING))
def test_any_stats_have_devices(stats: dict[str, object]) -> None:
    for counts in devices_of(stats, "block", stats.get("block.count"), ("rd.reqs", "wr.reqs")).values():
        assert all(one >= 0 for one in counts)


def xml(inside: str, on_reboot: str = "restart") -> str:
    return f"<domain><name>x</name><on_reboot>{on_reboot}</on_reboot>{inside}</domain>"


def nova(name: str, version: str = "1.1") -> str:
    space = f"http://openstack.org/xmlns/libvirt/nova/{version}"
    instance = f'<nova:instance xmlns:nova="{space}"><nova:name>{name}</nova:name></nova:instance>'
    return f"<metadata>{instance}</metadata>"


@pytest.mark.parametrize(
    ("text", "described"),
    [
        (xml(nova("a server")), ("a server", False)),
        (xml(nova("old", "1.0"), on_reboot="destroy"), ("old", True)),
        (xml(nova("a &lt;b&gt;\n c")), ("a <b>\\x0a c", False)),
        (xml(nova("\u202e" * 2000)), (("\\u202e" * 171)[:1024], False)),
        (xml(nova("")), ("", False)),
        (xml('<metadata><x xmlns="http://example.com/"><name>no</name></x></metadata>'), ("", False)),
        (xml(""), ("", False)),
        ("<domain/>", ("", True)),
        ("<domain", ("", True)),
        ("", ("", True)),
        (xml("x" * (2 << 20)), ("", True)),
        ('<!DOCTYPE d [<!ENTITY a "b">]><domain>&amp;</domain>', ("", True)),
    ],
)  # fmt: skip
def test_the_xml_of_a_domain_is_parsed(text: str, described: tuple[str, bool]) -> None:
    assert parse_xml(text) == described


@pytest.mark.parametrize(
    ("on_reboot", "events", "reason"),
    [
        ("restart", [Event(UUID, "poweroff")], "poweroff"),
        ("destroy", [Event(UUID, "poweroff")], ""),  # perhaps a reset
        ("restart", [Event(UUID, "poweroff"), Event(UUID, "")], ""),  # the guest continues
        ("destroy", [Event(UUID, "shutdown")], "shutdown"),
        ("restart", [Event(UUID, "poweroff"), Event(UUID, "", is_over=True)], "poweroff"),
        ("restart", [Event(UUID, "", is_over=True)], ""),
    ],
)
def test_how_a_domain_ends(on_reboot: str, events: list[Event], reason: str, proc: Path) -> None:
    one = domain(proc)
    one.describe(xml("", on_reboot))
    for event in events:
        one.take_event(event)
    assert one.report.end_reason == reason
    assert one.is_end_known.is_set() == (reason != "" or events[-1].is_over)


# --- a scripted module libvirt ---------------------------------------------------------------------


class LibvirtError(Exception):
    def __init__(self, text: str, code: int = 1, int1: int = -1) -> None:
        super().__init__(text)
        self._code, self._int1 = code, int1

    def get_error_code(self) -> int:
        return self._code

    def get_int1(self) -> int:
        return self._int1


class Scripted:
    """The module and its read-only connection. `stats` are those of all domains."""

    libvirtError = LibvirtError  # noqa: N815 (its name there)

    def __init__(self, stats: Mapping[str, Mapping[str, object]] | None = None) -> None:
        self.stats = dict(stats or {})
        self.calls: list[tuple[object, ...]] = []
        self.fails: LibvirtError | None = None
        self.is_alive = True
        self.on_event: Callable[..., None] | None = None
        names = ("ACTIVE", "NOWAIT")
        for at, name in enumerate(names):
            setattr(self, f"VIR_CONNECT_GET_ALL_DOMAINS_STATS_{name}", 1 << at)
        for at, name in enumerate(("STATE", "BLOCK", "INTERFACE", "VCPU")):
            setattr(self, f"VIR_DOMAIN_STATS_{name}", 1 << at)
        errors = (
            "NO_DOMAIN",
            "SYSTEM_ERROR",
            "AUTH_CANCELLED",
            "AUTH_FAILED",
            "AUTH_UNAVAILABLE",
            "ACCESS_DENIED",
        )
        for code, name in enumerate(errors, 40):
            setattr(self, f"VIR_ERR_{name}", code)
        for code, name in enumerate(("SHUTDOWN", "CRASHED", "RESUMED", "STOPPED", "STARTED", "ID_LIFECYCLE")):
            setattr(self, f"VIR_DOMAIN_EVENT_{name}", code)
        self.VIR_DOMAIN_EVENT_SHUTDOWN_GUEST, self.VIR_DOMAIN_EVENT_SHUTDOWN_HOST = 1, 2

    def registerErrorHandler(self, *_: object) -> None: ...  # noqa: N802
    def virEventRegisterDefaultImpl(self) -> None: ...  # noqa: N802

    def virEventRunDefaultImpl(self) -> None:  # noqa: N802
        raise LibvirtError("there are none")

    def openReadOnly(self, uri: str) -> Scripted:  # noqa: N802
        self.calls.append(("open", uri))
        if self.fails is not None and not self.is_alive:
            raise self.fails
        self.is_alive = True
        return self

    def domainEventRegisterAny(self, _domain: object, kind: int, function: Any, _opaque: object) -> int:  # noqa: N802
        self.on_event = function
        return 77

    def domainEventDeregisterAny(self, callback: int) -> None:  # noqa: N802
        self.calls.append(("deregister", callback))
        raise LibvirtError("it is gone")

    def close(self) -> None:
        self.calls.append(("close",))

    def isAlive(self) -> int:  # noqa: N802
        return int(self.is_alive)

    def getAllDomainStats(self, groups: int, options: int) -> list[tuple[object, Mapping[str, object]]]:  # noqa: N802
        self.calls.append(("all", groups, options))
        return self._answer(self.stats)

    def domainListGetStats(  # noqa: N802
        self, domains: Iterable[Any], groups: int, options: int
    ) -> list[tuple[object, Mapping[str, object]]]:
        self.calls.append(("some", groups, options))
        return self._answer(one.UUIDString() for one in domains)

    def _answer(self, uuids: Iterable[str]) -> list[tuple[object, Mapping[str, object]]]:
        if self.fails is not None:
            raise self.fails
        return [(self._domain(uuid), self.stats[uuid]) for uuid in uuids]

    def lookupByUUIDString(self, uuid: str) -> object:  # noqa: N802
        self.calls.append(("look", uuid))
        if self.fails is not None:
            raise self.fails
        if uuid not in self.stats:
            raise LibvirtError("no domain", 40)
        return self._domain(uuid)

    def _domain(self, uuid: str) -> object:
        return SimpleNamespace(
            UUIDString=lambda: uuid, ID=lambda: 3, XMLDesc=lambda _flags: xml(nova("named")))  # fmt: skip


def test_it_only_reads_and_never_waits_for_a_busy_domain() -> None:
    library, found = Scripted({UUID: disk(reads=1)}), list[Description]()
    client = Client("qemu:///x", library, lambda _event: None)
    assert client.all_stats(with_vcpus=False) == [Record(UUID, 3, disk(reads=1))]
    assert client.look([UUID], found.append, with_vcpus=True)[0].uuid == UUID
    assert library.calls == [("open", "qemu:///x"), ("all", 6, 3), ("look", UUID), ("some", 14, 2)]
    assert found == [Description(UUID, xml(nova("named")))]


def test_a_vanished_domain_does_not_affect_others() -> None:
    library, found = Scripted({UUID: disk(reads=1)}), list[Description]()
    client = Client("qemu:///x", library, lambda _event: None)
    records = client.look(["gone", UUID], found.append, with_vcpus=False)
    assert [one.uuid for one in records] == [UUID]
    assert [one.refused for one in found] == ["libvirt does not know it", ""]
    assert client.look(["gone"], found.append, with_vcpus=False) == []


def test_a_lost_connection_is_reopened() -> None:
    library = Scripted({UUID: disk(reads=1)})
    client = Client("qemu:///x", library, lambda _event: None)
    client.all_stats(with_vcpus=False)
    library.fails = LibvirtError("busy")
    with pytest.raises(RefusedError, match="busy"):
        client.all_stats(with_vcpus=False)
    assert library.calls[-1][0] == "all"  # the connection is alive, so it is kept
    library.is_alive = False
    with pytest.raises(RefusedError):
        client.all_stats(with_vcpus=False)
    assert library.calls[-2:] == [("deregister", 77), ("close",)]
    library.fails = None
    assert client.all_stats(with_vcpus=False)
    assert library.calls[-2][0] == "open"


@pytest.mark.parametrize(
    ("error", "is_denied"),
    [
        (LibvirtError("denied", 41, errno.EACCES), True),
        (LibvirtError("no such file", 41, errno.ENOENT), False),
        (LibvirtError("polkit", 44), True),
        (LibvirtError("what", 1), False),
    ],
)
def test_a_missing_permission_is_reported(error: LibvirtError, is_denied: bool) -> None:
    library = Scripted()
    library.fails = error
    with pytest.raises(RefusedError) as refused:
        Client("qemu:///x", library, lambda _event: None).all_stats(with_vcpus=False)
    assert ("docs/attach.md" in refused.value.needs) is is_denied


def test_events() -> None:
    library, events = Scripted(), list[Event]()
    Client("qemu:///x", library, events.append).all_stats(with_vcpus=False)
    for kind, detail in ((0, 1), (0, 2), (0, 0), (1, 0), (2, 0), (3, 5), (4, 0), (99, 1)):
        assert library.on_event is not None
        library.on_event(None, library._domain(UUID), kind, detail, None)
    assert [(one.reason, one.is_over) for one in events] == [
        *(("poweroff", False), ("signal", False), ("shutdown", False), ("", False), ("", True)),
    ]


# --- all of it -------------------------------------------------------------------------------------


def until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_vm_gets_counters_labels_and_an_end(proc: Path) -> None:
    library = Scripted({UUID: {"block.count": 1, **disk(reads=4)}})
    adapter = LibvirtAdapter("qemu:///x", library, warns=False, proc=str(proc))
    adapters = Adapters([adapter], 0.05, warns=False)
    try:
        (source,) = adapters.follow(PID, target().identity, begins_at_0=False, has=VCPU_TIMES)
        assert source.labels["uuid"] == UUID  # at once
        until(lambda: not source.awaits_labels and source.report.reading)
        assert source.labels == {"uuid": UUID, "nova_name": "named"}
        library.stats[UUID] = {"block.count": 1, **disk(reads=9)}
        until(lambda: counters(source.report)[READ] == 9)
        assert library.on_event is not None
        library.on_event(None, library._domain(UUID), 0, 1, None)
        until(lambda: source.end_reason)
        adapters.hurry([source])
        until(lambda: source.is_done)
        assert source.end_reason == "poweroff"
        adapters.forget([source])
    finally:
        adapters.close()


def test_two_processes_with_one_uuid_get_no_metrics(proc: Path) -> None:
    (proc / "5000").mkdir()
    (proc / "5000" / "cmdline").write_bytes(b"qemu-kvm\0-uuid\0" + UUID.encode())
    library = Scripted({UUID: {"block.count": 1, **disk(reads=4)}})
    adapters = Adapters(
        [LibvirtAdapter("qemu:///x", library, warns=False, proc=str(proc))], 0.02, warns=False
    )
    try:
        sources = [
            source
            for pid in (PID, 5000)
            for source in adapters.follow(pid, target().identity, begins_at_0=False, has=VCPU_TIMES)
        ]
        until(lambda: all(source.report.refused for source in sources))
        seen = [source.report.reading for source in sources]
        asked = len(library.calls)
        until(lambda: len(library.calls) > asked + 3)
        assert [source.report.reading for source in sources] == seen
        assert all("another process" in (source.report.refused or "")[0] for source in sources)
        assert not any(source.awaits_labels for source in sources)
        assert library.on_event is not None
        library.on_event(None, library._domain(UUID), 0, 1, None)
        adapters.hurry(sources[1:])
        until(lambda: sources[0].report.reading)  # the other is dead
        assert counters(sources[0].report)[READ] == 4
        assert not any(source.end_reason for source in sources)
    finally:
        adapters.close()


@pytest.mark.parametrize("uuid", ["", "no uuid", "' or 1=1", "\0" * 1000])
def test_a_vm_without_a_uuid_is_left_out(uuid: str) -> None:
    library, report = Scripted(), Report()
    adapter = LibvirtAdapter("qemu:///x", library, warns=False)
    adapter.label(target(uuid=uuid), report)
    assert (report.labels, report.awaits_labels) == ({}, False)
    report.is_last.set()
    asyncio.run(adapter.follow(target(uuid=uuid), report))
    assert report.refused is not None
    assert library.calls == []


def test_a_hanging_call_does_not_delay_the_exit(proc: Path) -> None:
    hangs, go_on = threading.Event(), threading.Event()

    class Hanging(Scripted):
        def _answer(self, _uuids: object) -> list[tuple[object, Mapping[str, object]]]:
            hangs.set()
            go_on.wait(PATIENCE_S)
            return []

    library = Hanging({UUID: {}})
    adapters = Adapters(
        [LibvirtAdapter("qemu:///x", library, warns=False, proc=str(proc))], 0.02, warns=False
    )
    try:
        (source,) = adapters.follow(PID, target().identity, begins_at_0=False)
        assert hangs.wait(PATIENCE_S)
        adapters.hurry([source])
        until(lambda: source.is_done)
    finally:
        adapters.close()
        go_on.set()


@pytest.mark.parametrize("uri", ["qemu:///system", "qemu:///session", "qemu+unix:///system?socket=/run/x"])
def test_uris_of_this_host(uri: str) -> None:
    assert parse_uri(uri) == uri


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("qemu+ssh://other/system", "another host's"),
        ("qemu://[/x", "not a URI"),
        ("/run/libvirt/libvirt-sock", "not a URI"),
        ("system", "not a URI"),
    ],
)
def test_uris_that_are_refused(uri: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse_uri(uri)
