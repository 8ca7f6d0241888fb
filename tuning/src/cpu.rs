//! What the processor can do, and how many cores may be used.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

/// Instruction sets that matter for ciphers and checksums. On aarch64 `aes` and `pclmul` stand for
/// its AES and polynomial multiplication instructions; the wide ones exist on x86-64 only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// AES rounds in hardware.
    pub aes: bool,
    /// AES on 256-bit or wider vectors.
    pub vaes: bool,
    /// Carry-less multiplication, for GCM.
    pub pclmul: bool,
    /// Carry-less multiplication on wide vectors.
    pub vpclmul: bool,
    /// SHA-1 and SHA-256 rounds in hardware.
    pub sha: bool,
    /// 256-bit integer vectors.
    pub avx2: bool,
    /// 512-bit vectors with byte and word operations.
    pub avx512: bool,
}

impl Features {
    /// Asks the processor and the operating system.
    #[cfg(target_arch = "x86_64")]
    pub fn detect() -> Self {
        Features {
            aes: is_x86_feature_detected!("aes"),
            vaes: is_x86_feature_detected!("vaes"),
            pclmul: is_x86_feature_detected!("pclmulqdq"),
            vpclmul: is_x86_feature_detected!("vpclmulqdq"),
            sha: is_x86_feature_detected!("sha"),
            avx2: is_x86_feature_detected!("avx2"),
            avx512: is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw"),
        }
    }

    /// Asks the processor and the operating system.
    #[cfg(target_arch = "aarch64")]
    pub fn detect() -> Self {
        Features {
            aes: std::arch::is_aarch64_feature_detected!("aes"),
            pclmul: std::arch::is_aarch64_feature_detected!("pmull"),
            sha: std::arch::is_aarch64_feature_detected!("sha2"),
            ..Features::default()
        }
    }

    /// Nothing is known of other processors.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub fn detect() -> Self {
        Features::default()
    }
}

/// The names of what is there, separated by spaces, or `none`.
impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = [
            (self.aes, "aes"),
            (self.vaes, "vaes"),
            (self.pclmul, "pclmul"),
            (self.vpclmul, "vpclmul"),
            (self.sha, "sha"),
            (self.avx2, "avx2"),
            (self.avx512, "avx512"),
        ]
        .into_iter()
        .filter_map(|(there, name)| there.then_some(name))
        .collect();
        if names.is_empty() {
            f.write_str("none")
        } else {
            f.write_str(&names.join(" "))
        }
    }
}

/// Cores this process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores {
    /// Threads that can run at once, after affinity and control-group quotas; at least 1.
    pub usable: usize,
    /// Physical cores of the host; `None` when the kernel does not tell.
    pub physical: Option<usize>,
}

impl Cores {
    /// Counts them.
    pub fn count() -> Self {
        Cores {
            usable: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            physical: physical_cores(Path::new("/sys/devices/system/cpu")),
        }
    }
}

/// How many packet threads serve one link best: with a core for each direction two, where they would
/// share cores with everything else one. Many peers (`server`) keep half of the cores busy; the kernel
/// and handshakes need the other half. Fourteen and the control thread stay below the twenty tasks that
/// stock systemd units allow, with room for scripts.
pub fn workers(cores: Cores, server: bool) -> usize {
    match (cores.usable, server) {
        (0..4, _) => 1,
        (_, false) => 2,
        (usable, true) => (usable / 2).min(14),
    }
}

/// Processors that list the same siblings share a core.
fn physical_cores(directory: &Path) -> Option<usize> {
    let cores: BTreeSet<String> = fs::read_dir(directory)
        .ok()?
        .flatten()
        .filter_map(|entry| {
            fs::read_to_string(entry.path().join("topology/thread_siblings_list")).ok()
        })
        .collect();
    (!cores.is_empty()).then_some(cores.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_shown() {
        assert_eq!(Features::default().to_string(), "none");
        let some = Features {
            aes: true,
            avx2: true,
            ..Features::default()
        };
        assert_eq!(some.to_string(), "aes avx2");
        // Wide variants imply the plain ones.
        let here = Features::detect();
        assert!(here.aes || !here.vaes);
        assert!(here.avx2 || !here.avx512);
    }

    #[test]
    fn siblings_count_once() {
        let directory = std::env::temp_dir().join(format!("ringway-cpu-{}", std::process::id()));
        for (cpu, siblings) in [("cpu0", "0,2"), ("cpu1", "1,3"), ("cpu2", "0,2")] {
            let topology = directory.join(cpu).join("topology");
            fs::create_dir_all(&topology).unwrap();
            fs::write(topology.join("thread_siblings_list"), siblings).unwrap();
        }
        fs::create_dir_all(directory.join("cpufreq")).unwrap();
        let counted = physical_cores(&directory);
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(counted, Some(2));
        assert_eq!(physical_cores(&directory), None);
        assert!(Cores::count().usable >= 1);
    }
}
