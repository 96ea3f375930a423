//! A seccomp filter that refuses one system call: what a hardened container does to membarrier.
#![allow(unsafe_code)]

/// The architecture's number in a filter's data: EM_X86_64, 64 bits, little-endian.
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

/// From here on system call `number` fails with `errno`, in every thread of this process and in all it starts. For ever.
pub fn refuse(number: libc::c_long, errno: i32) {
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let jump = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let answer = (libc::BPF_RET | libc::BPF_K) as u16;
    let line = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = [
        line(load, 0, 0, 4),
        line(jump, 0, 3, AUDIT_ARCH_X86_64),
        line(load, 0, 0, 0),
        line(jump, 0, 1, number as u32),
        line(answer, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        line(answer, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: a filter that the kernel copies; it confines this process and touches no memory of it.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let (mode, every_thread) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC);
        assert_eq!(libc::syscall(libc::SYS_seccomp, mode, every_thread, &raw const program), 0);
    }
}
