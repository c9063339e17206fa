//! Real-time scheduling of a thread: `sched_setscheduler`, see sched(7).

use std::io;

use nix::libc;

/// How a thread is scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheduling {
    policy: i32,
    priority: i32,
}

impl Scheduling {
    /// Ahead of every thread that is not real-time, and behind those that are: `SCHED_RR` with priority 1.
    pub const AHEAD: Self = Self { policy: libc::SCHED_RR, priority: 1 };

    /// Tells how the calling thread is scheduled.
    ///
    /// # Errors
    /// The system's.
    pub fn current() -> io::Result<Self> {
        // SAFETY: neither call takes a pointer but to the structure, which the kernel fills and which outlives the call.
        unsafe {
            let policy = libc::sched_getscheduler(0);
            let mut parameter: libc::sched_param = std::mem::zeroed();
            if policy < 0 || libc::sched_getparam(0, &raw mut parameter) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Self { policy, priority: parameter.sched_priority })
        }
    }

    /// Schedules the calling thread so; threads that it starts inherit it.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_SYS_NICE`, or where a control group has no real-time share.
    pub fn apply(self) -> io::Result<()> {
        // SAFETY: the kernel reads one `sched_param`, which outlives the call; zero bytes are valid in it.
        let result = unsafe {
            let mut parameter: libc::sched_param = std::mem::zeroed();
            parameter.sched_priority = self.priority;
            libc::sched_setscheduler(0, self.policy, &raw const parameter)
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}
