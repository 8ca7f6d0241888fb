//! `--mktun` and `--rmtun`: persistent devices, made and removed without a tunnel.

use nix::unistd::{Group, User};
use ringway_dataplane::tun::{self, TunConfig};

use crate::cli::TunRequest;

/// `--mktun`: makes a device that stays, for this owner and group.
pub(super) fn make(request: &TunRequest) -> Result<(), String> {
    let owner = request.user.as_deref().map(user_id).transpose()?;
    let group = request.group.as_deref().map(group_id).transpose()?;
    let name = tun::make_persistent(&config(request), owner, group).map_err(|e| e.to_string())?;
    println!("Persist state set to: ON for {name}");
    Ok(())
}

/// `--rmtun`: removes such a device.
pub(super) fn remove(request: &TunRequest) -> Result<(), String> {
    tun::remove_persistent(&config(request)).map_err(|e| e.to_string())?;
    println!("Persist state set to: OFF for {}", request.dev);
    Ok(())
}

fn config(request: &TunRequest) -> TunConfig {
    let mut config = TunConfig::new(request.dev.clone());
    config.kind = request.kind;
    config.node.clone_from(&request.dev_node);
    config
}

fn user_id(name: &str) -> Result<u32, String> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    match User::from_name(name) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err(format!("user: '{name}' does not exist")),
        Err(error) => Err(format!("user: '{name}': {}", error.desc())),
    }
}

fn group_id(name: &str) -> Result<u32, String> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(format!("group: '{name}' does not exist")),
        Err(error) => Err(format!("group: '{name}': {}", error.desc())),
    }
}
