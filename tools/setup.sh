#!/usr/bin/env bash
# Prepares this checkout: .venv with nkdsl (editable) and its tools, MLIR 22's mlir-opt, LLVM's
# OpenMP runtime, LLVM 22's llvm-mca, and what code for other processors is emulated with.
#
#   tools/setup.sh [--with-libxsmm]
#
# Python packages are installed again only when pyproject.toml has changed or the checkout was
# moved, so a second call takes milliseconds. System packages are installed where this user may do
# so without a password (root, or sudo that does not ask); otherwise the script says how to get
# them and what does without.
#
#   PYTHON=...      the Python to make .venv from (3.11 or newer); found by name if not set
#   NKDSL_APT=no    never install system packages
#   NKDSL_MLIR_OPT  path of the mlir-opt to use, if it is not on PATH as mlir-opt-22
#   NKDSL_OPENMP    path of the libomp.so.5 or libiomp5.so to use
#   NKDSL_LLVM_MCA  path of the llvm-mca to use, if it is not on PATH as llvm-mca-22
#   NKDSL_QEMU_AARCH64  path of the qemu-aarch64 to use, if it is not on PATH by that name
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

readonly venv=.venv
readonly stamp=$venv/.nkdsl-setup

say() { printf 'setup: %s\n' "$*" >&2; }
die() {
  say "$@"
  exit 1
}

# ---- system packages --------------------------------------------------------------------------

# Runs a command as root, or fails without asking for a password.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  else
    sudo -n "$@"
  fi
}

may_install() {
  [ "${NKDSL_APT:-yes}" != no ] && command -v apt-get >/dev/null || return 1
  [ "$(id -u)" -eq 0 ] || { command -v sudo && sudo -n true; } >/dev/null 2>&1
}

apt_updated=no
apt_update() {
  [ "$apt_updated" = no ] || return 0
  as_root apt-get update -qq >&2 || say "apt-get update failed; trying with the lists at hand"
  apt_updated=yes
}

apt_install() {
  may_install || return 1
  say "installing $* with apt-get"
  apt_update
  as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -qq --yes --no-install-recommends "$@" >&2
}

is_llvm_22() {
  command -v "$1" >/dev/null || return 1
  case $("$1" --version 2>/dev/null) in
    *"LLVM version 22."*) return 0 ;;
  esac
  return 1
}

have_mlir() { is_llvm_22 mlir-opt-22 || is_llvm_22 mlir-opt; }

setup_mlir() {
  if [ -n "${NKDSL_MLIR_OPT:-}" ]; then
    is_llvm_22 "$NKDSL_MLIR_OPT" || say "NKDSL_MLIR_OPT=$NKDSL_MLIR_OPT is not an mlir-opt 22"
    return
  fi
  have_mlir && return
  apt_install mlir-22-tools && have_mlir && return
  say "mlir-opt 22 was not found. Without it nothing is compiled to machine code, and the tests"
  say "that need it are skipped. To get it:"
  say "    sudo apt-get install --no-install-recommends mlir-22-tools"
  say "(Debian 12 or newer; other systems: https://apt.llvm.org), or set NKDSL_MLIR_OPT."
}

