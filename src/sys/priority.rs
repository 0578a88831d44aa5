//! How the scheduler treats a thread where there are fewer cores than there is work.

/// Raises the nice value of the calling thread by so much. Refused by a filter of system calls it stays as it is, and
/// everywhere but on Linux, where it would be the whole process's.
pub fn give_way(by: i32) {
    #[cfg(all(target_os = "linux", not(entryway_portable)))]
    let _ = rustix::process::nice(by);
    #[cfg(any(not(target_os = "linux"), entryway_portable))]
    let _ = by;
}

#[cfg(all(test, target_os = "linux", not(entryway_portable)))]
mod tests {
    use rustix::process::{getpriority_process, setpriority_process};

    use super::*;

    #[test]
    fn it_holds_for_the_calling_thread_alone() {
        let niceness = || getpriority_process(None).ok();
        let before = niceness();
        // Everybody may set what he has: only a filter of system calls refuses that.
        let is_allowed = before.is_some_and(|own| setpriority_process(None, own).is_ok());
        let inside = std::thread::spawn(move || {
            give_way(3);
            niceness()
        });
        let expected = before.map(|own| if is_allowed { (own + 3).min(19) } else { own });
        assert_eq!(inside.join().unwrap(), expected);
        assert_eq!(niceness(), before);
    }
}
