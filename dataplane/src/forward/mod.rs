//! Which peers a packet goes to.

pub mod mac_table;
pub mod vlan;
