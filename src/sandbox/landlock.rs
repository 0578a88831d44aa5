//! The rules that the kernel enforces. On other systems there are none.

use super::Allowed;

/// What every run reads, of the system: the state of the kernel, the limits of its group, time zones, certificate
/// authorities. Nothing of it is secret.
#[cfg(all(target_os = "linux", not(entryway_portable)))]
const SYSTEM: &[&str] = &[
    "/proc",
    "/sys/fs/cgroup",
    "/sys/devices/system/cpu",
    "/usr/share/zoneinfo",
    "/etc/localtime",
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/ca-trust/extracted",
    "/var/lib/ca-certificates",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/dev/urandom",
];

/// What the C library reads to resolve a name: modules, its configuration wherever that leads, the services it asks.
#[cfg(all(target_os = "linux", not(entryway_portable)))]
const RESOLVER: &[&str] = &[
    "/etc",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/run/nscd",
    "/var/run/nscd",
];

/// Variables that name certificate authorities elsewhere.
#[cfg(all(target_os = "linux", not(entryway_portable)))]
const CERTIFICATES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Whether the kernel enforces anything at all. Changes nothing.
#[cfg(all(target_os = "linux", not(entryway_portable)))]
pub(super) fn is_supported() -> bool {
    use landlock::{ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .and_then(Ruleset::create)
        .is_ok()
}

/// Restricts the calling thread and those it starts from now on; the version of the interface that is in force.
#[cfg(all(target_os = "linux", not(entryway_portable)))]
pub(super) fn restrict(allowed: &Allowed) -> Result<i32, String> {
    use std::path::Path;

    use landlock::{
        ABI, Access, AccessFs, BitFlags, LandlockStatus, PathBeneath, PathFd, Ruleset, RulesetAttr,
        RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus,
    };

    /// With it the ioctl of devices is restricted too. Later ones restrict connecting to sockets.
    const KNOWN: ABI = ABI::V5;

    fn add(
        rules: RulesetCreated,
        path: &Path,
        access: BitFlags<AccessFs>,
    ) -> Result<RulesetCreated, RulesetError> {
        // What is not there needs no rule.
        let Ok(opened) = PathFd::new(path) else {
            return Ok(rules);
        };
        let access = match path.is_dir() {
            true => access,
            false => access & AccessFs::from_file(KNOWN),
        };
        rules.add_rule(PathBeneath::new(opened, access))
    }

    let enforce = || {
        let mut rules = Ruleset::default()
            .handle_access(AccessFs::from_all(KNOWN))?
            .create()?;
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        for path in SYSTEM {
            rules = add(rules, Path::new(path), read)?;
        }
        for path in CERTIFICATES.into_iter().filter_map(std::env::var_os) {
            rules = add(rules, Path::new(&path), read)?;
        }
        if allowed.system_resolver {
            for path in RESOLVER {
                rules = add(rules, Path::new(path), read)?;
            }
        }
        rules = add(
            rules,
            Path::new("/dev/null"),
            AccessFs::ReadFile | AccessFs::WriteFile,
        )?;
        if let Some(folder) = &allowed.sockets {
            let sockets = AccessFs::MakeSock | AccessFs::RemoveFile | AccessFs::ReadDir;
            rules = add(rules, folder, sockets)?;
        }
        rules.restrict_self()
    };
    let status = enforce().map_err(|error: RulesetError| format!("Landlock: {error}"))?;
    give_up_capabilities();
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) => Err("Landlock: nothing is enforced".to_owned()),
        (
            _,
            LandlockStatus::Available {
                effective_abi,
                kernel_abi,
            },
        ) => Ok(kernel_abi.unwrap_or(effective_abi as i32)),
        _ => Err("Landlock is not enabled".to_owned()),
    }
}

/// Landlock does not hold against root's privileges: with CAP_PERFMON the environment of every process can be read below
/// /proc, with others the kernel itself. What a proxy of root's uses stays: low ports, congestion control, the folder of the
/// control socket, signals to what it has started, pipes beyond a user's quota. Those of other users have none to give up.
#[cfg(all(target_os = "linux", not(entryway_portable)))]
fn give_up_capabilities() {
    use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
    let mut used = CapabilitySet::NET_BIND_SERVICE
        | CapabilitySet::NET_ADMIN
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::KILL
        | CapabilitySet::SYS_RESOURCE;
    let Ok(own) = capabilities(None) else { return };
    if !own.permitted.contains(CapabilitySet::SYS_RESOURCE) {
        // It stands in for the quota of pipes: where others of the same user have taken that, bulk would be copied at twice
        // the processor time.
        used |= CapabilitySet::SYS_ADMIN;
    }
    if used.contains(own.permitted) {
        return;
    }
    // A filter of system calls can forbid it. The rules above hold all the same.
    let _ = set_capabilities(
        None,
        CapabilitySets {
            effective: own.effective & used,
            permitted: own.permitted & used,
            inheritable: CapabilitySet::empty(),
        },
    );
}

