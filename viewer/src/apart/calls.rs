//! Which system calls a process that plays may not make: programs for seccomp.

use std::collections::BTreeMap;
use std::env;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, sock_filter,
};

use crate::media::Output;

/// System calls that no playing needs.
const FORBIDDEN: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_listen,
];

/// Namespaces of its own, any of which `clone` makes where its flag is set.
const NAMESPACES: &[libc::c_int] = &[
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// What `fcntl` and `ioctl` take to have the kernel signal another process when something can be read.
const SIGNAL_OWNERS: &[libc::c_int] = &[libc::F_SETOWN, F_SETOWN_EX, F_SETSIG];
const IOCTL_OWNERS: &[u64] = &[FIOSETOWN, SIOCSPGRP];

/// Of the kernel's `fcntl.h` and `sockios.h`.
const F_SETSIG: libc::c_int = 10;
const F_SETOWN_EX: libc::c_int = 15;
const FIOSETOWN: u64 = 0x8901;
const SIOCSPGRP: u64 = 0x8902;

/// Sockets of these families may be opened: where there is a window, and where something goes over the network.
const LOCAL: &[libc::c_int] = &[libc::AF_UNIX];
const NETWORK: &[libc::c_int] = &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// From here on, numbers of calls are those of x86-64's second interface, x32, which names some of the same calls
/// otherwise.
const X32: u32 = 0x4000_0000;

/// What is answered to a call that is forbidden, and to one that is not to be known at all.
const REFUSED: SeccompAction = SeccompAction::Errno(libc::EPERM.unsigned_abs());
const UNKNOWN: SeccompAction = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());

/// Programs that together refuse what playing to these outputs does not need, of this process.
///
/// # Errors
///
/// Where this machine is none that programs can be made for.
pub(super) fn programs(outputs: &[Output]) -> Result<Vec<BpfProgram>, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        FORBIDDEN.iter().map(|call| (*call, Vec::new())).collect();
    let other_family = |family: &libc::c_int| is_not(0, u64::from(family.unsigned_abs()));
    let families: Vec<_> =
        families(outputs).iter().map(other_family).collect::<Result<_, BackendError>>()?;
    let other = if families.is_empty() { Vec::new() } else { vec![SeccompRule::new(families)?] };
    rules.insert(libc::SYS_socket, other);
    // What aborts, and what asks how much memory there may be, means itself.
    let itself = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, vec![SeccompRule::new(vec![is_not(0, itself)?])?]);
    let limited = SeccompRule::new(vec![is_not(0, 0)?, is_not(0, itself)?])?;
    rules.insert(libc::SYS_prlimit64, vec![limited]);
    let namespaces = NAMESPACES.iter().map(|flag| {
        let flag = u64::from(flag.unsigned_abs());
        let has = SeccompCmpOp::MaskedEq(flag);
        SeccompRule::new(vec![SeccompCondition::new(0, SeccompCmpArgLen::Qword, has, flag)?])
    });
    rules.insert(libc::SYS_clone, namespaces.collect::<Result<_, _>>()?);
    let asks = |what: u64| {
        let is = SeccompCmpOp::Eq;
        SeccompRule::new(vec![SeccompCondition::new(1, SeccompCmpArgLen::Dword, is, what)?])
    };
    let owners = SIGNAL_OWNERS.iter().map(|what| asks(u64::from(what.unsigned_abs())));
    rules.insert(libc::SYS_fcntl, owners.collect::<Result<_, _>>()?);
    let owners = IOCTL_OWNERS.iter().map(|what| asks(*what));
    rules.insert(libc::SYS_ioctl, owners.collect::<Result<_, _>>()?);
    let mut programs = vec![program(rules, REFUSED)?];
    // Its flags stand in memory, where no program can look. The C library makes do with `clone`.
    programs.push(program([(libc::SYS_clone3, Vec::new())].into(), UNKNOWN)?);
    if cfg!(target_arch = "x86_64") {
        programs.push(without_x32());
    }
    Ok(programs)
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    answer: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    let arch = env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::Allow, answer, arch)?.try_into()
}

/// Whether the lower half of an argument is something else.
fn is_not(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)
}

