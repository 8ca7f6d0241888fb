# Shared by demo.sh, test.sh and .ci/run: what this project needs beside the Rust toolchain.

# Network namespaces and TUN devices are made by root only.
need_root() {
    if [ "$(id -u)" -ne 0 ]; then
        echo "$0: needs root to make network namespaces; starting again with sudo" >&2
        exec sudo -E env "PATH=$PATH" "$0" "$@"
    fi
}

# Installs Debian packages for programs that are not there.
install_missing() {
    packages=
    for pair in cc:gcc c++:g++ make:make ip:iproute2 ethtool:ethtool ping:iputils-ping \
        setpriv:util-linux openvpn:openvpn iperf3:iperf3 smcrouted:smcroute \
        make-cadir:easy-rsa; do
        command -v "${pair%%:*}" >/dev/null 2>&1 || packages="$packages ${pair##*:}"
    done
    [ -n "$packages" ] || return 0
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        echo "please install:$packages" >&2
        return 1
    fi
    apt-get update -q
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends $packages
}
