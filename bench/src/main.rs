//! Measures Ringway beside its peers.

fn main() {}
