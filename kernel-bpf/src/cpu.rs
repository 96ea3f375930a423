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

/// The calling thread's nice value is lower as long as this lives.
#[derive(Debug)]
pub struct Urgent {
    before: libc::c_int,
}

impl Urgent {
    /// Lowers the nice value, so that what else runs on the machine disturbs less.
    ///
    /// # Errors
    /// The system's: EACCES without the privilege.
    pub fn nice(value: i32) -> io::Result<Urgent> {
        // SAFETY: no memory is involved. (-1 is a nice value, too; an error leaves 0, near enough to restore.)
        let before = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        set_nice(value)?;
        Ok(Urgent { before })
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        // Back to less: always allowed.
        let _ = set_nice(self.before);
    }
}

fn set_nice(value: i32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    let failed = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, value) } != 0;
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
    fn nice_is_restored() {
        // SAFETY: no memory is involved.
        let nice = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        let before = nice();
        let more = (before - 1).max(-20);
        // Refused without privileges.
        if let Ok(urgent) = Urgent::nice(more) {
            assert_eq!(nice(), more);
            drop(urgent);
        }
        assert_eq!(nice(), before);
    }
}
