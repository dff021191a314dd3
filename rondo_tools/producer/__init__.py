"""Shared code of the producers of a stream: backlog, outputs, pace of ticks, text for people.

An output (`output.Output`) is a state machine that never waits. `link.Link` delivers over a Unix or TCP
socket, reconnects by itself, and knows which ticks were acknowledged; `pipe.Pipe` writes to a pipe, a file
or a terminal. rondo-vmm drives each of its outputs in a thread (`vmm.output`). One epoll loop drives a
thousand of them with a `driver.Driver`, which records what each waits for:

    epoll = select.epoll()
    driver = Driver(epoll)
    address = destination.address("unix:/run/rondo/store.sock")  # once, for all links

    link = Link(address, "unix:/run/rondo/store.sock", interval_ms=1000)
    link.begin(stream.encode(header))           # before the driver gets it
    driver.update(link, now)                    # connects

    while True:
        for fd, events in epoll.poll(driver.timeout(now)):
            now = time.monotonic()
            driver.dispatch(fd, events, now)    # False for a descriptor of no output
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

Call `driver.update` after every call on an output, so that the driver sees what it waits for now. The
driver forgets an output that is over; it needs no more calls. `now` is the time of one monotonic clock, in
seconds.

While the store is down a link keeps the newest 600 ticks, as the bytes to send: 0.13 MB per VM with twenty
series. Log messages go through an `output.Notices`; a watcher of many VMs passes its own to all links, to
log once what happens to a thousand of them.
"""
