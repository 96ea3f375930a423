//! Who runs: the process and thread, its user, its name; and what the caller of the run has said about it.
#![allow(unsafe_code)]

use super::{current, errno};
use crate::map::cell::Slice;

/// Bytes of a thread's name, its NUL included (`TASK_COMM_LEN`).
const COMM_LEN: usize = 16;

/// The thread's own number.
fn thread() -> u32 {
    thread_local! {
        static THREAD: u32 = {
            // SAFETY: takes no arguments and always succeeds.
            unsafe { libc::gettid() as u32 }
        };
    }
    THREAD.with(|id| *id)
}

/// `u64 bpf_get_current_pid_tgid(void)`: the process above, the thread below.
///
/// # Safety
/// None needed.
pub(super) unsafe fn get_current_pid_tgid(_: [u64; 5]) -> u64 {
    u64::from(std::process::id()) << 32 | u64::from(thread())
}

/// `u64 bpf_get_current_uid_gid(void)`: the group above, the user below.
///
/// # Safety
/// None needed.
pub(super) unsafe fn get_current_uid_gid(_: [u64; 5]) -> u64 {
    // SAFETY: neither takes arguments, and both always succeed.
    let (user, group) = unsafe { (libc::getuid(), libc::getgid()) };
    u64::from(group) << 32 | u64::from(user)
}

/// `u64 bpf_get_current_task(void)`: a number that tells threads apart. No memory lies there.
///
/// # Safety
/// None needed.
pub(super) unsafe fn get_current_task(_: [u64; 5]) -> u64 {
    0xffff_8000_0000_0000 | u64::from(thread()) << 12
}

/// `long bpf_get_current_comm(to, size)`: the thread's name, filled up with zeros. 0, or -EINVAL and zeros.
///
/// # Safety
/// R1 points to R2 (32 bits) writable bytes.
pub(super) unsafe fn get_current_comm([to, size, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let to = unsafe { Slice::from_raw(to, size as u32 as usize) };
    to.clear();
    let mut name = [0; COMM_LEN];
    // SAFETY: the name has the 16 bytes that this call writes.
    if unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) } != 0 {
        return errno(libc::EINVAL);
    }
    let len = name.iter().position(|b| *b == 0).unwrap_or(COMM_LEN).min(to.len().saturating_sub(1));
    to.write(&name[..len]);
    0
}

/// Bytes of `struct bpf_pidns_info`.
const PIDNS_INFO: usize = 8;

/// `long bpf_get_ns_current_pid_tgid(dev, ino, to, size)`: thread and process as the PID namespace `dev`, `ino` numbers them,
/// which has to be the one that this process sees. 0, or -EINVAL and zeros.
///
/// # Safety
/// R3 points to R4 (32 bits) writable bytes.
pub(super) unsafe fn get_ns_current_pid_tgid([dev, ino, to, size, _]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let to = unsafe { Slice::from_raw(to, size as u32 as usize) };
    to.clear();
    if to.len() != PIDNS_INFO || namespace() != Some((dev, ino)) {
        return errno(libc::EINVAL);
    }
    to.write(&[thread().to_ne_bytes(), std::process::id().to_ne_bytes()].concat());
    0
}

/// Device and inode of this process's PID namespace.
fn namespace() -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    static FOUND: std::sync::OnceLock<Option<(u64, u64)>> = std::sync::OnceLock::new();
    *FOUND.get_or_init(|| std::fs::metadata("/proc/self/ns/pid").ok().map(|m| (m.dev(), m.ino())))
}

/// `u64 bpf_get_attach_cookie(ctx)`: what the caller has said (`Worker::set_attach_cookie`), 0 where nothing.
///
/// # Safety
/// None needed.
pub(super) unsafe fn get_attach_cookie(_: [u64; 5]) -> u64 {
    current::attach_cookie()
}

/// `int bpf_get_retval(void)`: what an earlier program of this run has set.
///
/// # Safety
/// None needed.
pub(super) unsafe fn get_retval(_: [u64; 5]) -> u64 {
    i64::from(current::effects(|effects| effects.retval).unwrap_or_default()) as u64
}

/// `int bpf_set_retval(retval)`: 0.
///
/// # Safety
/// None needed.
pub(super) unsafe fn set_retval([retval, ..]: [u64; 5]) -> u64 {
    current::effects(|effects| effects.retval = retval as i32);
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_is_this_one() {
        // SAFETY: no arguments.
        let (pid, task) = unsafe { (get_current_pid_tgid([0; 5]), get_current_task([0; 5])) };
        assert_eq!(pid >> 32, u64::from(std::process::id()));
        // SAFETY: no arguments.
        let other = std::thread::spawn(|| unsafe { (get_current_pid_tgid([0; 5]), get_current_task([0; 5])) });
        let other = other.join().unwrap();
        assert!(other.0 != pid && other.0 >> 32 == pid >> 32 && other.1 != task);
    }

    #[test]
    fn the_name_is_cut_and_filled_up() {
        let name = |size: usize| {
            let mut to = vec![0xaa; size];
            let place = Slice::from_mut(&mut to);
            // SAFETY: the memory is that long.
            let r0 = unsafe { get_current_comm([place.addr(), size as u64, 0, 0, 0]) };
            (r0, to)
        };
        let run = move || (name(4), name(20));
        let (short, long) = std::thread::Builder::new().name("worker-7".into()).spawn(run).unwrap().join().unwrap();
        assert_eq!(short, (0, b"wor\0".to_vec()));
        assert_eq!(long, (0, [b"worker-7".as_slice(), &[0; 12]].concat()));
    }

    #[test]
    fn another_namespace_is_refused() {
        let mut to = [0xaa; 8];
        let place = Slice::from_mut(&mut to);
        // SAFETY: the memory is that long.
        let r0 = unsafe { get_ns_current_pid_tgid([1, 2, place.addr(), 8, 0]) };
        assert_eq!((r0 as i64, to), (-i64::from(libc::EINVAL), [0; 8]));
    }
}
