//! What the C library's allocator does between threads.

/// Lets all threads of this process allocate from one heap, and says whether that was possible.
///
/// glibc gives each thread a heap of its own, and what one has freed no other takes: a program whose
/// large matrices are made now by this thread and now by that one holds them several times. Measured
/// on a run of 130 MB: up to 157 MB with two threads. Speed was the same, since small pieces are kept
/// per thread anyway. Other allocators and systems are left as they are, and the answer is `false`.
///
/// A program calls this, before it starts threads; a library leaves it to the program.
///
/// ```
/// gptq_kernels::share_heap();
/// ```
pub fn share_heap() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` takes two numbers and locks what it changes.
    return unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) == 1 };
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    return false;
}

/// Gives what was freed, and the allocator kept for later, back to the system. Cost: some
/// microseconds, and the system's zeroing of pages when they are wanted again.
///
/// ```
/// gptq_kernels::return_memory();
/// ```
pub fn return_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` takes a number and touches only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Keeps what is freed, in pieces of up to 32 MiB and 256 MiB in all at the end of the heap, for what
/// is wanted next, and says whether that was possible; [`return_memory`] gives it back.
///
/// For programs that make the same matrices again and again, as a forward pass does: glibc maps large
/// ones anew each time, the system zeroes their pages, and all processors hear of it when they go.
/// Measured: a fifth of the time of prompts of 512 tokens, a sixth of that of a factorisation.
///
/// A program calls this, before it starts threads; a library leaves it to the program.
///
/// ```
/// gptq_kernels::keep_memory();
/// ```
pub fn keep_memory() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` takes two numbers and locks what it changes.
    return unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20) == 1
            && libc::mallopt(libc::M_TRIM_THRESHOLD, 256 << 20) == 1
    };
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    return false;
}
