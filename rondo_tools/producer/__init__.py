"""What the producers of a stream share: the backlog, the outputs, the pace of ticks, the text for people.

An output (`output.Output`) is a state machine that never waits: `link.Link` delivers over a Unix or TCP
socket, connects again by itself, and knows what was acknowledged; `pipe.Pipe` writes a pipe, a file or a
terminal. rondo-vmm drives each of its outputs from a thread (`vmm.output`). One epoll loop drives a
thousand, with a `driver.Driver`, which keeps what each waits for:

    epoll = select.epoll()
    driver = Driver(epoll)
    address = destination.address("unix:/run/rondo/store.sock")  # once, for all links

    link = Link(address, "unix:/run/rondo/store.sock", interval_ms=1000)
    link.begin(stream.encode(header))           # before the driver gets it
    driver.update(link, now)                    # connects

    while True:
        for fd, events in epoll.poll(driver.timeout(now)):
            now = time.monotonic()
            driver.dispatch(fd, events, now)    # False for a descriptor that is none of an output's
        driver.on_time(now := time.monotonic())
        ...
        link.put(stream.encode(tick))           # at each tick; sent at once if the socket takes it
        driver.update(link, now)

    link.begin_anew(b"", stream.encode(header))     # the same session with other series
    link.begin_anew(stream.encode(end), stream.encode(header))      # another session of the same VM
    link.finish(stream.encode(end))             # nothing comes after this
    driver.update(link, now)
    ...
    if link.is_over:                            # acknowledged: `delivered`, or see `missing`, `refused`
        ...
    link.close()                                # to give up on it; `missing` says how many ticks
    driver.update(link, now)

`driver.update` is due after every call on an output, so that the driver sees what it waits for now. The
driver forgets an output that is over, and that needs no more calls. `now` is of one monotonic clock, in
seconds.

While the store is away a link keeps the newest 600 ticks, as the bytes that it will send: 0.13 MB a VM
with twenty series. Lines for the log go through an `output.Notices`; a watcher of many VMs gives its own
to all of its links, to say once what a thousand of them have to say.
"""
