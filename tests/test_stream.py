"""The stream codec: tables of bytes, round trips, and hostile input, whole and torn."""

from __future__ import annotations

import math
import struct
import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rondo_tools import catalog, stream
from rondo_tools.catalog import Series
from rondo_tools.errors import EX_DATAERR, StreamError
from rondo_tools.stream import Decoder, End, Event, Header, Tick
from tests.support.streams import encoded

ONE = Header("a", 1000, (), 1000, (Series("m", (), "gauge", "", ""),))
ONE_MAP = stream.header_to_map(ONE)
VALUE = struct.pack("<d", 1.5)


def decode(pieces: Iterable[bytes]) -> tuple[list[Event], StreamError | None]:
    """The events, and the error that ended them, be it inside the input or at its end."""
    decoder, events = Decoder(), []
    try:
        for piece in pieces:
            for event in decoder.feed(piece):
                events.append(event)  # noqa: PERF402  # what came before an error counts
        decoder.close()
    except StreamError as exc:
        return events, exc
    return events, None


def torn(data: bytes, cuts: Sequence[int]) -> Iterator[bytes]:
    at = 0
    for cut in sorted(cut % (len(data) + 1) for cut in cuts):
        yield data[at:cut]
        at = cut
    yield data[at:]


def test_equal_series_are_one_object() -> None:
    maps = [ONE_MAP | {"instance": name} for name in "ab"]
    one, other = (stream.header_from_map(each) for each in maps)
    assert one.series == ONE.series
    assert one.series is other.series


def life(labels: tuple[tuple[str, str], ...] = (("zone", "a"),)) -> bytes:
    header = Header("vm-1", 1_732_300_000_000, labels, 1000, catalog.SERIES)
    tick = Tick(1_732_300_001_000, bytes(8 * len(catalog.SERIES)))
    return encoded(header, tick, End("poweroff", 1_732_300_002_000))


@pytest.mark.parametrize(
    "labels",
    [
        (),
        (("series", "series"),),
        (("a", "\xa6series"), ("series", "x")),
        (("zone", "x" * 1000),),
        tuple((f"l{n}", "v" * 300) for n in range(20)),  # the series begin far behind
    ],
)
def test_a_header_with_known_series_is_decoded_as_the_first_one(labels: tuple[tuple[str, str], ...]) -> None:
    data = life(labels)
    first, error = decode([data])
    assert error is None
    again, error = decode([data + data])
    assert (again, error) == (first * 2, None)
    header, after = first[0], again[3]
    assert isinstance(header, Header)
    assert isinstance(after, Header)
    assert after.series is header.series


@given(
    st.integers(0, 4000), st.binary(max_size=3), st.integers(0, 3), st.lists(st.integers(0, 4000), max_size=3)
)
def test_damaged_streams_decode_equally_with_and_without_known_series(
    at: int, fresh: bytes, gone: int, cuts: list[int]
) -> None:
    data = life()
    at %= len(data)
    mutated = data[:at] + fresh + data[at + gone :]

    def shown(known: bool) -> tuple[list[Event], str]:
        decode([life()]) if known else stream.forget_series()
        events, error = decode(torn(mutated, cuts))
        return events, str(error)

    assert shown(True) == shown(False)


def test_labels_that_known_series_have_too_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    series = (Series("m", (("disk", "0"),), "gauge", "", ""),)
    good = stream.header_to_map(Header("a", 1000, (), 1000, series))
    assert decode([msgpack.packb(good)])[1] is None
    for name, message in (("disk", "also one of the header's"), ("instance", "and cannot be set")):
        _, error = decode([msgpack.packb(good | {"labels": {name: "x"}})])
        assert message in str(error)


# --- bytes ---------------------------------------------------------------------------------------


