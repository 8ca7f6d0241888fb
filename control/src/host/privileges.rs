//! Giving up root: `user`, `group`, `chroot`, and the capabilities that stay.
//!
//! Names are resolved while the user database is in reach ([`plan`]); the drop happens when
//! devices, sockets, keys and log files are open ([`drop`]).
//!
//! Without `user` nothing but the group or root directory changes: scripts of such a configuration
//! expect to run as root. With it the calling thread (the control thread) keeps the capabilities it
//! is told to keep, all other threads keep none, and what the control thread executes gets none.
//! Capabilities belong to threads, so start the workers first: a thread started later inherits those
//! of its starter.

use std::path::{Path, PathBuf};

use caps::{CapSet, Capability as Cap, CapsHashSet};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{Gid, Group, Uid, User, chdir, chroot, setgroups, setresgid, setresuid};

pub use caps::Capability;

/// What to become.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrivilegePlan {
    user: Option<(String, Uid)>,
    group: Option<(String, Gid)>,
    root: Option<PathBuf>,
    /// Leave set-user-id programs working in scripts (`sudo` in a `down` script): do not set
    /// `no_new_privs` and keep the capability bounding set.
    pub allow_setuid_scripts: bool,
}

/// Resolves `user` and `group` (names or numbers) and checks the `chroot` directory. With a user and
/// no group, the user's own group is taken: staying in root's would keep half of the power.
pub fn plan(
    user: Option<&str>,
    group: Option<&str>,
    root: Option<&Path>,
) -> Result<PrivilegePlan, String> {
    let mut plan = PrivilegePlan::default();
    if let Some(name) = user {
        let (uid, own_group) = resolve_user(name)?;
        plan.user = Some((name.to_owned(), uid));
        plan.group = own_group.map(|gid| (gid.to_string(), gid));
    }
    if let Some(name) = group {
        plan.group = Some((name.to_owned(), resolve_group(name)?));
    }
    if let Some(root) = root {
        let metadata = std::fs::metadata(root)
            .map_err(|error| format!("chroot '{}': {error}", root.display()))?;
        if !metadata.is_dir() {
            return Err(format!("chroot '{}': not a directory", root.display()));
        }
        plan.root = Some(root.to_owned());
    }
    Ok(plan)
}

impl PrivilegePlan {
    /// Whether [`drop`] would change anything.
    pub fn is_empty(&self) -> bool {
        self.user.is_none() && self.group.is_none() && self.root.is_none()
    }

    /// One line for the log.
    pub fn describe(&self) -> String {
        let mut parts = Vec::new();
        if let Some(root) = &self.root {
            parts.push(format!("chroot {}", root.display()));
        }
        if let Some((name, gid)) = &self.group {
            parts.push(format!("group {name} ({gid})"));
        }
        if let Some((name, uid)) = &self.user {
            parts.push(format!("user {name} ({uid})"));
        }
        parts.join(", ")
    }
}

/// Carries the plan out. `keep` are the capabilities the calling thread needs later, such as
/// CAP_NET_ADMIN for routes; those it does not have now are left out. After an error the process is
/// in an undefined state between both and must end.
pub fn drop(plan: &PrivilegePlan, keep: &[Capability]) -> Result<(), String> {
    if let Some(root) = &plan.root {
        chroot(root).map_err(|error| failed(format!("chroot '{}'", root.display()), error))?;
        chdir("/").map_err(|error| failed("chdir to the new root".into(), error))?;
    }
    let kept: CapsHashSet = match plan.user {
        Some(_) => prepare_capabilities(plan, keep)?,
        None => CapsHashSet::new(),
    };
    if let Some((name, gid)) = &plan.group {
        setgroups(&[*gid])
            .and_then(|()| setresgid(*gid, *gid, *gid))
            .map_err(|error| failed(format!("group '{name}'"), error))?;
    }
    if let Some((name, uid)) = &plan.user {
        setresuid(*uid, *uid, *uid).map_err(|error| failed(format!("user '{name}'"), error))?;
        reduce_capabilities(&kept)?;
        if !plan.allow_setuid_scripts {
            prctl::set_no_new_privs().map_err(|error| failed("no_new_privs".into(), error))?;
        }
    }
    Ok(())
}

/// What has to happen as root: trim the bounding set and keep capabilities over the change of user.
fn prepare_capabilities(plan: &PrivilegePlan, keep: &[Cap]) -> Result<CapsHashSet, String> {
    let permitted = caps::read(None, CapSet::Permitted)
        .map_err(|error| format!("cannot read capabilities: {error}"))?;
    let kept: CapsHashSet = keep
        .iter()
        .copied()
        .filter(|capability| permitted.contains(capability))
        .collect();
    if !plan.allow_setuid_scripts {
        for capability in caps::runtime::thread_all_supported() {
            if !kept.contains(&capability) {
                // Without CAP_SETPCAP the bounding set stays; the permitted set is what counts.
                let _ = caps::drop(None, CapSet::Bounding, capability);
            }
        }
    }
    prctl::set_keepcaps(!kept.is_empty())
        .map_err(|error| failed("keeping capabilities".into(), error))?;
    Ok(kept)
}

fn reduce_capabilities(kept: &CapsHashSet) -> Result<(), String> {
    let set = |which, value: &CapsHashSet| {
        caps::set(None, which, value).map_err(|error| format!("cannot set capabilities: {error}"))
    };
    if caps::runtime::ambient_set_supported().is_ok() {
        caps::clear(None, CapSet::Ambient)
            .map_err(|error| format!("cannot clear ambient capabilities: {error}"))?;
    }
    set(CapSet::Effective, kept)?;
    set(CapSet::Permitted, kept)?;
    set(CapSet::Inheritable, &CapsHashSet::new())?;
    prctl::set_keepcaps(false).map_err(|error| failed("keeping capabilities".into(), error))
}