have_openmp() {
  local folder name
  for folder in "$venv/lib" /usr/lib/llvm-*/lib /usr/local/lib /usr/lib/*-linux-gnu /usr/lib64 \
    /usr/lib /opt/intel/oneapi/compiler/latest/lib; do
    for name in libomp.so.5 libomp.so libiomp5.so; do
      [ ! -e "$folder/$name" ] || return 0
    done
  done
  return 1
}

# The names of the packages that may hold it, MLIR's own version first, then the latest.
openmp_packages() {
  echo libomp5-22
  apt-cache search --names-only '^libomp5-[0-9]+$' 2>/dev/null | awk '{ print $1 }' | sort -rV
  echo libomp5
}

setup_openmp() {
  local package
  [ -z "${NKDSL_OPENMP:-}" ] || return 0
  have_openmp && return
  if may_install; then
    apt_update
    for package in $(openmp_packages); do
      apt-cache show "$package" >/dev/null 2>&1 || continue
      apt_install "$package" && have_openmp && return
    done
  fi
  say "LLVM's OpenMP runtime was not found. Without it kernels run on one thread, and the tests of"
  say "several are skipped. To get it, either of:"
  say "    sudo apt-get install --no-install-recommends libomp5"
  say "    $venv/bin/python -m pip install intel-openmp"
  say "or set NKDSL_OPENMP."
}

have_llvm_mca() { is_llvm_22 llvm-mca-22 || is_llvm_22 llvm-mca; }

setup_llvm_mca() {
  [ -z "${NKDSL_LLVM_MCA:-}" ] || return 0
  have_llvm_mca && return
  apt_install llvm-22 && have_llvm_mca && return
  say "llvm-mca 22 was not found. Without it the tests that time kernels for other CPUs by LLVM's"
  say "models of them are skipped. To get it:"
  say "    sudo apt-get install --no-install-recommends llvm-22"
}

have_any() {
  local name
  for name in "$@"; do
    ! command -v "$name" >/dev/null || return 0
  done
  return 1
}

# The packages that emulation lacks: a C compiler for Intel AMX, QEMU and a linker for AArch64.
emulation_packages() {
  if [ "$(uname -m)" = x86_64 ] && [ -z "${CC:-}" ]; then
    have_any cc gcc clang || echo gcc libc6-dev
  fi
  [ -n "${NKDSL_QEMU_AARCH64:-}" ] || have_any qemu-aarch64 qemu-aarch64-static || echo qemu-user
  have_any ld.lld-22 ld.lld || echo lld-22
}

setup_emulation() {
  local package missing
  for package in $(emulation_packages); do
    apt_install "$package" || true
  done
  missing=$(emulation_packages)
  [ -n "$missing" ] || return 0
  say "what emulates other processors is not all there. Without it code with Intel AMX, or for"
  say "AArch64, is compiled but can't be run here, and the tests that do so are skipped. To get it:"
  say "    sudo apt-get install --no-install-recommends" $missing
}

setup_libxsmm() {
  [ -e /usr/include/libxsmm.h ] || [ -e /usr/local/include/libxsmm.h ] && return
  apt_install libxsmm-dev && return
  say "libxsmm was not found; the benchmarks leave it out. To get it:"
  say "    sudo apt-get install --no-install-recommends libxsmm-dev"
}

# ---- Python -----------------------------------------------------------------------------------

is_new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
  local name
  if [ -n "${PYTHON:-}" ]; then
    is_new_enough "$PYTHON" || die "PYTHON=$PYTHON is not a Python 3.11 or newer"
    printf '%s\n' "$PYTHON"
    return
  fi
  for name in python3 python3.14 python3.13 python3.12 python3.11; do
    command -v "$name" >/dev/null && is_new_enough "$name" || continue
    printf '%s\n' "$name"
    return
  done
  die "no Python 3.11 or newer on PATH. Install one (Debian 12: apt-get install python3" \
    "python3-venv), or name it: make setup PYTHON=/path/to/python3"
}

make_venv() {
  local python=$1 version log
  log=$("$python" -m venv --clear "$venv" 2>&1) && return
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  # Debian keeps the venv module's other half in a package of its own.
  if apt_install "python$version-venv" || apt_install python3-venv; then
    log=$("$python" -m venv --clear "$venv" 2>&1) && return
  fi
  printf '%s\n' "$log" >&2
  die "$python cannot make a virtual environment (Debian: apt-get install python$version-venv)"
}

# What the environment was made from: the project's metadata, and where it lies.
fingerprint() {
  cksum <pyproject.toml
  pwd -P
}

venv_works() { "$venv/bin/python" -m pip --version >/dev/null 2>&1; }

setup_python() {
  local wanted python
  wanted=$(fingerprint)
  if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    return
  fi
  # A moved environment still points at its old place, so only one that was made here is kept.
  if [ "$(tail -n 1 "$stamp" 2>/dev/null)" != "$(pwd -P)" ] || ! venv_works; then
    python=$(find_python)
    say "making $venv with $("$python" --version)"
    make_venv "$python"
  fi
  say "installing nkdsl and its tools into $venv"
  rm -f -- "$stamp"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e '.[dev,bench]' ||
    die "pip could not install the packages that pyproject.toml names"
  printf '%s\n' "$wanted" >"$stamp"
}

# ---- main -------------------------------------------------------------------------------------

with_libxsmm=no
for option in "$@"; do
  case $option in
    --with-libxsmm) with_libxsmm=yes ;;
    *) die "unknown option $option" ;;
  esac
done

setup_python
setup_mlir
setup_openmp
setup_llvm_mca
setup_emulation
[ "$with_libxsmm" = no ] || setup_libxsmm
