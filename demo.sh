#!/bin/sh
# Shows Ringway at work on one machine, from nothing:
#
#     ./demo.sh [--against openvpn] [--cipher chacha|cbc] [--seconds N] [--keep]
#
# It installs what is missing (Debian packages, as root), builds, makes two network namespaces,
# keys and configurations, starts both ends as separate processes, moves real traffic through the
# link, prints what it carried, and removes everything again.
set -eu
cd "$(dirname "$0")"
. ./tools.sh
need_root "$@"
install_missing
cargo build --release -p ringway -p ringway-bench
exec "${CARGO_TARGET_DIR:-target}/release/ringway-bench" demo "$@"
