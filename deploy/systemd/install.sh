#!/bin/sh
# Install rondo's systemd units, man pages and shell completion, on the machine itself or, below DESTDIR, for a
# package; or uninstall them. Starts nothing, and keeps existing files in /etc/rondo.
#
#     make install-systemd                                           # in a checkout
#     sh "$(rondo-store --share-dir)/systemd/install.sh" install     # of an installed rondo; or uninstall
#
# DESTDIR, BINDIR, LIBDIR, SHAREDIR and SHARE are variables of the environment, as in the Makefile.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dest=${DESTDIR:-}
bin=/usr/local/bin
# In an installed rondo, use its own commands: PREFIX/share/rondo/systemd is beside PREFIX/bin.
if [ -x "$here/../../../bin/rondo-store" ]; then bin=$(cd "$here/../../../bin" && pwd); fi
bin=${BINDIR:-$bin}
lib=${LIBDIR:-/usr/local/lib}
units=$dest$lib/systemd/system
sysusers=$dest$lib/sysusers.d/rondo.conf
tmpfiles=$dest$lib/tmpfiles.d/rondo.conf
config=$dest/etc/rondo
share=$dest${SHAREDIR:-/usr/local/share}
pages="man/man1/rondo-*.1 bash-completion/completions/rondo-* zsh/site-functions/_rondo-*
    fish/vendor_completions.d/rondo-*.fish"

put() {
    install -D -m 644 "$1" "$2"
    echo "$2"
}

put_once() {
    if [ -e "$2" ]; then echo "$2 (kept as it is)"; else put "$1" "$2"; fi
}

# The share/ of the commands' wheel; nothing if they are not from a wheel.
wheel_share() {
    command=$dest$bin/rondo-store
    [ -x "$command" ] || command=$bin/rondo-store
    found=$(dirname "$(readlink -f "$command" || echo /)")/../share
    if [ -e "$found/man/man1/rondo-store.1" ]; then readlink -f "$found"; fi
}

case ${1:-} in
install)
    for unit in "$here"/*.service "$here"/*.socket "$here"/*.timer; do
        put "$unit" "$units/${unit##*/}"
        sed -i "s|^ExecStart=/usr/local/bin/|ExecStart=$bin/|" "$units/${unit##*/}"
    done
    put "$here/sysusers.conf" "$sysusers"
    put "$here/tmpfiles.conf" "$tmpfiles"
    for file in store.env push.env attach.env serve.env vmm/demo.conf feed/node.conf; do
        put_once "$here/rondo/$file" "$config/$file"
    done
    from=$(wheel_share)
    from=${from:-${SHARE:-build/share}}
    if [ ! -e "$from/man/man1/rondo-store.1" ]; then
        echo "No man pages and completion: these commands are not from a wheel; run make man, then this again."
    elif [ "$(readlink -f "$from")" != "$(readlink -f "$share")" ]; then
        (cd "$from" && ls $pages) | while read -r page; do put "$from/$page" "$share/$page"; done
    fi
    if [ ! -x "$dest$bin/rondo-store" ] && [ ! -x "$bin/rondo-store" ]; then
        echo "install-systemd: the units start $bin/rondo-store, which does not exist yet (BINDIR=)" >&2
    fi
    cat <<END

Next, as root:
  systemd-sysusers && systemd-tmpfiles --create rondo.conf && systemctl daemon-reload
  systemctl enable --now rondo-store.socket rondo-store.service
  systemctl start rondo-vmm@demo.service       # a VM of 45 s, as /etc/rondo/vmm/demo.conf says
  systemctl enable --now rondo-attach.service  # watches VMs that others start
  systemctl enable --now rondo-feed@node.service  # scrapes what /etc/rondo/feed/node.conf says
  systemctl enable --now rondo-serve.socket    # the live page, for a proxy on this host (docs/serve.md)
  editor /etc/rondo/push.env                   # where to deliver
  systemctl enable --now rondo-push.service    # or rondo-push-once.timer: once a minute
END
    ;;
uninstall)
    for unit in "$here"/*.service "$here"/*.socket "$here"/*.timer; do
        rm -f "$units/${unit##*/}"
    done
    rm -f "$sysusers" "$tmpfiles"
    if [ -d "$share" ] && [ "$(wheel_share)" != "$(readlink -f "$share")" ]; then
        (cd "$share" && rm -f $pages)
    fi
    echo "The units are gone; remove /etc/rondo, /var/lib/rondo and /var/lib/rondo-vmm yourself."
    ;;
*)
    echo "usage: install.sh install|uninstall" >&2
    exit 64
    ;;
esac