def test_the_bytes_of_each_message() -> None:
    assert stream.encode(Tick(0x0193_4AB5_6C7B, VALUE)) == bytes.fromhex(
        "92"  # an array of two
        "cf000001934ab56c7b"  # uint64: Unix milliseconds
        "c408 000000000000f83f"  # bin8 of eight bytes: 1.5, little-endian
    )
    assert stream.encode(End("poweroff", 0x0193_4AB5_6C7B)) == bytes.fromhex(
        "82 a3656e64 a8706f7765726f6666 a4745f6d73 cf000001934ab56c7b"
    )
    assert stream.encode(ONE) == bytes.fromhex(
        "86"
        "a5726f6e646f 01"
        "a8696e7374616e6365 a161"
        "a873746172745f6d73 cd03e8"
        "a66c6162656c73 80"
        "ab696e74657276616c5f6d73 cd03e8"
        "a6736572696573 91 85"
        "  a46e616d65 a16d  a66c6162656c73 80  a46b696e64 a56761756765  a4756e6974 a0  a468656c70 a0"
    )


def test_a_live_tick_of_the_catalogue_is_small() -> None:
    assert len(stream.encode(Tick(1_732_300_000_123, bytes(8 * 16)))) == 140


def test_the_catalogue_makes_the_round_trip() -> None:
    header = Header("vm-1", 1_732_300_000_123, (("zone", "a"),), 1000, catalog.SERIES)
    tick = Tick(1_732_300_001_000, struct.pack("<16d", *range(16)))
    events: list[Event] = [header, tick, End("deadline", 1_732_300_001_500)]
    assert decode([encoded(*events)]) == (events, None)


# --- round trips ---------------------------------------------------------------------------------

times = st.integers(1, stream.MAX_T_MS)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
names = st.from_regex(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,10}", fullmatch=True)
label_names = st.from_regex(r"(?!__)[a-zA-Z][a-zA-Z0-9_]{0,6}", fullmatch=True).filter(
    lambda n: n != "instance"
)


def labels(prefix: str) -> st.SearchStrategy[tuple[tuple[str, str], ...]]:
    """The prefix keeps the header's labels apart from those of its series."""
    return st.dictionaries(label_names.map(lambda n: prefix + n), texts.filter(bool), max_size=4).map(
        lambda found: tuple(sorted(found.items()))
    )


series = st.builds(Series, names, labels("s_"), st.just("gauge"), texts, texts)
headers = st.builds(
    Header,
    texts.filter(bool),
    times,
    labels("h_"),
    times,
    st.lists(series, min_size=1, max_size=5, unique_by=lambda one: one[:2]).map(tuple),
)


@st.composite
def sessions(draw: st.DrawFn) -> list[Event]:
    header = draw(headers)
    values = st.lists(st.floats(width=64), min_size=len(header.series), max_size=len(header.series)).map(
        lambda row: struct.pack(f"<{len(row)}d", *row)
    )
    events: list[Event] = [header, *draw(st.lists(st.builds(Tick, times, values), max_size=5))]
    if draw(st.booleans()):
        reasons = st.one_of(
            st.sampled_from(stream.END_REASONS), st.from_regex(r"[a-z]{1,32}", fullmatch=True)
        )
        events.append(End(draw(reasons), draw(times)))
    return events


streams = st.lists(sessions(), max_size=3).map(lambda parts: [event for part in parts for event in part])
cut_places = st.lists(st.integers(0, 1 << 20), max_size=8)


@given(streams, cut_places)
def test_round_trip_however_torn(events: list[Event], cuts: list[int]) -> None:
    assert decode(torn(encoded(*events), cuts)) == (events, None)


@given(streams)
@settings(max_examples=20)
def test_byte_by_byte(events: list[Event]) -> None:
    data = encoded(*events)
    assert decode(data[at : at + 1] for at in range(len(data))) == (events, None)


@given(headers)
def test_a_header_survives_its_map(header: Header) -> None:
    assert stream.header_from_map(stream.header_to_map(header)) == header


