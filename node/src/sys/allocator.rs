//! The allocator of the C library: `mallopt`, see mallopt(3).

/// How many arenas all threads share.
#[cfg(target_env = "gnu")]
const ARENAS: i32 = 2;

/// Has all threads of this process share two arenas, those that there are already included. By default there are
/// eight for each core, each of which keeps what its threads freed: a process that moves bytes through many threads holds
/// resident a third more than it uses. To be called before other threads are started. Other C libraries have no arenas.
pub fn share_arenas() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: the call takes no pointer, and no other thread is there that would allocate meanwhile.
        let done = unsafe { nix::libc::mallopt(nix::libc::M_ARENA_MAX, ARENAS) };
        debug_assert_eq!(done, 1, "mallopt(3) fails for parameters that it does not know, and only then");
    }
}
