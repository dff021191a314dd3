#!/bin/sh
# Make .venv for developers (setup.sh, setup.sh dev) or only for the demos (setup.sh demo); the first extends the
# second. No root, nothing outside the checkout.
#
# Strategy: the stamp names the extras of the last complete installation, with pyproject.toml. We remove it
# before any change. So a .venv without a stamp was interrupted, and is made again; also after a change of
# pyproject.toml.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
stamp=.venv/.rondo-setup

case ${1:-dev} in
dev) extras=dev ;;
demo)
    extras=plot
    # Without KVM the guest runs under the emulator.
    [ -r /dev/kvm ] && [ -w /dev/kvm ] || extras=plot,soft
    ;;
*)
    echo "usage: setup.sh [dev | demo]" >&2
    exit 64
    ;;
esac
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "setup: $python is not Python 3.11 or newer; name one: make PYTHON=/path/to/python3" >&2
    exit 69
fi

# One setup at a time. pip inherits the lock: if setup.sh is killed, the next one waits until its pip has ended.
exec 9<scripts/setup.sh
flock 9

wanted() { # the stamp for the extras $1
    echo "$1"
    cat pyproject.toml
}
if [ -x .venv/bin/python ] && [ -e $stamp ]; then
    for one in "$extras" dev; do
        if wanted "$one" | cmp -s - $stamp; then
            exit 0
        fi
    done
fi
if [ -x .venv/bin/python ] && [ -e $stamp ] && wanted "$(head -n 1 $stamp)" | cmp -s - $stamp; then
    echo "setup: adding to .venv (once; takes a minute)" >&2
    rm $stamp
else
    echo "setup: making .venv (once; takes a minute)" >&2
    rm -f $stamp
    rm -rf .venv
    if "$python" -c 'import ensurepip' 2>/dev/null; then
        "$python" -m venv .venv
    else
        # Debian keeps pip's wheel in a package of its own (python3-pip-whl): take it from there, or from
        # the package itself, unpacked.
        "$python" -m venv --without-pip .venv
        wheels=/usr/share/python-wheels
        if ! ls $wheels/pip-*.whl >/dev/null 2>&1; then
            wheels=$("$python" scripts/fetch.py --unpack python3-pip-whl)$wheels || {
                echo "setup: $python has no ensurepip; install python3-venv" >&2
                exit 69
            }
        fi
        wheel=$(ls "$wheels"/pip-*.whl | tail -n 1)
        PYTHONPATH=$wheel .venv/bin/python -m pip install --quiet --no-index --find-links "$wheels" pip
    fi
fi
wanted "$extras" >.venv/wanted # before pip reads pyproject.toml: it may change meanwhile
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$extras]"
mv .venv/wanted $stamp