def test_values_keep_every_bit() -> None:
    """Payloads of NaN included: what they mean is for those who read the numbers."""
    for bits in ("000000000000f87f", "020000000000f07f", "ffffffffffffffff", "0000000000000080"):
        events, _ = decode([stream.encode(ONE) + stream.encode(Tick(2000, bytes.fromhex(bits)))])
        assert events[1] == Tick(2000, bytes.fromhex(bits))


def test_unknown_keys_are_ignored_and_the_last_of_a_repeated_one_counts() -> None:
    newer = ONE_MAP | {"colour": {"deep": [1, 2, {"x": None}]}, "series": [ONE_MAP["series"][0] | {"y": 1}]}
    assert decode([msgpack.packb(newer)]) == ([ONE], None)
    twice = msgpack.packb(ONE_MAP | {"pad": 0}).replace(b"\xa3pad\x00", b"\xa8instance\xa1b")
    assert decode([twice]) == ([ONE._replace(instance="b")], None)


def test_unit_help_and_labels_may_be_left_out() -> None:
    bare = {key: value for key, value in ONE_MAP.items() if key != "labels"}
    bare["series"] = [{"name": "m", "kind": "gauge"}]
    assert decode([msgpack.packb(bare)]) == ([ONE], None)


# --- what is wrong, and where --------------------------------------------------------------------


def header(**changes: Any) -> bytes:
    return bytes(msgpack.packb(ONE_MAP | changes))


def one_series(**changes: Any) -> bytes:
    return header(series=[ONE_MAP["series"][0] | changes])


def without(key: str) -> bytes:
    return bytes(msgpack.packb({name: value for name, value in ONE_MAP.items() if name != key}))