fn resolve_user(name: &str) -> Result<(Uid, Option<Gid>), String> {
    match User::from_name(name) {
        Ok(Some(user)) => return Ok((user.uid, Some(user.gid))),
        Ok(None) => {}
        Err(error) => return Err(failed(format!("user '{name}'"), error)),
    }
    let uid = name
        .parse()
        .map(Uid::from_raw)
        .map_err(|_| format!("user '{name}': there is no such user"))?;
    let own_group = User::from_uid(uid).ok().flatten().map(|user| user.gid);
    Ok((uid, own_group))
}

fn resolve_group(name: &str) -> Result<Gid, String> {
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid),
        Ok(None) => name
            .parse()
            .map(Gid::from_raw)
            .map_err(|_| format!("group '{name}': there is no such group")),
        Err(error) => Err(failed(format!("group '{name}'"), error)),
    }
}

fn failed(what: String, error: Errno) -> String {
    format!("{what}: {}", error.desc())
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::mpsc;

    use nix::unistd::{getegid, geteuid, getgroups, getresgid, getresuid};

    use super::*;
    use crate::host::netlink::Netlink;
    use crate::host::testing::{alone, in_namespace, run_alone};

    fn status_line(name: &str) -> String {
        std::fs::read_to_string("/proc/thread-self/status")
            .unwrap()
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}:")))
            .unwrap()
            .trim()
            .to_owned()
    }

    #[test]
    fn names_are_resolved() {
        assert!(plan(None, None, None).unwrap().is_empty());
        let nobody = plan(Some("nobody"), None, None).unwrap();
        assert!(nobody.user.is_some() && nobody.group.is_some());
        let described = plan(Some("12345"), Some("0"), Some(Path::new("/tmp"))).unwrap();
        assert_eq!(
            described.describe(),
            "chroot /tmp, group 0 (0), user 12345 (12345)"
        );
        for (user, group, root) in [
            (Some("no-such-user"), None, None),
            (None, Some("no-such-group"), None),
            (None, None, Some(Path::new("/nonexistent"))),
            (None, None, Some(Path::new("/etc/passwd"))),
        ] {
            let error = plan(user, group, root).unwrap_err();
            assert!(error.contains('\'') && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_dropped_process_keeps_only_what_it_needs() {
        run_alone("host::privileges::tests::child_keeps_net_admin");
    }

    #[test]
    #[ignore = "started by a_dropped_process_keeps_only_what_it_needs"]
    fn child_keeps_net_admin() {
        if !alone() {
            return;
        }
        in_namespace("child_keeps_net_admin", |netns| {
            netns.dummy("rwpriv0");
            // A worker that exists before the drop.
            let (go, wait) = mpsc::channel::<()>();
            let worker = std::thread::spawn(move || {
                wait.recv().unwrap();
                (status_line("CapPrm"), geteuid())
            });

            let nobody = plan(Some("nobody"), None, None).unwrap();
            drop(&nobody, &[Capability::CAP_NET_ADMIN]).unwrap();

            let (_, uid) = nobody.user.unwrap();
            let (_, gid) = nobody.group.unwrap();
            let ids = getresuid().unwrap();
            assert_eq!([ids.real, ids.effective, ids.saved], [uid; 3]);
            let ids = getresgid().unwrap();
            assert_eq!([ids.real, ids.effective, ids.saved], [gid; 3]);
            assert_eq!(getgroups().unwrap(), [gid]);
            let net_admin = format!("{:016x}", 1u64 << 12);
            for set in ["CapPrm", "CapEff", "CapBnd"] {
                assert_eq!(status_line(set), net_admin, "{set}");
            }
            for set in ["CapInh", "CapAmb"] {
                assert_eq!(status_line(set), "0000000000000000", "{set}");
            }
            assert_eq!(status_line("NoNewPrivs"), "1");

            // Links and routes still work, root's files do not, and there is no way back.
            let mut netlink = Netlink::open().unwrap();
            let index = netlink.index_of("rwpriv0").unwrap().unwrap();
            netlink.set_up(index, 1300, None, None).unwrap();
            netlink
                .add_address(index, "10.8.0.1".parse().unwrap(), 24, None)
                .unwrap();
            assert!(std::fs::read("/etc/shadow").is_err());
            assert!(setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_err());

            go.send(()).unwrap();
            let (capabilities, worker_uid) = worker.join().unwrap();
            assert_eq!(capabilities, "0000000000000000");
            assert_eq!(worker_uid, uid);

            // What it executes has nothing.
            let output = Command::new("/bin/cat")
                .arg("/proc/self/status")
                .output()
                .unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(text.contains("CapEff:\t0000000000000000"), "{text}");
        });
    }

    #[test]
    fn chroot_and_numbers() {
        run_alone("host::privileges::tests::child_in_chroot");
    }

    #[test]
    #[ignore = "started by chroot_and_numbers"]
    fn child_in_chroot() {
        if !alone() {
            return;
        }
        let root = std::env::temp_dir().join(format!("ringway-chroot-{}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        std::fs::write(root.join("mark"), "x").unwrap();
        let mut plan = plan(Some("12345"), Some("23456"), Some(&root)).unwrap();
        plan.allow_setuid_scripts = true;
        drop(&plan, &[]).unwrap();
        assert_eq!(geteuid().as_raw(), 12345);
        assert_eq!(getegid().as_raw(), 23456);
        assert_eq!(std::fs::read("/mark").unwrap(), b"x");
        assert!(!Path::new("/etc").exists());
        assert!(
            caps::read(None, CapSet::Permitted).unwrap().is_empty(),
            "no capability is left"
        );
        assert!(!prctl::get_no_new_privs().unwrap());
    }
}
