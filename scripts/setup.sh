#!/bin/sh
# Make .venv with everything in it that tests and demo need. No root, nothing outside the checkout.
# Does nothing when neither pyproject.toml has changed since.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
stamp=.venv/.rondo-setup

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "setup: $python is not Python 3.11 or newer; name one: make PYTHON=/path/to/python3" >&2
    exit 69
fi
if [ -x .venv/bin/python ] && cat pyproject.toml scripts/pyproject.toml | cmp -s - "$stamp"; then
    exit 0
fi
echo "setup: making .venv (once; takes a minute)" >&2
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
# The plain kind of editable install: the other one costs each start of Python some 10 ms.
.venv/bin/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable '.[dev]' \
    --editable scripts
cat pyproject.toml scripts/pyproject.toml >"$stamp"