BIG = "x" * (stream.MAX_TEXT + 1)
WRONG = {
    "not msgpack": (b"\xc1", "not msgpack"),
    "nil": (b"\xc0", "not a header, a tick or an end"),
    "a number": (b"\x07", "7 is not a header"),
    "a string": (b"\xa3abc", "'abc' is not a header"),
    "an extension": (b"\xd4\x05\x00", "not msgpack"),
    "an empty extension": (b"\xc7\x00\x05", "ExtType is not a header"),
    "an empty map": (b"\x80", "version None"),
    "a key that is a number": (b"\x81\x01\x01", "not msgpack"),
    "a key that is a map": (b"\x81\x81\xa1a\x01\x01", "not msgpack"),
    "a key that is an array": (b"\x81\x91\x01\x01", "not msgpack"),
    "a key that is bytes": (b"\x81\xc4\x05rondo\x01", "version None"),
    "a string that is not UTF-8": (b"\x81\xa5rondo\xa1\xff", "not msgpack"),
    "a surrogate": (b"\x81\xa5rondo\xa3\xed\xa0\x80", "not msgpack"),
    "text after NUL": (header(rondo="1\0"), "version '1"),
    "an array of 2^32-1": (b"\xdd\xff\xff\xff\xff", "not msgpack"),
    "a map of 2^32-1": (b"\xdf\xff\xff\xff\xff", "not msgpack"),
    "an extension of 2 GB": (b"\xc9\x7f\xff\xff\xff\x01" + bytes(2_000_000), "larger than"),
    "a bin of 2 GB": (b"\xc6\x7f\xff\xff\xff" + bytes(2_000_000), "larger than"),
    "a string of 2 GB": (b"\xdb\x7f\xff\xff\xff" + bytes(2_000_000), "larger than"),
    "nested arrays": (b"\x91" * 100_000, "not msgpack"),
    "nested maps": (b"\x81\xa1a" * 100_000, "not msgpack"),
    "version 2": (header(rondo=2), "version 2 of the stream"),
    "version 1.0": (header(rondo=1.0), "version 1.0 of the stream"),
    "version true": (header(rondo=True), "version True of the stream"),
    "version of a megabyte": (header(rondo="v" * 1_000_000), "version 'vvv"),
    "no instance": (without("instance"), "'instance' is None, not a string"),
    "an empty instance": (header(instance=""), "'instance' is empty"),
    "an instance of bytes": (header(instance=b"a"), "'instance' is bytes, not a string"),
    "a long instance": (header(instance=BIG), "'instance' has 1025 bytes; 1024 is the limit"),
    "a long instance in UTF-8": (header(instance="é" * 513), "'instance' has 1026 bytes"),
    "no start": (without("start_ms"), "'start_ms' is None"),
    "a start of 0": (header(start_ms=0), "'start_ms' is 0"),
    "a start of 1.5": (header(start_ms=1.5), "'start_ms' is 1.5"),
    "a start of true": (header(start_ms=True), "'start_ms' is True"),
    "a negative start": (header(start_ms=-1), "'start_ms' is -1"),
    "a start of 2^53": (header(start_ms=2**53), "'start_ms' is 9007199254740992"),
    "an interval of NaN": (header(interval_ms=math.nan), "'interval_ms' is nan"),
    "an interval of infinity": (header(interval_ms=math.inf), "'interval_ms' is inf"),
    "labels that are a list": (header(labels=[1]), "'labels' is tuple, not a map"),
    "many labels": (header(labels={f"l{i}": "v" for i in range(33)}), "33 labels are more than 32"),
    "a label name with a dash": (header(labels={"a-b": "v"}), "'a-b' is not a label name"),
    "a label name with a newline": (header(labels={"a\n": "v"}), "is not a label name"),
    "a label name of Prometheus'": (header(labels={"__name__": "v"}), "'__name__' is not a label name"),
    "a label name beyond ASCII": (header(labels={"é": "v"}), "'é' is not a label name"),
    "a label value that is a number": (header(labels={"a": 1}), "'a' is 1, not a string"),
    "an empty label value": (header(labels={"a": ""}), "'a' is empty"),
    "the label instance": (header(labels={"instance": "b"}), "'instance' is the header's instance"),
    "no series": (header(series=[]), "at least one entry"),
    "series that are a string": (header(series="abc"), "at least one entry"),
    "series that are a map": (header(series={"a": 1}), "at least one entry"),
    "series that are numbers": (header(series=[1]), "a series is 1, not a map"),
    "many series": (header(series=[1] * 4097), "not msgpack"),
    "a repeated series": (header(series=[ONE_MAP["series"][0]] * 2), "series 'm' is repeated"),
    "a series of two kinds": (
        header(
            series=[
                {"name": "m", "kind": "gauge", "labels": {"a": "1"}},
                {"name": "m", "kind": "counter", "labels": {"a": "2"}},
            ]
        ),
        "a counter and a gauge at once",
    ),
    "a label of header and series": (
        header(labels={"a": "1"}, series=[{"name": "m", "kind": "gauge", "labels": {"a": "2"}}]),
        "is also one of the header's",
    ),
    "a series with the label instance": (one_series(labels={"instance": "x"}), "'instance' of m"),
    "a metric name with a dash": (one_series(name="a-b"), "'a-b' is not a metric name"),
    "a metric name with a newline": (one_series(name="a\n"), "is not a metric name"),
    "an empty metric name": (one_series(name=""), "'name' is empty"),
    "a kind unheard of": (one_series(kind="histogram"), "the kind of m is 'histogram'"),
    "a kind that is a list": (one_series(kind=["gauge"]), "the kind of m is tuple"),
    "a unit that is a number": (one_series(unit=1), "'unit' is 1, not a string"),
    "a long help": (one_series(help=BIG), "'help' has 1025 bytes"),
    "a tick before a header": (stream.encode(Tick(2000, VALUE)), "a tick with no session open"),
    "an end before a header": (stream.encode(End("reset", 1)), "an end with no session before it"),
    "an empty array": (b"\x90", "a tick with no session open"),
}
# What is wrong only once a session is open.
WRONG_IN_SESSION = {
    "an empty array": (b"\x90", "an array of 0; a tick is [t_ms, values]"),
    "an array of three": (msgpack.packb([2000, VALUE, 1]), "an array of 3"),
    "a time that is a float": (msgpack.packb([2000.0, VALUE]), "a tick's time is 2000.0"),
    "a time that is true": (msgpack.packb([True, VALUE]), "a tick's time is True"),
    "a time of 0": (msgpack.packb([0, VALUE]), "a tick's time is 0"),
    "a negative time": (msgpack.packb([-5, VALUE]), "a tick's time is -5"),
    "a time of 2^53": (msgpack.packb([2**53, VALUE]), "a tick's time is 9007199254740992"),
    "a time of 2^64-1": (msgpack.packb([2**64 - 1, VALUE]), "a tick's time is 18446744073709551615"),
    "values that are text": (msgpack.packb([2000, "x" * 8]), "values are 'xxxxxxxx', not bin"),
    "values that are a list": (msgpack.packb([2000, [1.5]]), "values are tuple, not bin"),
    "a value too many": (msgpack.packb([2000, VALUE * 2]), "have 16 bytes; the header's series need 8"),
    "a value too few": (msgpack.packb([2000, b""]), "have 0 bytes"),
    "half a value": (msgpack.packb([2000, VALUE[:4]]), "have 4 bytes"),
    "no reason": (msgpack.packb({"end": None, "t_ms": 1}), "the end's reason is None, not 1 to 32"),
    "an empty reason": (msgpack.packb({"end": "", "t_ms": 1}), "the end's reason is '', not 1 to 32"),
    "a long reason": (msgpack.packb({"end": "x" * 33, "t_ms": 1}), "the end's reason is 'x"),
    "a reason in two words": (msgpack.packb({"end": "power off", "t_ms": 1}), "the end's reason is 'power o"),
    "a loud reason": (msgpack.packb({"end": "RESET", "t_ms": 1}), "the end's reason is 'RESET', not 1 to 32"),
    "a reason and a newline": (msgpack.packb({"end": "reset\n", "t_ms": 1}), "the end's reason is 'reset"),
    "a reason that is a list": (msgpack.packb({"end": [], "t_ms": 1}), "the end's reason is tuple"),
    "an end without a time": (msgpack.packb({"end": "reset"}), "'t_ms' is None"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_messages(case: str) -> None:
    message, what = WRONG[case]
    some: list[Event] = [ONE, Tick(2000, VALUE), End("reset", 3000)]
    for before in ([], some):
        good = encoded(*before)
        for pieces in ([good + message], [good, message[:1], message[1:]]):
            events, error = decode(pieces)
            assert events == before
            assert error is not None
            assert error.offset == len(good)
            assert f"stream, byte {len(good)}: " in str(error)
            assert what in str(error)
            assert len(str(error)) < 300  # however large the message
            assert error.exit_code == EX_DATAERR


@pytest.mark.parametrize("case", WRONG_IN_SESSION)
def test_wrong_messages_in_a_session(case: str) -> None:
    message, what = WRONG_IN_SESSION[case]
    good = stream.encode(ONE) + stream.encode(Tick(2000, VALUE))
    events, error = decode([good + message + stream.encode(Tick(3000, VALUE))])
    assert events == [ONE, Tick(2000, VALUE)]
    assert error is not None
    assert error.offset == len(good)
    assert what in str(error)


def test_after_an_end_only_a_header_may_stand() -> None:
    good = stream.encode(ONE) + stream.encode(End("reset", 3000))
    for message in (Tick(4000, VALUE), End("reset", 4000)):
        events, error = decode([good + stream.encode(message)])
        assert len(events) == 2
        assert error is not None
        assert error.offset == len(good)
    assert decode([good + stream.encode(ONE)])[1] is None


@pytest.mark.parametrize("left", [1, 5, 13])
def test_an_input_that_stops_inside_a_message(left: int) -> None:
    good = stream.encode(ONE)
    events, error = decode([good + stream.encode(Tick(2000, VALUE))[:left]])
    assert events == [ONE]
    assert error is not None
    assert error.offset == len(good)
    size = "1 byte" if left == 1 else f"{left} bytes"
    assert f"ends inside a message, {size} after it began" in str(error)


def padded(size: int) -> bytes:
    """A header of just so many bytes."""
    short = len(header(pad=bytes(70_000)))
    message = header(pad=bytes(70_000 + size - short))
    assert len(message) == size
    return message


@pytest.mark.parametrize("piece", [1 << 16, stream.MAX_MESSAGE, stream.MAX_MESSAGE + 5, 1 << 21])
def test_the_limit_of_a_message_does_not_depend_on_how_it_is_torn(piece: int) -> None:
    for over in (0, 1, 10):
        data = padded(stream.MAX_MESSAGE + over)
        events, error = decode(data[at : at + piece] for at in range(0, len(data), piece))
        assert (len(events), error is None) == ((1, True) if not over else (0, False))


@pytest.mark.parametrize(
    "event",
    [
        Tick(0, VALUE),
        Tick(2**53, VALUE),
        End("Boredom", 1),
        End("reset", 0),
        ONE._replace(instance=""),
        ONE._replace(instance="\ud800"),
        ONE._replace(labels=(("a-b", "c"),)),
        ONE._replace(labels=(("op", "read"),), series=(Series("m", (("op", "write"),), "gauge", "", ""),)),
        ONE._replace(series=()),
        ONE._replace(series=ONE.series * 2),
        ONE._replace(
            series=tuple(Series(f"m{i}", (), "gauge", "", "h" * 1000) for i in range(1100))
        ),  # each within its limits, together over a megabyte
    ],
)
def test_encode_refuses_invalid_events(event: Event) -> None:
    with pytest.raises(ValueError, match=r"."):
        stream.encode(event)


@pytest.mark.parametrize("width", [0, 8, 248, 256, 65_536])
def test_a_tick_equals_msgpacks_encoding(width: int) -> None:
    for t_ms in (1, 2**32 - 1, 2**32, 2**53 - 1):
        assert stream.encode(Tick(t_ms, bytes(width))) == msgpack.packb([t_ms, bytes(width)])


def test_a_header_equals_msgpacks_encoding() -> None:
    for header in (ONE, ONE._replace(instance="other"), ONE._replace(labels=(("b", "c"),))):
        assert stream.encode(header) == msgpack.packb(stream.header_to_map(header))


# --- hostile -------------------------------------------------------------------------------------


def check_against_itself(data: bytes, cuts: Sequence[int]) -> None:
    """Torn equals whole; an error's offset is where the good part ends, and the good part is good."""
    events, error = decode([data])
    again, torn_error = decode(torn(data, cuts))
    assert again == events
    assert (torn_error and torn_error.offset) == (error and error.offset)
    if error is not None:
        assert decode([data[: error.offset]]) == (events, None)


@given(st.binary(max_size=300), cut_places)
@settings(max_examples=300)
def test_random_bytes(data: bytes, cuts: list[int]) -> None:
    check_against_itself(data, cuts)
    check_against_itself(stream.encode(ONE) + data, cuts)


@pytest.mark.heavy
@given(
    streams,
    st.lists(
        st.tuples(
            st.integers(0, 1 << 16), st.sampled_from(["flip", "cut", "add", "swap"]), st.binary(max_size=9)
        )
    ),
    cut_places,
)
@settings(max_examples=300)
def test_mutated_streams(
    events: list[Event], mutations: list[tuple[int, str, bytes]], cuts: list[int]
) -> None:
    data = bytearray(encoded(*events))
    for where, how, junk in mutations:
        at = where % (len(data) + 1)
        if how == "flip" and at < len(data):
            data[at] ^= 1 << where % 8
        elif how == "cut":
            del data[at : at + len(junk)]
        elif how == "add":
            data[at:at] = junk
        else:
            data[at : at + len(junk)] = junk
    check_against_itself(bytes(data), cuts)


things = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=9).filter(lambda text: text.isascii())
    | st.binary(max_size=17)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=3)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from([*ONE_MAP, *ONE_MAP["series"][0], "end", "t_ms", "x"]), inner, max_size=5
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from([*ONE_MAP, "end", "t_ms"]), things, max_size=3), cut_places)
@settings(max_examples=300)
def test_headers_with_anything_in_them(changes: dict[str, Any], cuts: list[int]) -> None:
    check_against_itself(header(**changes) + stream.encode(Tick(2000, VALUE)), cuts)


