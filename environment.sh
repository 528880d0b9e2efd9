#!/usr/bin/env bash
# Finds Python 3.10 and keeps .venv in step with requirements.lock. Run again at will: it does only what is missing.
set -euo pipefail
cd "$(dirname "$0")"

fail() { printf 'environment.sh: %s\n' "$1" >&2; exit 2; }

# Debian's python3.10 has venv without ensurepip: it would make an environment that has no pip.
is_python310() { "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 10))' >/dev/null 2>&1; }

# Prints the path of a working Python 3.10. A pyenv shim may stand on PATH and yet fail, so each one is tried.
find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        is_python310 "$PYTHON" || fail "expected PYTHON to be a Python 3.10 with venv, found '$PYTHON'; give another"
        printf '%s\n' "$PYTHON"
        return
    fi
    for candidate in python3.10 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.10*/bin/python; do
        if is_python310 "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    if candidate=$(python_from_uv); then
        printf '%s\n' "$candidate"
        return
    fi
    fail "expected Python 3.10, found none; install it with pyenv (pyenv install 3.10), apt (python3.10 python3.10-venv) or uv (uv python install 3.10, needs github.com), or name one: make PYTHON=/path/to/python3.10 …"
}

# uv fetches a standalone Python; without uv on PATH it is borrowed from PyPI for this one step.
python_from_uv() {
    local uv scratch found
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' RETURN
    if uv=$(command -v uv); then :; else
        python3 -m venv "$scratch/uv" >/dev/null 2>&1 || return 1
        timeout 120 "$scratch/uv/bin/pip" install -q uv >/dev/null 2>&1 || return 1
        uv=$scratch/uv/bin/uv
    fi
    timeout 300 "$uv" python install 3.10 >/dev/null 2>&1 || return 1
    found=$("$uv" python find 3.10 2>/dev/null) && is_python310 "$found" && printf '%s\n' "$found"
}

wanted=$(cat requirements.lock setup.cfg pyproject.toml | sha256sum | cut -d' ' -f1)
if [ -x .venv/bin/python ] && [ "$(cat .venv/installed 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi

if ! is_python310 .venv/bin/python || ! .venv/bin/python -c 'import pip' >/dev/null 2>&1; then
    python=$(find_python)
    rm -rf .venv
    echo "Making .venv with $python" >&2
    "$python" -m venv .venv || {
        rm -rf .venv
        fail "expected '$python -m venv' to work, found that it failed; install its venv package"
    }
fi
echo "Installing the locked dependencies (about 300 MB on first use)" >&2
.venv/bin/python -m pip install --disable-pip-version-check -q --require-hashes --no-deps -r requirements.lock \
    || fail "expected to install requirements.lock, found that pip failed; see its message above, then run make again"
.venv/bin/python -m pip install --disable-pip-version-check -q --no-build-isolation --no-deps -e . \
    || fail "expected to install this project, found that pip failed; see its message above"
# The wheels of OpenCV and Paddle need a few system libraries that slim containers leave out.
if ! problem=$(.venv/bin/python -c 'import cv2, paddle, paddlelite.lite' 2>&1); then
    fail "expected to import cv2, paddle and paddlelite, found: $(printf '%s' "$problem" | tail -n 1); on Debian or Ubuntu: apt-get install libgl1 libglib2.0-0 libgomp1"
fi
printf '%s\n' "$wanted" > .venv/installed
