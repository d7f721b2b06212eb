#!/bin/sh
# `uv pip install` with the settings of pip, which uv does not read:  deploy/uv.sh PYTHON ARGUMENTS
# PYTHON is that of the environment to install into, which holds uv and pip.
set -eu
python=$1
shift

configured=$("$python" -m pip config list 2>/dev/null || true)
setting() { printf '%s\n' "$configured" | sed -n "s/^global\.$1='\(.*\)'\$/\1/p" | sed 's/\\n/ /g'; }

links=${PIP_FIND_LINKS:-$(setting find-links)}
index=${PIP_INDEX_URL:-$(setting index-url)}
cert=${PIP_CERT:-$(setting cert)}
[ -z "$links" ] || export UV_FIND_LINKS="${UV_FIND_LINKS:-$(printf %s "$links" | tr -s ' \n' ,)}"
[ -z "$index" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"
[ -z "$cert" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$cert}"
exec "$python" -m uv pip install -q --compile-bytecode --python "$python" "$@"