@given(st.lists(things, max_size=4), cut_places)
def test_any_msgpack(messages: list[Any], cuts: list[int]) -> None:
    check_against_itself(stream.encode(ONE) + b"".join(msgpack.packb(one) for one in messages), cuts)


def peak(pieces: Iterable[bytes]) -> int:
    """Bytes that decoding takes at its worst; the events are let go as they come."""
    tracemalloc.start()
    try:
        decoder = Decoder()
        for piece in pieces:
            for _ in decoder.feed(piece):
                pass
    except StreamError:
        pass
    finally:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return most


EMPTY_MAPS = b"\xdc\x0f\xff" + b"\x80" * 4095


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("message", "limit"),
    [
        (b"\xdc\x10\x00" + EMPTY_MAPS * 256, 100 << 20),  # a megabyte of empty maps, 64 bytes each
        (b"\xdc\x10\x00" * 100_000, 40 << 20),  # arrays in arrays, each with room for 4096
        (b"\x91" * 3_000_000, 3 << 20),
        (b"\xc6\xff\xff\xff\xff" + bytes(3_000_000), 4 << 20),
        (b"\xdb\xff\xff\xff\xff" + b"x" * 3_000_000, 4 << 20),
    ],
)
def test_memory_is_bounded_whatever_is_sent(message: bytes, limit: int) -> None:
    data = stream.encode(ONE) + message
    whole, pieces = [data], [data[at : at + 4096] for at in range(0, len(data), 4096)]
    for way in (whole, pieces):
        assert peak(way) < limit


