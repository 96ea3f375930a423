//! Where threads run, and how urgently: measurements place the runner and the updater on CPUs of their own.
//!
//! All of it is about the calling thread alone (threads that it starts later inherit it), and is undone by dropping the guards.
#![allow(unsafe_code)]

use std::io;

/// The calling thread stays on one CPU as long as this lives; then it may run where it could before.
#[derive(Debug)]
pub struct Pin {
    before: libc::cpu_set_t,
}

/// CPUs that the calling thread may run on, ascending.
pub fn allowed() -> Vec<usize> {
    let Ok(set) = affinity() else { return Vec::new() };
    (0..libc::CPU_SETSIZE as usize).filter(|cpu| is_in(*cpu, &set)).collect()
}

impl Pin {
    /// Moves the calling thread to `cpu`.
    ///
    /// # Errors
    /// The system's: EINVAL for a CPU that this process may not use.
    pub fn to(cpu: usize) -> io::Result<Pin> {
        let before = affinity()?;
        if cpu >= libc::CPU_SETSIZE as usize {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let mut one = empty();
        // SAFETY: `cpu` is inside the set.
        unsafe { libc::CPU_SET(cpu, &mut one) };
        set_affinity(&one)?;
        Ok(Pin { before })
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        // Fails only where the CPUs that were allowed have been taken away meanwhile: then the thread stays where it is.
        let _ = set_affinity(&self.before);
    }
}

fn empty() -> libc::cpu_set_t {
    // SAFETY: a set of bits; all zeros is the empty set.
    unsafe { std::mem::zeroed() }
}

fn is_in(cpu: usize, set: &libc::cpu_set_t) -> bool {
    // SAFETY: callers ask for CPUs below CPU_SETSIZE.
    unsafe { libc::CPU_ISSET(cpu, set) }
}

fn affinity() -> io::Result<libc::cpu_set_t> {
    let mut set = empty();
    // SAFETY: the kernel writes at most the set's size into the set.
    let failed = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) } != 0;
    if failed { Err(io::Error::last_os_error()) } else { Ok(set) }
}

fn set_affinity(set: &libc::cpu_set_t) -> io::Result<()> {
    // SAFETY: the kernel reads the set's size from the set.
    let failed = unsafe { libc::sched_setaffinity(0, size_of_val(set), set) } != 0;
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The calling thread is scheduled before all ordinary ones as long as this lives (SCHED_FIFO); then as it was before. Threads that it
/// starts meanwhile stay so.
#[derive(Debug)]
pub struct RealTime {
    before: (libc::c_int, libc::c_int),
}

impl RealTime {
    /// Gives the calling thread this real-time priority, 1 to 99.
    ///
    /// # Errors
    /// The system's: EPERM without the privilege.
    pub fn priority(priority: i32) -> io::Result<RealTime> {
        let before = scheduler()?;
        set_scheduler((libc::SCHED_FIFO, priority))?;
        Ok(RealTime { before })
    }
}

impl Drop for RealTime {
    fn drop(&mut self) {
        // Back to what it was: refused only to a thread that has lost a privilege meanwhile, which then stays as it is.
        let _ = set_scheduler(self.before);
    }
}

/// Policy and priority of the calling thread.
fn scheduler() -> io::Result<(libc::c_int, libc::c_int)> {
    let mut param = libc::sched_param { sched_priority: 0 };
    // SAFETY: no memory is involved.
    let policy = unsafe { libc::sched_getscheduler(0) };
    // SAFETY: the kernel writes one `sched_param`.
    let failed = policy < 0 || unsafe { libc::sched_getparam(0, &mut param) } != 0;
    if failed { Err(io::Error::last_os_error()) } else { Ok((policy, param.sched_priority)) }
}

fn set_scheduler((policy, sched_priority): (libc::c_int, libc::c_int)) -> io::Result<()> {
    let param = libc::sched_param { sched_priority };
    // SAFETY: the kernel reads one `sched_param`.
    let failed = unsafe { libc::sched_setscheduler(0, policy, &param) } != 0;
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_holds_until_it_is_dropped() {
        let before = allowed();
        let last = *before.last().expect("this thread runs somewhere");
        let pin = Pin::to(last).expect("a CPU that is allowed");
        assert_eq!(allowed(), [last]);
        drop(pin);
        assert_eq!(allowed(), before);
        let refused = Pin::to(libc::CPU_SETSIZE as usize).expect_err("no such CPU");
        assert_eq!((refused.raw_os_error(), allowed()), (Some(libc::EINVAL), before));
    }

    #[test]
    fn priority_is_restored() {
        let before = scheduler().expect("every thread has one");
        // Refused without privileges.
        if let Ok(outer) = RealTime::priority(2) {
            let inner = RealTime::priority(1).expect("less is allowed");
            assert_eq!(scheduler().ok(), Some((libc::SCHED_FIFO, 1)));
            drop(inner);
            assert_eq!(scheduler().ok(), Some((libc::SCHED_FIFO, 2)));
            drop(outer);
        }
        assert_eq!(scheduler().ok(), Some(before));
    }
}
