//! What the host offers, and what Ringway should make of it.
