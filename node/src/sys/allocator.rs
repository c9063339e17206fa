//! The allocator of the C library: `mallopt`, see mallopt(3).

/// Has all threads of this process share so many arenas at the most, those that there are already included. By default there are
/// eight for each core, each of which keeps what its threads freed: a process that moves bytes through many threads holds
/// resident a third more than it uses. To be called before other threads are started. Other C libraries have no arenas.
pub fn share_arenas(most: u8) {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: the call takes no pointer, and no other thread is there that would allocate meanwhile.
        let done = unsafe { nix::libc::mallopt(nix::libc::M_ARENA_MAX, most.into()) };
        debug_assert_eq!(done, 1, "mallopt(3) fails for parameters that it does not know, and only then");
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = most;
}
