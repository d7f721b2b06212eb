#!/bin/sh
# Install one of the project's extras into .venv:  deploy/install.sh dev
# With uv, whose resolver takes a second where pip's takes minutes; with pip where uv cannot be had. torch's version is
# chosen here, its build by where it comes from: a local folder of wheels that pip is configured with, torch's own index
# for this machine's GPU or CPU, or else PyPI, whose Linux build brings three gigabytes of CUDA along.
set -eu
cd "$(dirname "$0")/.."
extra=${1:?usage: deploy/install.sh EXTRA, such as all, dev or engineer}
python=.venv/bin/python
torch=torch==2.13.0
began=$(date +%s)

uv() { deploy/uv.sh "$python" -c constraints.txt "$@" "$torch" -e ".[$extra]"; }
pip() { "$python" -m pip install -q --disable-pip-version-check "$@"; }

echo "installing what '$extra' needs into .venv: 1 to 2 minutes where the registry is near"
if pip uv; then
  if "$python" -m pip config list | grep 'find-links=' > /dev/null; then
    uv && done=uv
  elif uv --torch-backend=auto 2>/dev/null; then
    done=uv
  else
    echo "torch's own index is out of reach: taking its build from PyPI, which may be one of several gigabytes"
    uv && done=uv
  fi
fi
if [ -z "${done:-}" ]; then
  echo "uv is not available or has failed: going on with pip, which takes some minutes"
  pip "$torch"  # first and alone: another package would otherwise choose another build
  pip -c constraints.txt -e ".[$extra]"
fi
echo "installed '$extra' in $(($(date +%s) - began)) s"
