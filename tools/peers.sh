#!/usr/bin/env bash
# Gets the peers of `nkdsl bench gemm` and `bench mlp`: BLIS, libxsmm and g++ (for torch's compiler)
# by apt-get, and an environment .venv-peers beside .venv that holds torch (for MKL and oneDNN), MKL
# itself and JAX.
#
#   tools/peers.sh
#
# What cannot be had is left out; the benchmark then lists the peer as skipped. A second call takes
# milliseconds.
#
#   NKDSL_APT=no      never install system packages
#   NKDSL_PEERS=DIR   the environment to make, in place of .venv-peers; the benchmark reads it too
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

readonly python=.venv/bin/python
readonly venv=${NKDSL_PEERS:-.venv-peers}
readonly torch=torch==2.13.0
readonly others=(mkl jax)

say() { printf 'peers: %s\n' "$*" >&2; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  else
    sudo -n "$@"
  fi
}

has_package() { dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }

system_package() {
  ! has_package "$1" || return 0
  if [ "${NKDSL_APT:-yes}" != no ] && command -v apt-get >/dev/null; then
    say "installing $1 with apt-get"
    as_root env DEBIAN_FRONTEND=noninteractive \
      apt-get install -qq --yes --no-install-recommends "$1" >/dev/null && return
  fi
  say "$1 is missing; its peer is left out. To get it: sudo apt-get install $1"
}

# torch for the CPU alone where there is one: the index of PyPI has only the build for GPUs, and
# takes gigabytes more.
install_torch() {
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --extra-index-url https://download.pytorch.org/whl/cpu "$torch" 2>/dev/null ||
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$torch"
}

python_packages() {
  local package stamp
  [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
  stamp=$venv/.nkdsl-peers
  [ "$(cat "$stamp" 2>/dev/null)" != "$torch ${others[*]}" ] || return 0
  say "installing $torch ${others[*]} into $venv"
  install_torch || say "$torch could not be had; MKL by torch and oneDNN are left out"
  for package in "${others[@]}"; do
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$package" ||
      say "$package could not be had; its peer is left out"
  done
  printf '%s\n' "$torch ${others[*]}" >"$stamp"
}

if command -v dpkg-query >/dev/null; then
  system_package libblis4-openmp
  system_package libxsmm-dev
  system_package g++
fi
python_packages