#[cfg(any(not(target_os = "linux"), entryway_portable))]
pub(super) fn is_supported() -> bool {
    false
}

#[cfg(any(not(target_os = "linux"), entryway_portable))]
pub(super) fn restrict(_allowed: &Allowed) -> Result<i32, String> {
    Err("only Linux has Landlock".to_owned())
}

#[cfg(all(test, target_os = "linux", not(entryway_portable)))]
mod tests {
    use std::fs::{self, File};
    use std::io::ErrorKind;
    use std::os::unix::net::UnixListener;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use super::super::Need;
    use super::*;

    fn holds_sys_admin() -> bool {
        use rustix::thread::{CapabilitySet, capabilities};
        capabilities(None).is_ok_and(|own| own.effective.contains(CapabilitySet::SYS_ADMIN))
    }

    /// What a program could do that has fallen to an attacker. On a thread of its own, which alone is restricted.
    #[test]
    fn an_attacker_finds_nothing() {
        if !is_supported() {
            eprintln!("not run: this kernel has no Landlock");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("secret"), "x").unwrap();
        fs::create_dir(path("sockets")).unwrap();
        fs::write(path("sockets/notes"), "x").unwrap();
        // Inherited, as a log is: not taken away.
        let mut kept = File::options().append(true).open(path("secret")).unwrap();
        // Of our own user, with our own rights: only the sandbox keeps its environment from us.
        let mut other = Command::new("sleep").arg("1000").spawn().unwrap();
        let environment = PathBuf::from(format!("/proc/{}/environ", other.id()));
        fs::read(&environment).unwrap();
        let listed = [Need::File(path("secret"))];
        let allowed = listed.into_iter().collect::<Allowed>();
        let allowed = allowed.with_sockets_in(Some(path("sockets")));
        let attack = move || {
            assert!(restrict(&allowed).unwrap() > 0);
            let denied = |what: &str, error: std::io::Error| {
                assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{what}: {error}");
            };
            let read =
                |path: &Path| denied(&path.display().to_string(), File::open(path).unwrap_err());
            // Files of the settings, too, come from the helper alone.
            let below = |name: &str| folder.path().join(name);
            for path in [
                "/etc/shadow",
                "/etc/passwd",
                "/proc/self/root/etc/passwd",
                "/proc/1/environ",
                "/",
                "/root",
                "/bin/sh",
                "/dev/mem",
                "/etc/ssl/private",
            ] {
                if Path::new(path).exists() {
                    read(Path::new(path));
                }
            }
            read(&below("secret"));
            // CAP_SYS_ADMIN, kept where it has to stand in for CAP_SYS_RESOURCE, is as good as CAP_PERFMON here.
            if !holds_sys_admin() {
                read(&environment);
            }
            denied("list", fs::read_dir(folder.path()).unwrap_err());
            for program in ["/bin/sh", "/proc/self/exe"] {
                denied(program, Command::new(program).spawn().unwrap_err());
            }
            let write = |path: PathBuf| {
                denied(
                    &path.display().to_string(),
                    fs::write(&path, "x").unwrap_err(),
                );
            };
            write(below("secret"));
            write(below("new"));
            write(below("sockets/new"));
            write(PathBuf::from("/proc/self/oom_score_adj"));
            denied("mkdir", fs::create_dir(below("sub")).unwrap_err());
            denied("unlink", fs::remove_file(below("secret")).unwrap_err());
            denied(
                "rename",
                fs::rename(below("sockets/notes"), below("moved")).unwrap_err(),
            );
            let link = std::os::unix::fs::symlink("/etc/shadow", below("sockets/link"));
            denied("symlink", link.unwrap_err());
            denied("socket", UnixListener::bind(below("socket")).unwrap_err());
            // What it needs.
            drop(UnixListener::bind(below("sockets/control.sock")).unwrap());
            fs::remove_file(below("sockets/control.sock")).unwrap();
            fs::read_to_string("/proc/self/stat").unwrap();
            fs::write("/dev/null", "x").unwrap();
            std::io::Write::write_all(&mut kept, b"y").unwrap();
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        };
        let outcome = std::thread::spawn(attack).join();
        other.kill().unwrap();
        other.wait().unwrap();
        outcome.unwrap();
    }
}
