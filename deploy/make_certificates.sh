#!/bin/sh
# An authority of a deployment's own, and a certificate for each NAME, valid for ten years:
#   deploy/make_certificates.sh FOLDER [NAME ...]
# FOLDER/NAME holds ca.crt, tls.crt, tls.key and tls.pem (key and certificate, as MongoDB wants them). A certificate is
# good for the host or IP address NAME, for localhost and 127.0.0.1, as a server's and as a client's; of several
# machines each needs one of its own. FOLDER/authority.key makes more.
# The keys can be read by other users, the containers' among them; FOLDER itself by its owner only.
set -eu
folder=${1:?usage: make_certificates.sh FOLDER [NAME ...]}
shift
[ $# -gt 0 ] || set -- nats mongo store engineer analyst judge researcher console
umask 077
mkdir -p "$folder"
cd "$folder"
if [ ! -e authority.key ]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=asi-arch authority" \
    -addext "keyUsage=critical,keyCertSign,cRLSign" -keyout authority.key -out authority.crt 2>/dev/null
fi
for name in "$@"; do
  [ ! -e "$name" ] || continue
  mkdir "$name"
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$name" \
    -keyout "$name/tls.key" -out "$name/request" 2>/dev/null
  case $name in *[!0-9.]*) kind=DNS ;; *) kind=IP ;; esac
  case $name in *:*) kind=IP ;; esac
  printf 'subjectAltName=%s:%s,DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n' "$kind" "$name" >"$name/extensions"
  openssl x509 -req -in "$name/request" -CA authority.crt -CAkey authority.key -CAcreateserial -days 3650 \
    -extfile "$name/extensions" -out "$name/tls.crt" 2>/dev/null
  cp authority.crt "$name/ca.crt"
  cat "$name/tls.key" "$name/tls.crt" >"$name/tls.pem"
  rm "$name/request" "$name/extensions"
  chmod 755 "$name" && chmod 644 "$name"/*
done