@pytest.mark.heavy
def test_memory_does_not_grow_with_the_number_of_messages() -> None:
    ticks = b"".join(stream.encode(Tick(1000 + i, VALUE)) for i in range(20_000))
    few, many = [stream.encode(ONE), ticks], [stream.encode(ONE), *[ticks] * 10]
    assert peak(many) < peak(few) + 100_000


def test_a_million_tiny_messages_at_once() -> None:
    data = stream.encode(ONE) + stream.encode(Tick(9, VALUE)) * 1_000_000
    decoder = Decoder()
    assert sum(1 for _ in decoder.feed(data)) == 1_000_001
    decoder.close()


@pytest.mark.parametrize("refused", [{}, {"ahead": 1}, {"ahead": 3, "expired": 2**40}, {"boredom": 1}])
def test_refused_counts_decode_as_encoded(refused: dict[str, int]) -> None:
    assert stream.decode_refused(stream.encode_refused(refused)) == refused


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        (b"", {}),
        (b"hello?" * 100, {}),
        (b"\xc1", {}),
        (msgpack.packb({"refused": {"ahead": 3}})[:-1], {}),
        (msgpack.packb({"refused": {"ahead": 3}}) + b"x", {}),
        (msgpack.packb({"accepted": {"ahead": 3}}), {}),
        (msgpack.packb({"refused": 3}), {}),
        (msgpack.packb([{"ahead": 3}]), {}),
        (msgpack.packb({"refused": {"ahead": 3, "late": 0, "x": "1", "y": -1, "z": 1.5, "T": 1, "t": True}}),
         {"ahead": 3}),
        (msgpack.packb({"refused": {1: 3}}), {}),
        (msgpack.packb({"refused": {"ahead": 3}, "more": 1}), {"ahead": 3}),
    ],
)  # fmt: skip
def test_invalid_answers_of_a_store_refuse_nothing(answer: bytes, refused: dict[str, int]) -> None:
    assert stream.decode_refused(answer) == refused
