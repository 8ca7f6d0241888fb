//! Labs in network namespaces: Ringway against real OpenVPN.