/// Refuses x32 altogether: rules for ranges of numbers are none of the crate's.
fn without_x32() -> BpfProgram {
    let line = |code: u32, k, jt, jf| sock_filter { code: code as u16, jt, jf, k };
    vec![
        // The call's number stands first.
        line(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        line(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, X32, 0, 1),
        line(libc::BPF_RET | libc::BPF_K, REFUSED.into(), 0, 0),
        line(libc::BPF_RET | libc::BPF_K, SeccompAction::Allow.into(), 0, 0),
    ]
}

/// Which sockets the outputs need: of the network where one of them goes there, or the display or the sound server is
/// another machine's.
fn families(outputs: &[Output]) -> &'static [libc::c_int] {
    let is_sent = outputs
        .iter()
        .any(|output| matches!(output, Output::Udp { .. } | Output::Srt(_) | Output::Rtmp(_)));
    let has_window = outputs.contains(&Output::Window);
    let display = env::var("DISPLAY").unwrap_or_default();
    let sound = env::var("PULSE_SERVER").unwrap_or_default();
    let is_remote =
        !display.is_empty() && !display.starts_with(':') && !display.starts_with("unix");
    match has_window {
        _ if is_sent => NETWORK,
        true if is_remote || sound.contains("tcp") => NETWORK,
        true => LOCAL,
        false => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What all programs together answer: an error number, or none. They are run here as the kernel runs them, since
    /// nothing that is safe makes such calls.
    fn answer(call: libc::c_long, arguments: [u64; 2]) -> Option<i32> {
        let audit: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };
        let mut data = [call as u32, audit, 0, 0].map(u32::to_le_bytes).concat();
        data.extend(arguments.map(u64::to_le_bytes).concat());
        data.extend([0; 32]);
        let programs = programs(&[Output::Null]).expect("programs for this machine");
        let answers = programs.iter().map(|program| run(program, &data));
        let strictest = answers.min_by_key(|answer| answer >> 16).expect("some");
        match strictest & 0xffff_0000 {
            libc::SECCOMP_RET_ALLOW => None,
            libc::SECCOMP_RET_ERRNO => Some((strictest & 0xffff) as i32),
            other => panic!("{other:x} for {call}"),
        }
    }

    fn run(program: &[sock_filter], data: &[u8]) -> u32 {
        let (mut at, mut held) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let code = u32::from(code);
            let is = |class, kind| code == class | kind | libc::BPF_K;
            let jump = |holds: bool| usize::from(if holds { jt } else { jf });
            if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS {
                let word = data[k as usize..].first_chunk().expect("within the data");
                held = u32::from_le_bytes(*word);
            } else if is(libc::BPF_ALU, libc::BPF_AND) {
                held &= k;
            } else if is(libc::BPF_JMP, libc::BPF_JA) {
                at += k as usize;
            } else if is(libc::BPF_JMP, libc::BPF_JEQ) {
                at += jump(held == k);
            } else if is(libc::BPF_JMP, libc::BPF_JGE) {
                at += jump(held >= k);
            } else if is(libc::BPF_JMP, libc::BPF_JGT) {
                at += jump(held > k);
            } else if is(libc::BPF_RET, 0) {
                return k;
            } else {
                panic!("an instruction that is not known here: {code:x}");
            }
        }
    }

    #[test]
    fn signals_reach_nobody_else() {
        let (own, other) =
            (u64::from(std::process::id()), u64::from(std::os::unix::process::parent_id()));
        let refused = Some(libc::EPERM);
        for call in [
            libc::SYS_kill,
            libc::SYS_tkill,
            libc::SYS_rt_sigqueueinfo,
            libc::SYS_rt_tgsigqueueinfo,
            libc::SYS_pidfd_send_signal,
        ] {
            assert_eq!(answer(call, [other, 9]), refused, "{call}");
        }
        assert_eq!(answer(libc::SYS_tgkill, [own, own]), None, "what aborts does that");
        assert_eq!(answer(libc::SYS_tgkill, [other, other]), refused);
        // The kernel takes 32 bits of it: more are not another process.
        assert_eq!(answer(libc::SYS_tgkill, [1 << 32 | other, other]), refused);
        for (what, expected) in
            [(libc::F_SETOWN, refused), (10, refused), (15, refused), (libc::F_GETFL, None)]
        {
            assert_eq!(answer(libc::SYS_fcntl, [3, what as u64]), expected, "fcntl {what}");
        }
        for (what, expected) in [(0x8901, refused), (0x8902, refused), (0x5401, None)] {
            assert_eq!(answer(libc::SYS_ioctl, [3, what]), expected, "ioctl {what:x}");
        }
        // A limit of no time at all ends a process, too.
        assert_eq!(answer(libc::SYS_prlimit64, [0, 7]), None);
        assert_eq!(answer(libc::SYS_prlimit64, [own, 7]), None);
        assert_eq!(answer(libc::SYS_prlimit64, [other, 0]), refused);
    }

    #[test]
    fn threads_are_started_and_namespaces_are_not() {
        let thread = libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND | libc::CLONE_FS;
        let thread = thread as u64;
        assert_eq!(answer(libc::SYS_clone, [thread, 0]), None);
        for space in [0x1000_0000, 0x2_0000, 0x2000_0000, 0x4000_0000, 0x0800_0000, 0x0400_0000] {
            let expected = Some(libc::EPERM);
            assert_eq!(answer(libc::SYS_clone, [thread | space, 0]), expected, "{space:x}");
        }
        assert_eq!(answer(libc::SYS_clone3, [0, 0]), Some(libc::ENOSYS));
        assert_eq!(answer(libc::SYS_unshare, [0x1000_0000, 0]), Some(libc::EPERM));
        assert_eq!(answer(libc::SYS_read, [0, 0]), None);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_second_interface_is_closed() {
        // `getpid` and `execve`, which has a number of its own there.
        for call in [39, 520] {
            assert_eq!(answer(i64::from(X32) | call, [0, 0]), Some(libc::EPERM), "{call}");
        }
        assert_eq!(answer(libc::SYS_getpid, [0, 0]), None);
    }
}
